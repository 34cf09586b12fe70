//! The words of the dyn2 dialect.

use std::fmt::Write;
use std::net::IpAddr;

/// What a client is told. No word but the first two contains `good`, `nochg` or `OK`: clients search for these
/// anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Done.
    Good(Vec<IpAddr>),
    /// It was so before.
    NoChange(Vec<IpAddr>),
    /// Unknown user or wrong key.
    BadAuth,
    /// A host without a dot.
    NotFqdn,
    /// Not a name of this device.
    NoHost,
    /// More than [`MAX_HOSTS`](super::request::MAX_HOSTS).
    TooManyHosts,
    /// An address that cannot be read, or where nobody can be reached. dyn2 has no word of its own for it; this one
    /// makes ddclient report and inadyn try again, where an unknown one would end inadyn.
    BadAddress,
    /// Ours, or too many changes; try again later. Not "abuse": ddclient would not try again, and inadyn would for ever.
    Later,
}

impl Word {
    /// The line to send, without its end.
    pub(super) fn line(&self) -> String {
        match self {
            Self::Good(addresses) => with_addresses("good", addresses),
            Self::NoChange(addresses) => with_addresses("nochg", addresses),
            Self::BadAuth => "badauth".into(),
            Self::NotFqdn => "notfqdn".into(),
            Self::NoHost => "nohost".into(),
            Self::TooManyHosts => "numhost".into(),
            Self::BadAddress => "dnserr".into(),
            Self::Later => "911".into(),
        }
    }

    /// The reason under which a refusal is counted.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Good(_) | Self::NoChange(_) => "none",
            Self::BadAuth => "badauth",
            Self::NotFqdn => "notfqdn",
            Self::NoHost => "nohost",
            Self::TooManyHosts => "numhost",
            Self::BadAddress => "bad_address",
            Self::Later => "no_source",
        }
    }
}

fn with_addresses(word: &str, addresses: &[IpAddr]) -> String {
    let mut line = word.to_owned();
    for (i, address) in addresses.iter().enumerate() {
        let before = if i == 0 { ' ' } else { ',' };
        let _ = write!(line, "{before}{address}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stand_behind_the_word() {
        let addresses = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(
            Word::Good(addresses.clone()).line(),
            "good 192.0.2.1,2001:db8::1"
        );
        assert_eq!(
            Word::NoChange(addresses[..1].into()).line(),
            "nochg 192.0.2.1"
        );
        assert_eq!(Word::Good(Vec::new()).line(), "good");
    }

    #[test]
    fn no_refusal_looks_like_success() {
        for word in [
            Word::BadAuth,
            Word::NotFqdn,
            Word::NoHost,
            Word::TooManyHosts,
            Word::BadAddress,
            Word::Later,
        ] {
            let line = word.line().to_ascii_lowercase();
            for success in ["good", "nochg", "ok", "true", "updated", "success"] {
                assert!(!line.contains(success), "{line}");
            }
        }
    }
}
