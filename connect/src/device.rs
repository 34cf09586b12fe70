//! A device, and the way to one of its services.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use wire::ALPN_CONNECT;
use wire::connect::{self, APPS, Answer};

use super::error::ConnectError;
use super::pass::{Connection, buffered};

/// The port that a relay's front has where nobody says otherwise.
const FRONT_PORT: u16 = 443;

/// How long it may take until a service is granted.
const PATIENCE: Duration = Duration::from_secs(15);

/// After so long without an answer the next address is tried beside it (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(300);

/// A relay that is silent for so long is asked whether it is still there: a machine that slept, or a NAT that has forgotten it, would
/// leave an app waiting for ever. It is given up after a minute without an answer.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(30))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);

/// So many addresses are tried at most.
const MAX_ADDRESSES: usize = 8;

/// Whose certificates are trusted.
#[derive(Clone, Debug)]
pub struct Trust(Arc<RootCertStore>);

impl Trust {
    /// Those that this system trusts.
    ///
    /// # Errors
    /// If it has none.
    pub fn of_system() -> Result<Self, ConnectError> {
        let mut store = RootCertStore::empty();
        let native = rustls_native_certs::load_native_certs();
        let (added, _) = store.add_parsable_certificates(native.certs);
        match added {
            0 => Err(ConnectError::Trust("this system has none".to_owned())),
            _ => Ok(Self(Arc::new(store))),
        }
    }

    /// Those in a PEM text.
    ///
    /// # Errors
    /// If there is none in it, or one cannot be read.
    pub fn from_pem(pem: &[u8]) -> Result<Self, ConnectError> {
        let mut store = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate =
                certificate.map_err(|error| ConnectError::Trust(error.to_string()))?;
            let added = store.add(certificate);
            added.map_err(|error| ConnectError::Trust(error.to_string()))?;
        }
        match store.is_empty() {
            true => Err(ConnectError::Trust("the file has none".to_owned())),
            false => Ok(Self(Arc::new(store))),
        }
    }
}

/// A device, known by its name.
#[derive(Clone, Debug)]
pub struct Device {
    host: Arc<str>,
    /// The front to go to instead of where the name leads.
    at: Option<Arc<str>>,
    server_name: ServerName<'static>,
    tls: Arc<ClientConfig>,
}

impl Device {
    /// The device of this name, such as `mynas.example.com`.
    ///
    /// # Errors
    /// If it is no name, or TLS cannot be set up.
    pub fn new(host: &str, trust: &Trust) -> Result<Self, ConnectError> {
        let host = normalised(host);
        let no_name = || ConnectError::Name(host.clone());
        if !host.contains('.') {
            return Err(no_name());
        }
        let server_name = ServerName::try_from(format!("{APPS}.{host}"));
        let Ok(server_name @ ServerName::DnsName(_)) = server_name else {
            return Err(no_name());
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| ConnectError::Trust(error.to_string()))?
            .with_root_certificates(Arc::clone(&trust.0))
            .with_no_client_auth();
        tls.alpn_protocols = vec![ALPN_CONNECT.to_vec()];
        Ok(Self {
            host: host.into(),
            at: None,
            server_name,
            tls: Arc::new(tls),
        })
    }

    /// The same, reached at `front` (`host` or `host:port`), wherever its name leads.
    #[must_use]
    pub fn at(self, front: &str) -> Self {
        Self {
            at: Some(front.into()),
            ..self
        }
    }

    /// Its name.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Which of its services `name` means: the whole name below the device's, or only what stands before it. Empty for its own.
    pub fn service_of(&self, name: &str) -> Option<String> {
        let name = normalised(name);
        if *name == *self.host {
            return Some(String::new());
        }
        let service = match name.strip_suffix(&*self.host) {
            Some(service) => service.strip_suffix('.')?.to_owned(),
            None => name,
        };
        connect::write(&service).ok().map(|_| service)
    }

    /// Connects to one of its services; the empty name is its own.
    ///
    /// # Errors
    /// Why it is not reached.
    pub async fn open(&self, service: &str) -> Result<Connection, ConnectError> {
        let request =
            connect::write(service).map_err(|_| ConnectError::Name(service.to_owned()))?;
        let opened = timeout(PATIENCE, async {
            let mut stream = self.reach().await?;
            let answer = ask(&mut stream, &request).await;
            let answer = answer.map_err(|error| ConnectError::Broken {
                host: self.host.to_string(),
                error,
            })?;
            let (host, service) = (self.host.to_string(), service.to_owned());
            match answer {
                Answer::Granted => Ok(stream),
                Answer::Refused => Err(ConnectError::Refused { host, service }),
                Answer::Unreachable => Err(ConnectError::ServiceUnreachable { host, service }),
            }
        });
        let late = |_| ConnectError::Late(self.host.to_string());
        opened.await.map_err(late)?
    }

