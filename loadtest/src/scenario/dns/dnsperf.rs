//! The same load by dnsperf of DNS-OARC.

use std::path::Path;
use std::process::Command;

use super::{CPU, LOSSES, RATE};
use crate::process::{ChildError, Program};
use crate::report::Round;
use crate::scenario::ScenarioError;
use crate::world::NameServer;

/// Queries under way, all sockets together: dnsperf's own default.
const UNDER_WAY: &str = "100";

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order<'a> {
    pub(super) program: &'a Path,
    /// What to ask, a name and a type a line.
    pub(super) queries: &'a Path,
    pub(super) dnssec: bool,
    pub(super) sockets: usize,
    pub(super) threads: usize,
    pub(super) seconds: u64,
    /// Where its output is kept.
    pub(super) folder: &'a Path,
}

/// Lets it ask `server`, and reads what it says in the end. The processor time is that of the whole run.
pub(super) async fn measure(server: &NameServer, order: Order<'_>) -> Result<Round, ScenarioError> {
    let mut command = Command::new(order.program);
    command
        .args(["-s", &server.address.ip().to_string()])
        .args(["-p", &server.address.port().to_string()])
        .arg("-d")
        .arg(order.queries)
        .args(["-l", &order.seconds.to_string()])
        .args(["-c", &order.sockets.to_string()])
        .args(["-T", &order.threads.to_string()])
        .args(["-q", UNDER_WAY, "-S", "0"])
        .args(order.dnssec.then_some("-D"));
    let before = server.process.cpu()?;
    let mut program = Program::start("dnsperf", &mut command, order.folder)?;
    let said = program.finished().await?;
    let spent = server.process.cpu()?.saturating_sub(before);
    let figure = |label| {
        number_behind(&said, label).ok_or_else(|| {
            let line = format!("no {label:?} in what it said");
            ChildError::Nonsense {
                who: "dnsperf",
                line,
            }
        })
    };
    let completed = figure("Queries completed:")?;
    if completed == 0.0 {
        return Err(ScenarioError::Nothing {
            workload: "dnsperf",
            cause: format!("{} has answered nothing", server.kind.name()),
        });
    }
    Ok(vec![
        (&RATE, figure("Queries per second:")?),
        (&CPU, spent.as_secs_f64() * 1e6 / completed),
        (&LOSSES, figure("Queries lost:")?),
    ])
}

fn number_behind(text: &str, label: &str) -> Option<f64> {
    let mut lines = text.lines();
    let rest = lines.find_map(|line| line.trim_start().strip_prefix(label))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn figures_are_found_behind_their_labels() {
        let said = "\
Statistics:

  Queries sent:         1276
  Queries completed:    1270 (99.53%)
  Queries lost:         6 (0.47%)
  Queries per second:   126803.123456
";
        let number = |label| super::number_behind(said, label);
        assert_eq!(number("Queries completed:"), Some(1270.0));
        assert_eq!(number("Queries per second:"), Some(126_803.123_456));
        assert_eq!(number("Queries forgotten:"), None);
    }
}
