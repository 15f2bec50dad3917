//! Fuzzes the decoder `relocation` of `twinshare_tests::decoders`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| twinshare_tests::decoders::run("relocation", bytes));
