//! Segments mean the same however they are cut, and payload is never more than what came.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::segment::{Notice, Piece, Reader, SegmentError};

/// What `octets` say when they come in portions of `size`: the payload, and the notices with what stands before each.
fn said(octets: &[u8], size: usize) -> (Vec<u8>, Vec<(usize, Notice)>, Option<SegmentError>) {
    let mut reader = Reader::default();
    let (mut payload, mut notices) = (Vec::new(), Vec::new());
    for mut portion in octets.chunks(size) {
        loop {
            let (taken, piece) = match reader.read(portion) {
                Ok(read) => read,
                Err(error) => return (payload, notices, Some(error)),
            };
            portion = &portion[taken..];
            match piece {
                Piece::Data(length) => {
                    let (data, rest) = portion.split_at(length);
                    assert!(!data.is_empty());
                    payload.extend_from_slice(data);
                    portion = rest;
                }
                Piece::Notice(notice) => notices.push((payload.len(), notice)),
                Piece::NeedMore => {
                    assert!(portion.is_empty());
                    break;
                }
            }
        }
    }
    (payload, notices, None)
}

fuzz_target!(|octets: &[u8]| {
    let Some((size, octets)) = octets.split_first() else {
        return;
    };
    let whole = said(octets, octets.len().max(1));
    assert_eq!(said(octets, usize::from(*size).max(1)), whole);
    assert!(whole.0.len() <= octets.len());
});
