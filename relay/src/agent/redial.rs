//! How soon a tunnel is followed by another. How long one stands is up to its relay, and so the waits may not be.

use std::time::Duration;

use crate::backoff::Backoff;

/// Between two dials, at least and at most. A restarted relay has its agents back within five seconds.
pub(super) const REDIAL: (Duration, Duration) =
    (Duration::from_millis(250), Duration::from_secs(3));

/// After this many failed dials the relay is away for longer, and the waits may be too.
pub(super) const PATIENT_AFTER: u32 = 100;
pub(super) const PATIENT_REDIAL: Duration = Duration::from_secs(60);

/// The wait after a close that somebody has to do something about; a relay that asks for a longer one is not heard.
pub(super) const LATER: Duration = Duration::from_secs(120);

/// A tunnel that stood for less has come to no more than a failed dial.
const STEADY: Duration = Duration::from_secs(30);

/// So many such tunnels in a row are followed as soon as one that has stood: relays that are restarted or follow one another have
/// them too.
const QUICK: u32 = 8;

/// The same of tunnels that are drained: where one server follows another time and again, who does not come along at once is not
/// found any more.
const QUICK_DRAINED: u32 = 64;

/// The waits after the tunnels of one keeper.
#[derive(Debug)]
pub(super) struct Redials {
    /// How many tunnels in a row have not stood for long.
    short: u32,
    backoff: Backoff,
}

impl Redials {
    pub(super) fn new() -> Self {
        Self {
            short: 0,
            backoff: Backoff::new(REDIAL.0, REDIAL.1),
        }
    }

    /// How long to wait after a tunnel that `stood` for so long.
    pub(super) fn wait(&mut self, stood: Duration) -> Duration {
        self.wait_beyond(QUICK, stood)
    }

    fn wait_beyond(&mut self, quick: u32, stood: Duration) -> Duration {
        self.short = match stood < STEADY {
            true => self.short.saturating_add(1),
            false => 0,
        };
        if self.short <= quick {
            self.backoff.reset();
        }
        match self.short > PATIENT_AFTER {
            true => spread(PATIENT_REDIAL),
            false => self.backoff.next_wait(),
        }
    }

    /// The same where its relay has drained it and asks for a wait: that is all, as long as it does not do so time and again.
    pub(super) fn wait_as_asked(&mut self, stood: Duration, asked: Duration) -> Duration {
        let wait = self.wait_beyond(QUICK_DRAINED, stood);
        let asked = spread(asked.min(LATER));
        match self.short > QUICK_DRAINED {
            true => wait.max(asked),
            false => asked,
        }
    }
}

/// Between half and all of `wait`, so that many agents do not come back at once.
pub(super) fn spread(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::from_millis(1);

    fn is_first(wait: Duration) -> bool {
        (REDIAL.0 / 2..=REDIAL.0).contains(&wait)
    }

    #[test]
    fn a_relay_that_ends_each_tunnel_at_once_is_dialled_ever_more_seldom() {
        let mut redials = Redials::new();
        let mut waits = (0..200).map(|_| redials.wait(AT_ONCE));
        assert!(waits.by_ref().take(QUICK as usize).all(is_first));
        let doubling: Vec<_> = waits.by_ref().take(3).collect();
        for (wait, most) in doubling.iter().zip([500, 1000, 2000]) {
            let most = Duration::from_millis(most);
            assert!((most / 2..=most).contains(wait), "{doubling:?}");
        }
        let (seldom, last) = (REDIAL.1 / 2, waits.by_ref().take(80).min());
        assert!(last >= Some(seldom), "{last:?}");
        assert!(waits.last() >= Some(PATIENT_REDIAL / 2));
    }

    #[test]
    fn a_tunnel_that_has_stood_is_followed_soon_whatever_came_before() {
        let mut redials = Redials::new();
        for _ in 0..200 {
            redials.wait(AT_ONCE);
        }
        assert!(is_first(redials.wait(STEADY)));
        for _ in 0..QUICK {
            assert!(is_first(redials.wait(STEADY - AT_ONCE)));
        }
        assert!(!is_first(redials.wait(AT_ONCE)));
    }

    #[test]
    fn who_is_drained_waits_as_asked_and_longer_where_that_comes_time_and_again() {
        let mut redials = Redials::new();
        assert_eq!(
            redials.wait_as_asked(STEADY, Duration::ZERO),
            Duration::ZERO
        );
        let asked = Duration::from_secs(10);
        let wait = redials.wait_as_asked(STEADY, asked);
        assert!((asked / 2..=asked).contains(&wait), "{wait:?}");
        assert!(redials.wait_as_asked(STEADY, Duration::MAX) <= LATER);
        for _ in 0..QUICK_DRAINED {
            let wait = redials.wait_as_asked(AT_ONCE, Duration::ZERO);
            assert_eq!(
                wait,
                Duration::ZERO,
                "a server that follows another has its agents at once"
            );
        }
        for _ in 0..200 {
            redials.wait_as_asked(AT_ONCE, Duration::ZERO);
        }
        let wait = redials.wait_as_asked(AT_ONCE, Duration::ZERO);
        assert!(wait >= PATIENT_REDIAL / 2, "{wait:?}");
    }
}
