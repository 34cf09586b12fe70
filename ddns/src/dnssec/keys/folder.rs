//! The keys on the disk.
//!
//! ```text
//!  dnssec/               for its owner only
//!    keys.json           which keys there are, and their moments
//!    ksk-12345.pem       a key: PKCS#8 in PEM, for its owner only
//!    ksk-12345.pub       or its public half, where the private one is elsewhere: a DNSKEY record
//!    zsk-23456.pem
//!  dnssec.new/           the first keys while they are being written; worthless until it is renamed
//! ```
//!
//! Whatever the moment of a crash, what is there afterwards is a keyring, the one before the change or the one after: a new key's file
//! lasts before `keys.json` names it, `keys.json` is replaced as a whole, and the only files that go are of keys that were removed from
//! the zone [long ago](super::timing::KEPT), which `keys.json` may name without them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::file::{FolderError, private_key, public_key, read};
use super::index::{Entry, Index, Planned, SignedBy, VERSION};
use super::key::Key;
use super::premade::Premade;
use super::ring::{Held, Keyring};
use super::roll::RollError;
use super::timing::Leads;

/// The file that names the others.
const INDEX: &str = "keys.json";
/// Of the file that names them: 64 keys and two years of signatures have half of it.
const MAX_INDEX: u64 = 1024 * 1024;

/// Where the keys of a zone are.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// The zone's name on the wire, in lower case.
    apex: Box<[u8]>,
}

/// One thing that is done to the folder. Each lasts before the next begins.
#[derive(Debug)]
enum Step {
    /// The file is replaced as a whole.
    Write(String, Zeroizing<Vec<u8>>),
    /// The file goes, if it is there.
    Remove(String),
}

impl Folder {
    pub(super) fn new(path: PathBuf, apex: Box<[u8]>) -> Self {
        Self { path, apex }
    }

    /// The keys there; if there is nothing yet, the first keys of a zone, which last when this returns.
    pub(super) fn open(&self, now: u32, leads: Leads) -> Result<Keyring, FolderError> {
        let is_there = match fs::read_dir(&self.path) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(self.failed(error)),
        };
        if !is_there {
            self.begin(&Keyring::fresh(now, leads)?)?;
        }
        self.read(now)
    }

    /// Makes the folder, with these keys in it or not at all.
    fn begin(&self, ring: &Keyring) -> Result<(), FolderError> {
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let new = Self::new(new.into(), self.apex.clone());
        match fs::remove_dir_all(&new.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(new.failed(error)),
            Ok(()) | Err(_) => {}
        }
        let made = DirBuilder::new().mode(0o700).create(&new.path);
        made.map_err(|error| new.failed(error))?;
        new.all(steps(None, ring)?)?;
        let parent = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let renamed = fs::rename(&new.path, &self.path); // in place of an empty one, if that is there
        let synced = renamed.and_then(|()| File::open(parent)?.sync_all());
        synced.map_err(|error| self.failed(error))
    }

    /// The keys as they are there. Those that were removed by `now` do not need their files.
    pub(super) fn read(&self, now: u32) -> Result<Keyring, FolderError> {
        let metadata = fs::metadata(&self.path).map_err(|error| self.failed(error))?;
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(FolderError::OpenFolder(self.path.clone()));
        }
        let path = self.path.join(INDEX);
        let text = match read(&path, MAX_INDEX) {
            Ok((text, _)) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(FolderError::NoIndex(self.path.clone()));
            }
            Err(source) => return Err(FolderError::Io { path, source }),
        };
        let wrong = |what: String| FolderError::Index {
            path: path.clone(),
            what,
        };
        let index: Index =
            serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if index.version != VERSION {
            let what = format!("version {} is not known here", index.version);
            return Err(wrong(what));
        }
        let ring = |keys, premade| match self.ring(keys, premade, now) {
            Ok(ring) => ring.map_err(wrong),
            Err(error) => Err(error),
        };
        let mut now_in_force = ring(index.keys, index.premade)?;
        if let Some(planned) = index.planned {
            now_in_force.planned = Some(Box::new(ring(planned.keys, planned.premade)?));
        }
        Ok(now_in_force)
    }

    /// A keyring, or what is wrong with `keys.json`.
    fn ring(
        &self,
        keys: Vec<Entry>,
        premade: Vec<SignedBy>,
        now: u32,
    ) -> Result<Result<Keyring, String>, FolderError> {
        let mut held = Vec::new();
        for entry in keys {
            match self.key(&entry) {
                Ok(key) => held.push(Held {
                    key: Arc::new(key),
                    timing: entry.timing,
                }),
                Err(FolderError::Missing(_)) if entry.timing.is_removed(now) => {}
                Err(error) => return Err(error),
            }
        }
        let mut ring = match Keyring::new(held) {
            Ok(ring) => ring,
            Err(error) => return Ok(Err(error.to_string())),
        };
        for SignedBy { key: tag, signed } in premade {
            let signer = ring.held.iter().find(|held| held.key.tag() == tag);
            let Some(Held { key, .. }) = signer else {
                continue; // whose file has gone
            };
            match Premade::new(key, signed, &self.apex) {
                Ok(premade) => ring.premade.push(Arc::new(premade)),
                Err(error) => return Ok(Err(error.to_string())),
            }
        }
        Ok(Ok(ring))
    }

    fn key(&self, entry: &Entry) -> Result<Key, FolderError> {
        let path = self.path.join(entry.file());
        let key = match entry.offline {
            true => public_key(entry.role, &path)?,
            false => private_key(entry.role, &path)?,
        };
        match key.tag() == entry.tag {
            true => Ok(key),
            false => Err(FolderError::OtherKey {
                path,
                found: key.tag(),
            }),
        }
    }

    /// Makes `next` last in place of `before`.
    pub(super) fn replace(&self, before: &Keyring, next: &Keyring) -> Result<(), FolderError> {
        self.all(steps(Some(before), next)?)
    }

    /// Keeps other processes from changing the keys until the file is dropped.
    pub(super) fn lock(&self) -> Result<File, FolderError> {
        let locked = File::open(&self.path).and_then(|folder| {
            folder.lock()?;
            Ok(folder)
        });
        locked.map_err(|error| self.failed(error))
    }

    fn all(&self, steps: Vec<Step>) -> Result<(), FolderError> {
        steps.into_iter().try_for_each(|step| self.one(step))
    }

    fn one(&self, step: Step) -> Result<(), FolderError> {
        let (Step::Write(name, _) | Step::Remove(name)) = &step;
        let path = self.path.join(name);
        let done = match step {
            Step::Write(_, octets) => self.write(&path, &octets),
            Step::Remove(_) => match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            },
        };
        let lasts = done.and_then(|()| File::open(&self.path)?.sync_all());
        lasts.map_err(|source| FolderError::Io { path, source })
    }

    fn write(&self, path: &Path, octets: &[u8]) -> io::Result<()> {
        let new = path.with_extension("new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {} // of a process that has crashed
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(octets)?;
        file.sync_all()?;
        fs::rename(&new, path)
    }

    fn failed(&self, source: io::Error) -> FolderError {
        let path = self.path.clone();
        FolderError::Io { path, source }
    }
}

