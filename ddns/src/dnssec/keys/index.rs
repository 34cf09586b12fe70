//! `keys.json`: which keys there are, and their moments.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::key::Role;
use super::premade::{Premade, SignedPeriod};
use super::ring::Held;
use super::timing::Timing;

/// What is written there first, so that a later program knows what it reads.
pub(super) const VERSION: u32 = 1;

/// `keys.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Index {
    pub(super) version: u32,
    pub(super) keys: Vec<Entry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) premade: Vec<SignedBy>,
    /// What the keys are to be when KSKs elsewhere have signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) planned: Option<Planned>,
}

/// What the keys are to be.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Planned {
    pub(super) keys: Vec<Entry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) premade: Vec<SignedBy>,
}

/// What a KSK has signed elsewhere.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignedBy {
    pub(super) key: u16,
    pub(super) signed: SignedPeriod,
}

impl SignedBy {
    pub(super) fn all(premade: &[Arc<Premade>]) -> Vec<Self> {
        let one = |premade: &Arc<Premade>| Self {
            key: premade.key().tag(),
            signed: premade.signed().clone(),
        };
        premade.iter().map(one).collect()
    }
}

/// One key, which is in a file beside.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) role: Role,
    pub(super) tag: u16,
    /// Whether its private half is elsewhere.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) offline: bool,
    pub(super) timing: Timing,
}

impl Entry {
    pub(super) fn of(Held { key, timing }: &Held) -> Self {
        Self {
            role: key.role(),
            tag: key.tag(),
            offline: key.is_offline(),
            timing: *timing,
        }
    }

    /// The name of its file.
    pub(super) fn file(&self) -> String {
        let role = match self.role {
            Role::Ksk => "ksk",
            Role::Zsk => "zsk",
        };
        let end = if self.offline { "pub" } else { "pem" };
        format!("{role}-{}.{end}", self.tag)
    }
}
