//! A file of records is passed through to its end, and what was read in it is written again as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::record::batch::{Look, look, skip};
use wire::record::{Contents, Stream};

fuzz_target!(|octets: &[u8]| {
    for stream in Stream::ALL {
        contents(stream, octets);
    }
    let mut rest = octets;
    while !rest.is_empty() {
        let passed = match look(rest) {
            Look::Batch(batch) => {
                assert_eq!(batch.header.write(), *batch.bound);
                contents(batch.header.stream, batch.sealed); // as if it had been opened
                batch.length()
            }
            Look::OtherVersion { skip, .. } | Look::Nothing { skip } => skip,
            // The file ends here; a batch may begin further on all the same.
            Look::NeedMore => skip(rest),
        };
        assert!(passed > 0);
        rest = &rest[passed..];
    }
});

fn contents(stream: Stream, octets: &[u8]) {
    if let Some(contents) = Contents::read(stream, octets) {
        assert_eq!(contents.write(stream), octets);
        for record in contents.records {
            assert_eq!(record.visitor.masked(), record.visitor.masked().masked());
            let _ = (record.ended_ms(), record.visitor.to_string());
        }
    }
}
