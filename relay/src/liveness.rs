//! Is the other end still there? Decides from what was heard and when; time comes in as an argument.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What has been heard over TCP: tunnels and carriers over TLS, and raw connections.
#[derive(Debug, Default)]
pub(crate) struct SignsOfLife {
    heard: AtomicU64,
    sent: AtomicU64,
}

impl SignsOfLife {
    /// So many octets, or frames, have come.
    pub(crate) fn heard(&self, count: usize) {
        self.heard.fetch_add(count as u64, Relaxed);
    }

    /// So many octets have been taken by the kernel.
    pub(crate) fn sent(&self, octets: usize) {
        self.sent.fetch_add(octets as u64, Relaxed);
    }

    /// Grows with every sign of life. Much that could be sent is one, because the kernel takes no more than its buffer holds
    /// from a connection that nobody acknowledges; and where much is sent, an answer may be long in coming.
    pub(crate) fn count(&self) -> u64 {
        const MUCH: u64 = 64 * 1024;
        self.heard.load(Relaxed) + self.sent.load(Relaxed) / MUCH
    }
}

/// How much silence is too much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// After this long without a sign of life, ask for one.
    pub(crate) quiet: Duration,
    /// Ask again this often.
    pub(crate) again: Duration,
    /// After this long without a sign of life the other end is gone.
    pub(crate) give_up: Duration,
}

/// What to do about the other end; of several opinions the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// Nothing.
    Fine,
    /// Send something that must be answered.
    Probe,
    /// Close the tunnel.
    Gone,
}

/// The silence of one tunnel.
#[derive(Debug)]
pub(crate) struct Liveness {
    heard: u64,
    heard_at: Instant,
    /// When it was asked last, and how often.
    probed_at: Option<Instant>,
    probes: u32,
}

/// So often it has been asked before it is given up: who looks late must not ask and give up in one breath.
const LEAST_PROBES: u32 = 2;

impl Liveness {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            heard: 0,
            heard_at: now,
            probed_at: None,
            probes: 0,
        }
    }

    /// Looks at the tunnel. `heard` grows with every sign of life. Silence counts only while `listening`: an idle tunnel may be
    /// quiet, and who has no time for its sockets hears nothing.
    pub(crate) fn check(
        &mut self,
        now: Instant,
        heard: u64,
        listening: bool,
        patience: Patience,
    ) -> Verdict {
        if heard != self.heard || !listening {
            *self = Self {
                heard,
                ..Self::new(now)
            };
            return Verdict::Fine;
        }
        let silence = now.saturating_duration_since(self.heard_at);
        if silence >= patience.give_up && self.probes >= LEAST_PROBES {
            return Verdict::Gone;
        }
        let probe_due = match self.probed_at {
            None => silence >= patience.quiet,
            Some(probed_at) => now.saturating_duration_since(probed_at) >= patience.again,
        };
        if !probe_due {
            return Verdict::Fine;
        }
        self.probed_at = Some(now);
        self.probes += 1;
        Verdict::Probe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        quiet: Duration::from_millis(750),
        again: Duration::from_millis(500),
        give_up: Duration::from_millis(2750),
    };

    /// Checks every 250 ms; `heard_at` says how much was heard by then.
    fn verdicts(
        until_ms: u64,
        listening: bool,
        heard_at: impl Fn(u64) -> u64,
    ) -> Vec<(u64, Verdict)> {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        (1..=until_ms / 250)
            .map(|tick| tick * 250)
            .map(|ms| {
                (
                    ms,
                    liveness.check(
                        start + Duration::from_millis(ms),
                        heard_at(ms),
                        listening,
                        PATIENCE,
                    ),
                )
            })
            .filter(|(_, verdict)| *verdict != Verdict::Fine)
            .collect()
    }

    #[test]
    fn a_silent_end_is_probed_and_then_given_up_within_three_seconds() {
        let expected = [750, 1250, 1750, 2250].map(|ms| (ms, Verdict::Probe));
        let verdicts = verdicts(2750, true, |_| 0);
        assert_eq!(verdicts[..4], expected);
        assert_eq!(verdicts[4], (2750, Verdict::Gone));
    }

    #[test]
    fn a_sign_of_life_starts_the_count_again() {
        let verdicts = verdicts(5000, true, |ms| u64::from(ms >= 2000));
        assert!(
            verdicts
                .iter()
                .all(|(ms, verdict)| *verdict != Verdict::Gone || *ms >= 4750)
        );
        assert!(verdicts.contains(&(2750, Verdict::Probe)));
    }

    #[test]
    fn nobody_waiting_is_no_reason_to_probe() {
        assert_eq!(verdicts(60_000, false, |_| 0), []);
    }

    #[test]
    fn after_a_pause_of_the_whole_machine_the_other_end_gets_its_chance() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        let later = start + Duration::from_secs(60);
        assert_eq!(liveness.check(later, 0, true, PATIENCE), Verdict::Probe);
        assert_eq!(liveness.check(later, 0, true, PATIENCE), Verdict::Fine);
        let in_time = later + PATIENCE.again;
        assert_eq!(liveness.check(in_time, 0, true, PATIENCE), Verdict::Probe);
        assert_eq!(liveness.check(in_time, 0, true, PATIENCE), Verdict::Gone);
    }
}
