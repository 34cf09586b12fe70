//! The certificate that visitors see: asked for with a signing request, kept on disk, renewed in time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::Method;
use serde::Deserialize;
use tokio::time::sleep;

use crate::tls::{CertificateSlot, TlsError};

use super::backoff::Backoff;
use super::cloud::{CallError, Cloud};
use super::identity::{Identity, KeyError, TlsKey};
use super::state::{Certificate, State, StateError};

/// How often it is looked at whether the time to renew has come. The clock may jump, so no longer sleep is trusted.
const LOOK: Duration = Duration::from_secs(600);

/// Between two tries for a certificate, at least and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

#[derive(Deserialize)]
struct CertificateAnswer {
    chain: String,
    renew_at: u64,
    not_after: u64,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What is needed to ask for certificates.
#[derive(Debug)]
pub(super) struct Certificates {
    pub(super) state: State,
    pub(super) cloud: Cloud,
    pub(super) names: Vec<String>,
    pub(super) key: TlsKey,
}

impl Certificates {
    /// The kept certificate if it is still good, else a new one; tries until there is one or the cloud says no for good.
    pub(super) async fn obtain(
        &self,
        identity: &Identity,
    ) -> Result<CertificateSlot, CertificateError> {
        if let Some(kept) = self.state.certificate()?
            && now() < kept.not_after
            && let Ok(slot) = CertificateSlot::from_pem(&kept.chain, self.key.pem())
        {
            return Ok(slot);
        }
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            match self.renew(identity).await {
                Ok(new) => return Ok(new),
                Err(CertificateError::Call(error)) if error.may_pass() => {
                    tracing::warn!(%error, "no certificate yet; trying again");
                    sleep(backoff.next()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Renews the certificate in `slot` whenever its time has come. Never returns; the old one serves until there is a
    /// new one.
    pub(super) async fn keep_fresh(&self, identity: &Identity, slot: &CertificateSlot) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            let due = match self.state.certificate() {
                Ok(kept) => kept.is_none_or(|kept| now() >= kept.renew_at),
                Err(_) => true,
            };
            if !due {
                sleep(LOOK).await;
                continue;
            }
            match self.renew(identity).await {
                Ok(renewed) => {
                    slot.replace(&renewed);
                    backoff.reset();
                    tracing::info!("the certificate has been renewed");
                }
                Err(error) => {
                    tracing::warn!(%error, "the certificate could not be renewed; the old one serves on");
                    sleep(backoff.next()).await;
                }
            }
        }
    }

    async fn renew(&self, identity: &Identity) -> Result<CertificateSlot, CertificateError> {
        let request = self.key.signing_request(self.names.clone())?;
        let answer: CertificateAnswer = self
            .cloud
            .call(
                Method::POST,
                "/api/device/certificate",
                "application/x-pem-file",
                request.into_bytes(),
                identity,
            )
            .await?;
        let certificate = Certificate {
            chain: answer.chain,
            renew_at: answer.renew_at,
            not_after: answer.not_after,
        };
        // Only one that fits the key replaces the one on disk.
        let renewed = CertificateSlot::from_pem(&certificate.chain, self.key.pem())?;
        self.state.keep_certificate(&certificate)?;
        Ok(renewed)
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
