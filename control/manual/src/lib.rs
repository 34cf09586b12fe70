//! The manual pages and shell completions of a program, from the definition of its command line.
//!
//! Each program's own unit tests call this: a test sees the definition, and what only tests need makes no program larger.
//! `.ci/package` puts what they leave into the packages.

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;

/// Writes what belongs below `/usr/share` for `program` into `directory`, which is made:
///
/// ```text
///   man/man1/causeway.1, man/man1/causeway-up.1, …      a page for each verb
///   bash-completion/completions/causeway
///   zsh/vendor-completions/_causeway
///   fish/vendor_completions.d/causeway.fish
/// ```
///
/// # Errors
/// If a file cannot be written.
pub fn write(mut program: Command, directory: &Path) -> io::Result<()> {
    let pages = directory.join("man/man1");
    fs::create_dir_all(&pages)?;
    clap_mangen::generate_to(program.clone(), pages)?;
    let name = program.get_name().to_owned();
    for (shell, place) in [
        (Shell::Bash, format!("bash-completion/completions/{name}")),
        (Shell::Zsh, format!("zsh/vendor-completions/_{name}")),
        (
            Shell::Fish,
            format!("fish/vendor_completions.d/{name}.fish"),
        ),
    ] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut program, &name, &mut script);
        let file = directory.join(place);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(file, script)?;
    }
    Ok(())
}

/// The same, anew, into `manual/<program>` beside the build whose test calls this; says where.
///
/// # Errors
/// If a file cannot be written.
pub fn leave(program: Command) -> io::Result<PathBuf> {
    let test = std::env::current_exe()?; // target/<profile>/deps/<test>
    let target = test.ancestors().nth(3).unwrap_or(Path::new("target"));
    let directory = target.join("manual").join(program.get_name());
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    write(program, &directory)?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    #[test]
    fn every_verb_has_a_page_and_every_shell_its_completions() {
        let device = Command::new("device").subcommand(Command::new("add").arg(Arg::new("name")));
        let program = Command::new("causeway")
            .subcommand(device)
            .subcommand(Command::new("part").hide(true));
        let folder = tempfile::tempdir().unwrap();
        write(program, folder.path()).unwrap();
        let mut pages: Vec<_> = fs::read_dir(folder.path().join("man/man1"))
            .unwrap()
            .map(|page| page.unwrap().file_name().into_string().unwrap())
            .collect();
        pages.sort();
        assert_eq!(
            pages,
            ["causeway-device-add.1", "causeway-device.1", "causeway.1"]
        );
        for script in [
            "bash-completion/completions/causeway",
            "zsh/vendor-completions/_causeway",
            "fish/vendor_completions.d/causeway.fish",
        ] {
            let script = fs::read_to_string(folder.path().join(script)).unwrap();
            assert!(script.contains("device") && script.contains("add"));
        }
    }
}
