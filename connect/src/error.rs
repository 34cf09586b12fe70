//! Why a service is not reached, in words for whoever wanted it.

use std::io;

use rustls::{AlertDescription, Error as TlsError};

/// Why a service is not reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No name of a device, or of one of its services.
    #[error("{0:?} is no name: it looks like mynas.example.com, and that of a service like ssh")]
    Name(String),
    /// Certificates to trust cannot be read, or there are none.
    #[error("there are no certificates to trust: {0}")]
    Trust(String),
    /// The name leads nowhere.
    #[error("{host} cannot be found: {error}")]
    NotFound {
        /// The device's name.
        host: String,
        /// What the resolver says.
        error: io::Error,
    },
    /// Nobody answers where the name leads.
    #[error("nobody answers for {host}: {error}")]
    Unreachable {
        /// The device's name.
        host: String,
        /// What went wrong at the last of its addresses.
        error: io::Error,
    },
    /// The relay knows of no such device, or of none that is there: it does not say which.
    #[error("{0} cannot be reached: there is no such device, or it has no connection to its relay")]
    Absent(String),
    /// Whoever answers cannot show that it is the device.
    #[error("who answers for {host} is not to be trusted: {error}")]
    Distrust {
        /// The device's name.
        host: String,
        /// What is wrong with its certificate.
        error: TlsError,
    },
    /// Its agent speaks no [`ALPN_CONNECT`](wire::ALPN_CONNECT).
    #[error("the agent of {0} takes no apps: it is too old, or this is no device of Causeway")]
    NoApps(String),
    /// The agent does not offer it to apps.
    #[error("{host} has no service {service:?} for apps")]
    Refused {
        /// The device's name.
        host: String,
        /// The service's.
        service: String,
    },
    /// The agent offers it, and cannot reach it.
    #[error("the service {service:?} of {host} does not answer its agent")]
    ServiceUnreachable {
        /// The device's name.
        host: String,
        /// The service's.
        service: String,
    },
    /// It took too long.
    #[error("{0} does not answer in time")]
    Late(String),
    /// The connection has broken off.
    #[error("the connection to {host} has broken off: {error}")]
    Broken {
        /// The device's name.
        host: String,
        /// How.
        error: io::Error,
    },
}

impl ConnectError {
    /// What a failed attempt at one of `host`'s addresses says.
    pub(crate) fn of_attempt(host: &str, error: io::Error) -> Self {
        let host = host.to_owned();
        let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref());
        match of_tls {
            Some(TlsError::AlertReceived(AlertDescription::UnrecognisedName)) => Self::Absent(host),
            Some(TlsError::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
                Self::NoApps(host)
            }
            Some(certificate @ TlsError::InvalidCertificate(_)) => Self::Distrust {
                error: certificate.clone(),
                host,
            },
            Some(_) | None => Self::Unreachable { host, error },
        }
    }

    /// Whether the device itself has said so: then its other addresses say the same.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Absent(_) | Self::Unreachable { .. } | Self::Late(_) | Self::Broken { .. } => {
                false
            }
            Self::Name(_)
            | Self::Trust(_)
            | Self::NotFound { .. }
            | Self::Distrust { .. }
            | Self::NoApps(_)
            | Self::Refused { .. }
            | Self::ServiceUnreachable { .. } => true,
        }
    }
}
