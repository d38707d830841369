//! The inputs in `fuzz/seeds` through the functions that the fuzzers call.

use std::{collections::BTreeSet, fs, path::Path};

use lpm_fuzz_targets::TARGETS;

/// Most bytes of all inputs together.
const MOST: u64 = 1 << 20;

fn seeds() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../seeds"))
}

#[test]
fn every_input_of_the_corpus_passes() {
    let (mut inputs, mut bytes) = (0, 0);
    for (name, target) in TARGETS {
        let directory = seeds().join(name);
        let entries = fs::read_dir(&directory)
            .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let before = inputs;
        for entry in entries {
            let path = entry.expect("an entry").path();
            let data = fs::read(&path).expect("an input");
            println!("{name}: {}", path.display());
            target(&data);
            inputs += 1;
            bytes += data.len() as u64;
        }
        assert!(inputs > before, "{name} has no input");
    }
    assert!(bytes < MOST, "{bytes} bytes");
    println!("{inputs} inputs, {bytes} bytes");
}

#[test]
fn each_target_has_a_fuzzer_and_a_corpus() {
    let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    for (directory, suffix) in [("seeds", ""), ("fuzz_targets", ".rs")] {
        let directory = seeds().with_file_name(directory);
        let found: BTreeSet<String> = fs::read_dir(&directory)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.to_string_lossy().replace(suffix, ""))
            .collect();
        assert_eq!(found, names, "{}", directory.display());
    }
}
