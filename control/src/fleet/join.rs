//! The file with which a relay joins: what `causeway relay add` writes and a relay with a process of its own reads.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Everything a relay needs to follow control.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JoinFile {
    /// What the operator calls the relay.
    pub(crate) name: String,
    /// The zone it serves.
    pub(crate) zone: String,
    /// `https://cloud.<zone>[:port]`
    pub(crate) control: String,
    /// The port of its front, as agents are told it.
    pub(crate) port: u16,
    /// Vouches for control, in PEM.
    pub(crate) trust_root: String,
    /// Who the relay is: an Ed25519 key in PEM (PKCS #8).
    pub(crate) key: Zeroizing<String>,
}

impl JoinFile {
    /// The text of the file.
    ///
    /// # Errors
    /// Never, for what the fields can hold.
    pub(crate) fn write(&self) -> Result<Zeroizing<String>, toml::ser::Error> {
        let head = format!(
            "# With this file the relay {} joins {}. Whoever has it is that relay: copy it to that machine, readable by\n\
             # the server's user only, and name it with `join` in [relay]. `causeway relay remove {}` makes it worthless.\n",
            self.name, self.zone, self.name
        );
        Ok((head + &toml::to_string_pretty(self)?).into())
    }

    /// Reads it. What is wrong is told without repeating what stands there.
    ///
    /// # Errors
    /// If it is no such file.
    pub(crate) fn read(text: &str) -> Result<Self, JoinError> {
        toml::from_str(text).map_err(|error| JoinError {
            line: error.span().map_or(1, |span| {
                1 + text
                    .get(..span.start)
                    .unwrap_or_default()
                    .matches('\n')
                    .count()
            }),
        })
    }
}

impl fmt::Debug for JoinFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinFile")
            .field("name", &self.name)
            .field("zone", &self.zone)
            .finish_non_exhaustive()
    }
}

/// The file is none that `causeway relay add` has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: this is no file of `causeway relay add`")]
pub(crate) struct JoinError {
    line: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written_and_nothing_of_it_is_repeated() {
        let file = JoinFile {
            name: "eu1".to_owned(),
            zone: "nas.test".to_owned(),
            control: "https://cloud.nas.test".to_owned(),
            port: 443,
            trust_root: "root\nof trust\n".to_owned(),
            key: "SECRET\n".to_owned().into(),
        };
        let text = file.write().unwrap();
        let read = JoinFile::read(&text).unwrap();
        assert_eq!(
            (read.key.as_str(), read.trust_root.as_str()),
            ("SECRET\n", "root\nof trust\n")
        );
        assert!(!format!("{read:?}").contains("SECRET"));
        let error = JoinFile::read("name = \"eu1\"\nkey = SECRET\n").unwrap_err();
        assert_eq!(error, JoinError { line: 2 });
    }
}
