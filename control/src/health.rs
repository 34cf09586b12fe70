//! Whether the server works, check by check. `/readyz` answers from this, and so does `causeway_check_passes`.
//!
//! What visitors and queries need must be there for the server to be ready. What only changes need, the database and the log of
//! addresses, leaves it ready and degraded: visitors and queries are answered from memory, and a load balancer that took
//! them away would make a small trouble a large one.

use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ddns::update::Updater;
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};
use relay::server::Listeners;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::store::Store;

/// How long the database may take to answer the question whether it does.
const DATABASE_TIME: Duration = Duration::from_secs(1);

/// What is looked at.
pub(crate) struct Health {
    pub(crate) listeners: Listeners,
    pub(crate) certificates: CertificateEnds,
    /// Cancelled once the process takes no new work.
    pub(crate) draining: CancellationToken,
    pub(crate) store: Store,
    /// Absent if another server answers for the zone.
    pub(crate) dns: Option<Updater>,
    passes: IntGaugeVec,
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
        certificates: CertificateEnds,
        draining: CancellationToken,
        store: Store,
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
            certificates,
            draining,
            store,
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
            ("database", self.database().await),
        ];
        if let Some(dns) = &self.dns {
            found.push(("updates", updates(dns)));
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
            true => Found::Failed("draining: no new visitors are taken".to_owned()),
            false => Found::Fine,
        }
    }

    async fn database(&self) -> Found {
        let lost = "devices cannot be added or changed, nor paired";
        match timeout(DATABASE_TIME, self.store.check()).await {
            Ok(Ok(())) => Found::Fine,
            Ok(Err(error)) => Found::Degraded(format!("{error}: {lost}")),
            Err(_) => Found::Degraded(format!("the database does not answer: {lost}")),
        }
    }
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
