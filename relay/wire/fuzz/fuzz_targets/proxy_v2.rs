//! However the octets of a PROXY header are cut, the reader says the same, takes no more than are the header's, and does not panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::proxy_v2::{LONGEST, NotAHeader, Progress, Reader, encode};

/// What `octets` say when they come in portions of `size`.
fn said(octets: &[u8], size: usize) -> Result<(usize, Progress), NotAHeader> {
    let mut reader = Reader::default();
    let (mut taken, mut progress) = reader.push(&[])?;
    for portion in octets.chunks(size) {
        let (more, now) = reader.push(portion)?;
        (taken, progress) = (taken + more, now);
        if more < portion.len() {
            break;
        }
    }
    Ok((taken, progress))
}

fuzz_target!(|octets: &[u8]| {
    let Some((size, octets)) = octets.split_first() else {
        return;
    };
    let whole = said(octets, octets.len().max(1));
    assert_eq!(said(octets, usize::from(*size).max(1)), whole);
    let Ok((taken, progress)) = whole else {
        return;
    };
    assert!(taken <= LONGEST && taken <= octets.len());
    match progress {
        Progress::NeedMore(missing) => assert!(missing > 0 && taken + missing <= LONGEST),
        Progress::Proxied(ends) => {
            let written = encode(ends.source, ends.destination);
            assert_eq!(Reader::default().push(&written), Ok((written.len(), progress)));
        }
        Progress::Local => {}
    }
});
