//! A message takes no more octets than there are, and none of them changes its meaning by what comes behind it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::socks::{MAX_MESSAGE, read_greeting, read_request};

fuzz_target!(|octets: &[u8]| {
    if let Ok(Some(length)) = read_greeting(octets) {
        assert!(length <= MAX_MESSAGE);
        assert_eq!(read_greeting(&octets[..length]), Ok(Some(length)));
    }
    if let Ok(Some(request)) = read_request(octets) {
        assert!(request.length <= MAX_MESSAGE);
        assert_eq!(read_request(&octets[..request.length]), Ok(Some(request)));
    }
});