/// What makes `next` last in place of `before`, in order.
fn steps(before: Option<&Keyring>, next: &Keyring) -> Result<Vec<Step>, FolderError> {
    let (was, is) = (before.map(all).unwrap_or_default(), all(next));
    let is_in = |all: &[&Held], sought: &Held| all.iter().any(|held| held.key == sought.key);
    let mut steps = Vec::new();
    for held in is.iter().filter(|held| !is_in(&was, held)) {
        let private = held.key.private_text().map_err(RollError::from)?;
        let text = match private {
            Some(private) => private.reveal().to_owned(),
            None => format!("{}\n", held.key.dnskey_text()),
        };
        let octets = Zeroizing::new(text.into_bytes());
        steps.push(Step::Write(Entry::of(held).file(), octets));
    }
    let gone = was.iter().filter(|held| !is_in(&is, held));
    // What was planned and never came, `keys.json` may not name without its file.
    let (history, dropped): (Vec<_>, Vec<_>) = gone.partition(|held| held.timing.removed.is_some());
    let remove = |held: &&&Held| Step::Remove(Entry::of(held).file());
    steps.extend(history.iter().map(remove));
    let keys = |ring: &Keyring| ring.held.iter().map(Entry::of).collect();
    let index = Index {
        version: VERSION,
        keys: keys(next),
        premade: SignedBy::all(&next.premade),
        planned: next.planned.as_deref().map(|planned| Planned {
            keys: keys(planned),
            premade: SignedBy::all(&planned.premade),
        }),
    };
    let index = serde_json::to_vec_pretty(&index).map_err(|error| FolderError::Index {
        path: INDEX.into(),
        what: error.to_string(),
    })?;
    steps.push(Step::Write(INDEX.to_owned(), Zeroizing::new(index)));
    steps.extend(dropped.iter().map(remove));
    Ok(steps)
}

