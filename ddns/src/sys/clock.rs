//! Clocks that cost next to nothing and are a few milliseconds behind.

use std::mem::MaybeUninit;

/// Seconds since 1970, modulo 2^32.
pub(crate) fn coarse_unix_seconds() -> u32 {
    let seconds = now(libc::CLOCK_REALTIME_COARSE).tv_sec;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "modulo 2^32"
    )]
    let seconds = seconds as u32;
    seconds
}

fn now(clock: libc::clockid_t) -> libc::timespec {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the call writes one `timespec` behind the pointer, or nothing; zeros are a value of it.
    unsafe {
        libc::clock_gettime(clock, time.as_mut_ptr());
        time.assume_init()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_right() {
        let exact = crate::unix_seconds();
        assert!(exact.abs_diff(coarse_unix_seconds()) <= 1);
    }
}
