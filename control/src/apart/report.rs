//! Who is present here, told to control: everybody at the beginning of a session, then who has come and gone since.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use directory::DeviceId;
use following::{BEAT, MAX_REPORTS, Report, Token16};
use hyper::Method;
use relay::agent::CallError;
use relay::server::Presence;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::membership::Membership;
use crate::fleet::attached;

/// What happens within this time is told at once.
const GATHER: Duration = Duration::from_millis(100);

/// The longest report, in octets: the API reads no request of more than 64 KiB.
const MAX_OCTETS: usize = 48 * 1024;

/// Who is present, and of whom that has changed.
#[derive(Clone, Debug)]
pub(super) struct Reporter {
    presence: Presence,
    changed: Arc<Changed>,
}

/// Of whom something has changed that nobody was told yet: each device once.
#[derive(Debug, Default)]
struct Changed {
    devices: Mutex<HashSet<DeviceId>>,
    any: Notify,
}

impl Changed {
    fn add(&self, device: DeviceId) {
        let devices = self.devices.lock();
        devices
            .unwrap_or_else(PoisonError::into_inner)
            .insert(device);
        self.any.notify_one();
    }

    fn take(&self) -> HashSet<DeviceId> {
        let devices = self.devices.lock();
        std::mem::take(&mut *devices.unwrap_or_else(PoisonError::into_inner))
    }
}

impl Reporter {
    pub(super) fn new(presence: Presence) -> Self {
        let changed = Arc::new(Changed::default());
        let noted = Arc::clone(&changed);
        presence.watch(move |device| noted.add(*device));
        Self { presence, changed }
    }

    /// Reports in `session` until a report is not taken. The first says who is here, even if that is nobody.
    pub(super) async fn report(&self, member: &Membership, session: Token16) -> CallError {
        let mut told = Session {
            session,
            next: 0,
            present: HashSet::new(),
        };
        self.changed.take(); // in what follows
        let mut devices: Vec<_> = self.presence.all();
        loop {
            for report in told.reports(&devices, &self.presence) {
                let body = serde_json::to_vec(&report).unwrap_or_default(); // numbers and texts
                let path = "/api/relay/presence";
                let taken = member.cloud.tell(
                    Method::POST,
                    path,
                    "application/json",
                    body,
                    &member.identity,
                );
                if let Err(error) = taken.await {
                    return error;
                }
            }
            if timeout(BEAT, self.changed.any.notified()).await.is_ok() {
                sleep(GATHER).await;
            }
            devices = self.changed.take().into_iter().collect();
        }
    }
}

/// What control has been told in one session.
#[derive(Debug)]
struct Session {
    session: Token16,
    next: u64,
    present: HashSet<DeviceId>,
}

impl Session {
    /// How `devices` are now, in as many reports as it takes, and in one at least.
    fn reports(&mut self, devices: &[DeviceId], presence: &Presence) -> Vec<Report> {
        let mut reports = vec![self.empty()];
        let mut octets = 0;
        for device in devices {
            let attachment = presence.of(device);
            let is_told = match &attachment {
                Some(_) => {
                    self.present.insert(*device);
                    true
                }
                None => self.present.remove(device),
            };
            if !is_told {
                continue; // it has come and gone, and nobody has heard of it
            }
            // Everything else in a line has a length that is known.
            octets += 256 + attachment.as_ref().map_or(0, |a| 2 * a.software.len());
            let is_full = |report: &Report| {
                octets > MAX_OCTETS || report.came.len() + report.gone.len() >= MAX_REPORTS
            };
            if reports.last().is_none_or(is_full) {
                reports.push(self.empty());
                octets = 0;
            }
            if let Some(report) = reports.last_mut() {
                match attachment {
                    Some(attachment) => report.came.push(attached::present(device, &attachment)),
                    None => report.gone.push(Token16(*device.as_bytes())),
                }
            }
        }
        reports
    }

    fn empty(&mut self) -> Report {
        let number = self.next;
        self.next += 1;
        Report {
            session: self.session,
            number,
            came: Vec::new(),
            gone: Vec::new(),
        }
    }
}
