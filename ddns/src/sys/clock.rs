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

/// Nanoseconds on a clock that only goes on.
pub(crate) fn coarse_nanoseconds() -> u64 {
    let now = now(libc::CLOCK_MONOTONIC_COARSE);
    let part = |part| u64::try_from(part).unwrap_or(0);
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
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
    fn the_clocks_are_right_and_go_on() {
        let exact = crate::unix_seconds();
        assert!(exact.abs_diff(coarse_unix_seconds()) <= 1);
        let first = coarse_nanoseconds();
        let begun = std::time::Instant::now();
        while coarse_nanoseconds() == first {
            assert!(begun.elapsed().as_secs() < 5, "the clock stands");
        }
        assert!(coarse_nanoseconds() > first);
    }
}
