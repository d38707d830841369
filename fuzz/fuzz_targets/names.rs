//! Runs the target `names` of `lpm-fuzz-targets` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lpm_fuzz_targets::names(data));
