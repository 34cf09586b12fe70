//! How long it takes to write and read the frame that begins every visitor's carrier.

#![allow(
    clippy::unwrap_used,
    reason = "a bench that cannot go on says so by panicking"
)]

use bytes::BytesMut;
use divan::{Bencher, black_box};
use wire::frame::{Decoded, Frame, Open};

fn main() {
    let mut octets = BytesMut::from(&*open().encode().unwrap());
    assert_eq!(
        Frame::decode(&mut octets).unwrap(),
        Decoded::Frame(open()),
        "what is measured must be right"
    );
    divan::main();
}

#[divan::bench(sample_count = 2000, sample_size = 500)]
fn open_there_and_back(bencher: Bencher<'_, '_>) {
    let frame = open();
    let mut received = BytesMut::with_capacity(1024);
    bencher.bench_local(|| {
        received.extend_from_slice(&black_box(&frame).encode().unwrap());
        Frame::decode(&mut received)
    });
}

fn open() -> Frame {
    Frame::Open(Open {
        name: "photos.mynas.nas.example.com".to_owned(),
        visitor: "203.0.113.7:51234".parse().unwrap(),
        front: "[2001:db8::10]:443".parse().unwrap(),
        datagrams: false,
        port: None,
    })
}
