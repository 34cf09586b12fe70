//! Who follows one log: from its end on, as it was when it was followed first, entry by entry.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64;
use directory::Zone;
use hyper::body::Bytes;
use relay::agent::Backoff;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use transparency::{Entry, Frontier, Head, LogKey, Nonsense, read_entries, read_proof};

use super::log::{Failure, Log};
use super::{CertificateWatch, Found, Owner};
use crate::config::LogConfig;
use crate::devices::now_ms;
use crate::store::KnownLog;

/// So many entries are asked for at once; a log may give fewer.
const AT_ONCE: u64 = 256;

/// After a failure, at least and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(15 * 60));

/// A log signs a new tree head at least so often: what it has promised to take is in it by then (RFC 6962 section 3, MMD).
const OLDEST_HEAD: Duration = Duration::from_secs(24 * 60 * 60);

/// Of one certificate no more names are kept for one owner.
const MOST_NAMES: usize = 8;

/// One log, and how far it has been followed.
#[derive(Debug)]
pub(super) struct Follower {
    log: Log,
    key: LogKey,
    /// Which of those that are followed.
    number: usize,
    every: Duration,
    zone: Zone,
    watch: CertificateWatch,
}

impl Follower {
    pub(super) fn new(
        config: &LogConfig,
        number: usize,
        every: Duration,
        zone: Zone,
        watch: CertificateWatch,
    ) -> io::Result<Self> {
        Ok(Self {
            log: Log::new(config)?,
            key: LogKey::parse(&config.key).map_err(io::Error::other)?,
            number,
            every,
            zone,
            watch,
        })
    }

    /// Where the log is.
    pub(super) fn log(&self) -> &str {
        self.log.base()
    }

    /// Follows it. Never returns.
    pub(super) async fn follow(self) {
        let least = RETRY.0.min(self.every);
        let mut backoff = Backoff::new(least, RETRY.1.max(self.every));
        let mut told = None;
        loop {
            let wait = match Box::pin(self.round()).await {
                Ok(entries) => {
                    if told.take().is_some() {
                        tracing::info!(log = self.log(), "a certificate log is followed again");
                    }
                    self.watch.tell(self.number, |log| {
                        log.entries = entries;
                        log.followed_at = Some(since_1970().as_secs());
                        log.problem = None;
                    });
                    backoff.reset();
                    self.every.mul_f64(rand::random_range(0.8..1.2))
                }
                Err(failure) => {
                    let reason = failure.reason();
                    let failures = &self.watch.metrics.failures;
                    failures.with_label_values(&[reason]).inc();
                    // Each time anew it would hide what else is said.
                    if told.replace(reason) != Some(reason) {
                        tracing::warn!(log = self.log(), reason, error = %failure, "a certificate log is not followed");
                    }
                    self.watch.tell(self.number, |log| {
                        log.problem = Some(failure.to_string());
                    });
                    backoff.next_wait()
                }
            };
            sleep(wait).await;
        }
    }

    /// Follows it to its end, and says how many entries it has.
    async fn round(&self) -> Result<u64, Failure> {
        let head = Head::read(&self.log.ask("get-sth").await?, &self.key)?;
        let known = match self.watch.store.certificate_log(self.log()).await? {
            Some(known) => known,
            None => self.begin(&head).await?,
        };
        let size = known.frontier.size();
        if head.size < size && head.at > known.head_at {
            return Err(Failure::Shrunk);
        }
        // One of the log's machines may be behind the others, which is no lie.
        if head.size >= size {
            let frontier = self.catch_up(known.frontier, &head).await?;
            let known = KnownLog {
                frontier,
                head_at: head.at.max(known.head_at),
            };
            self.watch
                .store
                .keep_certificate_log(self.log(), &known)
                .await?;
        }
        let age = since_1970().saturating_sub(Duration::from_millis(head.at));
        if age > OLDEST_HEAD {
            return Err(Failure::Stale);
        }
        Ok(head.size.max(size))
    }

