//! What becomes of a visitor's bytes, for its session and the counters.

use crate::server::limits::Admitted;
use crate::server::metrics::{Metrics, RawConnection};
use crate::server::recorded::Visit;
use crate::server::sessions::Session;
use crate::splice;

/// Who hears of one visitor.
pub(super) struct Observed<'a> {
    pub(super) session: &'a Session,
    pub(super) visit: &'a Visit,
    pub(super) admitted: &'a Admitted,
    pub(super) metrics: &'a Metrics,
}

impl splice::Observer for Observed<'_> {
    fn heard(&self, octets: usize) {
        self.session.octets.to_visitor.add(octets as u64);
        self.session.active();
    }

    fn sent(&self, octets: usize) {
        self.session.octets.to_device.add(octets as u64);
        self.session.active();
    }

    fn takes_raw(&self) -> bool {
        let is_room = self.admitted.takes_raw();
        if !is_room {
            self.metrics.raw_connection(RawConnection::NoRoom);
        }
        is_room
    }

    fn raw(&self, came: bool) {
        match came {
            true => self.visit.uses_raw(),
            false => self.admitted.leaves_raw(),
        }
        self.metrics.raw_connection(match came {
            true => RawConnection::Came,
            false => RawConnection::Missed,
        });
    }

    fn copied(&self) {
        self.metrics.splice_fallback();
    }
}
