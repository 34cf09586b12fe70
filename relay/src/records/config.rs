//! What an operator can set about records.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use wire::record::Stream;

use super::key::PublicKey;

/// Where records are kept, in the state directory.
const FOLDER: &str = "records";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A month is what operators look back.
const DEFAULT_KEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Files end with their day, so less cannot be kept.
const MIN_KEEP: Duration = DAY;

/// Ten years. More is a slip of the pen.
const MAX_KEEP: Duration = Duration::from_secs(3653 * 24 * 60 * 60);

/// The `[records]` section.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The public key that records are sealed to.
    pub key: PublicKey,
    /// Another one, to which a second stream with the visitors' whole addresses is sealed; absent: there is none.
    pub full_addresses_key: Option<PublicKey>,
    /// How long records are kept: `"30d"`.
    #[serde(default = "default_keep", with = "humantime_serde")]
    pub keep: Duration,
    /// The folder they are kept in; absent: one in the state directory.
    pub folder: Option<PathBuf>,
}

fn default_keep() -> Duration {
    DEFAULT_KEEP
}

/// Everything the writer has to know.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The streams that are on, each with the key it is sealed to.
    pub streams: Vec<(Stream, PublicKey)>,
    /// How long they are kept.
    pub keep: Duration,
    /// Where.
    pub folder: PathBuf,
}

impl Config {
    /// Where records are kept when nobody says where.
    pub fn default_folder(state: &Path) -> PathBuf {
        state.join(FOLDER)
    }

    /// What is meant, on a host whose state directory is `state`.
    pub fn setup(&self, state: &Path) -> Setup {
        let mut streams = vec![(Stream::Masked, self.key)];
        streams.extend(self.full_addresses_key.map(|key| (Stream::Full, key)));
        let folder = self.folder.clone();
        Setup {
            streams,
            keep: self.keep,
            folder: folder.unwrap_or_else(|| Self::default_folder(state)),
        }
    }

    /// The keys that `next` has otherwise. Only a start puts them in force.
    pub fn changed_for_the_next_start(&self, next: &Self) -> Vec<&'static str> {
        let Self {
            key,
            full_addresses_key,
            keep,
            folder,
        } = self;
        let differ = [
            ("key", *key != next.key),
            (
                "full_addresses_key",
                *full_addresses_key != next.full_addresses_key,
            ),
            ("keep", *keep != next.keep),
            ("folder", *folder != next.folder),
        ];
        let differ = differ.into_iter().filter(|(_, differs)| *differs);
        differ.map(|(key, _)| key).collect()
    }

    /// What no single value shows to be wrong: the key it is about, and a sentence.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if let Some(folder) = self.folder.as_ref().filter(|folder| folder.is_relative()) {
            let sentence = format!(
                "{} does not begin at the root: where it is would depend on who starts the server",
                folder.display()
            );
            faults.push(("folder", sentence));
        }
        if self.full_addresses_key == Some(self.key) {
            let sentence = "whole addresses must be sealed to a key of their own, whose other half is kept apart: make one with \
                            `causeway records key FILE`";
            faults.push(("full_addresses_key", sentence.to_owned()));
        }
        if !(MIN_KEEP..=MAX_KEEP).contains(&self.keep) {
            let sentence = "records are kept for whole days, from \"1d\" to \"3653d\"";
            faults.push(("keep", sentence.to_owned()));
        }
        faults
    }
}
