//! What was found of one thing.

use std::fmt;

use serde::Serialize;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub subject: String,
    /// How it is.
    pub health: Health,
    /// What was seen, and what to do if it is not well.
    pub words: String,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// As it should be.
    Well,
    /// It works, and could be faster.
    Slow,
    /// The device cannot be reached, or only by another way.
    Ill,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Well => "ok",
            Self::Slow => "slow",
            Self::Ill => "bad",
        })
    }
}

pub(super) fn finding(
    subject: impl Into<String>,
    health: Health,
    words: impl Into<String>,
) -> Finding {
    Finding {
        subject: subject.into(),
        health,
        words: words.into(),
    }
}
