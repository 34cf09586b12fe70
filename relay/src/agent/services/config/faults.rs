//! What is wrong with a configuration, and what no single value of a service shows.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use directory::Protocol;

use super::{ServiceConfig, read_text};
use crate::agent::flow::Http3Server;
use crate::agent::health::Probe;
use crate::agent::origin::{ANSWER_TIMES, Scheme, VisitorAddress};
use crate::agent::services::Reach;
use crate::tls::{Roots, TlsError};

/// Below it is a load, above it says nothing in time.
const HEALTH_INTERVALS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3600);

/// What takes longer than a minute to say that it is well is not.
const HEALTH_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

/// What is wrong with a configuration, all of it. Always the owner's to mend.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{}: {cause}", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// What it says of a service cannot be put in force.
    #[error("{}: services.{service}: {cause}", file.display())]
    Unusable {
        /// Which file.
        file: PathBuf,
        /// Which service.
        service: String,
        /// Why.
        cause: TlsError,
    },
    /// It can be read, and says things that cannot be.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Faults(Vec<Fault>),
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it was said.
    pub file: PathBuf,
    /// On which line, from 1.
    pub line: usize,
    /// Under which key, in full; empty where it is about none.
    pub key: String,
    /// What is wrong, and what would be right.
    pub sentence: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file.display(), self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.sentence)
    }
}

