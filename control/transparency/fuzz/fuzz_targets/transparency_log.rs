//! Whatever a log answers, to whatever it was asked, is read or refused; and what was read can be followed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transparency::{Entry, Frontier, LogKey, read_entries, read_proof};

fuzz_target!(|octets: &[u8]| {
    if let Ok(entry) = Entry::read(octets) {
        let mut frontier = Frontier::default();
        frontier.append(entry.hash);
        assert_eq!(frontier.root(), entry.hash);
        match entry.certificate {
            Ok(certificate) => assert!(certificate.names.iter().all(|name| name.len() <= 253)),
            Err(unreadable) => {
                let _ = (unreadable.mentions("example.com"), unreadable.mentions(""));
            }
        }
    }
    for entry in read_entries(octets, 16).unwrap_or_default() {
        let _ = format!("{entry:?}");
    }
    if let Ok((index, path)) = read_proof(octets)
        && let Some(mut frontier) = Frontier::before(index, &path)
    {
        assert_eq!(Frontier::read(index, &frontier.write()), Some(frontier.clone()));
        frontier.append([0; 32]);
        let _ = frontier.root();
    }
    // A configured key is an operator's, and is read as strictly.
    if let Ok(text) = str::from_utf8(octets) {
        let _ = LogKey::parse(text);
    }
});
