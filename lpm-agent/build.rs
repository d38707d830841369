//! Puts the kernel object into the binary, so that `lpm` is one file to copy.
//!
//! The object is built apart, by `cargo xtask build`, with a toolchain of its own. Where it has
//! not been built yet an empty one is embedded and loading says what to run: the rest of the
//! agent (tests, replay, configuration checks) must build without an eBPF toolchain.

use std::{env, fs, path::PathBuf};

/// Path of an object to embed instead of the one `cargo xtask build` makes.
const OVERRIDE: &str = "LPM_EBPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let object =
        env::var_os(OVERRIDE).map_or_else(|| manifest.join("../target/bpf/lpm"), PathBuf::from);
    // A path that does not exist makes cargo run this again each time, which is what finds the
    // object once it has been built.
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = if object.exists() {
        fs::read(&object).unwrap_or_else(|error| panic!("read {}: {error}", object.display()))
    } else {
        Vec::new()
    };
    let copy = PathBuf::from(variable("OUT_DIR")).join("lpm.bpf.o");
    fs::write(&copy, bytes).unwrap_or_else(|error| panic!("write {}: {error}", copy.display()));
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("{name}, which cargo sets: {error}"))
}
