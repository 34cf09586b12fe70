/// By which relays a device is held, as far as a query wants to know: two numbers of [`Known`](super::Known) relays.
///
/// ```text
///  first   0: the server's own relay; whoever is held by none leads there too, as any relay can say "offline"
///  second  0: no other. The server's own is never the second
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Presence {
    first: u8,
    second: u8,
}

impl Presence {
    /// The number of the server's own relay.
    pub(crate) const OWN: u8 = 0;

    /// Of the relays with these numbers; of the first two, if they are more.
    pub(crate) fn new(numbers: impl IntoIterator<Item = u8>) -> Self {
        let mut numbers = numbers.into_iter();
        let first = numbers.next().unwrap_or(Self::OWN);
        let second = numbers.find(|number| *number != first);
        match second {
            Some(Self::OWN) => Self {
                first: Self::OWN,
                second: first,
            },
            _ => Self {
                first,
                second: second.unwrap_or(0),
            },
        }
    }

    /// A relay with a process of its own is one of them.
    pub(crate) fn is_elsewhere(self) -> bool {
        self != Self::default()
    }

    /// The numbers: one or two.
    pub(crate) fn numbers(self) -> impl Iterator<Item = u8> {
        let second = (self.second != 0).then_some(self.second);
        [self.first].into_iter().chain(second)
    }

    /// Without the relays that `stays` does not say yes to. The server's own stays.
    pub(crate) fn without_those_gone(self, stays: impl Fn(u8) -> bool) -> Self {
        let stays = |number: &u8| *number == Self::OWN || stays(*number);
        Self::new(self.numbers().filter(stays))
    }

    /// As 16 bits, of which none is set for the default.
    pub(crate) fn to_bits(self) -> u16 {
        u16::from_be_bytes([self.first, self.second])
    }

    /// What [`to_bits`](Self::to_bits) has made.
    pub(crate) fn from_bits(bits: u16) -> Self {
        let [first, second] = bits.to_be_bytes();
        Self { first, second }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_are_kept_and_the_servers_own_comes_first() {
        for (held_by, kept) in [
            (&[][..], &[0][..]),
            (&[0], &[0]),
            (&[0, 0], &[0]),
            (&[7], &[7]),
            (&[7, 7], &[7]),
            (&[7, 0], &[0, 7]),
            (&[0, 7, 8], &[0, 7]),
            (&[255, 7, 0], &[255, 7]),
        ] {
            let presence = Presence::new(held_by.iter().copied());
            let numbers: Vec<_> = presence.numbers().collect();
            assert_eq!(numbers, kept, "{held_by:?}");
            assert_eq!(presence.is_elsewhere(), kept != [0]);
            assert_eq!(Presence::from_bits(presence.to_bits()), presence);
        }
    }

    #[test]
    fn who_loses_one_relay_keeps_the_other() {
        for (held_by, kept) in [
            ([7, 8], &[8][..]),
            ([8, 7], &[8]),
            ([7, 7], &[0]),
            ([0, 7], &[0]),
            ([0, 8], &[0, 8]),
        ] {
            let presence = Presence::new(held_by).without_those_gone(|number| number == 8);
            assert_eq!(presence.numbers().collect::<Vec<_>>(), kept, "{held_by:?}");
        }
    }
}
