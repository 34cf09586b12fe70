//! Amounts of octets as people write them: `10MB`, `512KiB`.

use serde::{Deserialize as _, Deserializer};

/// What an amount may be written in, the largest first. Those of a thousand before those of 1024, for which nobody asks a
/// network.
const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("B", 1),
];

/// The text is no amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an amount is a whole number and its unit, such as 10MB: B, kB, MB, GB, KiB, MiB or GiB")]
pub struct NoAmount;

/// Reads an amount. Its unit may be in any case, and a space may stand before it.
///
/// # Errors
/// If it has no unit, is no whole number, or is more than there can be.
pub fn parse(text: &str) -> Result<u64, NoAmount> {
    let text = text.trim();
    for (unit, octets) in UNITS {
        let Some(at) = text.len().checked_sub(unit.len()) else {
            continue;
        };
        if let Some((number, written)) = text.split_at_checked(at)
            && written.eq_ignore_ascii_case(unit)
        {
            let number: u64 = number.trim_end().parse().map_err(|_| NoAmount)?;
            return number.checked_mul(octets).ok_or(NoAmount);
        }
    }
    Err(NoAmount)
}

/// Writes an amount in the largest unit of a thousand that leaves a whole number.
pub fn write(octets: u64) -> String {
    let decimal = UNITS.iter().filter(|(unit, _)| !unit.contains('i'));
    let mut fits = decimal.filter(|(_, size)| octets >= *size && octets.is_multiple_of(*size));
    match fits.next() {
        Some((unit, size)) => format!("{}{unit}", octets / size),
        None => format!("{octets}B"),
    }
}

/// For values of a configuration that may be absent.
pub(crate) fn amount<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_with_their_units_and_not_without() {
        for (text, octets) in [
            ("10MB", 10_000_000),
            ("10 mb", 10_000_000),
            ("1GiB", 1 << 30),
            ("16kB", 16_000),
            ("16KiB", 16_384),
            ("7B", 7),
            ("0B", 0),
        ] {
            assert_eq!(parse(text), Ok(octets), "{text}");
        }
        for text in [
            "",
            "10",
            "MB",
            "1.5MB",
            "-1MB",
            "10Mbit",
            "99999999999GB",
            "é",
        ] {
            assert_eq!(parse(text), Err(NoAmount), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for octets in [
            0,
            1,
            999,
            1000,
            16_384,
            1_500_000,
            10_000_000,
            3_000_000_000,
        ] {
            assert_eq!(parse(&write(octets)), Ok(octets), "{}", write(octets));
        }
        assert_eq!(write(1_500_000), "1500kB");
    }
}