    /// Its present end: what stands before is not looked at, and from here on nothing is left out.
    async fn begin(&self, head: &Head) -> Result<KnownLog, Failure> {
        let frontier = match head.size.checked_sub(1) {
            None => Frontier::default(),
            Some(last) => {
                let entries = self.entries(last, last).await?;
                let hash = entries.first().ok_or(Nonsense::Entry)?.hash;
                // In a query `+`, `/` and `=` are written otherwise.
                let hash = BASE64.encode(&hash);
                let hash = hash
                    .replace('+', "%2B")
                    .replace('/', "%2F")
                    .replace('=', "%3D");
                let question = format!("get-proof-by-hash?hash={hash}&tree_size={}", head.size);
                let (_, path) = read_proof(&self.log.ask(&question).await?)?;
                Frontier::before(last, &path).ok_or(Failure::Rewritten)?
            }
        };
        Ok(KnownLog {
            frontier: self.catch_up(frontier, head).await?,
            head_at: head.at,
        })
    }

    /// Looks at all that has come until `head`. What was found is kept before it is known whether it is the log's: who lies about a
    /// certificate has it all the same.
    async fn catch_up(&self, mut frontier: Frontier, head: &Head) -> Result<Frontier, Failure> {
        let mut at_once = AT_ONCE;
        while frontier.size() < head.size {
            let first = frontier.size();
            let last = first.saturating_add(at_once).min(head.size) - 1;
            let entries = match self.entries(first, last).await {
                Err(Failure::TooLong) if at_once > 1 => {
                    at_once /= 2;
                    continue;
                }
                entries => entries?,
            };
            at_once = AT_ONCE;
            if entries.is_empty() {
                return Err(Nonsense::Entry.into());
            }
            let mut found = Vec::new();
            for (index, entry) in (first..).zip(entries) {
                frontier.append(entry.hash);
                found.extend(self.look(index, entry));
            }
            self.keep(found).await?;
        }
        match frontier.root() == head.root {
            true => Ok(frontier),
            false => Err(Failure::Rewritten),
        }
    }

    async fn entries(&self, first: u64, last: u64) -> Result<Vec<Entry>, Failure> {
        let question = format!("get-entries?start={first}&end={last}");
        let told: Bytes = self.log.ask(&question).await?;
        let most = usize::try_from(last - first + 1).unwrap_or(usize::MAX);
        // Some hundred certificates are tens of milliseconds of work, which others must not wait for.
        let read = spawn_blocking(move || read_entries(&told, most)).await;
        let entries = read.unwrap_or(Err(Nonsense::Entry))?;
        self.watch.metrics.entries.inc_by(entries.len() as u64);
        Ok(entries)
    }

    /// What is in an entry for names of the zone.
    fn look(&self, index: u64, entry: Entry) -> Vec<Found> {
        let mut certificate = match entry.certificate {
            Ok(certificate) => certificate,
            Err(unreadable) => {
                self.watch.metrics.unreadable.inc();
                if unreadable.mentions(self.zone.as_str()) {
                    self.watch.metrics.unreadable_of_zone.inc();
                    tracing::warn!(
                        log = self.log(),
                        entry = index,
                        "a certificate that cannot be read mentions the zone; look at it"
                    );
                }
                return Vec::new();
            }
        };
        let mut names_by_owner: BTreeMap<Owner, Vec<String>> = BTreeMap::new();
        // Each owner gets a copy, and one log could show thousands of names for thousands of owners.
        for name in std::mem::take(&mut certificate.names) {
            if let Some(owner) = Owner::of(&name, &self.zone) {
                let names = names_by_owner.entry(owner).or_default();
                if names.len() < MOST_NAMES {
                    names.push(name);
                }
            }
        }
        let of_owner = |(owner, names)| Found {
            owner,
            names,
            certificate: certificate.clone(),
            log: self.log().to_owned(),
            entry: index,
        };
        names_by_owner.into_iter().map(of_owner).collect()
    }

    async fn keep(&self, found: Vec<Found>) -> Result<(), Failure> {
        if found.is_empty() {
            return Ok(());
        }
        let kept = self.watch.store.keep_certificates_seen(&found, now_ms());
        let kept = kept.await?;
        self.watch.metrics.found.inc_by(kept.new);
        if kept.full > 0 {
            self.watch.metrics.full.inc_by(kept.full);
            tracing::warn!(
                log = self.log(),
                certificates = kept.full,
                "more certificates for names of the zone than are kept"
            );
        }
        Ok(())
    }
}

fn since_1970() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default()
}
