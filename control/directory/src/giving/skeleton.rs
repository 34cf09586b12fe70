//! What a name looks like.

use std::fmt;

use crate::name::DeviceName;

/// What a reader may take a name for: two names with one skeleton can be taken for each other.
///
/// These are the confusables that Unicode TR 39 has among letters, digits and hyphens, and two more:
///
/// | looks like | because |
/// |---|---|
/// | `0` and `o`; `1` and `l` | TR 39 |
/// | `i` and `l` | TR 39 for the capital, and a link may be written in capitals |
/// | `m` and `rn` | TR 39 |
/// | `w` and `vv` | they touch in most typefaces, as `rn` does |
/// | hyphens or none | nobody remembers them |
///
/// `5` and `s`, or `d` and `cl`, are told apart by readers and would cost too many honest names.
///
/// Numbers never collide: each digit stays itself or becomes a letter of its own, and a hyphen with what may be a digit on
/// both sides stays, so that `rack-1-11` and `rack-11-1` are two names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Skeleton(String);

impl Skeleton {
    /// The skeleton of `name`.
    pub fn of(name: &DeviceName) -> Self {
        Self::of_label(name.as_str())
    }

    /// The text to keep and to compare: lower-case letters, digits and hyphens, 126 characters at most.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn of_label(label: &str) -> Self {
        let mut skeleton = String::with_capacity(2 * label.len());
        let mut hyphen = false;
        for letter in label.chars() {
            let folded = match letter {
                '-' => {
                    hyphen = true;
                    continue;
                }
                '0' => 'o',
                '1' | 'i' => 'l',
                other => other,
            };
            if hyphen
                && may_be_digit(folded)
                && skeleton.chars().next_back().is_some_and(may_be_digit)
            {
                skeleton.push('-');
            }
            hyphen = false;
            match folded {
                'm' => skeleton.push_str("rn"),
                'w' => skeleton.push_str("vv"),
                other => skeleton.push(other),
            }
        }
        Self(skeleton)
    }
}

impl fmt::Display for Skeleton {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a letter of a skeleton may stand for a digit.
pub(super) fn may_be_digit(folded: char) -> bool {
    matches!(folded, 'o' | 'l' | '2'..='9')
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn skeleton(label: &str) -> Skeleton {
        Skeleton::of_label(label)
    }

    #[test]
    fn names_that_look_alike_have_one_skeleton() {
        for (one, other) in [
            ("mynas", "my-nas"),
            ("mynas", "rnynas"),
            ("mynas", "m-y-n-a-s"),
            ("wiki", "vvlkl"),
            ("photos", "ph0t0s"),
            ("paypal", "paypa1"),
            ("paypal", "paypai"),
            ("nas-1", "nas1"),
            ("nas-1", "nasl"),
            ("a-1-1", "a-l-i"),
        ] {
            assert_eq!(skeleton(one), skeleton(other), "{one} {other}");
        }
        for (one, other) in [
            ("mynas", "mynaz"),
            ("disk", "clisk"),
            ("nas5", "nass"),
            ("rack-1-11", "rack-11-1"),
            ("rack-1-1", "rack-11"),
            ("2-0", "20"),
        ] {
            assert_ne!(skeleton(one), skeleton(other), "{one} {other}");
        }
        assert_eq!(skeleton(&"m".repeat(63)).as_str().len(), 126);
    }

    #[test]
    fn numbered_fleets_never_collide() {
        let names = (0..1_000).flat_map(|n| [format!("nas-{n}"), format!("nas-{n:05}")]);
        let in_racks = (0..100).flat_map(|rack| (0..100).map(move |n| format!("nas-{rack}-{n}")));
        let names: HashSet<_> = names.chain(in_racks).collect();
        let skeletons: HashSet<_> = names.iter().map(|name| skeleton(name)).collect();
        assert_eq!(skeletons.len(), names.len());
    }

    proptest! {
        #[test]
        fn numbers_and_the_hyphens_between_them_can_be_read_back(
            one in "[0-9]{1,9}(-[0-9]{1,9}){0,2}", other in "[0-9]{1,9}(-[0-9]{1,9}){0,2}"
        ) {
            prop_assert_eq!(one == other, skeleton(&one) == skeleton(&other));
            let back = skeleton(&one).as_str().replace('o', "0").replace('l', "1");
            prop_assert_eq!(back, one);
        }

        #[test]
        fn to_write_one_look_for_another_changes_nothing(label in "[a-z0-9-]{1,20}") {
            for (from, to) in [("0", "o"), ("1", "l"), ("i", "1"), ("m", "rn"), ("vv", "w")] {
                prop_assert_eq!(skeleton(&label), skeleton(&label.replace(from, to)), "{} {}", from, to);
            }
        }
    }
}
