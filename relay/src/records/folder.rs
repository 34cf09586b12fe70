//! The folder of records: a file for each day, run and stream, and when it goes.
//!
//! ```text
//!   2026-11-27-0199a6d5e4f31b2c.records      with masked addresses
//!   2026-11-27-0199a6d5e4f31b2c.addresses    with whole ones
//! ```
//!
//! No file is written to by two runs: what a killed one has left stays as it is, and none has to be read to go on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use rustix::fs::{Access, access};
use wire::record::Stream;
use wire::record::batch::Run;

use crate::files::make_private_directory;

const DAY_SECONDS: u64 = 24 * 60 * 60;

/// 9999-12-31, and the end of it: later dates have no four-digit year.
const LAST_DAY: u32 = 2_932_896;
const LAST_MS: u64 = 253_402_300_799_999;

/// How often it is looked what has expired.
const LOOK: Duration = Duration::from_secs(60 * 60);

/// A clock that has moved so much more, or less, than time has passed was set.
const JUMP: Duration = Duration::from_secs(10 * 60);

/// The day of a moment, counted from 1970-01-01, UTC.
pub fn day_of(moment: SystemTime) -> u32 {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    let day = since.as_secs().checked_div(DAY_SECONDS).unwrap_or_default();
    u32::try_from(day).unwrap_or(LAST_DAY).min(LAST_DAY)
}

/// A moment in milliseconds since 1970, as people read it: `2026-11-27T21:14:05.123Z`.
pub fn moment(ms: u64) -> String {
    let moment = UNIX_EPOCH + Duration::from_millis(ms.min(LAST_MS));
    humantime::format_rfc3339_millis(moment).to_string()
}

/// One file of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DayFile {
    pub(super) day: u32,
    pub(super) run: Run,
    pub(super) stream: Stream,
    pub(super) path: PathBuf,
}

impl DayFile {
    pub(super) fn new(folder: &Path, day: u32, run: Run, stream: Stream) -> Self {
        let date = moment(u64::from(day.min(LAST_DAY)) * DAY_SECONDS * 1000);
        let date = date.split('T').next().unwrap_or_default();
        let name = format!("{date}-{}.{}", HEXLOWER.encode(&run.0), ending(stream));
        Self {
            day,
            run,
            stream,
            path: folder.join(name),
        }
    }

    /// `None` if the name is none of ours.
    fn at(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (name, found) = name.split_once('.')?;
        let stream = Stream::ALL
            .into_iter()
            .find(|stream| ending(*stream) == found)?;
        let (date, run) = name.split_at_checked(10)?;
        let day = humantime::parse_rfc3339(&format!("{date}T00:00:00Z")).ok()?;
        let run = HEXLOWER.decode(run.strip_prefix('-')?.as_bytes()).ok()?;
        Some(Self {
            day: day_of(day),
            run: Run(run.try_into().ok()?),
            stream,
            path,
        })
    }
}

fn ending(stream: Stream) -> &'static str {
    match stream {
        Stream::Masked => "records",
        Stream::Full => "addresses",
    }
}

/// The files in `folder`, the oldest first.
pub(super) fn files(folder: &Path) -> io::Result<Vec<DayFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        files.extend(DayFile::at(entry?.path()));
    }
    files.sort_by(|a, b| (a.day, a.run, &a.path).cmp(&(b.day, b.run, &b.path)));
    Ok(files)
}

/// How many files of records are in `folder`: none if there is no such folder.
pub fn count(folder: &Path) -> usize {
    files(folder).map_or(0, |files| files.len())
}

