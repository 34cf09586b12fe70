//! What the operator does with connection records: makes the key they are sealed to, and reads them with its other half.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use relay::files;
use relay::records::{self, Found, KeyError, PublicKey, ReadError, SecretKey, day_of, moment};
use serde::Serialize;
use wire::record::{Record, Visitor};

/// Why there is nothing to show, or no key.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// A file cannot be read or written.
    #[error("{}: {cause}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// A file that should hold a key holds something else.
    #[error("{}: {cause}", path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        cause: KeyError,
    },
    /// The system has no randomness to give.
    #[error("no key can be made: the system has no randomness to give")]
    NoRandomness,
    /// Records cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Nobody has this name or this id.
    #[error(
        "no device here is called {0}; of one that is gone, or of another server, the id is needed: 26 letters and digits"
    )]
    NoSuchDevice(String),
    /// Neither a moment nor a time.
    #[error("{0} is no moment; 2026-11-27, 2026-11-27T20:15:00Z and 2h (before now) are")]
    NoMoment(String),
}

/// Makes a key, keeps its secret half in a new file that only its owner can read, and gives the other half.
///
/// # Errors
/// If the file is there already, or cannot be written.
pub fn make_key(path: &Path) -> Result<PublicKey, RecordsError> {
    let key = SecretKey::generate().ok_or(RecordsError::NoRandomness)?;
    let failed = |cause| RecordsError::File {
        path: path.to_owned(),
        cause,
    };
    // One that is there may be what many records are sealed to.
    let mut file = files::new_private(path).map_err(failed)?;
    let written = writeln!(file, "{}", &*key.reveal());
    written.and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(key.public())
}

/// Which records are to be shown, and how.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Of connections that had not ended before.
    pub since: Option<SystemTime>,
    /// Of connections that had begun by then.
    pub until: Option<SystemTime>,
    /// Of this device, by name or id.
    pub device: Option<String>,
    /// As JSON, an object a line.
    pub json: bool,
}

impl Wanted {
    fn wants(&self, record: &Record, id: Option<&str>) -> bool {
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        self.since
            .is_none_or(|since| at(record.ended_ms()) >= since)
            && self
                .until
                .is_none_or(|until| at(record.started_ms) <= until)
            && id.is_none_or(|id| record.device.to_string() == id)
    }
}

/// Reads a moment as people write it: a date, a date with a time, or how long before `now`.
///
/// # Errors
/// If it is neither.
pub fn parse_moment(text: &str, now: SystemTime) -> Result<SystemTime, RecordsError> {
    let date = humantime::parse_rfc3339(&format!("{text}T00:00:00Z"));
    let moment = date.or_else(|_| humantime::parse_rfc3339_weak(text)).ok();
    let before = || now.checked_sub(humantime::parse_duration(text).ok()?);
    moment
        .or_else(before)
        .ok_or_else(|| RecordsError::NoMoment(text.to_owned()))
}

/// A record, for programs.
#[derive(Debug, Serialize)]
struct Line<'a> {
    started: String,
    ended: String,
    seconds: f64,
    device: String,
    name: Option<&'a str>,
    visitor: String,
    to_device: u64,
    to_visitor: u64,
    end: &'static str,
    carrier: &'static str,
    raw: bool,
}

