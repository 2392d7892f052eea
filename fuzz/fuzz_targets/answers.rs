#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| portcullis::invariants::hold("answers", data));
