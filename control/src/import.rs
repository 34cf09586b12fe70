//! `causeway device import`: many names at once, from a list, each with a fresh DDNS key. All of them or none.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use directory::{DeviceName, NameError, Token, TokenHash, Withheld};
use relay::files;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::devices::now_ms;
use crate::state::{StateDirectory, StateError};
use crate::store::{self, DATABASE, Store, StoreError};

/// The names of a list, and where they stand in it.
#[derive(Debug)]
pub struct List {
    names: Vec<DeviceName>,
    /// Of each name, from 1.
    lines: Vec<usize>,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A line is no name of a device.
    #[error("line {line}: {cause}")]
    Name {
        /// Which, from 1.
        line: usize,
        /// What is wrong with it.
        cause: NameError,
    },
    /// A line says what an earlier one has said.
    #[error("line {line}: {name} stands in line {before} already")]
    Twice {
        /// Which, from 1.
        line: usize,
        /// The name.
        name: DeviceName,
        /// Where it stands too.
        before: usize,
    },
    /// A name is registered already.
    #[error("line {line}: {name} is registered already")]
    Taken {
        /// Which line, from 1.
        line: usize,
        /// The name.
        name: DeviceName,
    },
    /// A name may not be given.
    #[error("line {line}: {name}: {reason}")]
    Withheld {
        /// Which line, from 1.
        line: usize,
        /// The name.
        name: DeviceName,
        /// Why.
        reason: Withheld,
    },
    /// A server works on the state directory.
    #[error("a causeway is running on {}; stop it, import, and start it again", .0.display())]
    Running(PathBuf),
    /// No server has ever worked there.
    #[error("{} holds no causeway state; name its directory with --state", .0.display())]
    NoState(PathBuf),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The keys cannot be kept.
    #[error("{}: {cause}", file.display())]
    Keys {
        /// In which file.
        file: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// No randomness for a key.
    #[error("the system gives no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
}

impl List {
    /// Reads one name a line; passes over blank lines and those that begin with `#`.
    ///
    /// # Errors
    /// The first line that is no name, or one that stands there already.
    pub fn parse(text: &str) -> Result<Self, ImportError> {
        let (mut names, mut lines) = (Vec::new(), Vec::new());
        let mut line_by_name = HashMap::new();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let name =
                DeviceName::parse(text).map_err(|cause| ImportError::Name { line, cause })?;
            if let Some(before) = line_by_name.insert(name.clone(), line) {
                return Err(ImportError::Twice { line, name, before });
            }
            names.push(name);
            lines.push(line);
        }
        Ok(Self { names, lines })
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    fn taken(&self, at: usize) -> Option<ImportError> {
        Some(ImportError::Taken {
            line: *self.lines.get(at)?,
            name: self.names.get(at)?.clone(),
        })
    }

    /// What is wrong with the name at a place of the list.
    fn withheld(&self, at: usize, reason: Withheld) -> Option<ImportError> {
        Some(ImportError::Withheld {
            line: *self.lines.get(at)?,
            name: self.names.get(at)?.clone(),
            reason,
        })
    }
}

/// Names that were registered, with their keys.
#[derive(Debug)]
pub struct Imported {
    zone: directory::Zone,
    keys: Vec<(DeviceName, Token)>,
}

impl Imported {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// One `name,key` for each line, in the order of the list: what is shown once. In JSON an array of objects.
    pub fn reveal(&self, json: bool) -> Zeroizing<String> {
        #[derive(Serialize)]
        struct Row<'a> {
            name: &'a str,
            host: String,
            key: &'a str,
        }
        let mut text = Zeroizing::new(String::with_capacity(self.keys.len() * 64));
        for (at, (name, key)) in self.keys.iter().enumerate() {
            let key = key.reveal();
            if json {
                let host = self.zone.name_of(name);
                let name = name.as_str();
                // A name and a key have nothing in them that serde would refuse.
                let row = serde_json::to_string(&Row { name, host, key }).unwrap_or_default();
                text.extend([if at == 0 { "[\n  " } else { ",\n  " }, &row]);
            } else {
                text.extend([name.as_str(), ",", key, "\n"]);
            }
        }
        if json {
            text.push_str(if self.is_empty() { "[]\n" } else { "\n]\n" });
        }
        text
    }
}

/// Registers all names of `list` in the state directory `state`, on which no server may be running. With `keys` they are in
/// that file, which is new and its owner's alone, before any name is registered. `progress` hears how many are done.
///
/// # Errors
/// [`ImportError::Taken`] for the first name that is registered already, or if a part of it cannot be done. Nothing is
/// registered then, and there is no file.
pub async fn import(
    state: &Path,
    list: &List,
    keys: Option<(&Path, bool)>,
    progress: impl FnMut(usize),
) -> Result<Imported, ImportError> {
    let database = state.join(DATABASE);
    if !database.exists() {
        return Err(ImportError::NoState(state.to_owned()));
    }
    let state = StateDirectory::open(state)?;
    let _lock = state.lock().map_err(|error| match error {
        StateError::InUse(directory) => ImportError::Running(directory),
        error @ (StateError::Io { .. }
        | StateError::Open(_)
        | StateError::Moved(_)
        | StateError::Secret(_)) => error.into(),
    })?;
    let store = Store::open_existing(&database).await?;
    let tokens = list
        .names
        .iter()
        .map(|name| Ok((name.clone(), Token::generate()?)));
    let imported = Imported {
        zone: store.zone().await?,
        keys: tokens.collect::<Result<_, getrandom::Error>>()?,
    };
    let file = keys.map(|(file, json)| KeyFile::write(file, &imported.reveal(json)));
    let file = file.transpose()?;
    let hashes = imported.keys.iter();
    let hashes: Vec<(DeviceName, TokenHash)> = hashes
        .map(|(name, key)| (name.clone(), key.hash()))
        .collect();
    let registered = store.register_many(&hashes, now_ms(), progress).await;
    store.close().await;
    match registered {
        Ok(()) => {
            if let Some(file) = file {
                file.keep();
            }
            Ok(imported)
        }
        Err(store::ImportError::Taken { at }) => {
            Err(list.taken(at).unwrap_or(StoreError::Damaged("name").into()))
        }
        Err(store::ImportError::Withheld { at, reason }) => {
            let withheld = list.withheld(at, reason);
            Err(withheld.unwrap_or(StoreError::Damaged("name").into()))
        }
        Err(store::ImportError::Store(error)) => Err(error.into()),
    }
}

