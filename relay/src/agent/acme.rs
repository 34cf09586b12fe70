//! A certificate that every browser trusts, from an authority of the operator's choice, by ACME (RFC 8555) with the DNS-01 challenge. Keys
//! and signing requests are made here, and the cloud only puts into the DNS what the authority looks for.
//!
//! ```text
//!   authorities   whom the operator has asked, as the cloud says
//!   account       one with each, for good ─┐
//!   order         one at a time ───────────┴─► http ─► the authority
//!   issued        is it what was asked for? ─► disk ─► shown to visitors
//! ```
//!
//! Until there is one, and once the last one has ended, visitors see the certificate of the operator's own authority.

mod account;
mod authorities;
mod error;
mod http;
mod issued;
mod order;
mod renewal;

use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use instant_acme::Error;
use tokio::time::{Instant, sleep, timeout};

use self::authorities::{Authorities, Authority};
use self::error::AcmeError;
use self::issued::Issued;
use self::order::Customer;
use super::backoff::Backoff;
use super::cloud::Cloud;
use super::identity::{Identity, TlsKey};
use super::situation::Situation;
use super::state::{AcmeCertificate, State, StateError};
use super::status::CertificateStatus;
use crate::resolve::Resolver;
use crate::tls::CertificateSlot;

/// How often it is looked at whether the time to renew has come. The clock may jump, so no longer sleep is trusted.
const LOOK: Duration = Duration::from_secs(600);

/// How often a cloud that asks no authorities is asked whether it does now, give or take a third.
const ASK: Duration = Duration::from_secs(45 * 60);

/// Between two tries for a certificate, at least and at most; more if an authority says so.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60 * 60));

/// How long one order may take: nobody looks at it for so long, and it is taken up again later.
const ORDER_TIME: Duration = Duration::from_secs(180);

/// How long an authority may take to say when it wants a certificate renewed.
const ADVICE_TIME: Duration = Duration::from_secs(30);

/// How often it is asked that, at least and at most, by what it says itself, and how often if it says nothing.
const ADVICE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 60 * 60));

/// What it takes to get certificates, and who shows them.
pub(super) struct Acme<'a> {
    pub(super) state: &'a State,
    pub(super) cloud: &'a Cloud,
    pub(super) identity: &'a Identity,
    pub(super) resolver: Resolver,
    /// What the certificates are for.
    pub(super) key: &'a TlsKey,
    pub(super) names: &'a [String],
    /// Devices do not renew in step, and each keeps its own.
    pub(super) device_id: &'a str,
    pub(super) situation: &'a Situation,
    /// What visitors see.
    pub(super) shown: &'a CertificateSlot,
    /// The certificate of the operator's own authority, always good.
    pub(super) own: &'a CertificateSlot,
}

/// An authority that gave nothing.
struct Failure {
    authority: Option<String>,
    error: AcmeError,
    /// Until it wants to be asked again.
    wait: Duration,
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::here(error.into())
    }
}

impl Failure {
    fn here(error: AcmeError) -> Self {
        Self {
            authority: None,
            error,
            wait: Duration::ZERO,
        }
    }
}

/// What was given before, and is still good.
struct Kept {
    certificate: AcmeCertificate,
    issued: Issued,
}

