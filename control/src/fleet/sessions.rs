//! A relay that follows reports which devices are there. What it has reported is true for as long as it follows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use directory::{DeviceId, DeviceName, RelayName};
use following::{BEAT, MAX_REPORTS, Report, SILENCE, Token16};
use tokio_util::sync::CancellationToken;

use super::attached;
use super::{Fleet, Held, Known};

/// A relay is late whose last report is so old. Names lead to it only where no other relay holds the device: agents notice a relay that
/// stands still before it is taken for gone, and come to another.
const LATE: Duration = BEAT.saturating_mul(2);

/// A relay that follows now.
pub(super) struct Following {
    session: Token16,
    /// The number of the report that comes next.
    next: u64,
    heard: Instant,
    /// For [`LATE`] nothing was heard.
    pub(super) is_late: bool,
    /// The devices that it holds.
    devices: HashSet<DeviceId>,
    end: CancellationToken,
}

impl Following {
    pub(super) fn devices(&self) -> usize {
        self.devices.len()
    }

    /// Ends it, from outside.
    pub(super) fn end(&self) {
        self.end.cancel();
    }
}

/// The following of one relay, for as long as this is kept.
pub(super) struct Session {
    fleet: Arc<Fleet>,
    pub(super) relay: RelayName,
    pub(super) id: Token16,
    /// Cancelled when another has taken its place, or the relay was removed.
    pub(super) end: CancellationToken,
    /// Why it ends, if it ends now.
    pub(super) why: End,
}

/// Why a relay does not follow any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It has closed its connection, or is dead.
    Left,
    /// It has not reported in time.
    Silent,
    /// It has begun anew, or was removed.
    Replaced,
    /// This server ends.
    Stopped,
}

impl End {
    pub(super) const ALL: [Self; 4] = [Self::Left, Self::Silent, Self::Replaced, Self::Stopped];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Silent => "silent",
            Self::Replaced => "replaced",
            Self::Stopped => "stopped",
        }
    }
}

/// Why a report was not taken. The relay is to follow anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReportError {
    /// It is of another session than the relay's newest.
    #[error("a report of a session that has ended")]
    OtherSession,
    /// One before it is missing.
    #[error("a report is missing before this one")]
    Gap,
    /// It holds what no relay says.
    #[error("a report that makes no sense")]
    Nonsense,
}

impl Fleet {
    /// Begins the following of `relay`; an earlier one ends. `None` if the relay was removed in this moment.
    pub(super) fn begin(self: &Arc<Self>, relay: &RelayName) -> Option<Session> {
        let (id, end) = (Token16::random(), CancellationToken::new());
        let mut known = self.known();
        let before = known.relays.get_mut(relay)?.following.replace(Following {
            session: id,
            next: 0,
            heard: Instant::now(),
            is_late: false,
            devices: HashSet::new(),
            end: end.clone(),
        });
        match before {
            Some(before) => self.forget(&mut known, relay, before),
            None => self.metrics.following.inc(),
        }
        drop(known);
        tracing::info!(%relay, "a relay follows");
        Some(Session {
            fleet: Arc::clone(self),
            relay: relay.clone(),
            id,
            end,
            why: End::Left,
        })
    }

