//! Signs messages and checks the signatures of replies (RFC 8945), and writes updates (RFC 2136): like `dns.rs`, without the server's
//! code.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use directory::{DeviceName, Duty};

use crate::dns::{TYPES, number_of, unhex, wire};
use crate::world::{Directory, master};

const TSIG: u16 = 250;

/// A key, and how a client signs with it.
#[derive(Clone, Debug)]
pub(crate) struct Signer {
    name: Vec<u8>,
    secret: Vec<u8>,
    algorithm: String,
    /// Seconds that the client's clock is ahead.
    ahead: i64,
    fudge: u16,
    /// Octets of the MAC that are sent; all without it.
    mac_len: Option<usize>,
}

/// A message and its MAC.
#[derive(Clone, Debug, Default)]
pub(crate) struct SignedMessage {
    pub(crate) octets: Vec<u8>,
    mac: Vec<u8>,
}

impl Signer {
    /// The key of a device (`home`) or of its challenges (`_acme-challenge.home`), as its owner has been told of it. A key that
    /// nobody has gets a secret nevertheless.
    pub(crate) fn of(key: &str, directory: &Directory) -> Self {
        let (device, duty) = match key.strip_prefix("_acme-challenge.") {
            Some(device) => (device, Duty::Challenges),
            None => (key, Duty::Addresses),
        };
        let token = DeviceName::parse(device)
            .ok()
            .and_then(|name| directory.reader.device_by_name(&name))
            .and_then(|device| device.key_for(duty));
        let secret = token.map_or(vec![1; 32], |token| {
            let secret = master().secret(&token).reveal();
            BASE64.decode(secret.as_bytes()).unwrap()
        });
        let name = match key {
            "." => vec![0],
            key => wire(&format!("{key}.nas.test")),
        };
        Self {
            name,
            secret,
            algorithm: "hmac-sha256".into(),
            ahead: 0,
            fudge: 300,
            mac_len: None,
        }
    }

    /// The secret as its owner was told it.
    pub(crate) fn secret(&self) -> String {
        BASE64.encode(&self.secret)
    }

    /// Takes the options of a signature out of the words of a recipe; `None` if there is none.
    pub(crate) fn take(words: &mut Vec<&str>, directory: &Directory) -> Option<Self> {
        let mut options = Vec::new();
        words.retain(|word| {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let is_ours = ["by", "algorithm", "ahead", "fudge", "mac", "secret"].contains(&key);
            if is_ours {
                options.push((key.to_owned(), value.to_owned()));
            }
            !is_ours
        });
        let (_, key) = options.iter().find(|(key, _)| key == "by")?;
        let mut signer = Self::of(key, directory);
        for (key, value) in &options {
            match key.as_str() {
                "algorithm" => signer.algorithm = value.clone(),
                "ahead" => signer.ahead = value.parse().unwrap(),
                "fudge" => signer.fudge = value.parse().unwrap(),
                "mac" => signer.mac_len = Some(value.parse().unwrap()),
                "secret" => signer.secret = unhex(value),
                _ => {}
            }
        }
        Some(signer)
    }

    /// Each time with another original id, so that no two messages are the same.
    pub(crate) fn sign(&self, message: &[u8]) -> SignedMessage {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let original_id = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let time = now.as_secs().checked_add_signed(self.ahead).unwrap();
        let time = &time.to_be_bytes()[2..];
        let algorithm = wire(&self.algorithm);
        let fudge = self.fudge.to_be_bytes();
        let mut mac = self.mac(&[
            &original_id,
            &message[2..],
            &self.name,
            &[0, 255, 0, 0, 0, 0],
            &algorithm,
            time,
            &fudge,
            &[0; 4],
        ]);
        if let Some(len) = self.mac_len {
            mac.resize(len, 0);
        }
        let data = [
            &algorithm[..],
            time,
            &fudge,
            &(mac.len() as u16).to_be_bytes(),
            &mac,
            &original_id,
            &[0; 4],
        ]
        .concat();
        let mut octets = message.to_vec();
        octets[11] += 1;
        octets.extend(&self.name);
        octets.extend(TSIG.to_be_bytes());
        octets.extend([0, 255, 0, 0, 0, 0]);
        octets.extend((data.len() as u16).to_be_bytes());
        octets.extend(data);
        SignedMessage { octets, mac }
    }

