//! How long it takes to find the server name in a visitor's first bytes: Chromium's hello, post-quantum share included,
//! as one read of the socket brings it.

#![allow(
    clippy::unwrap_used,
    reason = "a bench that cannot go on says so by panicking"
)]

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use wire::client_hello::{Progress, Reader};

const HELLO: &[u8] = include_bytes!("../relay/wire/testdata/chromium.bin");

fn main() {
    let expected = Progress::Name("demo.nas.localhost".to_owned());
    assert_eq!(Reader::default().push(HELLO).unwrap(), expected);
    divan::main();
}

#[divan::bench(sample_count = 2000, sample_size = 500)]
fn chromium(bencher: Bencher<'_, '_>) {
    bencher
        .counter(BytesCount::of_slice(HELLO))
        .bench(|| Reader::default().push(black_box(HELLO)));
}
