//! Fuzzes the decoder `manifest_delta` of `twinshare_tests::decoders`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| twinshare_tests::decoders::run("manifest_delta", bytes));
