//! Which names may be given to a new holder. One rule, whoever asks for the name.
//!
//! | refused | because |
//! |---|---|
//! | anything but letters, digits and inner hyphens, `xn--…` | it is no [`DeviceName`]: other letters look alike by the thousand |
//! | a reserved name | of its row in `reserved` |
//! | what looks like a reserved name, or like one that is in use | visitors would be led astray: [`Skeleton`] |
//! | what was given up within [`REST`] | certificates, bookmarks and caches still know the last holder |
//!
//! A name that is held already stays with its holder whatever this rule becomes, so [`DeviceName::parse`] refuses only
//! what can never be a device: the operator's own hosts.

mod reserved;
mod skeleton;

use std::time::Duration;

use crate::name::DeviceName;

pub use skeleton::Skeleton;

/// How long a name rests after its holder gave it up. As long as the last certificate for it may be good: with it, the
/// last holder could pass for the next one. Nothing else that outlives a holder (TTLs, a browser's memory of HTTPS, update
/// clients that were forgotten somewhere) needs longer.
pub const REST: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// What is known of others that speaks against giving a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NameFacts {
    /// Whether a name that is in use has the same [`Skeleton`].
    pub has_lookalike: bool,
    /// When a holder last gave up a name of the same skeleton, in milliseconds since 1970.
    pub freed_at_ms: Option<i64>,
}

/// Why a name is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Withheld {
    /// It is held back.
    #[error("this name is reserved: {reason}; choose another")]
    Reserved {
        /// A sentence's second half.
        reason: &'static str,
    },
    /// It can be taken for a name that is held back.
    #[error("this name can be taken for {reserved:?}, which is reserved; choose another")]
    LooksReserved {
        /// That name.
        reserved: &'static str,
    },
    /// It can be taken for a name in use. Which one is not told: everybody may ask the DNS about a name they know, but
    /// whoever wants a name must not be told those of others.
    #[error("this name can be taken for one that is in use; choose another")]
    LooksHeld,
    /// It was given up not long ago.
    #[error("this name, or one like it, was given up less than 90 days ago and rests")]
    Resting {
        /// When it may be given again, in milliseconds since 1970.
        until_ms: i64,
    },
}

/// Whether `name`, which nobody holds, may be given at `now_ms` (milliseconds since 1970).
///
/// # Errors
/// The first reason against it; those that time does not heal come first.
pub fn may_be_given(name: &DeviceName, facts: NameFacts, now_ms: i64) -> Result<(), Withheld> {
    if let Some(reason) = reserved::reason(name.as_str()) {
        return Err(Withheld::Reserved { reason });
    }
    if let Some(reserved) = reserved::lookalike(&Skeleton::of(name)) {
        return Err(Withheld::LooksReserved { reserved });
    }
    if facts.has_lookalike {
        return Err(Withheld::LooksHeld);
    }
    let rested_at = |freed_at_ms: i64| freed_at_ms.saturating_add(REST.as_millis() as i64);
    match facts.freed_at_ms.map(rested_at) {
        Some(until_ms) if now_ms < until_ms => Err(Withheld::Resting { until_ms }),
        Some(_) | None => Ok(()),
    }
}

impl DeviceName {
    /// Whether the name is held back: no device is given it, so the operator's own records may stand there.
    pub fn is_reserved(&self) -> bool {
        reserved::reason(self.as_str()).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;
    const DAY: i64 = 24 * 60 * 60 * 1000;

    fn asked(name: &str, facts: NameFacts) -> Result<(), Withheld> {
        may_be_given(&DeviceName::parse(name).unwrap(), facts, NOW)
    }

    #[test]
    fn reserved_names_and_what_looks_like_them_are_withheld() {
        assert_eq!(asked("mynas", NameFacts::default()), Ok(()));
        let refused = asked("wpad", NameFacts::default()).unwrap_err();
        assert!(refused.to_string().contains("believe what they find"));
        assert!(DeviceName::parse("wpad").unwrap().is_reserved());
        assert!(!DeviceName::parse("re1ay").unwrap().is_reserved());
        assert_eq!(
            asked("re1ay", NameFacts::default()),
            Err(Withheld::LooksReserved { reserved: "relay" })
        );
    }

    #[test]
    fn what_looks_like_a_name_in_use_is_withheld_without_saying_which() {
        let facts = NameFacts {
            has_lookalike: true,
            freed_at_ms: Some(NOW),
        };
        let refused = asked("mynas", facts).unwrap_err();
        assert_eq!(refused, Withheld::LooksHeld);
        assert!(!refused.to_string().contains("mynas"));
    }

    #[test]
    fn a_name_rests_for_ninety_days_to_the_millisecond() {
        let facts = |freed_at_ms| NameFacts {
            has_lookalike: false,
            freed_at_ms: Some(freed_at_ms),
        };
        assert_eq!(asked("mynas", facts(NOW - 90 * DAY)), Ok(()));
        for freed_at in [NOW - 90 * DAY + 1, NOW, NOW + DAY] {
            let until_ms = freed_at + 90 * DAY;
            assert_eq!(
                asked("mynas", facts(freed_at)),
                Err(Withheld::Resting { until_ms })
            );
        }
        assert!(asked("mynas", facts(i64::MAX)).is_err());
        assert!(asked("mynas", facts(i64::MIN)).is_ok());
    }
}
