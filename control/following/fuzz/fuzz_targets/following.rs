//! What control says, line by line: a snapshot that is taken holds what it says, no version goes back, and every line that is understood
//! comes back from what is written of it.
#![no_main]

use following::{Reading, Step, Told};
use libfuzzer_sys::fuzz_target;

/// So few that a snapshot can have too many.
const MOST_DEVICES: u64 = 8;

fuzz_target!(|octets: &[u8]| {
    for mut reading in [Reading::of_control(None, MOST_DEVICES), Reading::of_disk()] {
        let mut version = None;
        for line in octets.split(|octet| *octet == b'\n') {
            if let Ok(told) = serde_json::from_slice::<Told>(line) {
                let again = serde_json::to_vec(&told).unwrap();
                assert_eq!(serde_json::from_slice::<Told>(&again).unwrap(), told);
            }
            let known = match reading.take(line) {
                Ok(Step::Snapshot(snapshot)) => {
                    let mut names: Vec<_> =
                        snapshot.devices().map(|facts| facts.device.name).collect();
                    assert_eq!(names.len(), snapshot.names.len());
                    names.retain(|name| !snapshot.names.contains(name));
                    assert!(names.is_empty());
                    version = None; // that of another epoch is no older
                    snapshot.known
                }
                Ok(Step::Put(_, known) | Step::Removed(_, known) | Step::UpTo(known)) => known,
                Ok(Step::Nothing | Step::Welcome(_)) => continue,
                Err(_) => break, // whoever hears it hangs up
            };
            assert!(version.is_none_or(|version| version <= known.version));
            version = Some(known.version);
        }
    }
});
