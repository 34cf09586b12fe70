//! Whether the server works, check by check. `/readyz` answers from this, and so does `causeway_check_passes`.
//!
//! What visitors and queries need must be there for the server to be ready. What only changes need, the database (of a relay apart,
//! control) and the log of addresses, leaves it ready and degraded: visitors and queries are answered from memory, and a load balancer that took
//! them away would make a small trouble a large one. So does what only newcomers pay for, and mostly for a while: memory that is short,
//! and what the relay looks after beside its visitors.

mod public;

use std::fmt::{self, Write as _};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ddns::update::Updater;
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};
use relay::server::{Listeners, Upkeep};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(crate) use self::public::PublicCertificate;
use crate::store::Store;

/// How long the database may take to answer the question whether it does.
const DATABASE_TIME: Duration = Duration::from_secs(1);

/// What the relay does several times a second is done no more if it was done last so long ago: a slow machine has had its time.
const UPKEEP_LATE: Duration = Duration::from_secs(15);

/// What is looked at.
pub(crate) struct Health {
    pub(crate) listeners: Listeners,
    pub(crate) upkeep: Upkeep,
    pub(crate) certificates: CertificateEnds,
    /// Absent if the operator's hosts are to have none that everybody trusts.
    pub(crate) public: Option<PublicCertificate>,
    /// Cancelled once the process is about to stop.
    pub(crate) draining: CancellationToken,
    pub(crate) changes: Changes,
    /// Absent if another server answers for the zone.
    pub(crate) dns: Option<Updater>,
    passes: IntGaugeVec,
}

/// Where changes of devices come from.
pub(crate) enum Changes {
    /// They are made here.
    InDatabase(Store),
    /// They are made elsewhere: whether control is heard is 1 or 0.
    FromControl(IntGauge),
}

