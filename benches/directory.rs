//! How long the Directory takes to learn of a million devices, as at every start, and to say who holds a name.

#![allow(
    clippy::unwrap_used,
    reason = "a bench that cannot go on says so by panicking"
)]

use directory::{Device, DeviceName, Reader, RegistrationId, TokenHash, Writer, Zone, directory};
use divan::{Bencher, black_box};

const DEVICES: usize = 1_000_000;

/// How far the next name is from the last one, in the order of registration: prime, so that every name has its turn.
const STRIDE: usize = 61_813;

fn main() {
    divan::main();
}

#[divan::bench(sample_count = 5, sample_size = 1)]
fn a_million_devices_put(bencher: Bencher<'_, '_>) {
    bencher
        .with_inputs(|| (empty(), devices()))
        .bench_local_values(|((mut writer, reader), devices)| {
            devices.into_iter().for_each(|device| writer.put(device));
            reader // so that forgetting them is not measured
        });
}

#[divan::bench(sample_count = 1000, sample_size = 250)]
fn one_of_a_million_by_name(bencher: Bencher<'_, '_>) {
    let (mut writer, reader) = empty();
    let names: Vec<_> = devices().iter().map(|device| device.name.clone()).collect();
    devices().into_iter().for_each(|device| writer.put(device));
    let mut next = 0;
    bencher
        .with_inputs(|| {
            next = (next + STRIDE) % names.len();
            names[next].clone()
        })
        .bench_local_refs(|name| black_box(reader.device_by_name(name)).unwrap());
}

fn empty() -> (Writer, Reader) {
    directory(Zone::parse("nas.example.com").unwrap())
}

fn devices() -> Vec<Device> {
    let device = |number: usize| Device {
        registration: RegistrationId(number as u64),
        name: DeviceName::parse(&format!("d{number:07}")).unwrap(),
        identity: None,
        ddns_key: Some(TokenHash::of(&number.to_string())),
        challenge_key: None,
    };
    (0..DEVICES).map(device).collect()
}
