//! The certificates of the operator's own hosts.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use directory::OperatorName;
use prometheus::Registry;
use relay::tls::CertificateSlot;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::UpError;
use crate::authority::{self, Authority};
use crate::health::{CertificateEnds, Purpose};

/// How often it is looked at whether the operator's certificates must be renewed. The clock may jump.
const RENEWAL_LOOK: Duration = Duration::from_secs(60 * 60);

/// The certificates of the operator's own hosts: made at every start, and again before they end.
pub(super) struct OperatorCertificates {
    authority: Arc<Authority>,
    pub(super) cloud: CertificateSlot,
    pub(super) relay: CertificateSlot,
    /// Where DNS is spoken over TLS.
    pub(super) name_server: Option<ddns::Certificate>,
    pub(super) ends: CertificateEnds,
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
        let mut slot = |name, purpose| {
            let certificate = authority.operator_certificate(name)?;
            ends.watch(purpose, authority::end_of(&certificate.chain)?);
            Ok::<_, UpError>(CertificateSlot::from_pem(
                &certificate.chain,
                &certificate.key,
            )?)
        };
        let cloud = slot(OperatorName::Cloud, Purpose::Cloud)?;
        let relay = slot(OperatorName::Relay, Purpose::Relay)?;
        let mut name_server = || {
            let certificate = authority.name_server_certificate()?;
            ends.watch(Purpose::NameServer, authority::end_of(&certificate.chain)?);
            let slot = ddns::Certificate::from_pem(&certificate.chain, &certificate.key)?;
            Ok::<_, UpError>(slot)
        };
        Ok(Self {
            name_server: with_dot.then(&mut name_server).transpose()?,
            cloud,
            relay,
            authority,
            ends,
        })
    }

    pub(super) async fn keep_fresh(self, stop: CancellationToken) {
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
            match self.renew() {
                Ok(()) => issued = SystemTime::now(),
                Err(error) => {
                    tracing::warn!(%error, "the operator's certificates could not be renewed")
                }
            }
        }
    }

    fn renew(&self) -> Result<(), UpError> {
        for (name, slot, purpose) in [
            (OperatorName::Cloud, &self.cloud, Purpose::Cloud),
            (OperatorName::Relay, &self.relay, Purpose::Relay),
        ] {
            let certificate = self.authority.operator_certificate(name)?;
            slot.replace(&certificate.chain, &certificate.key)?;
            self.ends
                .renewed(purpose, authority::end_of(&certificate.chain)?);
        }
        if let Some(slot) = &self.name_server {
            let certificate = self.authority.name_server_certificate()?;
            slot.replace(&certificate.chain, &certificate.key)?;
            self.ends
                .renewed(Purpose::NameServer, authority::end_of(&certificate.chain)?);
        }
        Ok(())
    }
}
