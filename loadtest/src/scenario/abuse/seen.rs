//! What was seen of the bystander, the relay and the attackers, and how it is shown.

use super::attack::{Attack, Counted, Needs};
use super::watch::{Grown, Told};
use crate::report::{Column, Round};
use crate::scenario::{FAILURES, Observed};

static ATTEMPTED: Column = Column::new("attempted", "attempted", 0);
static HELD: Column = Column::new("most_held", "most held", 0);
static LONGEST: Column = Column::new("longest_s", "longest s", 1);
static LONGEST_AT_CLOUD: Column = Column::new("longest_at_cloud_s", "at cloud s", 1);
static STAYED: Column = Column::new("stayed", "stayed", 0);
static TURNED_AWAY: Column = Column::new("turned_away", "turned away", 0);
static CALMED: Column = Column::new("calmed", "calmed", 0);
static ANSWERED: Column = Column::new("octets_back_per_octet", "octets back", 3);
static REFUSED: Column = Column::new("relay_refused", "refused", 0);
static RETRIES: Column = Column::new("relay_retries", "retries", 0);
static ACCEPT_ERRORS: Column = Column::new("relay_accept_errors", "accept errors", 0);
static ADMIN: Column = Column::new("admin_slowest_ms", "admin ms", 1);
static MEMORY: Column = Column::new("relay_mib_more", "relay MiB more", 1);
static MOST_MEMORY: Column = Column::new("relay_mib_most", "relay MiB", 1);
static BUDGET: Column = Column::new("relay_mib_budget", "of MiB", 1);
static CPU: Column = Column::new("relay_cpu_percent", "relay CPU %", 0);
static AGENT_MEMORY: Column = Column::new("agent_mib_more", "agent MiB more", 1);
static AGENT_CPU: Column = Column::new("agent_cpu_percent", "agent CPU %", 0);
static RATE: Column = Column::new("bystander_mbit_per_s", "bystander Mbit/s", 0);
static RATE_KEPT: Column = Column::new("bystander_mbit_kept_percent", "kept %", 0);
static REQUESTS: Column = Column::new("bystander_requests_per_s", "requests/s", 0);
static REQUESTS_KEPT: Column = Column::new("bystander_requests_kept_percent", "kept %", 0);
static P99: Column = Column::new("bystander_p99_ms", "p99 ms", 1);
static P99_BEFORE: Column = Column::new("baseline_p99_ms", "baseline p99 ms", 1);
static ARRIVALS: Column = Column::new("bystander_new_p99_ms", "new p99 ms", 1);
static ARRIVALS_BEFORE: Column = Column::new("baseline_new_p99_ms", "baseline new p99 ms", 1);

/// What was seen under an attack.
pub(super) struct Seen {
    pub(super) observed: Observed,
    pub(super) requests: f64,
    /// Milliseconds.
    pub(super) p99: f64,
    pub(super) arrivals_p99: f64,
    pub(super) failures: f64,
    pub(super) why: Option<String>,
    pub(super) attackers: Counted,
    pub(super) relay: Option<Grown>,
    pub(super) agent: Option<Grown>,
    /// Octets that the relay may have, where those are few.
    pub(super) budget: Option<u64>,
    pub(super) told: Option<Told>,
}

impl Seen {
    pub(super) fn figures(&self, attack: Attack, baseline: &Self) -> Round {
        let mut figures = self.of_the_attackers(attack);
        figures.extend(self.of_the_server(attack));
        figures.extend(self.of_the_bystander(baseline));
        figures
    }

    /// What the figures do not say.
    pub(super) fn notes(&self, round: u32) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(why) = &self.why {
            notes.push(format!("bystander's first failure: {why}"));
        }
        if let Some(told) = &self.told
            && !told.reasons.is_empty()
        {
            let round = round + 1;
            notes.push(format!("refused in round {round}: {}", told.reasons));
        }
        notes
    }

    fn of_the_attackers(&self, attack: Attack) -> Round {
        let Counted {
            attempted,
            most_held,
            longest,
            turned_away,
            stayed,
            calmed,
            sent,
            answered,
        } = self.attackers;
        let mut figures = vec![(&ATTEMPTED, attempted as f64)];
        if attack.has_connections() {
            figures.push((&HELD, most_held as f64));
            let [even, odd] = longest;
            match attack.goes_to_cloud_too() {
                true => figures.extend([(&LONGEST, even), (&LONGEST_AT_CLOUD, odd)]),
                false => figures.push((&LONGEST, even.max(odd))),
            }
            figures.push((&STAYED, stayed as f64));
            figures.push((&TURNED_AWAY, turned_away as f64));
        }
        if attack.speaks_http2() {
            figures.push((&CALMED, calmed as f64));
        }
        if sent > 0 {
            figures.push((&ANSWERED, answered as f64 / sent as f64));
        }
        figures
    }

    fn of_the_server(&self, attack: Attack) -> Round {
        let mut figures = Round::new();
        if let Some(told) = &self.told {
            figures.push((&REFUSED, told.turned_away));
            if attack == Attack::QuicInitials {
                figures.push((&RETRIES, told.retries));
            }
            if attack.needs() == Needs::FewDescriptors {
                figures.push((&ACCEPT_ERRORS, told.accept_errors));
            }
            figures.push((&ADMIN, told.slowest_ms));
        }
        let percent = |cpu: f64| cpu / self.observed.seconds * 100.0;
        if let Some(grown) = self.relay {
            figures.push((&MEMORY, mebibytes(grown.more)));
            if let Some(budget) = self.budget {
                figures.push((&MOST_MEMORY, mebibytes(grown.most)));
                figures.push((&BUDGET, mebibytes(budget)));
            }
        }
        figures.extend(self.observed.relay_cpu.map(|cpu| (&CPU, percent(cpu))));
        if attack.reaches_the_agent() {
            figures.extend(
                self.agent
                    .map(|grown| (&AGENT_MEMORY, mebibytes(grown.more))),
            );
            figures.extend(
                self.observed
                    .agent_cpu
                    .map(|cpu| (&AGENT_CPU, percent(cpu))),
            );
        }
        figures
    }

    fn of_the_bystander(&self, baseline: &Self) -> Round {
        let rate = |seen: &Self| seen.observed.count * 8.0 / 1e6 / seen.observed.seconds;
        let requests = |seen: &Self| seen.requests / seen.observed.seconds;
        let kept = |now: f64, before: f64| now / before * 100.0;
        vec![
            (&RATE, rate(self)),
            (&RATE_KEPT, kept(rate(self), rate(baseline))),
            (&REQUESTS, requests(self)),
            (&REQUESTS_KEPT, kept(requests(self), requests(baseline))),
            (&P99, self.p99),
            (&P99_BEFORE, baseline.p99),
            (&ARRIVALS, self.arrivals_p99),
            (&ARRIVALS_BEFORE, baseline.arrivals_p99),
            (&FAILURES, self.failures),
        ]
    }
}

fn mebibytes(octets: u64) -> f64 {
    octets as f64 / (1 << 20) as f64
}
