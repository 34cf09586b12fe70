//! Any octets as what a secondary asks: no panic, and a question that stands in the message.

#![no_main]

use ddns::transfer::ZoneQuestion;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    if let Some(asked) = ZoneQuestion::read(message) {
        let question = asked.question();
        assert!(message[12..].starts_with(question));
        assert!(question.len() >= 5 && asked.name().last() == Some(&0));
    }
});
