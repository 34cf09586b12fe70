//! What one device may have at most.

use std::num::{NonZeroU32, NonZeroU64};

/// The limits of one device. What is absent is as for all devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Octets a second, of all its visitors and both ways.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Visitors at a time.
    pub visitors: Option<NonZeroU32>,
}
