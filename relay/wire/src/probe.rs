//! What a device's doctor asks of those between it and its visitors, and how their answers are read. Nobody proves anything in
//! them: they are hints for a person.
//!
//! ```text
//!   negotiation   how long a packet may be on the way to the relay: it names its QUIC versions to whoever asks for one it has not
//!   nat_pmp       which address the router has outside
//!   dns           which addresses the zone's own name server gives a name
//! ```

pub mod dns;
pub mod nat_pmp;
pub mod negotiation;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_octets_are_an_answer_or_none(octets in prop::collection::vec(any::<u8>(), 0..600)) {
            negotiation::answer(&octets);
            let _ = nat_pmp::answer(&octets);
            for length in 0..octets.len().min(2) {
                dns::answer(length as u16, &octets);
            }
        }
    }
}
