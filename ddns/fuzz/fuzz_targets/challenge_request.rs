//! Any body of a certificate client, and any name that it asks to set.

#![no_main]

use ddns::challenges::ChallengeHost;
use ddns::http::acme_dns::request::{TextUpdate, check_registration};
use ddns::http::httpreq::request::ChallengeRequest;
use directory::Zone;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let _ = check_registration(body);
    if let Ok(update) = TextUpdate::parse(body) {
        assert_eq!(update.value.as_bytes(), update.txt.as_bytes());
        assert_eq!(update.txt.len(), 43);
    }
    let zone = Zone::parse("nas.test").unwrap();
    let asked = ChallengeRequest::parse(body);
    let names = [
        asked.as_ref().map(|asked| asked.name.as_str()),
        str::from_utf8(body).ok(),
    ];
    for name in names.into_iter().flatten() {
        let Some((device, host)) = ChallengeHost::locate(name, &zone) else {
            continue;
        };
        // What was understood is what was said.
        let mut said = format!("_acme-challenge.{host}.{}", zone.name_of(&device));
        if host == ChallengeHost::device() {
            said = format!("_acme-challenge.{}", zone.name_of(&device));
        }
        assert_eq!(
            name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase(),
            said
        );
        assert_eq!(ChallengeHost::parse(&host.to_string()), Some(host));
    }
});
