//! The zone as a master file (RFC 1035 section 5), from the table as it is, page by page. Each record stands in a line of its own, with
//! full names.
//!
//! A page begins behind the device whose label was the last of the page before, so nothing depends on one being kept here between two
//! pages; the list of labels is, so that it is not put in order for each.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::base::rdata::ComposeRecordData as _;
use domain::base::zonefile_fmt::{DisplayKind, ZonefileFmt as _};
use domain::base::{Name, ParseRecordData as _, ParsedName, Rtype, UnknownRecordData};
use domain::dep::octseq::Parser;
use domain::rdata::ZoneRecordData;
use domain::zonefile::inplace::{Entry as FileEntry, Zonefile};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::contents::Contents;
use super::records::{Entry, Records};
use crate::Moment;
use crate::protocol::Type;
use crate::table::Table;

/// Devices in a page.
const DEVICES: usize = 1000;
/// No device is added to a page that has so many octets.
const OCTETS: usize = 1 << 20;
/// The list of labels is kept so long for the next page: 40 MB for a million.
const KEPT: Duration = Duration::from_secs(60);
/// A name that changes is looked at so often until two looks agree.
const LOOKS: usize = 16;

/// Writes the zone down. A clone writes the same.
#[derive(Clone, Debug)]
pub struct Export {
    table: Arc<Table>,
    labels: Arc<Mutex<Option<Labels>>>,
}

/// Those of all devices, in order.
#[derive(Debug)]
struct Labels {
    sorted: Arc<[Box<[u8]>]>,
    used: Instant,
}

/// A part of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Whole lines.
    pub text: String,
    /// Behind whom the next page begins; `None` where this is the last.
    pub next: Option<String>,
    /// How many devices are in this page and in those before.
    pub done: usize,
    /// And how many there are.
    pub devices: usize,
}

impl Export {
    pub(crate) fn new(table: Arc<Table>) -> Self {
        Self {
            table,
            labels: Arc::default(),
        }
    }

    /// The page that begins behind a device, without signatures; or the first, in which all is that is no device's. A device that comes
    /// or goes between two pages is in them or not, and each name's records are of one moment. The first takes a second with a million
    /// devices.
    pub fn page(&self, behind: Option<&str>) -> Page {
        let labels = self.labels(behind.is_some());
        let mut text = String::new();
        let begin = match behind {
            None => {
                self.write_head(&mut text);
                0
            }
            Some(behind) => labels.partition_point(|label| **label <= *behind.as_bytes()),
        };
        let mut done = begin;
        let mut last = behind.unwrap_or_default().to_owned();
        for label in labels.iter().skip(begin).take(DEVICES) {
            if text.len() >= OCTETS {
                break;
            }
            let records = of_one_moment(|| self.contents().device(label));
            self.write(&records, &mut text);
            last = String::from_utf8_lossy(label).into_owned();
            done += 1;
        }
        let is_last = done >= labels.len();
        if is_last {
            *self.kept() = None;
        }
        Page {
            text,
            next: (!is_last).then_some(last),
            done,
            devices: labels.len(),
        }
    }

    /// Forgets the list of labels when nobody has asked for a page for a while, until `stop`.
    pub(crate) async fn tidy(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep(KEPT) => {}
            }
            let mut kept = self.kept();
            if kept
                .as_ref()
                .is_some_and(|kept| kept.used.elapsed() >= KEPT)
            {
                *kept = None;
            }
        }
    }

    /// The labels of all devices: those of the page before, if they may be, and are still kept.
    fn labels(&self, of_before: bool) -> Arc<[Box<[u8]>]> {
        let mut kept = self.kept();
        let sorted = match kept.take() {
            Some(kept) if of_before => kept.sorted,
            Some(_) | None => {
                let mut labels = self.table.labels();
                labels.sort_unstable();
                labels.into()
            }
        };
        *kept = Some(Labels {
            sorted: Arc::clone(&sorted),
            used: Instant::now(),
        });
        sorted
    }

    fn kept(&self) -> MutexGuard<'_, Option<Labels>> {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is no device's, the SOA first.
    fn write_head(&self, text: &mut String) {
        let soa = self.contents().soa(self.table.soa().serial);
        self.write(&soa, text);
        for name in self.table.other_names() {
            let records = of_one_moment(|| self.contents().node(&name));
            self.write(&records, text);
        }
    }

    fn write(&self, records: &Records, text: &mut String) {
        // As a secondary gets it that signs the zone itself.
        for entry in records.iter().filter(|entry| entry.is_for(true)) {
            write_line(entry, self.table.apex(), text);
        }
    }

    fn contents(&self) -> Contents<'_> {
        Contents {
            table: &self.table,
            signer: None,
            moment: Moment {
                unix_seconds: 0, // nothing is signed
                nanoseconds: 0,
            },
        }
    }
}

/// Records that were the same twice, so that they are not those of two moments; if they never are, those of the last look.
fn of_one_moment(look: impl Fn() -> Records) -> Records {
    let mut records = look();
    for _ in 1..LOOKS {
        let again = look();
        if again == records {
            break;
        }
        records = again;
    }
    records
}

fn write_line(entry: Entry<'_>, apex: &[u8], text: &mut String) {
    let owner = [entry.owner(), apex].concat();
    let Ok(name) = Name::from_octets(&*owner) else {
        return; // no name in the table is longer than a name may be
    };
    let (rtype, ttl) = (Rtype::from_int(entry.rtype().0), entry.ttl());
    let data = match entry.rtype() {
        Type::HTTPS | Type::SVCB => None, // what is printed of parameters is not always what others read
        _ => presentation(rtype, entry.data()),
    };
    let Some(data) = data.or_else(|| generic(rtype, entry.data())) else {
        return; // nor is any record longer than a record may be
    };
    // A String takes everything.
    let _ = writeln!(text, "{} {ttl} IN {rtype} {data}", name.fmt_with_dot());
}

/// Data as zone files have it, if it is read again as it was.
fn presentation(rtype: Rtype, data: &[u8]) -> Option<String> {
    let mut parser = Parser::from_ref(data);
    let parsed: ZoneRecordData<&[u8], ParsedName<&[u8]>> =
        ZoneRecordData::parse_rdata(rtype, &mut parser).ok()??;
    let text = parsed.display_zonefile(DisplayKind::Simple).to_string();
    if matches!(rtype, Rtype::A | Rtype::AAAA) {
        return Some(text);
    }
    let mut file = Zonefile::from(format!(". 0 IN {rtype} {text}\n").as_bytes());
    let Ok(Some(FileEntry::Record(record))) = file.next_entry() else {
        return None;
    };
    let mut read = Vec::new();
    record.data().compose_rdata(&mut read).ok()?;
    (read == data).then_some(text)
}

/// Data in the form that is good for every type (RFC 3597 section 5).
fn generic(rtype: Rtype, data: &[u8]) -> Option<String> {
    let data = UnknownRecordData::from_octets(rtype, data).ok()?;
    Some(data.display_zonefile(DisplayKind::Simple).to_string())
}