    /// Whether a reply is signed, and rightly; one that is signed wrongly is a mistake of the server's.
    pub(crate) fn is_signed(&self, request: &SignedMessage, reply: &[u8]) -> bool {
        let algorithm = wire(&self.algorithm);
        let begin = [&self.name[..], &TSIG.to_be_bytes(), &[0, 255, 0, 0, 0, 0]].concat();
        let Some(at) = reply
            .windows(begin.len())
            .rposition(|window| window.eq_ignore_ascii_case(&begin))
        else {
            return false;
        };
        let data = &reply[at + begin.len() + 2 + algorithm.len()..];
        let (time_and_fudge, rest) = data.split_at(8);
        let mac_len = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
        let (mac, rest) = rest[2..].split_at(mac_len);
        let (original_id, error_and_other) = rest.split_at(2);
        assert_eq!(*original_id, reply[..2]);
        if mac.is_empty() {
            return false;
        }
        let mut message = reply[..at].to_vec();
        message[11] -= 1;
        let expected = self.mac(&[
            &(request.mac.len() as u16).to_be_bytes(),
            &request.mac,
            &message,
            &self.name,
            &[0, 255, 0, 0, 0, 0],
            &algorithm,
            time_and_fudge,
            error_and_other,
        ]);
        assert_eq!(*mac, expected, "a wrong signature");
        true
    }

    fn mac(&self, parts: &[&[u8]]) -> Vec<u8> {
        let algorithm = match self.algorithm.as_str() {
            "hmac-sha384" => hmac::HMAC_SHA384,
            "hmac-sha512" => hmac::HMAC_SHA512,
            _ => hmac::HMAC_SHA256,
        };
        let key = hmac::Key::new(algorithm, &self.secret);
        hmac::sign(&key, &parts.concat()).as_ref().to_vec()
    }
}

/// An UPDATE of `zone`: statements in the words of nsupdate, with a semicolon between them.
pub(crate) fn update(zone: &str, statements: &str) -> Vec<u8> {
    let (mut prerequisites, mut updates) = (Vec::new(), Vec::new());
    for statement in statements.split(';') {
        let words: Vec<_> = statement.split_whitespace().collect();
        let (record, is_prerequisite) = match words[..] {
            [] => continue,
            ["yxdomain", name] => (record(name, "ANY", ANY, 0, &[]), true),
            ["nxdomain", name] => (record(name, "ANY", NONE, 0, &[]), true),
            ["yxrrset", name, rtype] => (record(name, rtype, ANY, 0, &[]), true),
            ["yxrrset", name, rtype, ref text @ ..] => {
                (record(name, rtype, IN, 0, &data(rtype, text)), true)
            }
            ["nxrrset", name, rtype] => (record(name, rtype, NONE, 0, &[]), true),
            ["add", name, rtype, ref text @ ..] => {
                (record(name, rtype, IN, 60, &data(rtype, text)), false)
            }
            ["delete", name] => (record(name, "ANY", ANY, 0, &[]), false),
            ["delete", name, rtype] => (record(name, rtype, ANY, 0, &[]), false),
            ["delete", name, rtype, ref text @ ..] => {
                (record(name, rtype, NONE, 0, &data(rtype, text)), false)
            }
            [
                section @ ("prerequisite" | "update"),
                name,
                rtype,
                class,
                ttl,
                ref hex @ ..,
            ] => {
                let (class, ttl) = (class.parse().unwrap(), ttl.parse().unwrap());
                let record = record(name, rtype, class, ttl, &unhex(&hex.concat()));
                (record, section == "prerequisite")
            }
            _ => panic!("no such statement: {statement}"),
        };
        if is_prerequisite {
            prerequisites.push(record);
        } else {
            updates.push(record);
        }
    }
    let counts = [prerequisites.len(), updates.len()].map(|count| count as u8);
    let mut message = vec![0xAB, 0xCD, 0x28, 0, 0, 1, 0, counts[0], 0, counts[1], 0, 0];
    message.extend(wire(zone));
    message.extend([0, 6, 0, 1]);
    message.extend(prerequisites.concat());
    message.extend(updates.concat());
    message
}

const IN: u16 = 1;
const NONE: u16 = 254;
const ANY: u16 = 255;

fn record(name: &str, rtype: &str, class: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut record = wire(name);
    record.extend(number_of(rtype, &TYPES).to_be_bytes());
    record.extend(class.to_be_bytes());
    record.extend(ttl.to_be_bytes());
    record.extend((data.len() as u16).to_be_bytes());
    record.extend(data);
    record
}

/// Addresses as they are written, a string of TXT for each word, anything else in hex.
fn data(rtype: &str, words: &[&str]) -> Vec<u8> {
    match rtype {
        "A" => words[0]
            .parse::<std::net::Ipv4Addr>()
            .unwrap()
            .octets()
            .into(),
        "AAAA" => words[0]
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets()
            .into(),
        "TXT" => words
            .iter()
            .flat_map(|word| [&[word.len() as u8], word.as_bytes()].concat())
            .collect(),
        _ => unhex(&words.concat()),
    }
}
