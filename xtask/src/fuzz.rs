//! `cargo xtask fuzz`: random input, for as long as one likes.
//!
//! The pure targets (`fuzz/targets`) run under libFuzzer, by cargo-fuzz. The target `differential` is
//! a test of the agent that gets more packets than usual. What CI runs of this: the corpus in
//! `fuzz/seeds` (the group `fuzz`), and some thousand packets of `differential` (the group
//! `datapath`). The fuzzers themselves compile for minutes.

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::{
    build, paths, process,
    setup::{self, Part},
};

/// The target that compares the loaded kernel programs with the host model.
const DIFFERENTIAL: &str = "differential";

/// Longest input, bytes: what is longer is slower and tells no more.
const LONGEST: u32 = 1024;

/// Look for input that breaks what strangers can reach.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask fuzz                                  each target for a minute\n  \
    cargo xtask fuzz flows --minutes 30\n  \
    cargo xtask fuzz differential --packets 1000000\n  \
    cargo xtask fuzz differential --seed 17           what a failure printed\n  \
    cargo run -p lpm-fuzz-targets --bin lpm-fuzz-one flows FILE     one input, as a finding is\n\n\
    What is found is in fuzz/artifacts/TARGET; new inputs are kept in fuzz/corpus/TARGET.")]
pub(crate) struct Args {
    /// Only these targets [default: all]
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// Minutes for each target
    #[arg(long, value_name = "N", default_value_t = 1)]
    minutes: u64,
    /// Packets of the target `differential`
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    packets: u64,
    /// Seed of the target `differential` [default: another each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// The command `cargo xtask fuzz`.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let all = targets()?;
    for target in &args.targets {
        if !all.contains(target) {
            bail!(
                "there is no target {target:?}; the targets are {}",
                all.join(", ")
            );
        }
    }
    let chosen = if args.targets.is_empty() {
        &all
    } else {
        &args.targets
    };
    let (differential, pure): (Vec<_>, Vec<_>) =
        chosen.iter().partition(|target| *target == DIFFERENTIAL);
    if !pure.is_empty() {
        setup::ensure(&[Part::Fuzz])?;
    }
    let mut found = Vec::new();
    for target in pure {
        if libfuzzer(target, Duration::from_secs(args.minutes * 60)).is_err() {
            found.push(target);
        }
    }
    if !differential.is_empty() && compare(args).is_err() {
        found.extend(differential);
    }
    if found.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    for target in found {
        println!("fuzz: {target}: failed; its output above says why");
    }
    Ok(ExitCode::FAILURE)
}

/// The names of all targets: each has a fuzzer of its own.
fn targets() -> Result<Vec<String>> {
    let directory = paths::root().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&directory)
        .with_context(|| format!("{} cannot be read", directory.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path: PathBuf = entry?.path();
        names.extend(
            path.file_stem()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    names.push(DIFFERENTIAL.to_owned());
    names.sort_unstable();
    Ok(names)
}

fn libfuzzer(target: &str, time: Duration) -> Result<()> {
    println!("fuzz: {target}: {} s", time.as_secs());
    let directory = |name: &str| paths::root().join("fuzz").join(name).join(target);
    let corpus = directory("corpus");
    fs::create_dir_all(&corpus).with_context(|| format!("{} cannot be made", corpus.display()))?;
    let mut fuzz = process::cargo();
    // The code under test has no `unsafe`, so the address sanitizer would find nothing. Without it
    // any toolchain will do, and an execution takes a fraction of the time.
    fuzz.args(["fuzz", "run", "--sanitizer", "none", target]);
    fuzz.args([corpus, directory("seeds")]).arg("--");
    fuzz.arg(format!("-max_total_time={}", time.as_secs()));
    fuzz.arg(format!("-max_len={LONGEST}"));
    fuzz.args(["-print_final_stats=1", "-timeout=10", "-rss_limit_mb=1024"]);
    process::run(&mut fuzz)
}

fn compare(args: &Args) -> Result<()> {
    process::require_root_or_sudo("fuzzing with the kernel")?;
    build::kernel_programs()?;
    let mut test = process::cargo();
    test.args(["test", "--package=lpm-agent", "--test=datapath"]);
    test.args(["differential::fuzz", "--", "--nocapture"]);
    test.env("LPM_FUZZ_PACKETS", args.packets.to_string());
    if let Some(seed) = args.seed {
        test.env("LPM_FUZZ_SEED", seed.to_string());
    }
    process::test_as_root(&mut test);
    process::run(&mut test)
}
