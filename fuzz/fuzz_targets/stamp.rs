//! Runs the target `stamp` of `lpm-fuzz-targets` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lpm_fuzz_targets::stamp(data));
