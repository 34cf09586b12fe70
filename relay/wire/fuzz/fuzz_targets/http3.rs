//! What visitors send over HTTP/3 is cut without a panic, and means the same in one portion as in two.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use wire::http3::{Frames, TooLong};

const LONGEST: u64 = 64 * 1024;

fn given(frames: &mut Frames, octets: &[u8]) -> Result<Vec<u8>, TooLong> {
    let (mut octets, mut given) = (Bytes::copy_from_slice(octets), Vec::new());
    while let Some(piece) = frames.next(&mut octets)? {
        assert!(!piece.is_empty());
        given.extend_from_slice(&piece);
    }
    assert!(octets.is_empty());
    Ok(given)
}

fuzz_target!(|octets: &[u8]| {
    let Some((&how, octets)) = octets.split_first() else {
        return;
    };
    let begin = || match how % 2 {
        0 => Frames::of_request(LONGEST),
        _ => Frames::of_unidirectional(LONGEST),
    };
    let (mut together, mut apart) = (begin(), begin());
    let (first, second) = octets.split_at(octets.len() * usize::from(how) / 256);
    let parts = given(&mut apart, first)
        .and_then(|first| Ok([first, given(&mut apart, second)?].concat()));
    let whole = given(&mut together, octets);
    assert_eq!(whole, parts);
    if whole.is_ok() {
        assert_eq!(together.held(), apart.held());
        assert_eq!(together.may_end(), apart.may_end());
    }
    assert!(together.held() <= LONGEST as usize + 16);
});
