//! Which network a process sees.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::ProcessId;

/// A network namespace. It is gone when nobody is in it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Namespace {
    /// The one this program is in.
    Here,
    /// The one that process is in.
    Of(ProcessId),
    /// A new one, with nothing in it.
    New,
}

impl Namespace {
    /// A command that runs `program` there, as the process that is started and not as its child.
    pub(crate) fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match self {
            Self::Here => return Command::new(program),
            Self::Of(process) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", path(process)));
                command
            }
            Self::New => {
                let mut command = Command::new("unshare");
                command.arg("--net");
                command
            }
        };
        command.arg("--").arg(program);
        command
    }

    /// Moves this thread, and all that it starts from now on, into the namespace of a process.
    pub(crate) fn enter(process: ProcessId) -> io::Result<()> {
        let namespace = File::open(path(process))?;
        let network = LinkNameSpaceType::Network;
        Ok(move_into_link_name_space(namespace.as_fd(), Some(network))?)
    }
}

fn path(process: ProcessId) -> String {
    format!("/proc/{}/ns/net", process.0)
}
