//! Follows the Directory: what it says is in the table before its writer's call returns.
//!
//! A device added makes its name answer, a device removed makes it NXDOMAIN. Watchers may be called at the same time, so none
//! believes what it was told: each asks the Directory again, under one lock. Whoever comes last has then seen the last of it.

use std::sync::{Arc, Mutex, PoisonError};

use directory::{Change, DeviceName, Reader};

use crate::metrics::Metrics;
use crate::store::HeldByRegistration;
use crate::table::Table;
use crate::update::Queue;

/// Keeps the table in step with the Directory.
#[derive(Debug)]
pub(crate) struct Follower {
    directory: Reader,
    table: Arc<Table>,
    metrics: Arc<Metrics>,
    /// Hears when a device has gone and its addresses should leave the disk.
    queue: Queue,
    /// What the log said at the start, until its device has been found in the Directory.
    recovered: Mutex<HeldByRegistration>,
}

impl Follower {
    pub(crate) fn new(
        directory: Reader,
        table: Arc<Table>,
        metrics: Arc<Metrics>,
        queue: Queue,
        recovered: HeldByRegistration,
    ) -> Arc<Self> {
        Arc::new(Self {
            directory,
            table,
            metrics,
            queue,
            recovered: Mutex::new(recovered),
        })
    }

    /// Begins to follow, and puts every device there is in the table. What the log said of others is forgotten.
    /// Returns how many registrations those were.
    pub(crate) fn start(self: &Arc<Self>) -> usize {
        // Whatever changes meanwhile waits for this lock, and is then looked at again.
        let mut recovered = self
            .recovered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Weak, so that the Directory does not keep a stopped server alive.
        let follower = Arc::downgrade(self);
        self.directory.watch(move |change| {
            let device = match change {
                Change::Put { device, .. } | Change::Removed(device) => device,
                Change::Limited { .. } | Change::Ports(_) => return, // changes no name
            };
            if let Some(follower) = follower.upgrade() {
                follower.settle(&device.name);
            }
        });
        self.table.make_room_for(self.directory.len());
        self.directory.for_each(|device| {
            let held = recovered.remove(&device.registration);
            self.table
                .put(&device.name, device.registration, held.as_ref());
        });
        self.table.begin_chain();
        self.table.changed(crate::unix_seconds());
        self.metrics.names(&self.table);
        std::mem::take(&mut *recovered).len()
    }

    /// Makes the table agree with the Directory about one name.
    fn settle(&self, name: &DeviceName) {
        let mut recovered = self
            .recovered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = self.table.registration(name);
        let now = self.directory.registration_by_name(name);
        if before == now {
            return;
        }
        match now {
            Some(registration) => {
                let held = recovered.remove(&registration);
                self.table.put(name, registration, held.as_ref());
            }
            None => {
                self.table.remove(name);
            }
        }
        self.table.changed(crate::unix_seconds());
        self.metrics.names(&self.table);
        if before.is_some() {
            self.queue.tidy();
        }
    }
}