/// What was found.
pub(crate) struct Report(Vec<(&'static str, Found)>);

enum Found {
    Fine,
    /// The server is ready all the same.
    Degraded(String),
    Failed(String),
}

impl Health {
    pub(crate) fn register(
        registry: &Registry,
        listeners: Listeners,
        upkeep: Upkeep,
        (certificates, public): (CertificateEnds, Option<PublicCertificate>),
        draining: CancellationToken,
        changes: Changes,
        dns: Option<Updater>,
    ) -> Result<Self, prometheus::Error> {
        let passes = IntGaugeVec::new(
            Opts::new(
                "causeway_check_passes",
                "Whether a check of /readyz passes: 0 if what it looks at is degraded or has failed.",
            ),
            &["check"],
        )?;
        registry.register(Box::new(passes.clone()))?;
        Ok(Self {
            listeners,
            upkeep,
            certificates,
            public,
            draining,
            changes,
            dns,
            passes,
        })
    }

    /// Looks at everything.
    pub(crate) async fn look(&self) -> Report {
        let mut found = vec![
            ("listeners", self.listeners()),
            ("certificates", self.certificates.look(SystemTime::now())),
            ("newcomers", self.newcomers()),
            ("memory", memory(self.upkeep.memory_is_over())),
            ("upkeep", self.upkeep()),
            match &self.changes {
                Changes::InDatabase(store) => ("database", database(store).await),
                Changes::FromControl(connected) => ("control", control(connected.get() == 1)),
            },
        ];
        if let Some(dns) = &self.dns {
            found.push(("updates", updates(dns)));
        }
        if let Some(public) = &self.public {
            found.push(("public_certificate", public.look()));
        }
        for (check, found) in &found {
            let passes = i64::from(matches!(found, Found::Fine));
            self.passes.with_label_values(&[check]).set(passes);
        }
        Report(found)
    }

    fn listeners(&self) -> Found {
        let silent = self.listeners.silent();
        // While it drains they end one after the other, and that is said by another check.
        if silent.is_empty() || self.draining.is_cancelled() {
            return Found::Fine;
        }
        let silent = silent
            .iter()
            .map(|(transport, count)| format!("{transport} ({count})"));
        Found::Failed(format!(
            "nobody accepts any more at sockets of {}; why is in the log, and a restart mends it",
            silent.collect::<Vec<_>>().join(", ")
        ))
    }

    fn newcomers(&self) -> Found {
        match self.draining.is_cancelled() {
            true => Found::Failed("draining: this server is about to stop".to_owned()),
            false => Found::Fine,
        }
    }

    fn upkeep(&self) -> Found {
        if self.draining.is_cancelled() {
            return Found::Fine; // at its end nothing is looked after any more
        }
        upkeep(&self.upkeep.last_done(), Instant::now())
    }
}

async fn database(store: &Store) -> Found {
    let lost = "devices cannot be added or changed, nor paired";
    match timeout(DATABASE_TIME, store.check()).await {
        Ok(Ok(())) => Found::Fine,
        Ok(Err(error)) => Found::Degraded(format!("{error}: {lost}")),
        Err(_) => Found::Degraded(format!("the database does not answer: {lost}")),
    }
}

fn control(is_heard: bool) -> Found {
    match is_heard {
        true => Found::Fine,
        false => Found::Degraded(
            "control is not heard: devices that it knew last are served, and no change comes here; why is in the log".to_owned(),
        ),
    }
}

fn memory(is_over: bool) -> Found {
    match is_over {
        false => Found::Fine,
        true => Found::Degraded(
            "more is used than the budget: new visitors are sent away until it is less; those who are here stay".to_owned(),
        ),
    }
}

/// What was done last when, some of which may be late by `now`.
fn upkeep(last_done: &[(&'static str, Instant)], now: Instant) -> Found {
    let since = |(what, at): &(&'static str, Instant)| (*what, now.saturating_duration_since(*at));
    let late = last_done
        .iter()
        .map(since)
        .filter(|(_, since)| *since > UPKEEP_LATE)
        .map(|(what, since)| format!("{what} for {} s", since.as_secs()));
    let late: Vec<_> = late.collect();
    if late.is_empty() {
        return Found::Fine;
    }
    Found::Degraded(format!(
        "not looked after: {}; why is in the log, and a restart mends it",
        late.join(", ")
    ))
}

fn updates(dns: &Updater) -> Found {
    match dns.is_ready() {
        true => Found::Fine,
        false => Found::Degraded(
            "the log of addresses cannot be written: updates are refused until the disk takes it"
                .to_owned(),
        ),
    }
}

impl Report {
    /// Whether the server is ready.
    pub(crate) fn is_ready(&self) -> bool {
        !self
            .0
            .iter()
            .any(|(_, found)| matches!(found, Found::Failed(_)))
    }

    /// A line for each thing that keeps the server from being ready, or `ready`.
    pub(crate) fn brief(&self) -> String {
        let failed = self.0.iter().filter_map(|(_, found)| match found {
            Found::Failed(why) => Some(format!("{why}\n")),
            Found::Fine | Found::Degraded(_) => None,
        });
        let failed: String = failed.collect();
        if failed.is_empty() {
            "ready\n".to_owned()
        } else {
            failed
        }
    }
}

/// A line for each check, and one for all.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (check, found) in &self.0 {
            match found {
                Found::Fine => writeln!(f, "[+]{check} ok")?,
                Found::Degraded(why) => writeln!(f, "[!]{check} degraded: {why}")?,
                Found::Failed(why) => writeln!(f, "[-]{check} failed: {why}")?,
            }
        }
        f.write_str(if self.is_ready() {
            "ready\n"
        } else {
            "not ready\n"
        })
    }
}

/// When the certificates of this server end, by what they are for.
#[derive(Clone, Debug)]
pub(crate) struct CertificateEnds {
    ends: IntGaugeVec,
    known: Vec<(Purpose, IntGauge)>,
}

/// What a certificate of this server is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It signs the others.
    Authority,
    /// `cloud.<zone>`
    Cloud,
    /// `relay.<zone>`
    Relay,
    /// DNS over TLS.
    NameServer,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::Cloud => "cloud",
            Self::Relay => "relay",
            Self::NameServer => "name_server",
        }
    }
}

