//! `cargo xtask test --kernel SERIES`: the tests that depend most on the kernel, in emulated
//! machines with Debian's cloud kernels. No KVM is needed, and no times are judged.
//!
//! The guest's root is the host's root filesystem, read-only under a memory overlay. So the test
//! binaries that cargo built here, and the tools they use, run there unchanged. A guest of another
//! architecture has Debian's programs of its own over that root, and gets test binaries that are
//! compiled for it. The output comes back over a serial port and is read as that of any other
//! group. Skips are those of the kernel: `<series> <group>: <reason>` in `.ci/expected-skips`, with
//! `6.12-arm64` for a series on another architecture than this machine's.

mod apt;
mod guest;
mod image;
mod neighbour;
mod packages;
mod userland;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

pub(crate) use self::apt::KEYRING;
use self::{neighbour::Neighbour, userland::Userland};
use super::{
    output::{CargoTests, Tally},
    skips::Skip,
};
use crate::{
    arch::{self, Arch},
    build, paths, process,
    setup::{self, Part},
    signals,
};

/// Name of the group.
pub(super) const NAME: &str = "kernel";

/// The series that the group `kernel` boots unless asked for another: the oldest that we support.
const OLDEST: &str = "5.10";

/// Tests of lpm-agent that run in the guest.
struct Job {
    /// The topic: a module at the root of a test binary.
    topic: &'static str,
    /// The name of the test binary.
    binary: &'static str,
    /// The time limit: several times what the tests take in a guest, so that a busy machine passes,
    /// too.
    limit: Duration,
    /// The beginnings of the names of the tests that run, within the topic. All run if there is none.
    tests: &'static [&'static str],
}

impl Job {
    /// The filters by which the test binary selects the tests.
    fn filters(&self) -> Vec<String> {
        if self.tests.is_empty() {
            return vec![format!("{}::", self.topic)];
        }
        let filter = |test| format!("{}::{test}", self.topic);
        self.tests.iter().map(filter).collect()
    }
}

