//! What passes, device by device. Each session counts as it passes, with one addition for each portion; the sweep carries that to
//! the metrics, which know no devices, and whoever shows it live reads it here.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use directory::{DeviceId, PublicKey};
use prometheus::IntCounter;

use super::metrics::PathMetrics;
use super::presence::Transport;
use super::sessions::Sessions;

/// A number that only grows, and how much of it the metrics have been told.
#[derive(Debug, Default)]
pub(crate) struct Growing {
    all: AtomicU64,
    told: AtomicU64,
}

impl Growing {
    pub(crate) fn add(&self, count: u64) {
        self.all.fetch_add(count, Relaxed);
    }

    /// What has come since this was asked last. Of two who ask at a time, one hears it.
    pub(crate) fn news(&self) -> u64 {
        self.news_of(self.all.load(Relaxed))
    }

    /// The same of a number that somebody else keeps.
    pub(crate) fn news_of(&self, all: u64) -> u64 {
        all.saturating_sub(self.told.fetch_max(all, Relaxed))
    }

    fn get(&self) -> u64 {
        self.all.load(Relaxed)
    }
}

/// Octets of one session's visitors.
#[derive(Debug, Default)]
pub(crate) struct Octets {
    pub(crate) to_device: Growing,
    pub(crate) to_visitor: Growing,
}

/// Where what passes is told.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) to_device: IntCounter,
    pub(crate) to_visitor: IntCounter,
    pub(crate) paths: PathMetrics,
}

/// The reading end: what has passed for each device that is attached.
#[derive(Clone, Debug)]
pub struct Traffic(Arc<Sessions>);

/// What has passed for one device, over all tunnels that it has here now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceTraffic {
    /// Whose.
    pub device: DeviceId,
    /// The key of its newest tunnel.
    pub key: PublicKey,
    /// What that runs over.
    pub transport: Transport,
    /// Whether new visitors reach it. If not, the last of them finish on tunnels that it has left.
    pub takes_visitors: bool,
    /// Visitors now.
    pub visitors: usize,
    /// Octets from visitors, since its tunnels began.
    pub to_device: u64,
    /// Octets to visitors, the same.
    pub to_visitor: u64,
}

impl Traffic {
    pub(super) fn of(sessions: Arc<Sessions>) -> Self {
        Self(sessions)
    }

    /// Each attached device, in no order. An octet is here as soon as it has passed.
    pub fn devices(&self) -> Vec<DeviceTraffic> {
        let mut traffic_by_device: HashMap<DeviceId, DeviceTraffic> = HashMap::new();
        self.0.each(|session, is_newest| {
            let one = DeviceTraffic {
                device: session.device,
                key: session.key,
                transport: session.transport(),
                takes_visitors: is_newest,
                visitors: session.visitors(),
                to_device: session.octets.to_device.get(),
                to_visitor: session.octets.to_visitor.get(),
            };
            // The newest comes last.
            traffic_by_device
                .entry(session.device)
                .and_modify(|sum| {
                    *sum = DeviceTraffic {
                        visitors: sum.visitors + one.visitors,
                        to_device: sum.to_device + one.to_device,
                        to_visitor: sum.to_visitor + one.to_visitor,
                        ..one
                    };
                })
                .or_insert(one);
        });
        traffic_by_device.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_once_is_not_told_again_whoever_asks() {
        let octets = Growing::default();
        octets.add(100);
        std::thread::scope(|scope| {
            let asked = [(); 4].map(|()| {
                scope.spawn(|| {
                    octets.add(1);
                    octets.news()
                })
            });
            let told: u64 = asked.into_iter().map(|asked| asked.join().unwrap()).sum();
            assert_eq!(told + octets.news(), 104);
        });
        assert_eq!(octets.news(), 0);
        assert_eq!(octets.get(), 104);
        // One who looked before the others, and asks after them, has no news.
        assert_eq!(octets.news_of(103), 0);
    }
}
