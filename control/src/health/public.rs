//! How it stands with the certificate of the operator's hosts that everybody trusts, where there is to be one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{IntCounter, IntGauge, Registry};
use relay::acme::CertificateStatus;

use super::{CertificateEnds, Found};

/// A clone is the same.
#[derive(Clone, Debug)]
pub(crate) struct PublicCertificate {
    status: Arc<Mutex<CertificateStatus>>,
    /// Since when there has been one, or should have been.
    since: u64,
    due: IntGauge,
    failed: IntCounter,
    ends: CertificateEnds,
}

impl PublicCertificate {
    pub(crate) fn register(
        registry: &Registry,
        ends: CertificateEnds,
    ) -> Result<Self, prometheus::Error> {
        let due = IntGauge::new(
            "causeway_acme_renewal_due_timestamp_seconds",
            "When the next certificate of the operator's hosts is ordered by ACME, in seconds since 1970; the start, while there is none.",
        )?;
        let failed = IntCounter::new(
            "causeway_acme_failures_total",
            "Tries to get a certificate of the operator's hosts by ACME that came to nothing.",
        )?;
        registry.register(Box::new(due.clone()))?;
        registry.register(Box::new(failed.clone()))?;
        let public = Self {
            status: Arc::default(),
            since: now(),
            due,
            failed,
            ends,
        };
        public.tell(CertificateStatus::default());
        Ok(public)
    }

    /// It stands otherwise.
    pub(crate) fn tell(&self, status: CertificateStatus) {
        let signed = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
        self.due.set(signed(status.renew_at.unwrap_or(self.since)));
        if status.problem.is_some() {
            self.failed.inc();
        }
        self.ends.public(status.not_after.map(signed));
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// What was shown has ended.
    pub(crate) fn is_over(&self) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        (status.authority, status.not_after) = (None, None);
        self.ends.public(None);
    }

    /// Whether there is one, and it was renewed in time.
    pub(super) fn look(&self) -> Found {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let CertificateStatus {
            authority,
            not_after,
            asked,
            problem,
            mend,
            next_try,
            ..
        } = &*status;
        let shown = match (authority, not_after) {
            (Some(authority), Some(end)) => {
                let left = end.saturating_sub(now());
                format!(
                    "the one of {authority} is shown, which ends in {}",
                    in_words(left)
                )
            }
            (None, _) | (_, None) => "that of the server's own authority is shown".to_owned(),
        };
        let Some(problem) = problem else {
            return match authority {
                Some(_) => Found::Fine,
                None => Found::Degraded(format!("there is none yet: {shown}")),
            };
        };
        let asked = asked.as_deref().unwrap_or("nobody could be asked");
        let mend = mend.as_deref().unwrap_or_default();
        let again = next_try.map_or(0, |next| next.saturating_sub(now()));
        Found::Degraded(format!(
            "no new one from {asked}: {problem}; to mend: {mend}; tried again in {}; {shown}",
            in_words(again)
        ))
    }
}

fn in_words(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_what_is_shown_and_why_there_is_no_other() {
        let registry = Registry::new();
        let ends = CertificateEnds::register(&registry).unwrap();
        let public = PublicCertificate::register(&registry, ends).unwrap();
        let said = || match public.look() {
            Found::Fine => "fine".to_owned(),
            Found::Degraded(why) => why,
            Found::Failed(_) => panic!("the server's own is shown all the same"),
        };
        let told = |name: &str| {
            let families = registry.gather();
            let family = families.iter().find(|family| family.name() == name)?;
            let metric = family.get_metric().first()?;
            Some(metric.get_gauge().get_value() + metric.get_counter().get_value())
        };
        assert!(said().contains("none yet"), "{}", said());
        let expiry = "causeway_tls_certificate_expiry_timestamp_seconds";
        assert_eq!(told(expiry), None);

        let good = CertificateStatus {
            authority: Some("ca.test".to_owned()),
            not_after: Some(now() + 90_000),
            renew_at: Some(now() + 60_000),
            ..CertificateStatus::default()
        };
        public.tell(good.clone());
        assert_eq!(said(), "fine");
        assert!(told(expiry).is_some());
        assert_eq!(told("causeway_acme_failures_total"), Some(0.0));

        public.tell(CertificateStatus {
            asked: Some("ca.test".to_owned()),
            problem: Some("it cannot be reached".to_owned()),
            mend: Some("see to it".to_owned()),
            next_try: Some(now() + 300),
            ..good
        });
        let why = said();
        for expected in [
            "no new one from ca.test: it cannot be reached; to mend: see to it",
            "ends in 2",
        ] {
            assert!(why.contains(expected), "{why}");
        }
        assert_eq!(told("causeway_acme_failures_total"), Some(1.0));
    }
}