impl ServiceConfig {
    /// What no single value shows, each with its key.
    pub(super) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = self.faults_of_port();
        let mut fault = |key, sentence: &str| faults.push((key, sentence.to_owned()));
        let scheme = self.origin.scheme;
        let is_http = self.origin.is_http();
        if !is_http && self.visitor_address == Some(VisitorAddress::Forwarded) {
            let sentence = "only HTTP has fields for it: \"proxy-v2\" or \"hidden\"";
            fault("visitor_address", sentence);
        }
        if !is_http && self.answer_time.is_some() {
            fault("answer_time", "only HTTP has answers");
        }
        if !is_http && self.http3 == Some(Http3Server::Agent) {
            let sentence = "the agent speaks HTTP only for http://, https://, h2c:// and h2://";
            fault("http3", sentence);
        }
        if is_http
            && (self.reach().is_for_apps() || self.public.is_some())
            && self.visitor_address.unwrap_or_default() == VisitorAddress::Forwarded
        {
            let sentence = "what apps send, and what comes to a public port, passes as it is, Host and X-Forwarded-For too: \"hidden\" or \
                            \"proxy-v2\", for a service that believes none of it";
            fault("visitor_address", sentence);
        }
        if !self.reach().is_by_name() {
            let sentence =
                "only whoever comes by name has that, and nobody reaches this service so";
            if self.http3.is_some() {
                fault("http3", sentence);
            }
            if self.answer_time.is_some() {
                fault("answer_time", sentence);
            }
        }
        if !scheme.has_tls_of_ours() {
            let sentence = "only the certificate of an https:// or h2:// origin is checked";
            if self.origin_ca.is_some() {
                fault("origin_ca", sentence);
            }
            if self.origin_insecure {
                fault("origin_insecure", sentence);
            }
        } else if self.origin_insecure && self.origin_ca.is_some() {
            fault(
                "origin_insecure",
                "with origin_ca its certificate is checked",
            );
        }
        if let Some(file) = &self.origin_ca {
            let text = read_text(file).map_err(|error| error.to_string());
            let roots = text.and_then(|text| Roots::from_pem(&text).map_err(|e| e.to_string()));
            if let Err(error) = roots {
                fault("origin_ca", &format!("{}: {error}", file.display()));
            }
        }
        if !is_http && matches!(self.health, Some(Probe::Get(_))) {
            fault("health", "only HTTP has paths: \"connect\"");
        }
        if self.health.is_none() {
            let sentence = "without `health` it is not asked";
            if self.health_interval.is_some() {
                fault("health_interval", sentence);
            }
            if self.health_timeout.is_some() {
                fault("health_timeout", sentence);
            }
        }
        for (key, time, bounds) in [
            ("answer_time", self.answer_time, ANSWER_TIMES),
            ("health_interval", self.health_interval, HEALTH_INTERVALS),
            ("health_timeout", self.health_timeout, HEALTH_TIMEOUTS),
        ] {
            if time.is_some_and(|time| !bounds.contains(&time)) {
                let [least, most] = [bounds.start(), bounds.end()]
                    .map(|bound| humantime::format_duration(*bound).to_string());
                fault(key, &format!("between {least} and {most} makes sense"));
            }
        }
        faults
    }

    /// The same of what is about a public port.
    fn faults_of_port(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        let mut fault = |key, sentence: &str| faults.push((key, sentence.to_owned()));
        let is_udp = self.origin.scheme == Scheme::Udp;
        let protocol = self.public.map(|port| port.protocol);
        match protocol {
            None if self.reach() == Reach::Port => {
                let sentence = "nobody reaches it without a public port: public = \"20022/tcp\", with a number that your operator gives you";
                fault("public", sentence);
            }
            Some(Protocol::Tcp) if is_udp => fault("public", "a udp:// origin has a port for UDP"),
            Some(Protocol::Udp) if !is_udp => {
                fault(
                    "public",
                    "what comes to a port for UDP is for a udp:// origin",
                );
            }
            Some(_) | None => {}
        }
        if is_udp {
            if self.reach() != Reach::Port {
                fault(
                    "reach",
                    "over UDP only its public port leads there: \"port\"",
                );
            }
            if self.visitor_address == Some(VisitorAddress::ProxyV2) {
                fault(
                    "visitor_address",
                    "a PROXY header stands before a connection, and over UDP there is none: \"hidden\"",
                );
            }
            if self.health.is_some() {
                fault("health", "over UDP nothing says that it is there");
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::super::MAX_SERVICES;
    use super::super::tests::said;

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_its_key() {
        for (text, expected) in [
            ("", "agent.toml:1: services: there is no service: write"),
            ("services = 1", "agent.toml:1: services: invalid type"),
            ("\n[services.a]\n", "agent.toml:2: missing field `origin`"),
            (
                "[services.a]\norigin = \"http://a\"\norigins = 1",
                "agent.toml:3: services.a.origins: unknown field `origins`",
            ),
            (
                "[services.a]\norigin = \"127.0.0.1:80\"",
                "agent.toml:2: services.a.origin: \"127.0.0.1:80\" is not an origin",
            ),
            (
                "[services.a]\norigin = \"http://a\"\nhealth = \"healthz\"",
                "agent.toml:3: services.a.health: ",
            ),
            (
                "[services.\"a.b\"]\norigin = \"http://a\"",
                "agent.toml:1: services.\"a.b\": a name has only",
            ),
            (
                "[services.a]\norigin = \"http://a\"\n[services.A]\norigin = \"http://a\"",
                ": there is another service a",
            ),
            (
                "[services.a]\norigin = \"tcp://a:1\"\nvisitor_address = \"forwarded\"",
                "agent.toml:3: services.a.visitor_address: only HTTP",
            ),
            (
                "[services.a]\norigin = \"tcp://a:1\"\nhealth = \"/\"",
                "agent.toml:3: services.a.health: only HTTP has paths",
            ),
            (
                "[services.a]\norigin = \"tcp://a:1\"\nhttp3 = \"agent\"",
                "agent.toml:3: services.a.http3: the agent speaks HTTP only",
            ),
            (
                "[services.a]\norigin = \"http://a\"\nhealth_interval = \"9s\"",
                "agent.toml:3: services.a.health_interval: without `health`",
            ),
            (
                "[services.a]\norigin = \"http://a\"\nanswer_time = \"2h\"",
                "agent.toml:3: services.a.answer_time: between 1s and 1h makes sense",
            ),
            (
                "[services.a]\norigin = \"http://a\"\norigin_insecure = true",
                "agent.toml:3: services.a.origin_insecure: only the certificate of an https://",
            ),
            (
                "[services.a]\norigin = \"https://a\"\norigin_ca = \"/nowhere\"",
                "agent.toml:3: services.a.origin_ca: /nowhere: No such file",
            ),
        ] {
            let said = said(text);
            assert!(said.contains(expected), "{text}\n{said}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let text = "[services.a]\norigin = \"tcp://a:1\"\nhealth = \"/\"\nanswer_time = \"2m\"";
        assert_eq!(said(text).lines().count(), 2, "{}", said(text));
        let many = (0..=MAX_SERVICES).map(|i| format!("[services.s{i}]\norigin = \"http://a\"\n"));
        let many = said(&many.collect::<String>());
        assert!(
            many.contains("65 services are too many, 64 can be"),
            "{many}"
        );
    }
}
