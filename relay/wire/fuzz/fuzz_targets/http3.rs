//! What visitors send over HTTP/3 is read along without a panic, and means the same in one portion as in two.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::http3::Frames;

const LONGEST: u64 = 64 * 1024;

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
    let parts = apart.read(first).and_then(|()| apart.read(second));
    assert_eq!(together.read(octets), parts);
    assert_eq!(together.held(), apart.held());
    assert!(together.held() <= LONGEST as usize + 16);
});
