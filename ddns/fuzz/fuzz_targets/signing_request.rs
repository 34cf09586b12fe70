//! Any file that a person brings to the machine with the KSK.

#![no_main]

use std::sync::LazyLock;

use ddns::dnssec::keys::{Key, Request, Role};
use libfuzzer_sys::fuzz_target;

const NOW: u32 = 1_796_000_000;

static KSK: LazyLock<Key> = LazyLock::new(|| Key::generate(Role::Ksk).expect("a key"));

fuzz_target!(|file: &[u8]| {
    if let Ok(text) = std::str::from_utf8(file) {
        let _ = Key::from_dnskey_text(text);
    }
    let _ = Key::from_private_text(Role::Ksk, file);
    let Ok(mut request) = serde_json::from_slice::<Request>(file) else {
        return;
    };
    // As if it were for this key: no input can know it.
    request.ksks.push(KSK.dnskey_text());
    for period in &mut request.periods {
        period.dnskey.push(KSK.dnskey_text());
    }
    if let Ok(response) = request.sign(&KSK, NOW) {
        assert_eq!(response.key, KSK.tag());
        assert!(!response.periods.is_empty());
        for signed in response.periods {
            assert!(
                signed
                    .period
                    .dnskey
                    .iter()
                    .any(|text| *text == KSK.dnskey_text())
            );
            assert!(signed.period.until < signed.period.expiration);
        }
    }
});
