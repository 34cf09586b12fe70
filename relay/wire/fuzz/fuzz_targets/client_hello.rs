//! However the octets of a hello are cut, the reader says the same and does not panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::client_hello::{Progress, Reader};

fuzz_target!(|octets: &[u8]| {
    let whole = Reader::default().push(octets);
    let mut reader = Reader::default();
    let mut cut = Ok(Progress::NeedMore);
    for octet in octets {
        cut = reader.push(std::slice::from_ref(octet));
        if cut != Ok(Progress::NeedMore) {
            break;
        }
    }
    assert_eq!(whole, cut);
});