/// Makes a job of tests in the binary `datapath`.
const fn job(topic: &'static str, minutes: u64, tests: &'static [&'static str]) -> Job {
    Job {
        topic,
        binary: "datapath",
        limit: Duration::from_mins(minutes),
        tests,
    }
}

/// The tests, in the order in which they run: loading first. They are few, because verifying takes
/// half a minute per load on two emulated CPUs, and each test loads the object. Of the oracle's
/// runs it is the one that judges no times: an emulated CPU that is preempted puts milliseconds
/// between a hook and the capture beside it.
const JOBS: [Job; 13] = [
    job("budget", 15, &[]),
    job(
        "differential",
        20,
        &["hand_made_flows_leave", "every_layout_cut"],
    ),
    job(
        "attach",
        20,
        &[
            "vantages",
            "stopping",
            "netlink_filters_have_our_place",
            "both_programs",
        ],
    ),
    job("nonlinear", 15, &[]),
    job("hotplug", 20, &["a_new_interface", "a_move"]),
    job("coexistence", 20, &["a_filter_attached_before_us"]),
    job(
        "front",
        25,
        &["ours_is_put_in_front_again", "packets_that_never_reach_us"],
    ),
    Job {
        binary: "cli",
        ..job(
            "container",
            20,
            &["the_containers_capabilities", "the_next_agent_takes_over"],
        )
    },
    Job {
        binary: "cli",
        ..job("stamps", 15, &["on_", "over_", "behind_"])
    },
    job("detach", 15, &["leftovers"]),
    job(
        "restart",
        30,
        &["a_restart_loses_nothing", "detach_leaves_nothing"],
    ),
    job("oracle", 25, &["identities::the_same_samples_exist"]),
    // It sets the guest's clock: the last one.
    Job {
        binary: "cli",
        ..job(CLOCK, 15, &[])
    },
];

/// The topic that needs a neighbour with another clock.
const CLOCK: &str = "guest_clock";

/// Runs the group: the oldest kernel.
pub(super) fn group() -> Result<Tally> {
    if let Err(reason) = ready(true) {
        println!("test: kernel: {reason:#}");
        return Ok(Tally::one_skip(Skip {
            group: "kernel".to_owned(),
            reason: format!("{reason:#}"),
        }));
    }
    run(OLDEST, Arch::host()?, &JOBS.iter().collect::<Vec<_>>())
}

/// Runs what `--kernel`, `--arch` and `--guest-test` ask for. No `tests` means all of them.
///
/// # Errors
/// When there is no such test, or this machine cannot emulate.
pub(super) fn chosen(
    series: &[String],
    arch: Option<Arch>,
    tests: &[String],
    no_setup: bool,
) -> Result<Tally> {
    if let Some(unknown) = tests
        .iter()
        .find(|name| !JOBS.iter().any(|job| job.topic == **name))
    {
        let names: Vec<_> = JOBS.iter().map(|job| job.topic).collect();
        bail!(
            "no test {unknown:?} runs in a guest; there are {}",
            names.join(", ")
        );
    }
    let jobs: Vec<&Job> = JOBS
        .iter()
        .filter(|job| tests.is_empty() || tests.iter().any(|name| name == job.topic))
        .collect();
    if !no_setup {
        setup::ensure(&[Part::Build, Part::Test])?;
    }
    ready(!no_setup)?;
    let arch = arch.map_or_else(Arch::host, Ok)?;
    if !arch.is_host() && !no_setup {
        setup::ensure_guest(arch)?;
    }
    process::require_root_or_sudo("emulating a machine with this one's files")?;
    build::programs_only()?;
    let mut total = Tally::default();
    for series in series {
        let name = name(series, arch);
        println!("\ntest: kernel {name}");
        let begun = Instant::now();
        let mut tally = match run(series, arch, &jobs) {
            Err(error) if !signals::stopped() => {
                println!("test: kernel {name}: {error:#}");
                Tally::one_failure(&format!("{error:#}"))
            }
            result => result?,
        };
        tally.name_failures(&name);
        let minutes = begun.elapsed().as_secs().div_ceil(60);
        println!("test: kernel {name}: {} in {minutes} min", tally.counts());
        total.add(tally);
    }
    Ok(total)
}

/// Whether kernels can be emulated here. Installs what is missing if `install` allows it.
fn ready(install: bool) -> Result<()> {
    if cfg!(not(target_arch = "x86_64")) {
        bail!("kernels are emulated on x86_64 hosts only");
    }
    if install {
        setup::ensure(&[Part::Kernel])?;
    }
    Ok(())
}

/// The name of a series in its skips and failures.
fn name(series: &str, arch: Arch) -> String {
    if arch.is_host() {
        series.to_owned()
    } else {
        format!("{series}-{}", arch.name())
    }
}

fn run(series: &str, arch: Arch, chosen: &[&Job]) -> Result<Tally> {
    if series != "newest" && !series.split('.').all(|part| part.parse::<u32>().is_ok()) {
        bail!("{series:?} is not a series of kernels: give one like 6.12, or `newest`");
    }
    let binaries = binaries(chosen, arch)?;
    let here = setup::busybox().context("there is no static busybox")?;
    let programs = (!arch.is_host()).then(|| Userland::get(arch)).transpose()?;
    let busybox = image::Busybox {
        guest: programs
            .as_ref()
            .map_or_else(|| here.clone(), Userland::busybox),
        here,
    };
    let kernel = packages::get(series, arch, &busybox.here)?;
    let dir = packages::place(series, arch);
    let disk = dir.join("initrd");
    image::write(&disk, &kernel, &busybox, &jobs(chosen, &binaries, arch)?)?;
    println!(
        "test: booting {} (console: {})",
        kernel.version,
        dir.join("console.log").display()
    );
    let lpm = paths::target().join("debug/lpm");
    let needs_neighbour = chosen.iter().any(|job| job.topic == CLOCK);
    let neighbour = needs_neighbour
        .then(|| Neighbour::start(&lpm, &dir))
        .transpose()?;
    let machine = guest::Machine {
        arch,
        neighbour: neighbour.as_ref(),
        image: &kernel.image,
        disk: &disk,
        programs: programs.as_ref().map(|programs| programs.root.as_path()),
    };
    let limit = chosen.iter().map(|job| job.limit).sum::<Duration>() + Duration::from_mins(2);
    let (done, mut tally) = boot(&machine, &dir, limit)?.finish();
    if !done {
        guest::show_tail(&dir.join("console.log"));
        tally.add(Tally::one_failure(
            "the guest ended before its tests were through",
        ));
    }
    tally.name_skips(&name(series, arch));
    Ok(tally)
}

/// Boots the machine and returns its report. The machine has a second try to come up.
fn boot(machine: &guest::Machine<'_>, dir: &Path, limit: Duration) -> Result<Report> {
    let boot = || -> Result<Report> {
        let mut report = Report::default();
        machine.run(dir, limit, |line| report.line(line))?;
        Ok(report)
    };
    let report = boot()?;
    if report.booted {
        return Ok(report);
    }
    // No test has run: this is about the emulator, and once is bad luck.
    guest::show_tail(&dir.join("console.log"));
    println!("test: the guest did not come up; once more");
    boot()
}

/// The test binaries by name, built as `cargo test --workspace` builds them.
fn binaries(chosen: &[&Job], arch: Arch) -> Result<BTreeMap<String, PathBuf>> {
    let mut build = process::cargo();
    build.args(["test", "--workspace", "--no-run"]);
    let names: BTreeSet<_> = chosen.iter().map(|job| job.binary).collect();
    for name in names {
        build.args(["--test", name]);
    }
    if !arch.is_host() {
        arch::compile_for(&mut build, arch, &arch.gnu());
    }
    build.args(["--message-format", "json-render-diagnostics"]);
    let output = build
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the tests do not compile; the reason is above");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(binary).collect())
}

/// Name and file of the test binary that a message of cargo is about.
fn binary(message: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let target = &message["target"];
    (target["kind"][0] == "test").then_some(())?;
    let name = target["name"].as_str()?;
    Some((name.to_owned(), message["executable"].as_str()?.into()))
}

/// Makes the guest's script: one line per topic.
fn jobs(chosen: &[&Job], binaries: &BTreeMap<String, PathBuf>, arch: Arch) -> Result<String> {
    let mut script = String::new();
    let path = if arch.is_host() {
        std::env::join_paths(process::search_path())?
    } else {
        "/usr/sbin:/usr/bin".into()
    };
    writeln!(script, "export PATH={}", quoted(Path::new(&path)))?;
    writeln!(script, "cd {}", quoted(&paths::root().join("lpm-agent")))?;
    writeln!(script, "export LPM_GUEST_PEER={}", neighbour::ADDRESS)?;
    for job in chosen {
        let binary = binaries
            .get(job.binary)
            .with_context(|| format!("there is no test binary {}", job.binary))?;
        let (topic, limit) = (job.topic, job.limit.as_secs());
        writeln!(
            script,
            "run {topic} {limit} {} {}",
            quoted(binary),
            job.filters().join(" ")
        )?;
    }
    Ok(script)
}

/// Quotes a path for the shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}

/// What the guest's output tells.
#[derive(Default)]
struct Report {
    tests: CargoTests,
    /// Number of tests that had ended when the last binary ended.
    before: usize,
    ended_badly: Vec<String>,
    /// Whether the guest came as far as the tests.
    booted: bool,
    done: bool,
}

impl Report {
    fn line(&mut self, line: &str) {
        let Some(said) = line.strip_prefix("LPM-GUEST ") else {
            return self.tests.line(line);
        };
        let words: Vec<_> = said.split(' ').collect();
        match words[..] {
            // 101: its failed tests are counted one by one.
            ["test", name, "ended", "with", code @ ("0" | "101"), ..] => {
                let ended = self.tests.ended();
                if ended == self.before {
                    self.ended_badly
                        .push(format!("{name} ended with {code} and ran no test"));
                }
                self.before = ended;
            }
            ["test", name, "ended", "with", code, ..] => {
                self.ended_badly.push(format!("{name} ended with {code}"));
            }
            ["kernel", ..] => self.booted = true,
            ["done", ..] => self.done = true,
            _ => {}
        }
    }

    /// Whether the guest came to its end, and the counts.
    fn finish(self) -> (bool, Tally) {
        let mut tally = self.tests.finish();
        for what in &self.ended_badly {
            tally.add(Tally::one_failure(what));
        }
        (self.done, tally)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &[&str]) -> (bool, Tally) {
        let mut report = Report::default();
        for line in lines {
            report.line(line);
        }
        report.finish()
    }

    #[test]
    fn a_killed_test_is_a_failure() {
        let (done, tally) = report(&[
            "LPM-GUEST kernel 5.10.0",
            "test a ... ok",
            "LPM-GUEST test hotplug ended with 143 after 600 s",
            "LPM-GUEST done after 700 s",
        ]);
        assert!(done);
        assert_eq!(tally.counts(), "1 passed, 1 failed, 0 skipped");
        assert_eq!(tally.failures(), ["hotplug ended with 143"]);
    }

    #[test]
    fn a_binary_without_the_test_that_is_asked_for_is_a_failure() {
        let (_, tally) = report(&[
            "test a ... ok",
            "LPM-GUEST test attach ended with 0 after 1 s",
            "running 0 tests",
            "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out",
            "LPM-GUEST test oracle ended with 0 after 1 s",
        ]);
        assert_eq!(tally.failures(), ["oracle ended with 0 and ran no test"]);
    }

    #[test]
    fn each_topic_is_a_module_of_its_binary() {
        for job in JOBS {
            let binary = paths::root().join("lpm-agent/tests").join(job.binary);
            let text = std::fs::read_to_string(binary.join("main.rs")).unwrap();
            let module = format!("mod {};", job.topic);
            assert!(text.lines().any(|line| line == module), "{module}");
        }
    }

    #[test]
    fn tests_are_selected_within_their_topic() {
        assert_eq!(job("budget", 1, &[]).filters(), ["budget::"]);
        assert_eq!(job("detach", 1, &["left"]).filters(), ["detach::left"]);
    }

    #[test]
    fn a_guest_that_stops_in_the_middle_is_not_done() {
        assert!(!report(&["test a ... ok"]).0);
    }

    #[test]
    fn skips_belong_to_their_kernel() {
        let (_, mut tally) = report(&["test a ... ok", "LPM-SKIP kernel: no TCX"]);
        tally.name_skips("5.10");
        let skip = tally.skips().next().unwrap().0;
        assert_eq!(skip.group, "5.10 kernel");
    }

    #[test]
    fn reads_cargos_messages() {
        let message = r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"datapath"},"executable":"/t/datapath-1"}"#;
        assert_eq!(
            binary(message),
            Some(("datapath".to_owned(), "/t/datapath-1".into()))
        );
        assert_eq!(
            binary(r#"{"reason":"build-finished","success":true}"#),
            None
        );
    }

    #[test]
    fn quotes_for_the_shell() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