    /// Its agent, by whichever address answers first. One that takes a connection and says nothing costs [`STAGGER`].
    async fn reach(&self) -> Result<Connection, ConnectError> {
        let mut addresses = self.addresses().await?.into_iter();
        let mut attempts = JoinSet::new();
        let mut failed = None;
        loop {
            let left = addresses.len() > 0;
            if let Some(address) = addresses.next() {
                attempts.spawn(self.clone().attempt(address));
            }
            tokio::select! {
                biased;
                ended = attempts.join_next() => match ended {
                    Some(Ok(Ok(stream))) => return Ok(stream),
                    Some(Ok(Err(error))) if error.is_final() => return Err(error),
                    Some(Ok(Err(error))) => failed = Some(error),
                    Some(Err(_)) => {}
                    None => {
                        let nobody = || ConnectError::Late(self.host.to_string());
                        return Err(failed.unwrap_or_else(nobody));
                    }
                },
                () = sleep(STAGGER), if left => {}
            }
        }
    }

    async fn attempt(self, address: SocketAddr) -> Result<Connection, ConnectError> {
        let connected = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE)?;
            let connector = TlsConnector::from(self.tls);
            connector.connect(self.server_name, buffered(stream)).await
        };
        let stream = connected
            .await
            .map_err(|error| ConnectError::of_attempt(&self.host, error))?;
        match stream.get_ref().1.alpn_protocol() {
            Some(ALPN_CONNECT) => Ok(stream),
            Some(_) | None => Err(ConnectError::NoApps(self.host.to_string())),
        }
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        let front = self.at.as_deref().unwrap_or(&self.host);
        // Those below are this machine, whatever its resolver says (RFC 6761 section 6.3).
        let found = match is_localhost(front) {
            true => Ok([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
                .map(|ip| SocketAddr::new(ip, port_of(front)))
                .to_vec()),
            false if has_port(front) => lookup_host(front).await.map(Iterator::collect),
            false => lookup_host((front, FRONT_PORT))
                .await
                .map(Iterator::collect),
        };
        let found = found.and_then(|found: Vec<_>| match found.is_empty() {
            true => Err(io::Error::other("it has no address")),
            false => Ok(found),
        });
        let mut found = found.map_err(|error| ConnectError::NotFound {
            host: front.to_owned(),
            error,
        })?;
        found.truncate(MAX_ADDRESSES);
        Ok(found)
    }
}

/// Asks for a service on a connection to an agent.
async fn ask(stream: &mut Connection, request: &[u8]) -> io::Result<Answer> {
    stream.write_all(request).await?;
    stream.flush().await?;
    Ok(Answer::of_number(stream.read_u8().await?))
}

fn normalised(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn has_port(front: &str) -> bool {
    front.parse::<SocketAddr>().is_ok()
        || front
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.contains(':') && port.parse::<u16>().is_ok())
}

fn port_of(front: &str) -> u16 {
    let port = front.rsplit_once(':').map(|(_, port)| port.parse());
    port.and_then(Result::ok).unwrap_or(FRONT_PORT)
}

fn is_localhost(front: &str) -> bool {
    let host = front.rsplit_once(':').map_or(front, |(host, _)| host);
    host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(host: &str) -> Result<Device, ConnectError> {
        Device::new(host, &Trust(Arc::new(RootCertStore::empty())))
    }

    #[test]
    fn a_device_has_a_whole_name() {
        assert_eq!(
            device("MyNAS.Example.COM.").unwrap().host(),
            "mynas.example.com"
        );
        for host in [
            "mynas",
            "",
            "192.0.2.1",
            "a b.example.com",
            "..",
            "mynas.example.com:443",
        ] {
            assert!(
                matches!(device(host), Err(ConnectError::Name(_))),
                "{host:?}"
            );
        }
    }

    #[test]
    fn a_service_is_meant_by_its_name_or_by_the_whole_of_it() {
        let device = device("mynas.example.com").unwrap();
        for (name, service) in [
            ("ssh", Some("ssh")),
            ("SSH.mynas.example.com.", Some("ssh")),
            ("mynas.example.com", Some("")),
            ("a.ssh.mynas.example.com", None),
            ("notmynas.example.com", None),
            ("example.com", None),
            ("ssh.other.example.com", None),
        ] {
            assert_eq!(device.service_of(name).as_deref(), service, "{name}");
        }
    }

    #[test]
    fn fronts_may_have_a_port() {
        for (front, port) in [
            ("192.0.2.1:8443", true),
            ("[2001:db8::1]:8443", true),
            ("relay.example.com:8443", true),
            ("relay.example.com", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(has_port(front), port, "{front}");
        }
        assert!(is_localhost("demo.nas.localhost") && is_localhost("localhost:8443"));
        assert!(!is_localhost("notlocalhost"));
        assert_eq!(port_of("localhost:8443"), 8443);
    }
}
