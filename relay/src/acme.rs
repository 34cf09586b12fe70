//! A certificate that every browser trusts, from an authority of the operator's choice, by ACME (RFC 8555) with the DNS-01 challenge: for
//! a device, or for the operator's own hosts. Keys and signing requests are made here, and the [`Applicant`] puts into the DNS what the
//! authority looks for. The only place that names the ACME library.
//!
//! ```text
//!   authorities   whom the operator has asked, as the applicant says
//!   account       one with each, for good ─┐
//!   order         one at a time ───────────┴─► http ─► the authority
//!   caa           that these accounts alone may have certificates ─► the applicant, who says so in the DNS
//!   issued        is it what was asked for? ─► folder ─► shown to visitors
//! ```
//!
//! Until there is one, and once the last one has ended, visitors see the certificate of the operator's own authority.

mod account;
mod authorities;
mod caa;
mod error;
mod folder;
mod http;
mod issued;
mod order;
mod renewal;
mod status;

use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use instant_acme::Error;
use tokio::time::{Instant, sleep, timeout};

pub use self::authorities::{Authorities, Authority, Binding};
pub use self::caa::{CaaStatus, Issuer};
pub use self::error::AcmeError;
pub use self::folder::{AcmeCertificate, Folder};
pub use self::issued::{Issued, Wrong};
use self::order::Customer;
pub use self::status::{CertificateStatus, PassedOver};
use crate::backoff::Backoff;
use crate::kept::KeptError;
use crate::keys::TlsKey;
use crate::resolve::Resolver;

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

/// Who wants certificates, and shows them.
pub trait Applicant: Sync {
    /// Whom to ask.
    fn authorities(&self) -> impl Future<Output = Result<Authorities, AcmeError>> + Send;

    /// Asks, right before one is ordered, whether that may be done now: an authority may give only so many to all together. `renews` says
    /// that what it has shown so far is still good.
    ///
    /// # Errors
    /// [`AcmeError::NotYet`] if others come first.
    fn may_order(
        &self,
        directory: &str,
        renews: bool,
    ) -> impl Future<Output = Result<(), AcmeError>> + Send;

    /// Puts these into the DNS, beside what is there. When this returns every answer has them.
    fn prove(&self, proofs: &[Proof]) -> impl Future<Output = Result<(), AcmeError>> + Send;

    /// Takes what proofs had out of the DNS: these values, wherever they stand.
    fn withdraw(&self, values: &[String]) -> impl Future<Output = Result<(), AcmeError>> + Send;

    /// Says in the DNS that these accounts and nobody else may have certificates; without any, that whoever proves the names may. When
    /// this returns every answer is so. False if it is not the applicant's to say.
    fn bind(&self, issuers: &[Issuer]) -> impl Future<Output = Result<bool, AcmeError>> + Send;

    /// Shows this to visitors; `None` is the certificate of the operator's own authority.
    fn show(&self, kept: Option<&Kept>);

    /// Tells people how it stands.
    fn tell(&self, status: CertificateStatus);

    /// The time, in seconds since 1970, by the best clock that it knows.
    fn clock(&self) -> u64 {
        now()
    }
}

/// What an authority looks for in the DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The name that is to be proved, without the wildcard in front of it; `_acme-challenge.` stands before it.
    pub name: String,
    /// What the TXT record has.
    pub value: String,
}

/// What it takes to get certificates.
#[derive(Debug)]
pub struct Acme<'a, A> {
    /// Where it is kept how it stands.
    pub folder: &'a Folder,
    /// How authorities are found.
    pub resolver: Resolver,
    /// What the certificates are for.
    pub key: &'a TlsKey,
    /// The same.
    pub names: &'a [String],
    /// Applicants do not renew in step, and each keeps its own time.
    pub id: &'a str,
    /// Who wants them.
    pub applicant: A,
}

/// An authority that gave nothing.
struct Failure {
    authority: Option<String>,
    error: AcmeError,
    /// Until it wants to be asked again.
    wait: Duration,
}