/// Writes the records in `folder` to `out`, one a line, the newest last, and to `beside` what is wrong with them. `names` has the
/// names of devices by their ids.
///
/// # Errors
/// If nothing can be read.
pub fn show(
    folder: &Path,
    key: &Path,
    wanted: &Wanted,
    names: &HashMap<String, String>,
    out: &mut dyn Write,
    beside: &mut dyn Write,
) -> Result<(), RecordsError> {
    let text = std::fs::read_to_string(key).map(zeroize::Zeroizing::new);
    let path = || key.to_owned();
    let text = text.map_err(|cause| RecordsError::File {
        path: path(),
        cause,
    })?;
    let secret = SecretKey::read(&text).map_err(|cause| RecordsError::Key {
        path: path(),
        cause,
    })?;
    let id = wanted.device.as_deref().map(|device| id_of(device, names));
    let id = id.transpose()?;
    let from_day = wanted.since.map_or(0, day_of);
    let width = names.values().map(String::len).max().unwrap_or(0);
    let read = records::read(folder, &secret, from_day, &mut |found| match found {
        Found::Note(note) => writeln!(beside, "{note}"),
        Found::Record(record) if !wanted.wants(&record, id.as_deref()) => Ok(()),
        Found::Record(record) if wanted.json => {
            serde_json::to_writer(&mut *out, &line(&record, names))?;
            writeln!(out)
        }
        Found::Record(record) => write_line(&record, names, width, out),
    });
    match read.and_then(|()| out.flush().map_err(ReadError::Told)) {
        // `head` has seen enough.
        Err(ReadError::Told(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        read => Ok(read?),
    }
}

fn id_of(device: &str, names: &HashMap<String, String>) -> Result<String, RecordsError> {
    let named = names.iter().find(|(_, name)| name.as_str() == device);
    if let Some((id, _)) = named {
        return Ok(id.clone());
    }
    let is_id = device.len() == 26 && device.bytes().all(|octet| octet.is_ascii_alphanumeric());
    match is_id {
        true => Ok(device.to_ascii_lowercase()),
        false => Err(RecordsError::NoSuchDevice(device.to_owned())),
    }
}

fn line<'a>(record: &Record, names: &'a HashMap<String, String>) -> Line<'a> {
    let device = record.device.to_string();
    Line {
        started: moment(record.started_ms),
        ended: moment(record.ended_ms()),
        seconds: Duration::from_millis(record.length_ms).as_secs_f64(),
        name: names.get(&device).map(String::as_str),
        device,
        visitor: record.visitor.to_string(),
        to_device: record.to_device,
        to_visitor: record.to_visitor,
        end: record.end.name(),
        carrier: record.carrier.name(),
        raw: record.raw,
    }
}

fn write_line(
    record: &Record,
    names: &HashMap<String, String>,
    width: usize,
    out: &mut dyn Write,
) -> io::Result<()> {
    let line = line(record, names);
    let address_width = match record.visitor {
        Visitor::Address(_) => 21,
        Visitor::Network4(_) | Visitor::Network6(_) => 18,
    };
    writeln!(
        out,
        "{}  {:>10.3} s  {:<width$}  {:<address_width$}  in {}  out {}  {}  {}{}",
        line.started,
        line.seconds,
        line.name.unwrap_or(&line.device),
        line.visitor,
        line.to_device,
        line.to_visitor,
        line.end,
        line.carrier,
        if line.raw { "+raw" } else { "" },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_people_write_them() {
        let now = humantime::parse_rfc3339("2026-11-27T20:15:00Z").unwrap();
        for (text, expected) in [
            ("2026-11-27", "2026-11-27T00:00:00Z"),
            ("2026-11-27T01:02:03Z", "2026-11-27T01:02:03Z"),
            ("2026-11-27 01:02:03", "2026-11-27T01:02:03Z"),
            ("2h", "2026-11-27T18:15:00Z"),
            ("1d 15m", "2026-11-26T20:00:00Z"),
        ] {
            let read = parse_moment(text, now).unwrap();
            assert_eq!(humantime::format_rfc3339(read).to_string(), expected);
        }
        for bad in ["", "yesterday", "2026-13-01", "27.11.2026"] {
            assert!(parse_moment(bad, now).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_device_is_found_by_its_name_or_its_id_and_no_other_way() {
        let names = HashMap::from([("0".repeat(26), "mynas".to_owned())]);
        assert_eq!(id_of("mynas", &names).unwrap(), "0".repeat(26));
        assert_eq!(id_of(&"A".repeat(26), &names).unwrap(), "a".repeat(26));
        let error = id_of("other", &names).unwrap_err().to_string();
        assert!(error.contains("no device here is called other"), "{error}");
    }

    #[test]
    fn a_key_is_never_written_over_another() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.key");
        let public = make_key(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(SecretKey::read(&text).unwrap().public(), public);
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(make_key(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}
