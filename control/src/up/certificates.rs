//! The certificates of the operator's own hosts.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use directory::OperatorName;
use prometheus::Registry;
use relay::tls::{CertificateSlot, Roots};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::UpError;
use crate::authority::{self, Authority};
use crate::health::{CertificateEnds, Purpose};

/// How often it is looked at whether the operator's certificates must be renewed. The clock may jump.
const RENEWAL_LOOK: Duration = Duration::from_secs(60 * 60);

/// The certificates of the operator's own hosts: made at every start and every reload, and again before they end.
#[derive(Debug)]
pub(super) struct OperatorCertificates {
    authority: Arc<Authority>,
    pub(super) cloud: CertificateSlot,
    pub(super) relay: CertificateSlot,
    /// Where DNS is spoken over TLS.
    pub(super) name_server: Option<ddns::Certificate>,
    pub(super) ends: CertificateEnds,
}

/// New ones for all of them, which nobody is shown yet. Dropped, they have never been.
pub(super) struct Issued {
    cloud: Made<CertificateSlot>,
    relay: Made<CertificateSlot>,
    name_server: Option<Made<ddns::Certificate>>,
}

struct Made<C> {
    certificate: C,
    /// When it ends, in seconds since 1970.
    end: i64,
}

impl OperatorCertificates {
    pub(super) fn issue(
        authority: Arc<Authority>,
        with_dot: bool,
        registry: &Registry,
    ) -> Result<Self, UpError> {
        let mut ends = CertificateEnds::register(registry)?;
        let end = authority::end_of(authority.certificate_pem())?;
        ends.watch(Purpose::Authority, end);
        let Issued {
            cloud,
            relay,
            name_server,
        } = Issued::by(&authority, with_dot)?;
        ends.watch(Purpose::Cloud, cloud.end);
        ends.watch(Purpose::Relay, relay.end);
        if let Some(name_server) = &name_server {
            ends.watch(Purpose::NameServer, name_server.end);
        }
        Ok(Self {
            authority,
            cloud: cloud.certificate,
            relay: relay.certificate,
            name_server: name_server.map(|made| made.certificate),
            ends,
        })
    }

    pub(super) async fn keep_fresh(self: Arc<Self>, stop: CancellationToken) {
        let mut issued = SystemTime::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(RENEWAL_LOOK) => {}
            }
            let age = issued.elapsed().unwrap_or_default();
            if age < Authority::operator_renewal() {
                continue;
            }
            match self.issue_anew() {
                Ok(all) => {
                    self.put(all);
                    issued = SystemTime::now();
                }
                Err(error) => {
                    tracing::warn!(%error, "the operator's certificates could not be renewed")
                }
            }
        }
    }

    /// Shows the certificate of an authority that others know, with its key, to all but those who say that they trust the operator's own:
    /// agents know that alone, and go on by it. With `None` everybody is shown the operator's own. `relay.` never has another.
    pub(super) fn publish(&self, public: Option<(&str, &str)>) -> Result<(), UpError> {
        let own = self.authority.certificate_pem();
        let roots = Roots::from_pem(own)?;
        let cloud = public.map(|(chain, key)| CertificateSlot::from_pem(chain, key));
        let dot = public.map(|(chain, key)| ddns::Certificate::from_pem(chain, key));
        let (cloud, dot) = (cloud.transpose()?, dot.transpose()?);
        self.cloud.publish(cloud.as_ref(), &roots);
        if let Some(name_server) = &self.name_server {
            name_server.publish(dot.as_ref(), own)?;
        }
        Ok(())
    }

    /// Makes another one for each host.
    pub(super) fn issue_anew(&self) -> Result<Issued, UpError> {
        Issued::by(&self.authority, self.name_server.is_some())
    }

    /// Shows these to whoever comes from now on.
    pub(super) fn put(&self, issued: Issued) {
        let Issued {
            cloud,
            relay,
            name_server,
        } = issued;
        self.cloud.replace(&cloud.certificate);
        self.ends.renewed(Purpose::Cloud, cloud.end);
        self.relay.replace(&relay.certificate);
        self.ends.renewed(Purpose::Relay, relay.end);
        if let (Some(slot), Some(made)) = (&self.name_server, name_server) {
            slot.replace(&made.certificate);
            self.ends.renewed(Purpose::NameServer, made.end);
        }
    }
}

impl Issued {
    fn by(authority: &Authority, with_dot: bool) -> Result<Self, UpError> {
        let host = |name| {
            let made = authority.operator_certificate(name)?;
            Ok::<_, UpError>(Made {
                certificate: CertificateSlot::from_pem(&made.chain, &made.key)?,
                end: authority::end_of(&made.chain)?,
            })
        };
        let name_server = || {
            let made = authority.name_server_certificate()?;
            Ok::<_, UpError>(Made {
                certificate: ddns::Certificate::from_pem(&made.chain, &made.key)?,
                end: authority::end_of(&made.chain)?,
            })
        };
        Ok(Self {
            cloud: host(OperatorName::Cloud)?,
            relay: host(OperatorName::Relay)?,
            name_server: with_dot.then(name_server).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use directory::Zone;

    use super::*;
    use crate::state::StateDirectory;

    #[test]
    fn when_others_are_put_in_place_their_ends_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(folder.path()).unwrap();
        let authority = Authority::open(&state, &Zone::parse("nas.test").unwrap()).unwrap();
        let registry = Registry::new();
        let certificates =
            OperatorCertificates::issue(Arc::new(authority), true, &registry).unwrap();
        let told = || {
            let told = registry.gather();
            let ends = told.iter().flat_map(|family| family.get_metric());
            ends.map(|end| end.get_gauge().get_value())
                .collect::<Vec<_>>()
        };
        let at_first = told();
        assert_eq!(at_first.len(), 4);
        for purpose in [Purpose::Cloud, Purpose::Relay, Purpose::NameServer] {
            certificates.ends.renewed(purpose, 1);
        }
        let issued = certificates.issue_anew().unwrap();
        assert_eq!(told().iter().filter(|end| **end == 1.0).count(), 3);
        certificates.put(issued);
        let now = told();
        assert!(now.iter().zip(&at_first).all(|(now, first)| now >= first));
    }
}