    /// Takes a report of `relay`.
    ///
    /// # Errors
    /// If it cannot be taken. What was reported before stays.
    pub(crate) fn report(&self, relay: &RelayName, report: Report) -> Result<(), ReportError> {
        if report.came.len() + report.gone.len() > MAX_REPORTS {
            return Err(ReportError::Nonsense);
        }
        let came: Option<Vec<_>> = report.came.into_iter().map(attached::attachment).collect();
        let came = came.ok_or(ReportError::Nonsense)?;
        let mut known = self.known();
        let Known { relays, held } = &mut *known;
        let registered = relays.get_mut(relay);
        let following = registered.and_then(|registered| registered.following.as_mut());
        let following = following.filter(|following| following.session == report.session);
        let following = following.ok_or(ReportError::OtherSession)?;
        if following.next != report.number {
            return Err(ReportError::Gap);
        }
        following.next += 1;
        following.heard = Instant::now();
        let mut changed = Vec::new();
        if std::mem::take(&mut following.is_late) {
            changed = names(held, &following.devices);
        }
        for device in report.gone {
            let device = DeviceId::from_bytes(device.0);
            if following.devices.remove(&device) {
                changed.extend(take_from(held, device, relay));
            }
        }
        for (device, attachment) in came {
            // A device that was removed meanwhile is no news; nor does a relay say who has which name.
            let named = self.around.directory.device_by_name(&attachment.name);
            let identity = named.and_then(|named| named.identity);
            if identity.is_none_or(|identity| identity.id != device) {
                continue;
            }
            following.devices.insert(device);
            changed.push((device, attachment.name.clone()));
            let holders = held.entry(device).or_default();
            let by = relay.clone();
            match holders.iter_mut().find(|held| held.by == by) {
                Some(held) => held.attachment = attachment,
                None => holders.push(Held { by, attachment }),
            }
        }
        self.tell(&known, &changed);
        Ok(())
    }

    /// Notices for how long `session` has reported nothing: whether its relay is to be taken for gone. If it is only late, names lead
    /// elsewhere where they can.
    pub(super) fn notice_silence(&self, session: &Session) -> bool {
        let mut known = self.known();
        let Known { relays, held } = &mut *known;
        let registered = relays.get_mut(&session.relay);
        let following = registered.and_then(|registered| registered.following.as_mut());
        let Some(following) = following else {
            return true;
        };
        let silence = following.heard.elapsed();
        if silence > LATE && !following.is_late {
            following.is_late = true;
            self.metrics.late.inc();
            tracing::warn!(relay = %session.relay, "a relay is late with its report");
            let changed = names(held, &following.devices);
            self.tell(&known, &changed);
        }
        silence > SILENCE
    }

    /// What `relay` has reported is not true any more.
    pub(super) fn forget(&self, known: &mut Known, relay: &RelayName, following: Following) {
        following.end();
        let devices = following.devices.into_iter();
        let changed: Vec<_> = devices
            .filter_map(|device| take_from(&mut known.held, device, relay))
            .collect();
        self.tell(known, &changed);
    }

    fn tell(&self, known: &Known, changed: &[(DeviceId, DeviceName)]) {
        for (device, name) in changed {
            self.lead(known, device, name);
            self.watched(device);
        }
        if !changed.is_empty() {
            self.changed.send_modify(|version| *version += 1);
        }
    }
}

/// The names of `devices` that are held.
fn names(
    held: &HashMap<DeviceId, Vec<Held>>,
    devices: &HashSet<DeviceId>,
) -> Vec<(DeviceId, DeviceName)> {
    let names = devices.iter().filter_map(|device| {
        let holder = held.get(device)?.first()?;
        Some((*device, holder.attachment.name.clone()))
    });
    names.collect()
}

/// `relay` does not hold `device` any more; says which that is, if it held it.
fn take_from(
    held: &mut HashMap<DeviceId, Vec<Held>>,
    device: DeviceId,
    relay: &RelayName,
) -> Option<(DeviceId, DeviceName)> {
    let holders = held.get_mut(&device)?;
    let place = holders.iter().position(|held| held.by == *relay)?;
    let gone = holders.remove(place);
    if holders.is_empty() {
        held.remove(&device);
    }
    Some((device, gone.attachment.name))
}

impl Drop for Session {
    fn drop(&mut self) {
        let ended = &self.fleet.metrics.ended;
        ended.with_label_values(&[self.why.name()]).inc();
        tracing::warn!(relay = %self.relay, why = self.why.name(), "a relay does not follow any more");
        let mut known = self.fleet.known();
        let registered = known.relays.get_mut(&self.relay);
        let following = registered.and_then(|registered| {
            registered
                .following
                .take_if(|following| following.session == self.id)
        });
        if let Some(following) = following {
            self.fleet.metrics.following.dec();
            self.fleet.forget(&mut known, &self.relay, following);
        }
    }
}
