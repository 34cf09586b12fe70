//! Who alone may issue certificates for a device (RFC 8659): the accounts that it has with certificate authorities, and nobody else's
//! (RFC 8657). It says so itself, and has two records for each:
//!
//! ```text
//!  0 issue     "ca.example; accounturi=https://ca.example/acct/7; validationmethods=dns-01"
//!  0 issuewild the same, so that no other record says who may issue for its wildcard
//! ```
//!
//! They stand in the place of those that the operator has set for every device.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::fmt::Write as _;

use crate::protocol::Type;
use crate::rrset::Rrset;

/// The most octets of an account's address.
pub const MAX_ACCOUNT: usize = 255;
/// The most octets of what an authority is known by: those of a name, as text.
pub const MAX_ISSUER: usize = 253;
/// Seconds. Who has another account is not to wait for long until that may order.
const TTL: u32 = 60;

/// Who may issue. Empty where the device has said nothing: then there is what the operator has set for every device.
///
/// ```text
///  (octets 1 │ issuer │ octets 1 │ account)*    in order of their octets, none twice
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Issuers(Box<[u8]>);

/// An account with a certificate authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Issuer<'a> {
    /// What the authority looks for in CAA records: a name of its own, in lower case.
    pub issuer: &'a str,
    /// The account's address.
    pub account: &'a str,
}

impl Issuers {
    /// These and nobody else.
    ///
    /// # Errors
    /// If one cannot stand in a CAA record, or they are too many for one answer.
    pub fn new(accounts: &[Issuer<'_>]) -> Result<Self, NoIssuers> {
        let mut sorted = accounts.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let mut octets = Vec::new();
        for Issuer { issuer, account } in sorted {
            if !is_issuer(issuer) {
                return Err(NoIssuers::Issuer);
            }
            if !is_account(account) {
                return Err(NoIssuers::Account);
            }
            for text in [issuer, account] {
                octets.push(u8::try_from(text.len()).unwrap_or(u8::MAX)); // see MAX_ACCOUNT
                octets.extend(text.as_bytes());
            }
        }
        let issuers = Self(octets.into());
        match issuers.is_empty() || issuers.compile().is_some() {
            true => Ok(issuers),
            false => Err(NoIssuers::TooMany),
        }
    }

    /// Reads what [`as_octets`](Self::as_octets) gives; `None` if it is none of that.
    pub(crate) fn from_octets(octets: &[u8]) -> Option<Self> {
        let mut rest = octets;
        let mut accounts = Vec::new();
        while !rest.is_empty() {
            let (issuer, behind) = read_text(rest)?;
            let (account, behind) = read_text(behind)?;
            accounts.push(Issuer { issuer, account });
            rest = behind;
        }
        Self::new(&accounts).ok().filter(|read| *read.0 == *octets)
    }

    /// As they are kept.
    pub(crate) fn as_octets(&self) -> &[u8] {
        &self.0
    }

    /// The device has said nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Issuer<'_>> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (issuer, behind) = read_text(rest)?;
            let (account, behind) = read_text(behind)?;
            rest = behind;
            Some(Issuer { issuer, account })
        })
    }

    /// The records; `None` if they are too many.
    pub(crate) fn compile(&self) -> Option<Rrset> {
        const TAGS: [&[u8]; 2] = [b"issue", b"issuewild"];
        let mut data = Vec::new();
        for Issuer { issuer, account } in self.iter() {
            let mut value = issuer.to_owned();
            write!(value, "; accounturi={account}; validationmethods=dns-01").ok()?;
            for tag in TAGS {
                let length = u8::try_from(tag.len()).ok()?;
                data.push([&[0, length], tag, value.as_bytes()].concat());
            }
        }
        Rrset::compile(Type::CAA, TTL, &data)
    }
}

/// Why nobody is said to be the only one who may issue. The asker's to mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoIssuers {
    /// RFC 8659 section 4.2.
    #[error("the authority is no name of a domain in lower case")]
    Issuer,
    /// Only what needs no escape in a record (RFC 8657 section 3), and is an address at all.
    #[error(
        "the account is no https:// address of at most {MAX_ACCOUNT} printable characters without a space or a semicolon"
    )]
    Account,
    /// See [`MAX_RRSET`](crate::rrset::MAX_RRSET).
    #[error("there are more accounts than one answer can tell")]
    TooMany,
}

