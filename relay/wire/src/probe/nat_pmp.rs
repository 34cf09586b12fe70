//! Which address a router has outside: asked over UDP on its port 5351 (NAT-PMP, RFC 6886 section 3.2). Nothing is changed there.
//!
//! ```text
//!   question   version 0 │ operation 0
//!   answer     version 0 │ 128 │ result 2 │ seconds 4 │ address 4
//! ```

use std::net::Ipv4Addr;

use crate::cursor::Cursor;

/// Where routers listen.
pub const PORT: u16 = 5351;

/// The question.
pub const QUESTION: [u8; 2] = [0, 0];

/// The router's address outside; `None` if `datagram` is no answer, or the router knows none.
pub fn answer(datagram: &[u8]) -> Option<Ipv4Addr> {
    let mut rest = Cursor(datagram);
    let (head, result) = (rest.number()?, rest.u16()?);
    let _seconds = rest.u32()?;
    let address = Ipv4Addr::from_octets(rest.number()?);
    (head == [0, 128] && result == 0 && !address.is_unspecified()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_a_refusal_is_none() {
        let answered = [0, 128, 0, 0, 0, 0, 1, 2, 203, 0, 113, 7];
        assert_eq!(answer(&answered), Some(Ipv4Addr::new(203, 0, 113, 7)));
        for (place, octet) in [(0, 2), (1, 0), (3, 3)] {
            let mut other = answered;
            other[place] = octet;
            assert_eq!(answer(&other), None, "{place}");
        }
        assert_eq!(answer(&answered[..11]), None);
        assert_eq!(answer(&[0, 128, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0]), None);
    }
}
