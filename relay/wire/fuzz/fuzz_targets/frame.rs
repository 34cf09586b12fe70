//! A frame that was read is written and read again as the same frame.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use wire::frame::{Decoded, Frame};

fuzz_target!(|octets: &[u8]| {
    let mut buffer = BytesMut::from(octets);
    loop {
        match Frame::decode(&mut buffer) {
            Ok(Decoded::Frame(frame)) => {
                let Ok(again) = frame.encode() else { continue };
                let mut again = BytesMut::from(&*again);
                let Ok(Decoded::Frame(reread)) = Frame::decode(&mut again) else {
                    panic!("{frame:?} does not come back");
                };
                // Mapped addresses come back as IPv4, so compare what is written, not what was read first.
                assert_eq!(reread.encode(), frame.encode());
            }
            Ok(Decoded::Unknown) => {}
            Ok(Decoded::NeedMore) | Err(_) => break,
        }
    }
});
