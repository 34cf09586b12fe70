//! The configuration again, while the server runs. What can change without a restart is put in force, all of it or, where anything
//! is wrong, nothing.
//!
//! ```text
//!   SIGHUP ─► read and check, as at the start ─► the authority, as a start would find it ─► new certificates ─► all in force
//! ```

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

use super::{Running, UpError};
use crate::authority::AuthorityError;
use crate::config::{Config, ConfigError, Overrides};

/// Where a server's configuration comes from, at its start and at each reload.
#[derive(Clone, Debug)]
pub struct Source {
    /// Absent for the demo.
    pub file: Option<PathBuf>,
    /// What the command line says.
    pub overrides: Overrides,
}

/// Why nothing has changed. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    /// The demo.
    #[error("there is no configuration file, so there is nothing to reload")]
    NoFile,
    /// A pipe has been read at the start, and might never end.
    #[error("{}: only a file can be read again", .0.display())]
    NotAFile(PathBuf),
    /// It says what cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The files of the authority are damaged.
    #[error("with this authority no server would start: {0}")]
    Authority(#[from] AuthorityError),
    /// They cannot be made.
    #[error("no certificates: {0}")]
    Certificates(#[from] UpError),
}

impl Source {
    /// Reads and checks it.
    ///
    /// # Errors
    /// Everything that is wrong with it, with its lines.
    pub fn read(&self) -> Result<Config, ConfigError> {
        match &self.file {
            Some(file) => Config::read(file, &self.overrides),
            None => Config::demo(&self.overrides),
        }
    }

    /// Reads and checks it again.
    pub(crate) fn read_again(&self) -> Result<Config, ReloadError> {
        let file = self.file.as_ref().ok_or(ReloadError::NoFile)?;
        if fs::metadata(file).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(ReloadError::NotAFile(file.clone()));
        }
        Ok(self.read()?)
    }
}

impl Running {
    /// Reads the configuration again and puts in force what can change while the server runs: the limits, the proxies, how long visitors may
    /// come and take at the end, and new certificates for the operator's hosts. Whatever else has changed is named in the log. Where anything is
    /// wrong nothing changes, and the log says what and where.
    pub fn reload(&mut self, source: &Source) {
        let outcome = self.try_reload(source);
        self.reloads.tell(outcome);
    }

    /// What only a start puts in force, as people know it.
    fn try_reload(&mut self, source: &Source) -> Result<Vec<String>, ReloadError> {
        let next = source.read_again()?;
        let same_authority = self.authority.is_kept_in(&self.state)?;
        let certificates = self.certificates.issue_anew()?;
        // Nothing fails from here on.
        let mut for_the_next_start = self.config.changed_for_the_next_start(&next);
        if !same_authority {
            let file = self.authority.certificate_file();
            for_the_next_start.push(format!("the authority in {}", file.display()));
        }
        self.certificates.put(certificates);
        self.relay.set_limits(&next.relay.limits);
        self.relay.set_proxies(&next.relay.proxy_from);
        self.relay.set_end(next.relay.leave, next.relay.drain);
        self.config.relay.limits = next.relay.limits;
        self.config.relay.proxy_from = next.relay.proxy_from;
        self.config.relay.leave = next.relay.leave;
        self.config.relay.drain = next.relay.drain;
        Ok(for_the_next_start)
    }
}

impl Config {
    /// What `next` has otherwise than the server that runs with this, and only a start puts in force: such as "`front` in [relay]".
    pub(crate) fn changed_for_the_next_start(&self, next: &Self) -> Vec<String> {
        let Self {
            zone,
            state,
            relay,
            ddns,
            records,
            acme,
            certificate_watch,
            admin,
        } = self;
        let mut changed = Vec::new();
        if *zone != next.zone {
            changed.push("`zone`".to_owned());
        }
        if *state != next.state {
            changed.push("`state`".to_owned());
        }
        changed.extend(changed_keys(
            "relay",
            Some(relay),
            Some(&next.relay),
            relay::server::Config::changed_for_the_next_start,
        ));
        changed.extend(changed_keys(
            "ddns",
            ddns.as_ref(),
            next.ddns.as_ref(),
            ddns::Config::changed_for_the_next_start,
        ));
        changed.extend(changed_keys(
            "records",
            records.as_ref(),
            next.records.as_ref(),
            relay::records::Config::changed_for_the_next_start,
        ));
        if *acme != next.acme {
            changed.push("[acme]".to_owned());
        }
        if *certificate_watch != next.certificate_watch {
            changed.push("[certificate_watch]".to_owned());
        }
        if admin.listen != next.admin.listen {
            changed.push("`listen` in [admin]".to_owned());
        }
        changed
    }
}

/// The same of a section: its keys, or the whole if it has come or gone.
fn changed_keys<S>(
    name: &str,
    section: Option<&S>,
    next: Option<&S>,
    changed: impl Fn(&S, &S) -> Vec<&'static str>,
) -> Vec<String> {
    match (section, next) {
        (Some(section), Some(next)) => {
            let keys = changed(section, next).into_iter();
            keys.map(|key| format!("`{key}` in [{name}]")).collect()
        }
        (None, None) => Vec::new(),
        (Some(_), None) | (None, Some(_)) => vec![format!("[{name}]")],
    }
}

