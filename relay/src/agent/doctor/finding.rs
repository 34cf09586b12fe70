//! What was found of one thing: where it is, how it is, and what to do about it.

use std::fmt;

use serde::Serialize;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where it is.
    pub hop: Hop,
    /// What was looked at.
    pub subject: String,
    /// How it is.
    pub health: Health,
    /// What was seen.
    pub words: String,
    /// What to do, if there is anything to be done.
    pub mend: Option<String>,
}

/// Where a thing is, from the device to its visitors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hop {
    /// This device: its state, clock, processor and kernel.
    Device,
    /// The network it is in, with its router.
    Network,
    /// What lies between that and the relay.
    Way,
    /// The relay, with the cloud beside it.
    Relay,
    /// The device's name.
    Name,
    /// The service that is made reachable.
    Service,
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Device => "this device",
            Self::Network => "its network",
            Self::Way => "the way to the relay",
            Self::Relay => "the relay",
            Self::Name => "its name",
            Self::Service => "its service",
        })
    }
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// As it should be.
    Well,
    /// It could not be looked at.
    Unknown,
    /// It works, and could be faster.
    Slow,
    /// The device cannot be reached, or only by another way.
    Ill,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Well => "ok",
            Self::Unknown => "?",
            Self::Slow => "slow",
            Self::Ill => "bad",
        })
    }
}

impl Hop {
    pub(super) fn well(self, subject: impl Into<String>, words: impl Into<String>) -> Finding {
        self.finding(Health::Well, subject, words, None)
    }

    pub(super) fn unknown(
        self,
        subject: impl Into<String>,
        words: impl Into<String>,
        mend: impl Into<String>,
    ) -> Finding {
        self.finding(Health::Unknown, subject, words, Some(mend.into()))
    }

    pub(super) fn slow(
        self,
        subject: impl Into<String>,
        words: impl Into<String>,
        mend: impl Into<String>,
    ) -> Finding {
        self.finding(Health::Slow, subject, words, Some(mend.into()))
    }

    pub(super) fn ill(
        self,
        subject: impl Into<String>,
        words: impl Into<String>,
        mend: impl Into<String>,
    ) -> Finding {
        self.finding(Health::Ill, subject, words, Some(mend.into()))
    }

    fn finding(
        self,
        health: Health,
        subject: impl Into<String>,
        words: impl Into<String>,
        mend: Option<String>,
    ) -> Finding {
        Finding {
            hop: self,
            subject: subject.into(),
            health,
            words: words.into(),
            mend,
        }
    }
}

/// The one to begin with: of those that are worst, the nearest to the device. `None` if nothing is amiss.
pub fn worst(findings: &[Finding]) -> Option<&Finding> {
    let amiss = findings
        .iter()
        .filter(|finding| finding.health > Health::Unknown);
    amiss.min_by_key(|finding| (std::cmp::Reverse(finding.health), finding.hop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_named_and_of_several_the_nearest() {
        let well = Hop::Device.well("pairing", "mynas");
        let unknown = Hop::Service.unknown("service", "no agent runs", "run it");
        let slow = Hop::Device.slow("UDP buffers", "small", "raise them");
        let near = Hop::Way.ill("relay", "no answer", "look at the cable");
        let far = Hop::Service.ill("service", "refused", "start it");
        assert_eq!(worst(&[well.clone(), unknown.clone()]), None);
        let findings = [well, far, slow.clone(), near.clone(), unknown];
        assert_eq!(worst(&findings), Some(&near));
        assert_eq!(worst(&findings[2..3]), Some(&slow));
    }
}
