//! Fuzzes the decoder `workspace_file` of `twinshare_tests::decoders`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| twinshare_tests::decoders::run("workspace_file", bytes));