/// Makes `folder` unless it is there, and sees whether files can be made in it.
///
/// # Errors
/// If only the operator can mend it. A disk that is full, or does not work, may work later: then records are dropped and counted.
pub(super) fn prepare(folder: &Path) -> io::Result<()> {
    use io::ErrorKind::{AlreadyExists, NotADirectory, PermissionDenied, ReadOnlyFilesystem};
    let made = make_private_directory(folder);
    let entered = made.and_then(|()| Ok(access(folder, Access::WRITE_OK | Access::EXEC_OK)?));
    match entered.as_ref().map_err(io::Error::kind) {
        Err(AlreadyExists | NotADirectory | PermissionDenied | ReadOnlyFilesystem) => entered,
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes what has expired, a whole day at a time: every hour, but only if the clock has gone as time has since the look before.
/// One that is wrong for a moment, or when the machine starts, must not cost a month; so the first look removes nothing unless an
/// earlier run has written records at about this time.
#[derive(Debug)]
pub(super) struct Expiry {
    folder: PathBuf,
    keep: Duration,
    last_look: Option<(SystemTime, Instant)>,
}

impl Expiry {
    pub(super) fn new(folder: PathBuf, keep: Duration) -> Self {
        let last_look = None;
        Self {
            folder,
            keep,
            last_look,
        }
    }

    /// How long until the next look.
    pub(super) fn due_in(&self, at: Instant) -> Duration {
        match self.last_look {
            Some((_, last)) => LOOK.saturating_sub(at.saturating_duration_since(last)),
            None => Duration::ZERO,
        }
    }

    /// Removes what has expired by `now`.
    pub(super) fn look(&mut self, now: SystemTime, at: Instant) {
        let Some((wall, instant)) = self.last_look.replace((now, at)) else {
            if self.earlier_run_agrees(now) {
                self.remove_expired(now);
            }
            return;
        };
        let expected = wall + at.saturating_duration_since(instant);
        let off = now.duration_since(expected);
        let off = off.unwrap_or_else(|error| error.duration());
        if off > JUMP {
            tracing::warn!(
                ?off,
                "the clock was set; records that have expired by it are removed in an hour"
            );
            return;
        }
        self.remove_expired(now);
    }

    /// Whether the newest records are from about now: who is restarted again and again must not keep them for ever.
    fn earlier_run_agrees(&self, now: SystemTime) -> bool {
        let files = files(&self.folder).unwrap_or_default();
        let newest = files.last();
        newest.is_some_and(|newest| newest.day.abs_diff(day_of(now)) <= 1)
    }

    fn remove_expired(&self, now: SystemTime) {
        match self.remove(now) {
            Ok(0) => {}
            Ok(files) => tracing::debug!(files, "records have expired"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // nothing was ever kept
            Err(error) => tracing::warn!(%error, "expired records cannot be removed"),
        }
    }

    /// Removes what can be removed; the last error, if something could not.
    fn remove(&self, now: SystemTime) -> io::Result<u32> {
        let (mut removed, mut failed) = (0, None);
        for file in files(&self.folder)? {
            let end = Duration::from_secs((u64::from(file.day) + 1) * DAY_SECONDS);
            if UNIX_EPOCH + end + self.keep > now {
                break; // the rest is younger
            }
            match fs::remove_file(&file.path) {
                Ok(()) => removed += 1,
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(removed), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(date: &str) -> SystemTime {
        humantime::parse_rfc3339(&format!("{date}T00:00:00Z")).unwrap()
    }

    /// A folder with an empty file of each of these days, and one that is none of ours.
    fn folder(dates: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (i, date) in dates.iter().enumerate() {
            let (run, stream) = (Run([i as u8; 8]), Stream::ALL[i % 2]);
            let file = DayFile::new(folder.path(), day_of(day(date)), run, stream);
            fs::write(&file.path, "").unwrap();
            assert_eq!(DayFile::at(file.path.clone()), Some(file));
        }
        fs::write(folder.path().join("1970-01-01.txt"), "").unwrap();
        folder
    }

    fn days(folder: &tempfile::TempDir) -> Vec<u32> {
        let files = files(folder.path()).unwrap();
        files.iter().map(|file| file.day).collect()
    }

    const HOUR: Duration = Duration::from_secs(60 * 60);

    #[test]
    fn days_go_when_their_last_record_is_old_enough_and_no_sooner() {
        let folder = folder(&["2026-10-02", "2026-09-30", "2026-10-01", "2027-01-01"]);
        let mut expiry = Expiry::new(folder.path().to_owned(), 30 * 24 * HOUR);
        let (start, at) = (day("2026-10-30"), Instant::now());
        assert_eq!(expiry.due_in(at), Duration::ZERO);
        let first = day_of(day("2026-09-30"));
        let mut passed = Duration::ZERO;
        for left in [4, 3, 2, 1, 1] {
            // A look for every hour up to the day's last, at which nothing more goes.
            for _ in 0..24 {
                expiry.look(start + passed, at + passed);
                assert_eq!(days(&folder).len(), left, "{passed:?}");
                assert_eq!(expiry.due_in(at + passed), LOOK);
                passed += HOUR;
            }
        }
        assert_eq!(days(&folder), [first + 93]);
        assert!(folder.path().join("1970-01-01.txt").exists());
    }

    #[test]
    fn a_clock_that_jumps_takes_nothing_with_it_unless_it_stays_there() {
        let folder = folder(&["2026-11-27"]);
        let mut expiry = Expiry::new(folder.path().to_owned(), 24 * HOUR);
        let at = Instant::now();
        expiry.look(day("2026-11-27"), at);
        expiry.look(day("2038-01-19"), at + HOUR);
        expiry.look(day("2026-11-27") + 2 * HOUR, at + 2 * HOUR);
        expiry.look(day("1970-01-01"), at + 3 * HOUR);
        expiry.look(day("2027-11-27"), at + 4 * HOUR);
        assert_eq!(days(&folder).len(), 1);
        expiry.look(day("2027-11-27") + HOUR, at + 5 * HOUR);
        assert_eq!(days(&folder).len(), 0);
    }

    #[test]
    fn a_clock_that_is_wrong_at_the_start_takes_nothing_with_it_unless_it_stays_there() {
        let folder = folder(&["2026-11-27"]);
        let at = Instant::now();
        for wrong in ["2100-01-01", "1970-01-01"] {
            let mut expiry = Expiry::new(folder.path().to_owned(), 24 * HOUR);
            expiry.look(day(wrong), at);
            expiry.look(day("2026-11-27") + HOUR, at + HOUR);
            expiry.look(day("2026-11-27") + 2 * HOUR, at + 2 * HOUR);
            assert_eq!(days(&folder).len(), 1, "{wrong}");
        }
        let mut expiry = Expiry::new(folder.path().to_owned(), 24 * HOUR);
        expiry.look(day("2026-12-01"), at);
        assert_eq!((days(&folder).len(), count(folder.path())), (1, 1));
        expiry.look(day("2026-12-01") + HOUR, at + HOUR);
        assert_eq!((days(&folder).len(), count(folder.path())), (0, 0));
    }

    #[test]
    fn who_is_restarted_again_and_again_keeps_no_more_than_others() {
        let folder = folder(&["2026-11-01", "2026-11-27"]);
        for (now, left) in [("2026-11-29", 2), ("2026-11-25", 2), ("2026-11-28", 1)] {
            let mut expiry = Expiry::new(folder.path().to_owned(), 24 * HOUR);
            expiry.look(day(now), Instant::now());
            assert_eq!(days(&folder).len(), left, "{now}");
        }
    }

    #[test]
    fn no_clock_is_too_wrong_to_give_a_day() {
        let far = UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 86_400 * 10);
        for moment in [UNIX_EPOCH - HOUR, UNIX_EPOCH, far] {
            let file = DayFile::new(Path::new("/x"), day_of(moment), Run([0; 8]), Stream::Masked);
            assert_eq!(DayFile::at(file.path.clone()), Some(file));
        }
        assert_eq!(moment(u64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
