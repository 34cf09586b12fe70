//! The zone signed by BIND's tools, for servers that sign nothing themselves: P-256, and NSEC3 without salt and iterations.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::Program;
use crate::world::million::ZONE;
use crate::world::{WorldError, find_program};

const KEYGEN: &str = "dnssec-keygen";
const SIGNZONE: &str = "dnssec-signzone";

/// # Errors
/// If its programs are not here: how to get them, in a sentence.
pub(crate) fn is_possible(folder: Option<&Path>) -> Result<(), String> {
    find(folder).map(drop)
}

/// Where its programs are.
fn find(folder: Option<&Path>) -> Result<(PathBuf, PathBuf), String> {
    let both = find_program(KEYGEN, folder).zip(find_program(SIGNZONE, folder));
    both.ok_or_else(|| {
        format!("{SIGNZONE} is not here; to install it: apt-get install bind9-utils")
    })
}

/// Signs the zone of a file, with keys that are made for that.
pub(crate) async fn sign(
    zone: &Path,
    signed: &Path,
    programs: Option<&Path>,
) -> Result<(), WorldError> {
    let (keygen, signzone) = find(programs).map_err(WorldError::NotSigned)?;
    let keys = tempfile::tempdir()?;
    for role in [&["-f", "KSK"][..], &[]] {
        let mut command = Command::new(&keygen);
        command.args(["-q", "-a", "ECDSAP256SHA256", "-K"]);
        command.arg(keys.path()).args(role).arg(ZONE);
        Program::start(KEYGEN, &mut command, keys.path())?
            .finished()
            .await?;
    }
    let mut command = Command::new(&signzone);
    command.args(["-q", "-S", "-3", "-", "-H", "0", "-o", ZONE, "-K"]);
    command.arg(keys.path()).arg("-f").arg(signed).arg(zone);
    command.current_dir(keys.path()); // where it leaves its set of DS records
    Program::start(SIGNZONE, &mut command, keys.path())?
        .finished()
        .await?;
    Ok(())
}
