//! Which names have changed, in which order: what a relay that was away for a moment has missed. A name stands for whatever
//! is known of it when it is told.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use directory::DeviceName;
use following::{Known, Token16};
use tokio::sync::watch;

/// Changes remembered. Who has missed more is told everything.
const MEMORY: usize = 16 * 1024;

/// Changes told at once.
const AT_ONCE: usize = 256;

/// The changes since this process began.
#[derive(Debug)]
pub(crate) struct History {
    epoch: Token16,
    newest: Mutex<Newest>,
    version: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Newest {
    /// How many changes there have been.
    version: u64,
    /// The last of them, the newest at the end.
    names: VecDeque<DeviceName>,
}

impl History {
    pub(crate) fn new() -> Self {
        Self {
            epoch: Token16::random(),
            newest: Mutex::default(),
            version: watch::Sender::new(0),
        }
    }

    /// Something about `name` is different now.
    pub(crate) fn note(&self, name: &DeviceName) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.version += 1;
        if newest.names.len() == MEMORY {
            newest.names.pop_front();
        }
        newest.names.push_back(name.clone());
        self.version.send_replace(newest.version);
    }

    /// Where it stands.
    pub(crate) fn now(&self) -> Known {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        Known {
            epoch: self.epoch,
            version: newest.version,
        }
    }

    /// The number of changes, whenever there is another.
    pub(crate) fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// The first changes after `known`, each a version and a name; `None` if they are forgotten, or of another epoch.
    pub(crate) fn after(&self, known: Known) -> Option<Vec<(u64, DeviceName)>> {
        if known.epoch != self.epoch {
            return None;
        }
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let missed = usize::try_from(newest.version.checked_sub(known.version)?).ok()?;
        let first = newest.names.len().checked_sub(missed)?;
        let missed = newest.names.iter().skip(first).take(AT_ONCE);
        Some((known.version + 1..).zip(missed.cloned()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> DeviceName {
        DeviceName::parse(&format!("nas-{number}")).unwrap()
    }

    #[test]
    fn who_was_away_is_told_what_it_missed_and_no_more() {
        let history = History::new();
        let begin = history.now();
        assert_eq!(history.after(begin), Some(Vec::new()));
        for number in 1..=AT_ONCE + 1 {
            history.note(&name(number));
        }
        let first = history.after(begin).unwrap();
        assert_eq!(first.len(), AT_ONCE);
        assert_eq!(first[0], (1, name(1)));
        let version = first[AT_ONCE - 1].0;
        let then = Known { version, ..begin };
        let last = (version + 1, name(AT_ONCE + 1));
        assert_eq!(history.after(then), Some(vec![last]));
        assert_eq!(history.after(history.now()), Some(Vec::new()));
    }

    #[test]
    fn what_is_forgotten_or_of_another_process_is_not_made_up() {
        let history = History::new();
        let begin = history.now();
        for number in 0..=MEMORY {
            history.note(&name(number));
        }
        assert_eq!(history.after(begin), None);
        let second = Known {
            version: 1,
            ..begin
        };
        assert_eq!(history.after(second).unwrap()[0], (2, name(1)));
        let ahead = Known {
            version: MEMORY as u64 + 2,
            ..begin
        };
        assert_eq!(history.after(ahead), None);
        assert_eq!(History::new().after(begin), None);
    }
}
