//! State on disk: directories that only their owner can enter, and files that are replaced as a whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Where `program` keeps its state when nobody says where: `$XDG_STATE_HOME/<program>`, or `~/.local/state/<program>`,
/// or, for a service without a home, `/var/lib/<program>`.
pub fn default_state_directory(program: &str) -> PathBuf {
    let state_home = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/state"));
    state_home
        .or(home)
        .unwrap_or_else(|| PathBuf::from("/var/lib"))
        .join(program)
}

/// Makes `directory` and what is above it, for its owner only, unless it is there.
///
/// # Errors
/// As the system says.
pub fn make_private_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

/// Who may read a file besides its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Nobody.
    Owner,
    /// Everybody.
    All,
}

/// Makes a file at `path` that only its owner can read. One that is there is left alone.
///
/// # Errors
/// If there is one, or as the system says.
pub fn new_private(path: &Path) -> io::Result<File> {
    let mut new = OpenOptions::new();
    new.write(true).create_new(true).mode(0o600).open(path)
}

/// Replaces the file at `path` as a whole, durably: after a crash it is either the old or the new one.
///
/// # Errors
/// As the system says.
pub fn replace(path: &Path, octets: &[u8], readers: Readers) -> io::Result<()> {
    let mode = match readers {
        Readers::Owner => 0o600,
        Readers::All => 0o644,
    };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(octets)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_and_readable_by_whom_it_should() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("a/b");
        make_private_directory(&directory).unwrap();
        make_private_directory(&directory).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        let file = directory.join("file");
        for (octets, readers, expected) in
            [("old", Readers::Owner, 0o600), ("new", Readers::All, 0o644)]
        {
            replace(&file, octets.as_bytes(), readers).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), octets);
            assert_eq!(mode(&file), expected);
        }
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }
}