/// All keys of a ring, those that are only planned behind the others.
fn all(ring: &Keyring) -> Vec<&Held> {
    let planned = ring.planned.as_deref().map(|ring| &ring.held[..]);
    ring.held
        .iter()
        .chain(planned.unwrap_or_default())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::super::elsewhere::Plan;
    use super::super::key::Role;
    use super::*;

    const NOW: u32 = 1_796_000_000;
    const APEX: &[u8] = b"\x03nas\x07example\0";

    struct Place {
        _above: tempfile::TempDir,
        folder: Folder,
    }

    impl Place {
        fn new() -> Self {
            let above = tempfile::tempdir().unwrap();
            let folder = Folder::new(above.path().join("dnssec"), APEX.into());
            Self {
                _above: above,
                folder,
            }
        }

        fn open(&self) -> Result<Keyring, String> {
            let opened = self.folder.open(NOW, Leads::NONE);
            opened.map_err(|error| error.to_string())
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.folder.path).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.collect();
            names.sort_unstable();
            names
        }

        fn file(&self, start: &str) -> PathBuf {
            let names = self.names();
            let name = names.iter().find(|name| name.starts_with(start)).unwrap();
            self.folder.path.join(name)
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_first_keys_are_made_once_for_their_owner_only_and_read_again() {
        let place = Place::new();
        let half_made = place.folder.path.with_extension("new");
        fs::create_dir(&half_made).unwrap();
        fs::write(half_made.join("ksk-1.pem"), "of a process that has crashed").unwrap();
        let ring = place.open().unwrap();
        assert_eq!(place.open().unwrap(), ring);
        assert!(!half_made.exists());
        assert_eq!(mode(&place.folder.path), 0o700);
        let in_force = ring.in_force(NOW);
        let (ksk, zsk) = (in_force.ksks[0].tag(), in_force.zsk.tag());
        let keys = [format!("ksk-{ksk}.pem"), format!("zsk-{zsk}.pem")];
        assert_eq!(place.names(), ["keys.json", &keys[0], &keys[1]]);
        for name in place.names() {
            assert_eq!(mode(&place.folder.path.join(name)), 0o600);
        }
        assert!(in_force.zsk.sign(b"message").is_ok());
    }

    #[test]
    fn what_is_open_to_others_is_refused_and_the_sentence_mends_it() {
        let place = Place::new();
        let ring = place.open().unwrap();
        let refused = |path: &Path, modes: [u32; 3], mend: &str| {
            for mode in modes {
                let before = fs::metadata(path).unwrap().permissions();
                fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
                let error = place.open().unwrap_err();
                assert!(
                    error.contains(&format!("`{mend} {}`", path.display())),
                    "{error}"
                );
                fs::set_permissions(path, before).unwrap();
            }
        };
        refused(&place.folder.path, [0o750, 0o701, 0o777], "chmod 700");
        refused(&place.file("zsk"), [0o640, 0o604, 0o620], "chmod 600");
        refused(&place.file("ksk"), [0o640, 0o604, 0o644], "chmod 600");
        assert_eq!(place.open().unwrap(), ring);
    }

    #[test]
    fn what_is_not_as_it_was_written_is_refused_and_left_as_it_is() {
        let place = Place::new();
        let ring = place.open().unwrap();
        let (ksk, zsk, index) = (place.file("ksk"), place.file("zsk"), place.file("keys"));
        let text = |path: &Path| fs::read_to_string(path).unwrap();
        let index_text = text(&index);
        let half = |text: String| text[..text.len() / 2].to_owned();
        let other = Key::generate(Role::Zsk).unwrap();
        let other_text = other.private_text().unwrap().unwrap().reveal().to_owned();
        for (path, wrong, sentence) in [
            (&zsk, half(text(&zsk)), "holds no private key in PEM"),
            (&zsk, String::new(), "holds no private key in PEM"),
            (&zsk, "a".repeat(5000), "no file of ours"),
            (&zsk, other_text, "holds another key"),
            (&ksk, text(&zsk), "holds another key"),
            (&index, half(index_text.clone()), "is not as it was written"),
            (&index, String::new(), "is not as it was written"),
            (
                &index,
                index_text.replace("active", "aktive"),
                "unknown field `aktive`",
            ),
            (
                &index,
                index_text.replace("\"keys\"", "\"more\": 1, \"keys\""),
                "unknown field `more`",
            ),
            (
                &index,
                index_text.replace("\"version\": 1", "\"version\": 2"),
                "version 2 is not known",
            ),
            (
                &index,
                index_text.replace("\"published\": 1", "\"published\": 2"),
                "do not follow each other",
            ),
            (
                &index,
                index_text.replace("\"ksk\"", "\"zsk\""),
                "is missing",
            ),
            (
                &index,
                "{\"version\": 1, \"keys\": []}".to_owned(),
                "no ZSK that stays",
            ),
        ] {
            let right = text(path);
            fs::write(path, &wrong).unwrap();
            let error = place.open().unwrap_err();
            assert!(error.contains(sentence), "{sentence}: {error}");
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(error.contains(name) || sentence == "is missing", "{error}");
            assert_eq!(text(path), wrong);
            fs::write(path, right).unwrap();
        }
        for (path, sentence) in [(&ksk, "is missing"), (&index, "no keys.json")] {
            let away = path.with_extension("away");
            fs::rename(path, &away).unwrap();
            let error = place.open().unwrap_err();
            assert!(error.contains(sentence), "{error}");
            fs::rename(&away, path).unwrap();
        }
        fs::remove_file(&zsk).unwrap();
        fs::create_dir(&zsk).unwrap();
        let error = place.open().unwrap_err();
        assert!(error.contains("no file of ours"), "{error}");
        assert_eq!(text(&index), index_text);
        drop(ring);
    }

    #[test]
    fn a_crash_at_any_step_of_a_roll_leaves_the_old_keys_or_the_new() {
        let place = Place::new();
        let old = place.open().unwrap();
        let new = old.another(Role::Zsk).unwrap();
        let next = old.roll_zsk(NOW, Leads::default(), new).unwrap();
        let count = steps(Some(&old), &next).unwrap().len();
        assert_eq!(count, 2);
        for done in 0..=count {
            let place = Place::new();
            place.folder.begin(&old).unwrap();
            let mut steps = steps(Some(&old), &next).unwrap().into_iter();
            place
                .folder
                .all(steps.by_ref().take(done).collect())
                .unwrap();
            if let Some(Step::Write(name, octets)) = steps.next() {
                // The next one was under way.
                let torn = place.folder.path.join(name).with_extension("new");
                fs::write(torn, &octets[..octets.len() / 2]).unwrap();
            }
            let expected = if done == count { &next } else { &old };
            assert_eq!(place.open().unwrap(), *expected, "{done}");
            // And another try ends as it should.
            place.folder.replace(&old, &next).unwrap();
            assert_eq!(place.open().unwrap(), next);
            assert!(!place.names().iter().any(|name| name.ends_with(".new")));
        }
    }

    #[test]
    fn a_crash_while_an_old_key_goes_leaves_the_zone_as_it_is() {
        let place = Place::new();
        let first = place.open().unwrap();
        let new = first.another(Role::Zsk).unwrap();
        let rolled = first.roll_zsk(NOW, Leads::NONE, new).unwrap();
        let later = NOW + super::super::timing::KEPT;
        let left = rolled.without_history(later);
        let steps = || steps(Some(&rolled), &left).unwrap();
        assert!(
            matches!(&steps()[..], [Step::Remove(name), Step::Write(..)] if name.starts_with("zsk-"))
        );
        for done in 0..=2 {
            let place = Place::new();
            place.folder.begin(&rolled).unwrap();
            place
                .folder
                .all(steps().into_iter().take(done).collect())
                .unwrap();
            let ring = place.folder.read(later).unwrap();
            assert_eq!(ring.in_force(later), left.in_force(later));
            place
                .folder
                .replace(&ring, &ring.without_history(later))
                .unwrap();
            assert_eq!(place.open().unwrap(), left);
            assert_eq!(place.names().len(), 3);
        }
    }

    #[test]
    fn a_plan_that_another_takes_the_place_of_leaves_no_key_behind_whenever_that_crashes() {
        let place = Place::new();
        let fresh = place.open().unwrap();
        let elsewhere = Key::generate(Role::Ksk).unwrap();
        let plan = || {
            let public = Key::from_public_text(Role::Ksk, &elsewhere.dnskey_text()).unwrap();
            let planned = fresh.with_plan(Plan::RollKsk(public), NOW + 1, NOW, Leads::NONE);
            planned.unwrap()
        };
        let first = plan();
        place.folder.replace(&fresh, &first).unwrap();
        assert_eq!(place.open().unwrap(), first);
        assert_eq!(place.names().len(), 4);
        for done in 0..=2 {
            let place = Place::new();
            place.folder.begin(&first).unwrap();
            let steps = steps(Some(&first), &fresh).unwrap().into_iter();
            place.folder.all(steps.take(done).collect()).unwrap();
            let expected = if done == 0 { &first } else { &fresh };
            assert_eq!(place.open().unwrap(), *expected, "{done}");
        }
        place.folder.replace(&first, &fresh).unwrap();
        assert_eq!(place.names().len(), 3);
    }

    #[test]
    fn a_public_half_is_kept_as_a_record() {
        let place = Place::new();
        let ring = place.open().unwrap();
        let elsewhere = Key::generate(Role::Ksk).unwrap();
        let public = Key::from_public_text(Role::Ksk, &elsewhere.dnskey_text()).unwrap();
        let next = ring.roll_ksk(NOW, Leads::NONE, public).unwrap();
        place.folder.replace(&ring, &next).unwrap();
        assert_eq!(place.open().unwrap(), next);
        let file = place
            .folder
            .path
            .join(format!("ksk-{}.pub", elsewhere.tag()));
        assert_eq!(
            fs::read_to_string(file).unwrap(),
            format!("{}\n", elsewhere.dnskey_text())
        );
    }
}