impl CertificateEnds {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let ends = IntGaugeVec::new(
            Opts::new(
                "causeway_tls_certificate_expiry_timestamp_seconds",
                "When a certificate of this server ends, in seconds since 1970.",
            ),
            &["purpose"],
        )?;
        registry.register(Box::new(ends.clone()))?;
        let known = Vec::new();
        Ok(Self { ends, known })
    }

    /// Watches the certificate for `purpose`, which ends at `end`, in seconds since 1970.
    pub(crate) fn watch(&mut self, purpose: Purpose, end: i64) {
        self.known
            .push((purpose, self.ends.with_label_values(&[purpose.name()])));
        self.renewed(purpose, end);
    }

    /// There is another one for it.
    pub(crate) fn renewed(&self, purpose: Purpose, end: i64) {
        self.ends.with_label_values(&[purpose.name()]).set(end);
    }

    /// The one that everybody trusts ends then; `None` if there is none. The operator's own is shown after that.
    fn public(&self, end: Option<i64>) {
        const PUBLIC: [&str; 1] = ["public"];
        match end {
            Some(end) => self.ends.with_label_values(&PUBLIC).set(end),
            None => _ = self.ends.remove_label_values(&PUBLIC),
        }
    }

    fn look(&self, now: SystemTime) -> Found {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let mut over = String::new();
        for (purpose, end) in &self.known {
            if end.get() <= now {
                let _ = write!(over, " {}", purpose.name());
            }
        }
        if over.is_empty() {
            return Found::Fine;
        }
        Found::Failed(format!(
            "certificates have ended:{over}; is the clock right? A reload (SIGHUP) makes new ones, of all but the authority's"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_degraded_server_is_ready_and_says_what_it_lacks() {
        let degraded = || ("database", Found::Degraded("it is away".to_owned()));
        let report = Report(vec![("listeners", Found::Fine), degraded()]);
        assert!(report.is_ready());
        assert_eq!(report.brief(), "ready\n");
        assert_eq!(
            report.to_string(),
            "[+]listeners ok\n[!]database degraded: it is away\nready\n"
        );
        let report = Report(vec![
            ("newcomers", Found::Failed("draining".to_owned())),
            degraded(),
        ]);
        assert!(!report.is_ready());
        assert_eq!(report.brief(), "draining\n");
        assert_eq!(
            report.to_string(),
            "[-]newcomers failed: draining\n[!]database degraded: it is away\nnot ready\n"
        );
    }

    #[test]
    fn what_is_looked_after_no_more_is_named_and_the_server_is_ready_all_the_same() {
        let at = Instant::now();
        let last_done = [("sessions", at), ("memory", at + Duration::from_secs(10))];
        let look = |seconds| upkeep(&last_done, at + Duration::from_secs(seconds));
        assert!(matches!(look(15), Found::Fine));
        let report = Report(vec![("upkeep", look(16)), ("memory", memory(true))]);
        assert!(report.is_ready());
        let said = report.to_string();
        assert!(
            said.contains("[!]upkeep degraded: not looked after: sessions for 16 s;"),
            "{said}"
        );
        assert!(
            said.contains("[!]memory degraded: more is used than the budget"),
            "{said}"
        );
        let both = Report(vec![("upkeep", look(30)), ("memory", memory(false))]).to_string();
        assert!(
            both.contains("sessions for 30 s, memory for 20 s;"),
            "{both}"
        );
        assert!(both.contains("[+]memory ok\n"), "{both}");
    }

    #[test]
    fn a_certificate_that_has_ended_is_named_until_there_is_another() {
        let mut ends = CertificateEnds::register(&Registry::new()).unwrap();
        ends.watch(Purpose::Authority, 2000);
        ends.watch(Purpose::Cloud, 1000);
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(matches!(ends.look(at(999)), Found::Fine));
        match ends.look(at(1000)) {
            Found::Failed(why) => assert!(why.contains("ended: cloud;"), "{why}"),
            Found::Fine | Found::Degraded(_) => panic!("nobody has noticed"),
        }
        ends.renewed(Purpose::Cloud, 3000);
        assert!(matches!(ends.look(at(1000)), Found::Fine));
    }
}