impl Acme<'_> {
    /// Shows the kept certificate, if it is still good.
    pub(super) fn show_kept(&self) -> Result<(), StateError> {
        if let Some(kept) = self.kept()? {
            self.shown.replace(&kept.issued.slot);
            self.tell(Some(&kept), None);
        }
        Ok(())
    }

    /// There is another one of the operator's own authority.
    pub(super) fn own_is_renewed(&self) {
        if matches!(self.kept(), Ok(None)) {
            self.shown.replace(self.own);
        }
    }

    /// Orders certificates whenever the time has come, and shows them. Never returns; what was given last serves until it ends.
    pub(super) fn keep(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            let mut backoff = Backoff::new(RETRY.0, RETRY.1);
            let mut advised = Instant::now();
            loop {
                let wait = match self.look(&mut advised).await {
                    Ok(wait) => {
                        backoff.reset();
                        wait
                    }
                    Err(failure) => {
                        let wait = backoff.next_wait().max(failure.wait);
                        self.failed(&failure, wait);
                        wait
                    }
                };
                self.pause(wait).await;
            }
        })
    }

    /// What has ended meanwhile is not shown any longer.
    async fn pause(&self, wait: Duration) {
        let end = Instant::now() + wait;
        while Instant::now() < end {
            sleep((end - Instant::now()).min(LOOK)).await;
            self.own_is_renewed();
        }
    }

    fn kept(&self) -> Result<Option<Kept>, StateError> {
        let kept = self.state.acme()?.certificate.and_then(|certificate| {
            let issued = issued::look_at(&certificate.chain, self.key, self.names, now());
            issued.ok().map(|issued| Kept {
                certificate,
                issued,
            })
        });
        Ok(kept)
    }

    /// Does what is due, and says when to look again.
    async fn look(&self, advised: &mut Instant) -> Result<Duration, Failure> {
        let mut kept = self.kept()?;
        if kept.is_none() {
            self.shown.replace(self.own);
        }
        if let Some(kept) = &mut kept {
            if *advised <= Instant::now() && now() < kept.certificate.renew_at {
                *advised = Instant::now() + self.follow_advice(kept).await?;
            }
            let due = kept.certificate.renew_at.saturating_sub(now());
            if due > 0 {
                self.tell(Some(kept), None);
                return Ok(Duration::from_secs(due).min(LOOK));
            }
        }
        let authorities = Authorities::ask(self.cloud, self.identity).await;
        let authorities = authorities.map_err(Failure::here)?;
        if authorities.list.is_empty() {
            self.tell(kept.as_ref(), None);
            return Ok(ASK.mul_f64(rand::random_range(0.67..1.33)));
        }
        let new = self.ask_each(&authorities, kept.as_ref()).await?;
        self.shown.replace(&new.issued.slot);
        self.tell(Some(&new), None);
        let authority = authorities::name_of(&new.certificate.directory);
        tracing::info!(authority, "a certificate authority has given a certificate");
        *advised = Instant::now() + ADVICE.0;
        Ok(Duration::from_secs(renewal::APART))
    }

    /// The first certificate that one of them gives. One that has taken an order before is asked first.
    async fn ask_each(
        &self,
        authorities: &Authorities,
        kept: Option<&Kept>,
    ) -> Result<Kept, Failure> {
        let ordered = self.state.acme()?.orders;
        let mut list: Vec<_> = authorities.list.iter().collect();
        list.sort_by_key(|authority| !ordered.contains_key(&authority.directory));
        let mut failure: Option<Failure> = None;
        for authority in list {
            let customer = match Customer::of(self, authority) {
                Ok(customer) => customer,
                Err(error) => {
                    failure.get_or_insert(failed_at(authority, error, None));
                    continue;
                }
            };
            let replaced = kept.filter(|kept| kept.certificate.directory == authority.directory);
            let mut replaced = replaced.and_then(|kept| kept.issued.id.clone());
            let mut tries = 0;
            let error = loop {
                tries += 1;
                let ordered = customer.order(authorities, replaced.clone());
                let ordered = timeout(ORDER_TIME, Box::pin(ordered)).await;
                let chain = match ordered.unwrap_or(Err(AcmeError::TooSlow)) {
                    Ok(chain) => chain,
                    Err(error) if error.is_stranger() && tries < 2 => {
                        let directory = &authority.directory;
                        self.state.change_acme(|state| {
                            state.accounts.remove(directory);
                            state.orders.remove(directory);
                        })?;
                        continue;
                    }
                    Err(error) if error.is_of_replaced() && replaced.take().is_some() => continue,
                    Err(error) => break error,
                };
                match self.take(authority, chain).await {
                    Ok(new) => return Ok(new),
                    Err(error) => break error,
                }
            };
            let is_over = !self.state.acme()?.orders.contains_key(&authority.directory);
            if is_over {
                self.clear_challenges().await;
            }
            tracing::info!(authority = authority.name(), %error, "a certificate authority gives no certificate");
            let failed = failed_at(authority, error, customer.http.wait());
            // What the first says is told, and none is waited for longer than another.
            let wait = failed.wait;
            let first = failure.get_or_insert(failed);
            first.wait = first.wait.min(wait);
        }
        Err(failure.unwrap_or_else(|| Failure::here(AcmeError::Nonsense)))
    }

    /// Keeps what an authority has given, if it is what was asked for.
    async fn take(&self, authority: &Authority, chain: String) -> Result<Kept, AcmeError> {
        let (now, directory) = (now(), authority.directory.clone());
        let issued = match issued::look_at(&chain, self.key, self.names, now) {
            Ok(issued) => issued,
            Err(wrong) => {
                self.state
                    .change_acme(|state| drop(state.orders.remove(&directory)))?;
                return Err(wrong.into());
            }
        };
        let renew_at = renewal::by_life(issued.not_before, issued.not_after, now, self.device_id);
        let certificate = AcmeCertificate {
            directory,
            chain,
            issued_at: now,
            renew_at,
        };
        let kept = certificate.clone();
        self.state.change_acme(|state| {
            state.orders.remove(&kept.directory);
            state.certificate = Some(kept);
        })?;
        self.clear_challenges().await;
        Ok(Kept {
            certificate,
            issued,
        })
    }

    /// Takes out of the DNS what was put there for orders; what stays pushes nothing out that anybody looks for.
    async fn clear_challenges(&self) {
        let cleared = async {
            let values = self.state.acme()?.challenges;
            if !values.is_empty() {
                self.challenges("remove", &values).await?;
                self.state.change_acme(|state| state.challenges.clear())?;
            }
            Ok::<_, AcmeError>(())
        };
        if let Err(error) = cleared.await {
            tracing::debug!(%error, "challenges stay in the DNS for now");
        }
    }

    /// Asks its authority when it wants the certificate renewed (RFC 9773), and gives when to ask that again.
    async fn follow_advice(&self, kept: &mut Kept) -> Result<Duration, Failure> {
        let advice = timeout(ADVICE_TIME, Box::pin(self.advice(kept))).await;
        let (renew_at, again) = match advice {
            Ok(Ok(Some(advice))) => advice,
            Ok(Ok(None)) => return Ok(ADVICE.1),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the certificate authority does not say when to renew");
                return Ok(ADVICE.1 / 4);
            }
            Err(_) => return Ok(ADVICE.1 / 4),
        };
        if renew_at != kept.certificate.renew_at {
            kept.certificate.renew_at = renew_at;
            let certificate = kept.certificate.clone();
            self.state
                .change_acme(|state| state.certificate = Some(certificate))?;
        }
        Ok(again.clamp(ADVICE.0, ADVICE.1))
    }

    async fn advice(&self, kept: &Kept) -> Result<Option<(u64, Duration)>, AcmeError> {
        let directory = &kept.certificate.directory;
        let known_as = self.state.acme()?.accounts.remove(directory);
        let Some((known_as, id)) = known_as.zip(kept.issued.id.as_ref()) else {
            return Ok(None);
        };
        let authorities = Authorities::ask(self.cloud, self.identity).await?;
        let mut list = authorities.list.iter();
        let Some(authority) = list.find(|authority| authority.directory == *directory) else {
            return Ok(None);
        };
        let account = Customer::of(self, authority)?.known_as(known_as).await?;
        let (info, again) = match account.renewal_info(id).await {
            Ok(advice) => advice,
            Err(Error::Unsupported(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
        let window = info.suggested_window;
        let window = (
            seconds(window.start.unix_timestamp()),
            seconds(window.end.unix_timestamp()),
        );
        let certificate = &kept.certificate;
        let renew_at = renewal::by_advice(
            window,
            certificate.issued_at,
            kept.issued.not_after,
            self.device_id,
        );
        Ok(renew_at.map(|renew_at| (renew_at, again)))
    }

    fn failed(&self, failure: &Failure, wait: Duration) {
        let kept = self.kept().ok().flatten();
        if kept.is_none() && failure.authority.is_none() {
            // Perhaps there are no authorities to be asked.
            tracing::debug!(error = %failure.error, "the cloud does not say who gives certificates");
            return;
        }
        tracing::warn!(error = %failure.error, "there is no new certificate; what visitors see stays");
        self.tell(kept.as_ref(), Some((failure, wait)));
    }

    fn tell(&self, kept: Option<&Kept>, failure: Option<(&Failure, Duration)>) {
        let authority = kept.map(|kept| authorities::name_of(&kept.certificate.directory));
        self.situation.certificate(CertificateStatus {
            authority,
            not_after: kept.map(|kept| kept.issued.not_after),
            renew_at: kept.map(|kept| kept.certificate.renew_at),
            asked: failure.and_then(|(failure, _)| failure.authority.clone()),
            problem: failure.map(|(failure, _)| failure.error.to_string()),
            mend: failure.map(|(failure, _)| failure.error.mend().to_owned()),
            next_try: failure.map(|(_, wait)| now() + wait.as_secs()),
        });
    }
}

fn failed_at(authority: &Authority, error: AcmeError, wait: Option<Duration>) -> Failure {
    Failure {
        authority: Some(authority.name()),
        error,
        wait: wait.unwrap_or_default(),
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}
