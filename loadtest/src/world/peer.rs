//! Who is compared: Causeway over each carrier, and what else brings a visitor to an origin in two hops.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

/// Where programs are that a user's PATH may leave out.
const SYSTEM: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// Debian's nginx keeps its stream module apart; Red Hat's is in lib64.
const NGINX_MODULES: [&str; 2] = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules"];

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// No hop at all: the limit
    Direct,
    /// The same, and the origin sends with BBR
    DirectBbr,
    /// Two hops that only splice: the practical limit
    Splice2,
    /// Causeway over QUIC, and raw for bulk
    CausewayQuic,
    /// Causeway without UDP, and raw for bulk
    CausewayTls,
    /// Causeway over QUIC, with bulk too
    CausewayQuicOnly,
    /// Causeway over QUIC, raw for bulk, and TLS from the visitor to the agent, which ends it
    CausewayEndsTls,
    /// rathole over plain TCP
    RatholeTcp,
    /// rathole over the Noise protocol
    RatholeNoise,
    /// rathole over TLS
    RatholeTls,
    /// bore
    Bore,
    /// Two hops of HAProxy with large buffers
    Haproxy2,
    /// Two hops of HAProxy that splice
    Haproxy2Splice,
    /// Two hops of nginx's stream module
    Nginx2,
    /// TCP over streams of quinn, as simple as can be
    Qbench,
    /// The same with vectored reads and writes
    QbenchBatch,
}

/// A peer that can be started.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) peer: Peer,
    pub(super) program: Program,
}

/// What a peer is run with.
#[derive(Clone, Debug)]
pub(super) enum Program {
    /// This program.
    Own,
    Rathole {
        program: PathBuf,
        over: RatholeOver,
    },
    Bore {
        program: PathBuf,
    },
    Haproxy {
        program: PathBuf,
        splices: bool,
    },
    Nginx {
        program: PathBuf,
        module: PathBuf,
    },
    Qbench {
        program: PathBuf,
        batch: bool,
    },
}

/// What rathole's two ends speak.
#[derive(Clone, Copy, Debug)]
pub(super) enum RatholeOver {
    Tcp,
    Noise,
    Tls,
}

/// A peer that is not here, and how to get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotInstalled {
    peer: Peer,
    install: &'static str,
}

impl fmt::Display for NotInstalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (peer, install) = (self.peer.name(), self.install);
        write!(f, "{peer} is not here; to install it: {install}")
    }
}

impl Peer {
    /// Ours, which the others are compared with.
    pub(crate) const OURS: [&str; 4] = [
        Self::CausewayQuic.name(),
        Self::CausewayTls.name(),
        Self::CausewayQuicOnly.name(),
        Self::CausewayEndsTls.name(),
    ];

    /// As it is called on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::DirectBbr => "direct-bbr",
            Self::Splice2 => "splice2",
            Self::CausewayQuic => "causeway-quic",
            Self::CausewayTls => "causeway-tls",
            Self::CausewayQuicOnly => "causeway-quic-only",
            Self::CausewayEndsTls => "causeway-ends-tls",
            Self::RatholeTcp => "rathole-tcp",
            Self::RatholeNoise => "rathole-noise",
            Self::RatholeTls => "rathole-tls",
            Self::Bore => "bore",
            Self::Haproxy2 => "haproxy2",
            Self::Haproxy2Splice => "haproxy2-splice",
            Self::Nginx2 => "nginx2",
            Self::Qbench => "qbench",
            Self::QbenchBatch => "qbench-batch",
        }
    }

    /// Whether it has a way for datagrams of a visitor too.
    pub(crate) fn carries_datagrams(self) -> bool {
        match self {
            Self::Direct
            | Self::CausewayQuic
            | Self::RatholeTcp
            | Self::RatholeNoise
            | Self::RatholeTls => true,
            Self::DirectBbr
            | Self::Splice2
            | Self::CausewayTls
            | Self::CausewayQuicOnly
            | Self::CausewayEndsTls
            | Self::Bore
            | Self::Haproxy2
            | Self::Haproxy2Splice
            | Self::Nginx2
            | Self::Qbench
            | Self::QbenchBatch => false,
        }
    }

    /// Looks for what it needs in `folder`, and then where this system keeps programs.
    pub(crate) fn find(self, folder: Option<&Path>) -> Result<Found, NotInstalled> {
        let (program, install) = match self {
            Self::Direct
            | Self::DirectBbr
            | Self::Splice2
            | Self::CausewayQuic
            | Self::CausewayTls
            | Self::CausewayQuicOnly
            | Self::CausewayEndsTls => (Some(Program::Own), ""),
            Self::RatholeTcp | Self::RatholeNoise | Self::RatholeTls => {
                let over = if self == Self::RatholeNoise {
                    RatholeOver::Noise
                } else if self == Self::RatholeTls {
                    RatholeOver::Tls
                } else {
                    RatholeOver::Tcp
                };
                let program = find_program("rathole", folder);
                (
                    program.map(|program| Program::Rathole { program, over }),
                    "cargo install rathole --version 0.5.0",
                )
            }
            Self::Bore => {
                let program = find_program("bore", folder);
                (
                    program.map(|program| Program::Bore { program }),
                    "cargo install bore-cli",
                )
            }
            Self::Haproxy2 | Self::Haproxy2Splice => {
                let splices = self == Self::Haproxy2Splice;
                let program = find_program("haproxy", folder);
                (
                    program.map(|program| Program::Haproxy { program, splices }),
                    "apt-get install haproxy",
                )
            }
            Self::Nginx2 => {
                let both = find_program("nginx", folder).zip(nginx_module());
                (
                    both.map(|(program, module)| Program::Nginx { program, module }),
                    "apt-get install nginx libnginx-mod-stream",
                )
            }
            Self::Qbench | Self::QbenchBatch => {
                let batch = self == Self::QbenchBatch;
                let program = find_program("qbench", folder);
                (
                    program.map(|program| Program::Qbench { program, batch }),
                    "cargo install --path bench/src/qbench, of the reference",
                )
            }
        };
        match program {
            Some(program) => Ok(Found {
                peer: self,
                program,
            }),
            None => Err(NotInstalled {
                peer: self,
                install,
            }),
        }
    }
}

/// Where `name` is: in `folder`, or where this system keeps programs.
pub(crate) fn find_program(name: &str, folder: Option<&Path>) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = SYSTEM.map(PathBuf::from);
    folder
        .map(Path::to_owned)
        .into_iter()
        .chain(env::split_paths(&path))
        .chain(system)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

fn nginx_module() -> Option<PathBuf> {
    let folders = NGINX_MODULES.map(Path::new).into_iter();
    let mut modules = folders.map(|folder| folder.join("ngx_stream_module.so"));
    modules.find(|module| module.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_one_name_everywhere() {
        for peer in Peer::value_variants() {
            let value = peer.to_possible_value().unwrap();
            assert_eq!(value.get_name(), peer.name());
        }
    }

    #[test]
    fn a_program_is_found_in_the_folder_first() {
        let folder = tempfile::tempdir().unwrap();
        let mine = folder.path().join("bore");
        std::fs::write(&mine, "").unwrap();
        assert_eq!(find_program("bore", Some(folder.path())), Some(mine));
        assert!(find_program("sh", Some(folder.path())).is_some());
        assert_eq!(find_program("no such program", None), None);
    }
}
