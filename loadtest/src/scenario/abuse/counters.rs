//! What the server itself counts, as its admin listener tells it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::Request;
use hyper::header::HOST;
use relay::http_client::exchange;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// All counters of a server have less.
const MOST: usize = 4 << 20;

/// How long it may take to tell them.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The counters whose sum is how many the relay has turned away: none counts what another counts.
const TURNED_AWAY: [&str; 3] = [
    "causeway_relay_visitors_refused_total",
    "causeway_relay_tunnels_refused_total",
    "causeway_relay_raw_turned_away_total",
];

/// How often it has asked who comes over QUIC to show that its address is its own.
const RETRIES: &str = "causeway_relay_quic_retries_total";

/// How often the kernel could not hand over a connection.
const ACCEPT_ERRORS: &str = "causeway_relay_accept_errors_total";

/// What stands on them at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Counters {
    /// By name and labels.
    series: BTreeMap<String, f64>,
    /// How long it took to hear them.
    pub(super) took: Duration,
}

impl Counters {
    /// Asks the server whose admin listener this is.
    pub(super) async fn ask(admin: SocketAddr) -> io::Result<Self> {
        let begun = Instant::now();
        let heard = timeout(PATIENCE, async {
            let stream = TcpStream::connect(admin).await?;
            let request = Request::get("/metrics").header(HOST, admin.to_string());
            let request = request.body(Full::default()).map_err(io::Error::other)?;
            exchange(stream, request, MOST).await
        });
        let (status, text) = heard.await.map_err(io::Error::from)??;
        if !status.is_success() {
            return Err(io::Error::other(format!("/metrics answers {status}")));
        }
        Ok(Self {
            series: read(&String::from_utf8_lossy(&text)),
            took: begun.elapsed(),
        })
    }

    pub(super) fn turned_away(&self) -> f64 {
        TURNED_AWAY.iter().map(|name| self.sum(name)).sum()
    }

    pub(super) fn retries(&self) -> f64 {
        self.sum(RETRIES)
    }

    pub(super) fn accept_errors(&self) -> f64 {
        self.sum(ACCEPT_ERRORS)
    }

    /// Why it has turned away more than `before`, and how many: `too_slow 7, handshake 3`.
    pub(super) fn reasons_since(&self, before: &Self) -> String {
        let mut reasons = Vec::new();
        for name in TURNED_AWAY {
            for (series, count) in self.of(name) {
                let more = count - before.series.get(series).copied().unwrap_or_default();
                let reason = series.split('"').nth(1).unwrap_or_default();
                if more > 0.0 {
                    reasons.push(format!("{reason} {more}"));
                }
            }
        }
        reasons.join(", ")
    }

    fn sum(&self, name: &str) -> f64 {
        self.of(name).map(|(_, count)| count).sum()
    }

    fn of(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        let all = self.series.iter();
        all.filter(move |(series, _)| series.split('{').next() == Some(name))
            .map(|(series, count)| (series.as_str(), *count))
    }
}

/// Lines such as `name{label="value"} 5`, and others that begin with `#` (the Prometheus text format).
fn read(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let series = lines.filter_map(|line| {
        let (series, count) = line.rsplit_once(' ')?;
        Some((series.to_owned(), count.parse().ok()?))
    });
    series.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(text: &str) -> Counters {
        Counters {
            series: read(text),
            took: Duration::ZERO,
        }
    }

    #[test]
    fn a_counter_is_summed_over_its_labels_and_grows_by_them() {
        let [refused, _, raw] = TURNED_AWAY;
        let told = |slow: u32, full: u32| {
            let lines =
                format!("{refused}{{reason=\"too_slow\"}} {slow}\n{refused}{{reason=\"full\"}} 2");
            counters(&format!(
                "# HELP\n{lines}\n{raw}{{reason=\"full\"}} {full}\n{RETRIES} 7\n"
            ))
        };
        let (before, after) = (told(1, 0), told(4, 5));
        assert_eq!(before.turned_away(), 3.0);
        assert_eq!(after.turned_away(), 11.0);
        assert_eq!(after.retries(), 7.0);
        assert_eq!(after.accept_errors(), 0.0);
        assert_eq!(after.reasons_since(&before), "too_slow 3, full 5");
    }
}