impl From<KeptError> for Failure {
    fn from(error: KeptError) -> Self {
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

impl From<&Failure> for PassedOver {
    fn from(failure: &Failure) -> Self {
        Self {
            authority: failure.authority.clone().unwrap_or_default(),
            problem: failure.error.to_string(),
            mend: failure.error.mend().to_owned(),
        }
    }
}

/// What was given before, and is still good.
#[derive(Debug)]
pub struct Kept {
    /// As it is on disk.
    pub certificate: AcmeCertificate,
    /// As it is shown.
    pub issued: Issued,
}

impl<A: Applicant> Acme<'_, A> {
    /// Shows the kept certificate, if it is still good.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn show_kept(&self) -> Result<(), KeptError> {
        if let Some(kept) = self.kept()? {
            self.applicant.show(Some(&kept));
            self.tell(Some(&kept), None);
        }
        Ok(())
    }

    /// There is another one of the operator's own authority.
    pub fn own_is_renewed(&self) {
        if matches!(self.kept(), Ok(None)) {
            self.applicant.show(None);
        }
    }

    /// Orders certificates whenever the time has come, and shows them. Never returns; what was given last serves until it ends.
    pub fn keep(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
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
            let left = (end - Instant::now()).min(self.life().min(LOOK));
            sleep(left).await;
            self.own_is_renewed();
        }
    }

    /// How long what is kept is good, and a moment more.
    fn life(&self) -> Duration {
        let kept = self.kept().ok().flatten();
        let left = kept.map(|kept| kept.issued.not_after.saturating_sub(now()));
        left.map_or(LOOK, |left| Duration::from_secs(left.saturating_add(1)))
    }

    fn kept(&self) -> Result<Option<Kept>, KeptError> {
        let kept = self.folder.state()?.certificate.and_then(|certificate| {
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
            self.applicant.show(None);
        }
        if let Some(kept) = &mut kept {
            if *advised <= Instant::now() && now() < kept.certificate.renew_at {
                *advised = Instant::now() + self.follow_advice(kept).await?;
            }
            let due = kept.certificate.renew_at.saturating_sub(now());
            if due > 0 {
                self.tell(Some(kept), None);
                let advised = advised.saturating_duration_since(Instant::now());
                return Ok(Duration::from_secs(due).min(LOOK).min(advised));
            }
        }
        let authorities = self.applicant.authorities().await;
        let authorities = authorities.map_err(Failure::here)?;
        if authorities.list.is_empty() {
            self.unbind().await.map_err(Failure::here)?;
            self.tell(kept.as_ref(), None);
            return Ok(ASK.mul_f64(rand::random_range(0.67..1.33)));
        }
        let new = self.ask_each(&authorities, kept.as_ref()).await?;
        self.applicant.show(Some(&new));
        self.tell(Some(&new), None);
        let authority = authorities::name_of(&new.certificate.directory);
        tracing::info!(authority, "a certificate authority has given a certificate");
        *advised = Instant::now(); // RFC 9773 section 4.3: at once
        Ok(Duration::from_secs(renewal::APART))
    }

    /// The first certificate that one of them gives. One that has taken an order before is asked first.
    async fn ask_each(
        &self,
        authorities: &Authorities,
        kept: Option<&Kept>,
    ) -> Result<Kept, Failure> {
        let ordered = self.folder.state()?.orders;
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
                        self.folder.change(|state| {
                            state.accounts.remove(directory);
                            state.orders.remove(directory);
                        })?;
                        continue;
                    }
                    Err(error) if error.is_of_replaced() && replaced.take().is_some() => continue,
                    Err(error) => break error,
                };
                let passed_over = failure.as_ref().map(PassedOver::from);
                match self.take(authority, chain, kept, passed_over).await {
                    Ok(new) => return Ok(new),
                    Err(error) => break error,
                }
            };
            let is_over = !self
                .folder
                .state()?
                .orders
                .contains_key(&authority.directory);
            if is_over {
                self.clear_challenges().await;
            }
            tracing::info!(authority = authority.name(), %error, "a certificate authority gives no certificate");
            let wait = error.wait().or_else(|| customer.http.wait());
            let failed = failed_at(authority, error, wait);
            // What the first says is told, and none is waited for longer than another.
            let wait = failed.wait;
            let first = failure.get_or_insert(failed);
            first.wait = first.wait.min(wait);
        }
        Err(failure.unwrap_or_else(|| Failure::here(AcmeError::Nonsense)))
    }

    /// Keeps what an authority has given in the place of what was kept `before`, if it is what was asked for.
    async fn take(
        &self,
        authority: &Authority,
        chain: String,
        before: Option<&Kept>,
        passed_over: Option<PassedOver>,
    ) -> Result<Kept, AcmeError> {
        let (now, directory) = (now(), authority.directory.clone());
        let clocks = (now, self.applicant.clock());
        let issued = match issued::look_at_new(&chain, self.key, self.names, clocks) {
            Ok(issued) => issued,
            Err(wrong) => {
                self.folder
                    .change(|state| drop(state.orders.remove(&directory)))?;
                return Err(wrong.into());
            }
        };
        let renew_at = renewal::by_life(issued.not_before, issued.not_after, now, self.id);
        let certificate = AcmeCertificate {
            directory,
            chain,
            issued_at: now,
            renew_at,
            is_hurried: before.is_some_and(|before| {
                let (from, to) = (before.certificate.issued_at, before.issued.not_after);
                renewal::is_early(from, to, now)
            }),
            passed_over,
        };
        let kept = certificate.clone();
        self.folder.change(|state| {
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
            let values = self.folder.state()?.challenges;
            if !values.is_empty() {
                self.applicant.withdraw(&values).await?;
                self.folder.change(|state| state.challenges.clear())?;
            }
            Ok::<_, AcmeError>(())
        };
        if let Err(error) = cleared.await {
            tracing::debug!(%error, "challenges stay in the DNS until the next order");
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
            self.folder
                .change(|state| state.certificate = Some(certificate))?;
        }
        Ok(again.clamp(ADVICE.0, ADVICE.1))
    }

    async fn advice(&self, kept: &Kept) -> Result<Option<(u64, Duration)>, AcmeError> {
        let directory = &kept.certificate.directory;
        let known_as = self.folder.state()?.accounts.remove(directory);
        let Some((known_as, id)) = known_as.zip(kept.issued.id.as_ref()) else {
            return Ok(None);
        };
        let authorities = self.applicant.authorities().await?;
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
            (certificate.issued_at, kept.issued.not_after),
            certificate.is_hurried,
            self.id,
        );
        Ok(renew_at.map(|renew_at| (renew_at, again)))
    }

    fn failed(&self, failure: &Failure, wait: Duration) {
        let kept = self.kept().ok().flatten();
        if kept.is_none() && failure.authority.is_none() {
            // Perhaps there are no authorities to be asked.
            tracing::debug!(error = %failure.error, "it is not known who gives certificates");
            return;
        }
        tracing::warn!(error = %failure.error, "there is no new certificate; what visitors see stays");
        self.tell(kept.as_ref(), Some((failure, wait)));
    }

    fn tell(&self, kept: Option<&Kept>, failure: Option<(&Failure, Duration)>) {
        let authority = kept.map(|kept| authorities::name_of(&kept.certificate.directory));
        self.applicant.tell(CertificateStatus {
            authority,
            not_after: kept.map(|kept| kept.issued.not_after),
            renew_at: kept.map(|kept| kept.certificate.renew_at),
            asked: failure.and_then(|(failure, _)| failure.authority.clone()),
            problem: failure.map(|(failure, _)| failure.error.to_string()),
            mend: failure.map(|(failure, _)| failure.error.mend().to_owned()),
            next_try: failure.map(|(_, wait)| now() + wait.as_secs()),
            passed_over: kept.and_then(|kept| kept.certificate.passed_over.clone()),
            caa: self
                .folder
                .state()
                .map(|state| state.caa)
                .unwrap_or_default(),
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
