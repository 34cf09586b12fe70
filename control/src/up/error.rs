//! Why the server does not start, and the option that mends it where there is one.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use relay::program::InheritedError;
use relay::program::succession::SuccessionError;
use relay::tls::TlsError;

use crate::authority::AuthorityError;
use crate::demo::DemoError;
use crate::fleet;
use crate::state::StateError;
use crate::store::StoreError;

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificate authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A file that is named in [acme].
    #[error("[acme]: {0}")]
    Acme(#[from] io::Error),
    /// Names cannot be steered.
    #[error(transparent)]
    Steering(#[from] crate::steering::OpenError),
    /// Logs cannot be followed.
    #[error(transparent)]
    CertificateWatch(#[from] crate::certificate_watch::OpenError),
    /// What is kept for [acme].
    #[error(transparent)]
    Kept(#[from] relay::kept::KeptError),
    /// Certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The same for DNS over TLS.
    #[error(transparent)]
    NameServerCertificate(#[from] ddns::CertificateError),
    /// What whoever has started this server has handed over to it.
    #[error(transparent)]
    Inherited(#[from] InheritedError),
    /// The process before, of which this one is to take over.
    #[error("the process before does not hand over: {0}")]
    Succession(#[from] SuccessionError),
    /// What it says of who is present.
    #[error("what the process before says cannot be read: {0}")]
    Present(io::Error),
    /// The threads that carry bytes.
    #[error("no thread to carry bytes: {0}")]
    Workers(io::Error),
    /// The relay.
    #[error("{}", relay_with_option(.0))]
    Relay(relay::server::StartError),
    /// The DNS server.
    #[error("{}", ddns_with_option(.0))]
    Ddns(ddns::StartError),
    /// Metrics registered twice.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// The admin listener.
    #[error(
        "admin cannot listen on {address}: {cause}; choose another with `listen` in [admin], or with --admin"
    )]
    Admin {
        /// Where it was to listen.
        address: SocketAddr,
        /// What the system says.
        cause: io::Error,
    },
    /// The operator's socket.
    #[error("{}: {cause}", path.display())]
    Socket {
        /// Where it was to be.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// The demo device.
    #[error(transparent)]
    Demo(#[from] DemoError),
    /// A part runs and does not answer.
    #[error("{part} does not answer: {cause}")]
    Silent {
        /// Which part.
        part: &'static str,
        /// What was heard instead.
        cause: io::Error,
    },
}

// By hand: a source is said after what it caused, and these say all of theirs themselves.
impl From<relay::server::StartError> for UpError {
    fn from(error: relay::server::StartError) -> Self {
        Self::Relay(error)
    }
}

impl From<ddns::StartError> for UpError {
    fn from(error: ddns::StartError) -> Self {
        Self::Ddns(error)
    }
}

impl From<fleet::OpenError> for UpError {
    fn from(error: fleet::OpenError) -> Self {
        match error {
            fleet::OpenError::Store(error) => Self::Store(error),
            fleet::OpenError::Metrics(error) => Self::Metrics(error),
        }
    }
}

/// The relay's words, and the option that mends a failed listener.
fn relay_with_option(error: &relay::server::StartError) -> String {
    use relay::server::{Listener, StartError};
    match error {
        StartError::Bind {
            purpose: Listener::Front,
            ..
        } => {
            format!("{error}; choose another with `front` in [relay], or with --front")
        }
        StartError::Bind {
            purpose: Listener::Http,
            ..
        } => {
            format!("{error}; choose another with `http` in [relay], or with --http")
        }
        StartError::Tls(_)
        | StartError::Workers { .. }
        | StartError::Quic(_)
        | StartError::Predecessor(_)
        | StartError::Listen(_)
        | StartError::Records(_)
        | StartError::Metrics(_) => error.to_string(),
    }
}

/// The same for the DNS server.
fn ddns_with_option(error: &ddns::StartError) -> String {
    if matches!(error, ddns::StartError::Listen(_)) {
        format!("{error}, or with --dns")
    } else if matches!(error, ddns::StartError::ListenDot(_)) {
        format!("{error}, or with --dot")
    } else {
        error.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listener_that_cannot_be_had_is_mended_by_an_option() {
        let address = SocketAddr::from(([192, 0, 2, 1], 53));
        let taken = ddns::ListenError {
            addr: address,
            transport: "UDP",
            source: io::ErrorKind::AddrInUse.into(),
        };
        let taken = UpError::from(ddns::StartError::from(taken)).to_string();
        assert!(taken.contains("192.0.2.1:53") && taken.ends_with("or with --dns"));
        let taken = ddns::ListenError {
            addr: SocketAddr::from(([192, 0, 2, 1], 853)),
            transport: "TLS",
            source: io::ErrorKind::AddrInUse.into(),
        };
        let taken = UpError::from(ddns::StartError::ListenDot(taken)).to_string();
        assert!(taken.contains("`dot`") && taken.ends_with("or with --dot"));
        let other = UpError::from(ddns::StartError::Bug).to_string();
        assert!(!other.contains("--dns"), "{other}");
    }
}
