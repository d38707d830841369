//! The samples of `lpm watch` against the reference in `tests/oracle`, on the
//! same packets at the same hook.
//!
//! A client pod talks to a server over a wire that delays, loses and reorders.
//! tcpdump and `lpm watch` look at the host end of the pod's veth; tshark,
//! `oracle.py` and `compare.py` then say whether the samples are those that
//! RFC 7323 and the terms ask for. Each rule broken on purpose must be found.

mod files;
mod forced;
mod identities;
mod replayed;
mod seen;
mod sequence;
mod traffic;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use lpm_testbed::{
    testbed::{Pair, PairConfig},
    traffic::{PORT, Server},
};

use self::{
    files::{Files, compare, script_directory},
    seen::{Capture, Watch},
    traffic::traffic,
};
use crate::support::turn;

/// Port of the connections that only ask whether the monitor is there yet.
const MARKER_PORT: u16 = 5399;
/// How long anything may take; loading the programs alone is minutes on an emulated CPU.
const LIMIT: Duration = Duration::from_mins(8);
const MUTATIONS: [&str; 4] = ["any-tsval", "pure-ack", "overwrite-slots", "forget-match"];

#[test]
fn samples_are_those_of_the_reference() {
    if let Some(reason) = missing() {
        println!("LPM-SKIP oracle: {reason}");
        return;
    }
    let _alone = alone();
    let directory = Directory::new("ts");
    let files = Files::new(&directory.path);
    let pair = Pair::new(&PairConfig::default()).expect("the testbed");
    let _server = Server::start(&pair.server, PORT).expect("a server beyond the wire");
    let _pod = Server::start(&pair.client, PORT).expect("a server in the pod");
    let _marker = Server::start(&pair.server, MARKER_PORT).expect("a server for markers");

    let watch = Watch::start(&pair, &files.watch, &[]);
    watch.seen_after_now(&pair);
    let capture = Capture::start(&pair, &files, &format!("tcp port {PORT}"));
    traffic(&pair);
    capture.stop();
    watch.seen_after_now(&pair);
    watch.stop();

    files.fields();
    let oracle = files.oracle("ts", &[]);
    // What the capture itself is worth: right rules pass on it.
    files.second_reading("slotted.py", &[]);
    let second = compare(&oracle, &files.second, "ts", PORT, &[]);
    second.expect_pass("the second reading");
    let watched = files.live(&oracle, &files.watch, "ts", PORT, &[]);
    watched.expect_pass("lpm watch");
    // Nothing is measured any more: all at once.
    let verdicts = thread::scope(|scope| {
        let broken = MUTATIONS.map(|rule| {
            let files = &files;
            scope.spawn(move || {
                let broken = files.oracle("ts", &["--mutate", rule]);
                files.live(&broken, &files.watch, "ts", PORT, &[])
            })
        });
        broken.map(|verdict| verdict.join().expect("a verdict"))
    });
    for (rule, verdict) in MUTATIONS.into_iter().zip(verdicts) {
        verdict.expect_failure(rule);
    }
}

/// One at a time: they would take each other's CPUs.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn the_reference_passes_its_own_tests() {
    if !runs("python3") {
        println!("LPM-SKIP oracle: python3 is not installed");
        return;
    }
    let mut tests = Command::new("python3");
    tests.args(["-B", "-m", "unittest", "-v"]);
    tests.current_dir(script_directory());
    let output = tests.output().expect("python3 to run");
    let words = String::from_utf8_lossy(&output.stderr);
    println!("{words}");
    assert!(
        output.status.success() && words.contains("test_every_vector"),
        "{words}"
    );
}

/// Where the files of a test lie: gone after it, unless somebody wants to look
/// at what went wrong.
struct Directory {
    path: PathBuf,
    _temporary: tempfile::TempDir,
}

impl Directory {
    fn new(test: &str) -> Self {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let kept = std::env::var_os("LPM_ORACLE_DIRECTORY").map(|kept| Path::new(&kept).join(test));
        if let Some(kept) = &kept {
            std::fs::create_dir_all(kept).expect("LPM_ORACLE_DIRECTORY");
        }
        Self {
            path: kept.unwrap_or_else(|| temporary.path().to_owned()),
            _temporary: temporary,
        }
    }
}

/// Why this machine cannot run the test.
fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root for network namespaces and the capture".to_owned());
    }
    let tools = ["tshark", "tcpdump", "python3"];
    let absent = tools.into_iter().find(|tool| !runs(tool))?;
    Some(format!("{absent} is not installed"))
}

fn runs(tool: &str) -> bool {
    turn::take();
    let version = Command::new(tool).arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}
