//! Signature headers of any content are read or refused; what is read has one spelling.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::signed_request::{Claim, Headers, Request};

fuzz_target!(|texts: (&str, &str, &str, &[u8])| {
    let (content_digest, signature_input, signature, body) = texts;
    let request = Request {
        method: "POST",
        target: "https://cloud.nas.localhost/api/pair",
        body,
    };
    let headers = Headers {
        content_digest: content_digest.to_owned(),
        signature_input: signature_input.to_owned(),
        signature: signature.to_owned(),
    };
    if let Ok((claim, signature)) = Claim::read(&request, &headers) {
        assert_eq!(claim.headers(&request, &signature), headers);
    }
});