/// Labels of letters, digits and hyphens, with dots between them (RFC 8659 section 4.2: issuer-domain-name), in lower case.
pub fn is_issuer(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_inner =
            |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-';
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(is_inner)
    };
    text.len() <= MAX_ISSUER && text.split('.').all(is_label)
}

/// An https:// address that means the same inside a record as outside.
fn is_account(text: &str) -> bool {
    let is_plain = |octet: u8| octet.is_ascii_graphic() && !matches!(octet, b';' | b'"' | b'\\');
    text.len() <= MAX_ACCOUNT
        && text.bytes().all(is_plain)
        && text.strip_prefix("https://").is_some_and(|rest| {
            rest.bytes()
                .next()
                .is_some_and(|octet| octet.is_ascii_alphanumeric() || octet == b'[')
        })
}

fn read_text(rest: &[u8]) -> Option<(&str, &[u8])> {
    let (&length, rest) = rest.split_first()?;
    let (text, behind) = rest.split_at_checked(length.into())?;
    Some((std::str::from_utf8(text).ok()?, behind))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    fn one(issuer: &str, account: &str) -> Result<Issuers, NoIssuers> {
        Issuers::new(&[Issuer { issuer, account }])
    }

    #[test]
    fn an_account_has_two_records() {
        let issuers = one("ca.test", "https://ca.test/acct/7").unwrap();
        let records = crate::rrset::Records::Shared(issuers.compile().unwrap().into());
        let octets = records.octets();
        assert_eq!((octets.count(), octets.ttl()), (2, 60));
        let value = "ca.test; accounturi=https://ca.test/acct/7; validationmethods=dns-01";
        let data = [
            [&b"\0\x05issue"[..], value.as_bytes()].concat(),
            [&b"\0\x09issuewild"[..], value.as_bytes()].concat(),
        ];
        assert_eq!(octets.data(b"\x03nas\0"), data);
    }

    #[test]
    fn what_could_mean_something_else_in_a_record_is_refused() {
        let good = "https://ca.test/acct/7";
        for issuer in [
            "",
            ".",
            "ca..test",
            "ca.test.",
            "CA.test",
            "ca test",
            "ca.test;",
            "-a.test",
            "a-.test",
            "\u{e4}.test",
            &"a".repeat(64),
            &"a.".repeat(127),
        ] {
            assert_eq!(one(issuer, good), Err(NoIssuers::Issuer), "{issuer}");
        }
        let long = format!("https://ca.test/{}", "a".repeat(240));
        for account in [
            "",
            "https://",
            "https:///x",
            "http://ca.test/acct/7",
            "HTTPS://ca.test/acct/7",
            "https://ca.test/acct/7; validationmethods=http-01",
            "https://ca.test/acct;7",
            "https://ca.test/acct 7",
            "https://ca.test/\"7",
            "https://ca.test/\\7",
            "https://ca.test/\n7",
            "https://ca.test/\u{e4}",
            &long,
        ] {
            assert_eq!(
                one("ca.test", account),
                Err(NoIssuers::Account),
                "{account}"
            );
        }
        assert!(one("ca.test", &long[..255]).is_ok());
    }

    #[test]
    fn they_are_kept_in_one_form_and_fit_into_one_answer() {
        let account = |number: usize| format!("https://ca.test/{number:0>200}");
        let accounts: Vec<_> = (0..9).map(account).collect();
        let issuer = |account| Issuer {
            issuer: "ca.test",
            account,
        };
        let all: Vec<_> = accounts.iter().map(|account| issuer(account)).collect();
        assert_eq!(Issuers::new(&all), Err(NoIssuers::TooMany));
        let some = Issuers::new(&all[..7]).unwrap();
        let turned: Vec<_> = all[..7].iter().rev().chain(&all[..2]).copied().collect();
        assert_eq!(Issuers::new(&turned), Ok(some.clone()));
        assert_eq!(some.iter().collect::<Vec<_>>(), all[..7]);
        assert_eq!(Issuers::from_octets(some.as_octets()), Some(some.clone()));
        assert_eq!(Issuers::from_octets(&[]), Some(Issuers::default()));
        let octets = some.as_octets();
        for end in 1..octets.len() {
            let is_whole = Issuers::from_octets(&octets[..end]).is_some();
            assert_eq!(is_whole, end % (octets.len() / 7) == 0, "{end}");
        }
        let half = octets.len() / 7;
        let unsorted = [&octets[half..2 * half], &octets[..half]].concat();
        assert_eq!(Issuers::from_octets(&unsorted), None);
    }
}