/// A file with keys, which is gone again unless it is kept.
struct KeyFile(Option<PathBuf>);

impl KeyFile {
    fn write(path: &Path, text: &str) -> Result<Self, ImportError> {
        let failed = |cause| ImportError::Keys {
            file: path.to_owned(),
            cause,
        };
        // One that is there may hold keys that work, and may be open to others.
        let mut file = files::new_private(path).map_err(failed)?;
        let written = Self(Some(path.to_owned()));
        let text = file.write_all(text.as_bytes());
        text.and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(written)
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path); // what is left is worth nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use directory::Zone;
    use tempfile::TempDir;

    use super::*;

    async fn state() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let zone = Zone::parse("nas.localhost").unwrap();
        let store = Store::open(&folder.path().join(DATABASE), &zone).await;
        store.unwrap().close().await;
        folder
    }

    async fn devices(state: &TempDir) -> Vec<directory::Device> {
        let store = Store::open_existing(&state.path().join(DATABASE)).await;
        store.unwrap().devices().await.unwrap()
    }

    #[test]
    fn blank_lines_and_comments_are_passed_over() {
        let list = List::parse("# ours\nOne\n\n  two  \n\t# theirs\n").unwrap();
        let names: Vec<_> = list.names.iter().map(DeviceName::as_str).collect();
        assert_eq!((names, list.lines), (vec!["one", "two"], vec![2, 4]));
    }

    #[test]
    fn the_first_line_that_is_wrong_is_named() {
        for (text, sentence) in [
            ("one\n\nno name\n-\n", "line 3: "),
            (
                "one\ntwo\nONE\nno name",
                "line 3: one stands in line 1 already",
            ),
            ("cloud", "line 1: "),
        ] {
            let error = List::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(sentence), "{error}");
        }
    }

    #[tokio::test]
    async fn each_name_gets_a_key_that_is_its_own() {
        let state = state().await;
        let list = List::parse("one\ntwo\n").unwrap();
        let imported = import(state.path(), &list, None, |_| {}).await.unwrap();
        let shown = imported.reveal(false);
        for (device, line) in devices(&state).await.iter().zip(shown.lines()) {
            let (name, key) = line.split_once(',').unwrap();
            assert_eq!(device.name.as_str(), name);
            assert!(device.ddns_key.unwrap().matches(key));
        }
        assert_eq!(shown.lines().count(), 2);
        let json: serde_json::Value = serde_json::from_str(&imported.reveal(true)).unwrap();
        assert_eq!(json[1]["host"], "two.nas.localhost");
        assert!(!format!("{imported:?}").contains(json[1]["key"].as_str().unwrap()));
    }

    #[tokio::test]
    async fn a_taken_name_leaves_neither_names_nor_keys() {
        let state = state().await;
        let keys = state.path().join("keys");
        let to_file = Some((keys.as_path(), false));
        let list = List::parse("one\n").unwrap();
        import(state.path(), &list, to_file, |_| {}).await.unwrap();
        let mode = fs::metadata(&keys).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(fs::read_to_string(&keys).unwrap().starts_with("one,"));

        let list = List::parse("two\n\none\n").unwrap();
        let refused = import(state.path(), &list, to_file, |_| {}).await;
        assert!(
            matches!(refused, Err(ImportError::Keys { .. })),
            "it is not written over"
        );
        fs::remove_file(&keys).unwrap();
        let refused = import(state.path(), &list, to_file, |_| {})
            .await
            .unwrap_err();
        assert_eq!(refused.to_string(), "line 3: one is registered already");
        assert!(!keys.exists());
        assert_eq!(devices(&state).await.len(), 1);
    }

    #[tokio::test]
    async fn beside_a_running_server_nothing_is_imported() {
        let state = state().await;
        let list = List::parse("one\n").unwrap();
        let lock = StateDirectory::open(state.path()).unwrap().lock().unwrap();
        let refused = import(state.path(), &list, None, |_| {}).await.unwrap_err();
        assert!(refused.to_string().contains("is running on"), "{refused}");
        drop(lock);
        let nowhere = state.path().join("nowhere");
        let refused = import(&nowhere, &list, None, |_| {}).await.unwrap_err();
        assert!(matches!(refused, ImportError::NoState(_)), "{refused}");
        assert!(devices(&state).await.is_empty());
    }
}
