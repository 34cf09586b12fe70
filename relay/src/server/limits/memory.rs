//! How much memory this process may have: newcomers are sent away while there is room yet for those who are here.
//!
//! One task looks several times a second. Who is let in between two looks, and takes what can be taken, does not show at once: so
//! what they [may take](Cohorts::foreseen) counts until it shows. Where those who are here take more than the budget all the same,
//! the newest have to leave.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use prometheus::IntGauge;

use super::cohorts::{Cohorts, Member};

/// Of the memory of the machine or the control group, in quarters: the rest is the kernel's, for sockets and files, and whoever
/// else is there.
const QUARTERS: u64 = 3;

/// Of the budget, in parts, what newcomers leave to those who are here, who may take more at any time.
const HEADROOM: u64 = 8;

/// Where there is nothing to be read, which is no Linux that this runs on: no limit.
const UNKNOWN: u64 = u64::MAX;

/// The budget, how full it was when last looked at, and who is there.
#[derive(Debug)]
pub(crate) struct Memory {
    budget: AtomicU64,
    used: AtomicU64,
    cohorts: Cohorts,
    used_gauge: IntGauge,
    budget_gauge: IntGauge,
}

impl Memory {
    /// Without a budget yet.
    pub(super) fn new(used_gauge: IntGauge, budget_gauge: IntGauge) -> Self {
        Self {
            budget: UNKNOWN.into(),
            used: 0.into(),
            cohorts: Cohorts::default(),
            used_gauge,
            budget_gauge,
        }
    }

    /// From now on there are so many octets; `None`: what goes with this machine.
    pub(super) fn set_budget(&self, octets: Option<u64>) {
        let budget = octets.unwrap_or_else(fitting);
        self.budget.store(budget, Relaxed);
        self.budget_gauge
            .set(i64::try_from(budget).unwrap_or(i64::MAX));
        self.look(Instant::now());
    }

    /// One more is let in, and is foreseen to take memory.
    pub(super) fn let_in(&self, now: Instant) -> Member {
        self.cohorts.join(now)
    }

    /// Whether so much is used, or will be by those who have just come, that newcomers are to be sent away.
    pub(crate) fn is_over(&self) -> bool {
        let used = self.used.load(Relaxed);
        used.saturating_add(self.cohorts.foreseen()) > self.for_newcomers()
    }

    /// Whether so much is used already.
    pub(crate) fn is_short(&self) -> bool {
        self.used.load(Relaxed) > self.for_newcomers()
    }

    /// Whether more is used than there is.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.used.load(Relaxed) > self.budget.load(Relaxed)
    }

    /// Tells as many of the newest to leave as may have taken what is above the budget and what newcomers leave to others, and says
    /// how many.
    pub(crate) fn shed_newest(&self, now: Instant) -> usize {
        let used = self.used.load(Relaxed);
        match self.is_exceeded() {
            true => self
                .cohorts
                .shed(used.saturating_sub(self.for_newcomers()), now),
            false => 0,
        }
    }

    /// Looks how much is used now. To be called several times a second.
    pub(crate) fn look(&self, now: Instant) {
        self.cohorts.age(now);
        let used = fs::read_to_string("/proc/self/status").ok();
        let Some(used) = used.as_deref().and_then(|text| kibibytes(text, "VmRSS:")) else {
            return; // what was true last stays so
        };
        self.used_gauge.set(i64::try_from(used).unwrap_or(i64::MAX));
        self.used.store(used, Relaxed);
    }

    /// So much may be used while there is room for newcomers.
    fn for_newcomers(&self) -> u64 {
        let budget = self.budget.load(Relaxed);
        budget - budget / HEADROOM
    }
}

/// The octets of a line such as `VmRSS:   1234 kB` (proc(5)).
fn kibibytes(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    let number: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    number.checked_mul(1024)
}

/// A budget that goes with what the machine has and the control group allows.
fn fitting() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| kibibytes(&text, "MemTotal:"));
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group_limit(&own, |file| {
        fs::read_to_string(Path::new("/sys/fs/cgroup").join(file)).ok()
    });
    let least = machine.into_iter().chain(group).min();
    least.map_or(UNKNOWN, |octets| octets / 4 * QUARTERS)
}

/// The least limit of the groups that the process is in, of which `own` tells, as /proc/self/cgroup does; `read` reads a file
/// below /sys/fs/cgroup (cgroups(7)).
fn group_limit(own: &str, read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let limit = |file: &str| read(file)?.trim().parse::<u64>().ok(); // `max` is none
    let mut least = limit("memory/memory.limit_in_bytes"); // version 1, as a container sees itself
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let mut path = path.map(str::to_owned);
    while let Some(group) = path {
        let file = match group.is_empty() {
            true => "memory.max".to_owned(),
            false => format!("{group}/memory.max"),
        };
        least = least.into_iter().chain(limit(&file)).min();
        path = match group.rsplit_once('/') {
            Some((above, _)) => Some(above.to_owned()),
            None if group.is_empty() => None,
            None => Some(String::new()),
        };
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge(name: &str) -> IntGauge {
        IntGauge::new(name, "Of a test.").unwrap()
    }

    #[test]
    fn what_is_used_is_seen_and_more_than_the_budget_is_too_much() {
        let memory = Memory::new(gauge("used"), gauge("budget"));
        memory.set_budget(None);
        assert!(!memory.is_over());
        let used = memory.used_gauge.get();
        assert!(used > 1_000_000 && memory.budget_gauge.get() > used);
        memory.set_budget(Some(1_000_000));
        assert!(memory.is_over());
        let used = u64::try_from(memory.used_gauge.get()).unwrap();
        memory.set_budget(Some(used + used / 16));
        assert!(memory.is_over(), "those who are here have little room");
        memory.set_budget(Some(1 << 40));
        assert!(!memory.is_over());
    }

    #[test]
    fn the_least_limit_of_all_groups_counts() {
        let files = |file: &str| {
            let limit = match file {
                "memory.max" => "max\n",
                "system.slice/memory.max" => "1000000\n",
                "system.slice/causeway.service/memory.max" => "2000000\n",
                _ => return None,
            };
            Some(limit.to_owned())
        };
        let own = "0::/system.slice/causeway.service\n";
        assert_eq!(group_limit(own, files), Some(1_000_000));
        assert_eq!(group_limit("0::/\n", files), None);
        assert_eq!(group_limit("12:memory:/x\n", files), None);
        let first =
            |file: &str| (file == "memory/memory.limit_in_bytes").then(|| "3000000\n".to_owned());
        assert_eq!(group_limit("12:memory:/x\n", first), Some(3_000_000));
    }

    #[test]
    fn lines_of_proc_are_read_and_others_are_not() {
        assert_eq!(
            kibibytes("VmHWM:\t 9 kB\nVmRSS:\t  12 kB\n", "VmRSS:"),
            Some(12_288)
        );
        for text in [
            "",
            "VmRSS: 12",
            "VmRSS: x kB",
            "VmRSS: 99999999999999999999 kB",
        ] {
            assert_eq!(kibibytes(text, "VmRSS:"), None, "{text}");
        }
    }
}
