//! What a relay asks and reports: what is understood comes back from what is written of it.
#![no_main]

use std::fmt::Debug;

use following::{Follow, Report};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    comes_back::<Follow>(octets);
    comes_back::<Report>(octets);
});

fn comes_back<T>(octets: &[u8])
where
    T: serde::de::DeserializeOwned + serde::Serialize + PartialEq + Debug,
{
    if let Ok(read) = serde_json::from_slice::<T>(octets) {
        let again = serde_json::to_vec(&read).unwrap();
        assert_eq!(serde_json::from_slice::<T>(&again).unwrap(), read);
    }
}
