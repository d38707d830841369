//! The samples of `lpm watch` against the reference in `tests/oracle`, on the
//! same packets at the same hook.
//!
//! A client pod talks to a server over a wire that delays, loses and reorders.
//! tcpdump and `lpm watch` look at the host end of the pod's veth; tshark,
//! `oracle.py` and `compare.py` then say whether the samples are those that
//! RFC 7323 and the terms ask for. Each rule broken on purpose must be found.

mod files;
mod seen;
mod traffic;

use std::{path::PathBuf, process::Command, time::Duration};

use lpm_bench::{
    testbed::{Pair, PairConfig},
    traffic::{PORT, Server},
};

use self::{
    files::{Files, script_directory},
    seen::{Capture, Watch},
    traffic::traffic,
};

/// Port of the connections that only ask whether the monitor is there yet.
const MARKER_PORT: u16 = 5399;
const LIMIT: Duration = Duration::from_secs(30);
const MUTATIONS: [&str; 4] = ["any-tsval", "pure-ack", "overwrite-slots", "forget-match"];

#[test]
fn samples_are_those_of_the_reference() {
    if let Some(reason) = missing() {
        println!("LPM-SKIP oracle: {reason}");
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    // For a look at what went wrong: a directory that stays.
    let kept = std::env::var_os("LPM_ORACLE_DIRECTORY").map(PathBuf::from);
    let files = Files::new(kept.as_deref().unwrap_or(directory.path()));
    let pair = Pair::new(&PairConfig::default()).expect("the testbed");
    let _server = Server::start(&pair.server, PORT).expect("a server beyond the wire");
    let _pod = Server::start(&pair.client, PORT).expect("a server in the pod");
    let _marker = Server::start(&pair.server, MARKER_PORT).expect("a server for markers");

    let watch = Watch::start(&pair, &files);
    watch.seen_after_now(&pair);
    let capture = Capture::start(&pair, &files);
    traffic(&pair);
    capture.stop();
    watch.seen_after_now(&pair);
    watch.stop();

    files.fields();
    files.oracle(None);
    // What the capture itself is worth: right rules pass on it.
    files.second_reading();
    files
        .compare(&files.second)
        .expect_pass("the second reading");
    files.compare(&files.watch).expect_pass("lpm watch");
    for rule in MUTATIONS {
        files.oracle(Some(rule));
        files.compare(&files.watch).expect_failure(rule);
    }
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
    let version = Command::new(tool).arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}
