//! When something is asked, on the two clocks that answers depend on.

use crate::sys::{coarse_nanoseconds, coarse_unix_seconds};

/// When something is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Seconds since 1970, modulo 2^32: the clock of cookies and signatures.
    pub unix_seconds: u32,
    /// On a clock that only goes on: that of limits.
    pub nanoseconds: u64,
}

impl Moment {
    /// Now, but for a few milliseconds.
    pub(crate) fn coarse() -> Self {
        Self {
            unix_seconds: coarse_unix_seconds(),
            nanoseconds: coarse_nanoseconds(),
        }
    }
}
