//! When a certificate is renewed. Devices do not renew in step, and each keeps its own time.

use aws_lc_rs::digest::{SHA256, digest};

/// Between two certificates, at least, whatever clocks and authorities say; in seconds.
pub(super) const APART: u64 = 10;

/// For so long, in seconds, and no longer than a third of its life, one is kept that has come in the place of another that had lived for
/// a short time only. An authority whose advice is always in the past would have a device order without end.
const HURRIED: u64 = 6 * 60 * 60;

/// At two thirds of what is left of its life at `now`, when it has come, or a little earlier, by the device. All in seconds since 1970.
pub(super) fn by_life(not_before: u64, not_after: u64, now: u64, device_id: &str) -> u64 {
    let from = not_before.max(now).min(not_after);
    let life = not_after.saturating_sub(from);
    let early = (life as f64 / 20.0 * share(device_id, not_after)) as u64;
    let due = from.saturating_add(life / 3 * 2);
    due.saturating_sub(early).max(now.saturating_add(APART))
}

/// Whether it has been kept for less than a third of its life at `now`.
pub(super) fn is_early(issued_at: u64, not_after: u64, now: u64) -> bool {
    now.saturating_sub(issued_at) < not_after.saturating_sub(issued_at) / 3
}

/// At the device's own place in the window that an authority advises, at once if that has passed (RFC 9773 section 4.2), and not later than
/// shortly before its end. One that `is_hurried` stays for a while. `None` if the window is none.
pub(super) fn by_advice(
    (start, end): (u64, u64),
    (issued_at, not_after): (u64, u64),
    is_hurried: bool,
    device_id: &str,
) -> Option<u64> {
    let length = end.checked_sub(start).filter(|length| *length > 0)?;
    let life = not_after.saturating_sub(issued_at);
    let advised = start.saturating_add((length as f64 * share(device_id, start)) as u64);
    let latest = not_after.saturating_sub(life / 10);
    let least = match is_hurried {
        true => HURRIED.min(life / 3).max(APART),
        false => APART,
    };
    Some(advised.min(latest).max(issued_at.saturating_add(least)))
}

/// From 0 to 1, for this device and `what` always the same.
fn share(device_id: &str, what: u64) -> f64 {
    let digest = digest(&SHA256, format!("{device_id} {what}").as_bytes());
    let first = digest.as_ref().first_chunk().copied().unwrap_or_default();
    f64::from(u32::from_be_bytes(first)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 60 * 60;
    const NOW: u64 = 1_800_000_000;

    #[test]
    fn devices_renew_at_two_thirds_and_not_in_step() {
        let end = NOW + 90 * DAY;
        let due = |device: &str| by_life(NOW - DAY / 24, end, NOW, device);
        let mut all: Vec<_> = (0..100)
            .map(|device| due(&format!("device{device}")))
            .collect();
        assert_eq!(due("device7"), all[7], "each keeps its own");
        let days = |days: f64| NOW + (days * DAY as f64) as u64;
        assert!(
            all.iter()
                .all(|due| (days(55.5)..=days(60.0)).contains(due)),
            "{all:?}"
        );
        all.sort_unstable();
        all.dedup();
        assert!(all.len() > 95, "{}", all.len());
        let hour = DAY / 24;
        for (not_before, not_after, clock) in [
            (NOW, NOW + 1, "a second"),
            (NOW + hour, NOW + 2 * hour, "an hour behind"),
            (0, u64::MAX, "for ever"),
        ] {
            let due = by_life(not_before, not_after, NOW, "device");
            assert!(due >= NOW + APART, "{clock}");
            assert!(not_after - not_before < 60 || due < not_after, "{clock}");
        }
    }

    #[test]
    fn advice_is_followed_as_far_as_it_makes_sense() {
        let end = NOW + 90 * DAY;
        let follow =
            |start, end_of_window| by_advice((start, end_of_window), (NOW, end), false, "device");
        let window = (NOW + 50 * DAY, NOW + 52 * DAY);
        let due = follow(window.0, window.1).unwrap();
        assert!((window.0..=window.1).contains(&due), "{due}");
        assert_eq!(follow(window.0, window.1), Some(due));
        // It has been revoked: at once, and not again and again.
        assert_eq!(follow(0, 1), Some(NOW + APART));
        let hurried = |life| by_advice((0, 1), (NOW, NOW + life), true, "device");
        assert_eq!(hurried(90 * DAY), Some(NOW + HURRIED));
        assert_eq!(hurried(3600), Some(NOW + 1200));
        assert_eq!(hurried(6), Some(NOW + APART));
        assert!(is_early(NOW, end, NOW + APART) && is_early(NOW, end, NOW + 29 * DAY));
        assert!(!is_early(NOW, end, NOW + 30 * DAY) && !is_early(end, NOW, NOW));
        // Not after its end.
        for start in [end, end + DAY, u64::MAX - 1] {
            assert_eq!(follow(start, u64::MAX), Some(end - 9 * DAY), "{start}");
        }
        assert_eq!(follow(window.1, window.0), None);
        assert_eq!(follow(window.0, window.0), None);
    }
}
