//! A version, or what differs → the messages of a transfer (RFC 5936 section 2.2, RFC 1995 section 4), each signed.
//!
//! ```text
//!  AXFR  SOA │ all records │ SOA
//!  IXFR  SOA │ (old SOA │ what is gone │ next SOA │ what is new)* │ SOA
//! ```

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::records::Records;
use super::versions::{Difference, Part, Version, Whose};
use crate::message::{Header, Reader, Record};
use crate::protocol::{CLASS_IN, HEADER_LEN, QUERY, Type};
use crate::tsig::Signer;

/// Octets of records in one message; it may be a record longer.
const MESSAGE: usize = 16_000;
const QR: u8 = 0x80;
const AA: u8 = 0x04;

/// What a secondary asks of the zone: SOA, AXFR or IXFR.
#[derive(Clone, Debug)]
pub struct ZoneQuestion<'m> {
    id: [u8; 2],
    /// As it came.
    question: &'m [u8],
    name: Box<[u8]>,
    pub(super) qtype: Type,
    /// The serial of the version that it has, with IXFR (RFC 1995 section 3).
    pub(super) has: Option<u32>,
}

impl<'m> ZoneQuestion<'m> {
    /// Reads a message without its signature; `None` if it asks for something else, or for nothing that can be read.
    pub fn read(message: &'m [u8]) -> Option<Self> {
        let Header { opcode, counts } = Header::read(message)?;
        if opcode != QUERY || counts.first() != Some(&1) {
            return None;
        }
        let mut reader = Reader::new(message);
        let name = reader.name()?;
        let (qtype, class) = (Type(reader.u16()?), reader.u16()?);
        let question = message.get(HEADER_LEN..reader.at())?;
        let is_of_zone = matches!(qtype, Type::SOA | Type::AXFR | Type::IXFR);
        if !is_of_zone || class != CLASS_IN {
            return None;
        }
        let has = match qtype {
            Type::IXFR => Some(serial_of(&reader.record()?)?),
            _ => None,
        };
        Some(Self {
            id: *message.first_chunk()?,
            question,
            name,
            qtype,
            has,
        })
    }
}

impl ZoneQuestion<'_> {
    /// The name that it is about, on the wire and in lower case.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The question as it came.
    pub fn question(&self) -> &[u8] {
        self.question
    }
}

/// That of an SOA record: behind two names (RFC 1035 section 3.3.13).
pub(super) fn serial_of(record: &Record<'_>) -> Option<u32> {
    const NUMBERS: usize = 20;
    if record.rtype != Type::SOA {
        return None;
    }
    let numbers = record.data.get(record.data.len().checked_sub(NUMBERS)?..)?;
    numbers.first_chunk().copied().map(u32::from_be_bytes)
}

/// A transfer under way.
pub(crate) struct Transfer {
    /// Header and question.
    head: Vec<u8>,
    /// Without signatures of the zone.
    signs: bool,
    signer: Signer,
    rest: VecDeque<Rest>,
    /// The version is kept so long.
    _permit: Option<OwnedSemaphorePermit>,
}

/// What is still to be sent.
enum Rest {
    /// A list, from an octet on.
    Records(Records, usize),
    /// A part, from behind somebody on.
    Part(Arc<Part>, Option<Whose>),
}

impl Transfer {
    /// Nothing yet, in reply to this.
    pub(super) fn new(asked: &ZoneQuestion<'_>, signs: bool, signer: Signer) -> Self {
        let flags = [QR | AA, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        let head = [&asked.id[..], &flags, asked.question].concat();
        Self {
            head,
            signs,
            signer,
            rest: VecDeque::new(),
            _permit: None,
        }
    }

    /// The SOA of a version.
    pub(super) fn of_soa(mut self, version: &Version) -> Self {
        self.put_soa(version);
        self
    }

    /// A whole version.
    pub(super) fn of_all(mut self, version: &Version, permit: OwnedSemaphorePermit) -> Self {
        // The signature of the SOA is one of the records between the first SOA and the last.
        self.rest.push_back(Rest::Records(version.soa.clone(), 0));
        let parts = version.parts.iter();
        self.rest
            .extend(parts.map(|part| Rest::Part(Arc::clone(part), None)));
        self.put_soa(version);
        self._permit = Some(permit);
        self
    }

    /// What makes a version of another.
    pub(super) fn of_differences(
        mut self,
        version: &Version,
        differences: Vec<Arc<Difference>>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        self.put_soa(version);
        for difference in differences {
            let lists = [&difference.removed, &difference.added];
            self.rest
                .extend(lists.map(|list| Rest::Records(list.clone(), 0)));
        }
        self.put_soa(version);
        self._permit = Some(permit);
        self
    }

    fn put_soa(&mut self, version: &Version) {
        let soa = version
            .soa
            .iter()
            .filter(|entry| entry.rtype() == Type::SOA);
        self.rest.push_back(Rest::Records(soa.collect(), 0));
    }

    /// The next message, signed at `now` in seconds since 1970; `None` behind the last.
    pub(crate) fn next_message(&mut self, now: u64) -> Option<Vec<u8>> {
        let mut message = self.head.clone();
        let mut records = 0_u16;
        while message.len() < MESSAGE
            && records < u16::MAX
            && let Some(list) = self.next_list()
        {
            let (list, mut octet) = list;
            while let Some((entry, next)) = list.at(octet) {
                octet = next;
                if entry.is_for(self.signs) {
                    entry.write(&mut message);
                    records += 1;
                }
                if message.len() >= MESSAGE || records == u16::MAX {
                    break;
                }
            }
            if list.at(octet).is_some() {
                self.rest.push_front(Rest::Records(list, octet));
            }
        }
        if records == 0 {
            return None;
        }
        message[6..8].copy_from_slice(&records.to_be_bytes());
        self.signer.sign_one_of_many(&mut message, now);
        Some(message)
    }

    /// The only message, over UDP.
    pub(crate) fn alone(mut self, now: u64) -> Option<Vec<u8>> {
        self.next_message(now)
    }

    /// The next list, and from where on it is to be sent.
    fn next_list(&mut self) -> Option<(Records, usize)> {
        loop {
            match self.rest.pop_front()? {
                Rest::Records(records, octet) => return Some((records, octet)),
                Rest::Part(part, behind) => {
                    let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
                    let next = part.range((from, Bound::Unbounded)).next();
                    if let Some((whose, records)) = next {
                        let (whose, records) = (whose.clone(), records.clone());
                        self.rest.push_front(Rest::Part(part, Some(whose)));
                        return Some((records, 0));
                    }
                }
            }
        }
    }
}

impl std::fmt::Debug for Transfer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transfer")
            .field("signs", &self.signs)
            .finish_non_exhaustive()
    }
}
