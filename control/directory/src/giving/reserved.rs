//! Names that no device is given.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::skeleton::{Skeleton, may_be_digit};

/// Names with one reason to hold them back.
struct Reserved {
    /// The second half of "this name is reserved: …".
    reason: &'static str,
    /// Whether they are held back with a number behind them as well.
    numbered: bool,
    names: &'static [&'static str],
}

const RESERVED: &[Reserved] = &[
    Reserved {
        reason: "the operator's own hosts are called so",
        numbered: true,
        names: &["cloud", "relay", "www"],
    },
    Reserved {
        reason: "name servers are called so",
        numbered: true,
        names: &["dns", "ns"],
    },
    Reserved {
        reason: "programs that send or fetch mail try it",
        numbered: true,
        names: &["email", "imap", "mail", "mx", "pop", "smtp", "webmail"],
    },
    Reserved {
        // Web proxies, RFC 5214 (tunnels), mail clients, RFC 8461 (mail servers), the Web Key Directory (OpenPGP).
        reason: "programs look it up by themselves and believe what they find",
        numbered: false,
        names: &[
            "autoconfig",
            "autodiscover",
            "isatap",
            "mta-sts",
            "openpgpkey",
            "wpad",
        ],
    },
    Reserved {
        reason: "programs take it for the machine they run on (RFC 6761)",
        numbered: false,
        names: &["broadcasthost", "localdomain", "localhost"],
    },
    Reserved {
        reason: "it is the address of whoever answers for a service (RFC 2142)",
        numbered: false,
        names: &[
            "abuse",
            "ftp",
            "hostmaster",
            "info",
            "marketing",
            "news",
            "noc",
            "postmaster",
            "sales",
            "security",
            "support",
            "usenet",
            "uucp",
            "webmaster",
        ],
    },
    Reserved {
        reason: "people would take it for the operator's",
        numbered: false,
        names: &[
            "account",
            "accounts",
            "admin",
            "administrator",
            "api",
            "auth",
            "billing",
            "connector",
            "dashboard",
            "help",
            "helpdesk",
            "install",
            "login",
            "logout",
            "oauth",
            "official",
            "password",
            "payment",
            "portal",
            "register",
            "root",
            "signin",
            "signup",
            "sso",
            "static",
            "status",
            "sysadmin",
            "update",
            "verify",
        ],
    },
];

/// Why `label` is held back, if it is.
pub(super) fn reason(label: &str) -> Option<&'static str> {
    let is_it = |reserved: &&Reserved| {
        reserved.names.iter().any(|name| {
            label.strip_prefix(name).is_some_and(|rest| {
                rest.is_empty() || reserved.numbered && rest.bytes().all(|b| b.is_ascii_digit())
            })
        })
    };
    RESERVED.iter().find(is_it).map(|reserved| reserved.reason)
}

/// A name held back that looks like `skeleton`.
pub(super) fn lookalike(skeleton: &Skeleton) -> Option<&'static str> {
    if let Some(name) = LOOKS.all.get(skeleton) {
        return Some(name);
    }
    let is_it = |(look, _): &&(Skeleton, _)| {
        let rest = skeleton.as_str().strip_prefix(look.as_str());
        rest.is_some_and(|rest| rest.chars().all(may_be_digit))
    };
    LOOKS.numbered.iter().find(is_it).map(|(_, name)| *name)
}

static LOOKS: LazyLock<Looks> = LazyLock::new(|| {
    let looks = |all: bool| {
        let rows = RESERVED.iter().filter(move |row| all || row.numbered);
        rows.flat_map(|row| row.names)
            .map(|name| (Skeleton::of_label(name), *name))
    };
    Looks {
        all: looks(true).collect(),
        numbered: looks(false).collect(),
    }
});

/// What the reserved names look like.
struct Looks {
    all: HashMap<Skeleton, &'static str>,
    numbered: Vec<(Skeleton, &'static str)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::OperatorName;

    #[test]
    fn every_row_has_its_reason_and_no_name_stands_twice() {
        let mut seen = Vec::new();
        for reserved in RESERVED {
            for name in reserved.names {
                assert_eq!(reason(name), Some(reserved.reason), "{name}");
                assert!(!seen.contains(name), "{name}");
                seen.push(name);
            }
        }
        for operator in OperatorName::ALL {
            assert!(reason(operator.label()).is_some());
        }
    }

    #[test]
    fn some_are_held_back_with_any_number() {
        for label in ["ns1", "ns12", "mx0", "imap4", "pop3", "relay2", "www42"] {
            assert!(reason(label).is_some(), "{label}");
        }
        for label in ["nas1", "ns1a", "wpad1", "info2", "mynas", "office"] {
            assert_eq!(reason(label), None, "{label}");
            assert_eq!(lookalike(&Skeleton::of_label(label)), None, "{label}");
        }
    }

    #[test]
    fn what_looks_like_one_is_found() {
        for (label, name) in [
            ("c1oud", "cloud"),
            ("re-lay", "relay"),
            ("vvvvvv", "www"),
            ("adrnin", "admin"),
            ("l0gin", "login"),
            ("nsl", "ns"),
            ("ns-1", "ns"),
            ("mxo", "mx"),
            ("mtasts", "mta-sts"),
        ] {
            assert_eq!(lookalike(&Skeleton::of_label(label)), Some(name), "{label}");
        }
    }
}
