//! The certificate that visitors see, or of a relay apart, agents: asked for with a signing request, kept on disk, renewed in time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::Method;
use serde::Deserialize;
use tokio::time::sleep;

use crate::tls::{CertificateSlot, TlsError};

use super::cloud::{CallError, Cloud};
use super::identity::{Identity, KeyError, TlsKey};
use super::state::{Certificate, State, StateError};
use crate::backoff::Backoff;

/// How often it is looked at whether the time to renew has come. The clock may jump, so no longer sleep is trusted.
const LOOK: Duration = Duration::from_secs(600);

/// Between two renewals at least, whatever the cloud says of when the next is due; many devices do not come in step.
const PAUSE: Duration = LOOK;

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
pub enum CertificateError {
    /// The cloud could not be asked, or said no.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It cannot be kept.
    #[error(transparent)]
    State(#[from] StateError),
    /// The key it is for cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What the cloud gave is no certificate for that key.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What is needed to ask for certificates.
#[derive(Debug)]
pub struct Certificates {
    /// Where they are kept.
    pub state: State,
    /// Who makes them.
    pub cloud: Cloud,
    /// Where it is asked for them.
    pub path: &'static str,
    /// What they are for, the most important first.
    pub names: Vec<String>,
    /// Whose they are.
    pub key: TlsKey,
}

/// A certificate that can be shown.
#[derive(Debug)]
pub struct Usable {
    /// With its key.
    pub slot: CertificateSlot,
    /// When it ends, in seconds since 1970.
    pub not_after: u64,
}

impl Certificates {
    /// The kept certificate if it is still good.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn kept(&self) -> Result<Option<Usable>, StateError> {
        let kept = self.state.certificate()?;
        Ok(kept.filter(|kept| now() < kept.not_after).and_then(|kept| {
            let slot = CertificateSlot::from_pem(&kept.chain, self.key.pem()).ok()?;
            let not_after = kept.not_after;
            Some(Usable { slot, not_after })
        }))
    }

    /// The kept certificate if it is still good, else a new one; tries until there is one or the cloud says no for good.
    pub(super) async fn obtain(
        &self,
        identity: &Identity,
    ) -> Result<CertificateSlot, CertificateError> {
        if let Some(kept) = self.kept()? {
            return Ok(kept.slot);
        }
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            match self.renew(identity).await {
                Ok(new) => return Ok(new.slot),
                Err(CertificateError::Call(error)) if error.may_pass() => {
                    tracing::warn!(%error, "no certificate yet; trying again");
                    sleep(backoff.next_wait()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Renews the certificate in `slot` whenever its time has come, and tells when the new one ends, in seconds since 1970. Never
    /// returns; the old one serves until there is a new one.
    pub async fn keep_fresh(
        &self,
        identity: &Identity,
        slot: &CertificateSlot,
        mut renewed: impl FnMut(u64),
    ) {
        let is_due = || match self.state.certificate() {
            Ok(kept) => kept.is_none_or(|kept| now() >= kept.renew_at),
            Err(_) => true,
        };
        let has_renewed = |new: Usable| {
            slot.replace(&new.slot);
            renewed(new.not_after);
        };
        renew_when_due(is_due, || self.renew(identity), has_renewed).await;
    }

    /// Asks for another, and keeps it.
    ///
    /// # Errors
    /// If there is none, or it cannot be kept.
    pub async fn renew(&self, identity: &Identity) -> Result<Usable, CertificateError> {
        let request = self.key.signing_request(self.names.clone())?;
        let answer: CertificateAnswer = self
            .cloud
            .call(
                Method::POST,
                self.path,
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
        let slot = CertificateSlot::from_pem(&certificate.chain, self.key.pem())?;
        self.state.keep_certificate(&certificate)?;
        Ok(Usable {
            slot,
            not_after: certificate.not_after,
        })
    }
}

/// Never returns.
async fn renew_when_due<Renewal>(
    is_due: impl Fn() -> bool,
    renew: impl Fn() -> Renewal,
    mut has_renewed: impl FnMut(Usable),
) where
    Renewal: Future<Output = Result<Usable, CertificateError>>,
{
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        if !is_due() {
            sleep(LOOK).await;
            continue;
        }
        match renew().await {
            Ok(new) => {
                has_renewed(new);
                backoff.reset();
                tracing::info!("the certificate has been renewed");
                sleep(PAUSE.mul_f64(rand::random_range(1.0..2.0))).await;
            }
            Err(error) => {
                tracing::warn!(%error, "the certificate could not be renewed; the old one serves on");
                sleep(backoff.next_wait()).await;
            }
        }
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::timeout;

    use super::*;

    /// How long a call takes.
    const CALL: Duration = Duration::from_millis(20);

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn slot() -> CertificateSlot {
        let key = rcgen::KeyPair::generate().unwrap();
        let own = rcgen::CertificateParams::default();
        let own = own.self_signed(&key).unwrap();
        CertificateSlot::from_pem(&own.pem(), &key.serialize_pem()).unwrap()
    }

    /// How often a cloud is asked in a day that always says that the next certificate is due at once.
    async fn asked_in_a_day(succeeds: impl Fn(u32) -> bool) -> u32 {
        let (asked, slot) = (Cell::new(0), slot());
        let renew = || async {
            sleep(CALL).await;
            asked.set(asked.get() + 1);
            let slot = slot.clone();
            match succeeds(asked.get()) {
                true => Ok(Usable { slot, not_after: 0 }),
                false => Err(CallError::BadAddress(String::new()).into()),
            }
        };
        let renewed = renew_when_due(|| true, renew, |_| {});
        assert!(timeout(DAY, renewed).await.is_err(), "it goes on");
        asked.get()
    }

    #[tokio::test(start_paused = true)]
    async fn a_cloud_that_always_wants_the_certificate_renewed_is_asked_now_and_then() {
        let asked = asked_in_a_day(|_| true).await;
        assert!((72..=144).contains(&asked), "{asked}");
    }

    #[tokio::test(start_paused = true)]
    async fn so_is_one_that_fails_every_other_time() {
        let asked = asked_in_a_day(|nth| nth % 2 == 0).await;
        assert!((2..=2 * 144).contains(&asked), "{asked}");
    }
}