/// How reloads have gone.
#[derive(Debug)]
pub(crate) struct Reloads {
    /// Whether the configuration as it was last read is in force.
    successful: IntGauge,
    /// Since when what is in force has been known to be what is written, in seconds since 1970.
    success_time: IntGauge,
    /// By result: `done`, `failed`, or `nothing` where there is no file.
    total: IntCounterVec,
}

impl Reloads {
    /// At the start, which has read the configuration.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let successful = IntGauge::new(
            "causeway_config_last_reload_successful",
            "Whether the configuration was good when it was read last; 0: what was in force before still is.",
        )?;
        let success_time = IntGauge::new(
            "causeway_config_last_reload_success_timestamp_seconds",
            "When the configuration was read last and was good, in seconds since 1970.",
        )?;
        let total = IntCounterVec::new(
            Opts::new(
                "causeway_config_reloads_total",
                "Reloads that were asked for while the server runs, by result: nothing if it has no configuration file.",
            ),
            &["result"],
        )?;
        registry.register(Box::new(successful.clone()))?;
        registry.register(Box::new(success_time.clone()))?;
        registry.register(Box::new(total.clone()))?;
        for result in ["done", "failed", "nothing"] {
            total.with_label_values(&[result]).reset(); // exported from the beginning
        }
        let reloads = Self {
            successful,
            success_time,
            total,
        };
        reloads.good_at(SystemTime::now());
        Ok(reloads)
    }

    /// A reload has put all in force but what is named, or nothing; says so in the log.
    pub(crate) fn tell(&self, outcome: Result<Vec<String>, ReloadError>) {
        match outcome {
            Ok(for_the_next_start) => {
                for what in for_the_next_start {
                    tracing::warn!("{what} has changed: it takes effect at the next start");
                }
                tracing::info!("the configuration has been reloaded");
                self.done(SystemTime::now());
            }
            Err(error @ ReloadError::NoFile) => {
                tracing::warn!("{error}");
                self.nothing();
            }
            Err(error) => {
                for line in error.to_string().lines() {
                    tracing::error!("{line}");
                }
                tracing::error!("the configuration is not reloaded; what was in force stays");
                self.failed();
            }
        }
    }

    fn done(&self, now: SystemTime) {
        self.good_at(now);
        self.total.with_label_values(&["done"]).inc();
    }

    fn failed(&self) {
        self.successful.set(0);
        self.total.with_label_values(&["failed"]).inc();
    }

    fn nothing(&self) {
        self.total.with_label_values(&["nothing"]).inc();
    }

    fn good_at(&self, now: SystemTime) {
        let now = now.duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        self.success_time
            .set(i64::try_from(now).unwrap_or(i64::MAX));
        self.successful.set(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = r#"
zone = "nas.example.com"
state = "/var/lib/causeway"
[relay]
front = "127.0.0.1:8443"
drain = "1m"
[relay.limits]
visitors = 50
[ddns]
listen = "127.0.0.1:5300"
"#;

    fn changed(from: &str, to: &str) -> Vec<String> {
        assert!(BEFORE.contains(from), "{from}");
        let next = BEFORE.replace(from, to);
        let [before, next] = [BEFORE, &next].map(|text| toml::from_str::<Config>(text).unwrap());
        before.changed_for_the_next_start(&next)
    }

    #[test]
    fn what_a_running_server_cannot_change_is_named_as_the_file_has_it() {
        for (from, to, named) in [
            ("nas.example", "other.example", &["`zone`"][..]),
            ("/var/lib/causeway", "/srv/causeway", &["`state`"]),
            ("127.0.0.1:8443", "127.0.0.1:8444", &["`front` in [relay]"]),
            (
                "drain",
                "workers = 2\nraw = false\ndrain",
                &["`raw` in [relay]", "`workers` in [relay]"],
            ),
            ("127.0.0.1:5300", "127.0.0.1:5301", &["`listen` in [ddns]"]),
            ("[ddns]\nlisten = \"127.0.0.1:5300\"", "", &["[ddns]"]),
            (
                "[ddns]",
                "[admin]\nlisten = \"127.0.0.1:9401\"\n[ddns]\ndevice_record = [{ type = \"TXT\", value = \"x\" }]",
                &["`device_record` in [ddns]", "`listen` in [admin]"],
            ),
        ] {
            assert_eq!(changed(from, to), named, "{to}");
        }
    }

    #[test]
    fn what_it_can_change_is_not() {
        for (from, to) in [
            ("visitors = 50", "visitors = 20\nmemory = \"1GiB\""),
            ("1m", "2m"),
            ("[relay]", "[relay]\nleave = \"5s\""),
            ("[relay]", "[relay]\nproxy_from = [\"192.0.2.0/24\"]"),
            ("[relay]", "# nothing said\n[relay]"),
        ] {
            assert_eq!(changed(from, to), Vec::<String>::new(), "{to}");
        }
    }
}
