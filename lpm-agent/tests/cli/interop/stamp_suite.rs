//! stamp-suite 1.0.0 in both roles: `cargo xtask test --only interop` builds it, for minutes, and runs
//! these tests. Without the feature `stamp-suite` they are compiled only.
#![cfg_attr(
    not(feature = "stamp-suite"),
    allow(dead_code, reason = "not registered as tests then")
)]

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    process::{ChildStderr, Command, Stdio},
};

use lpm_testbed::testbed::{Netns, NsChild};
use serde_json::Value;

use super::ends::{Ends, HERE, PORT, Reflector, THERE, key_file};
use crate::support::turn;

/// stamp-suite in a namespace.
fn suite(netns: &Netns, arguments: &[&str]) -> Command {
    let program = env::var_os("LPM_STAMP_SUITE").expect("LPM_STAMP_SUITE names the program");
    let mut command = netns.command(program);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// stamp-suite's reflector. Dropping it kills it.
struct SuiteReflector {
    _child: NsChild,
    /// Kept open: it logs to it.
    _log: BufReader<ChildStderr>,
}

fn suite_reflects(ends: &Ends, arguments: &[&str]) -> SuiteReflector {
    let port = PORT.to_string();
    let base = ["-i", "--local-addr", THERE[0], "--local-port", &port];
    let mut command = suite(&ends.there, &[&base[..], arguments].concat());
    let child = ends
        .there
        .spawn(command.stdout(Stdio::null()).stderr(Stdio::piped()))
        .expect("start stamp-suite");
    let mut log = BufReader::new(child.stderr().expect("stderr"));
    let mut said = String::new();
    while !said.contains("listening on") {
        let read = log.read_line(&mut said).expect("read its log");
        assert_ne!(read, 0, "it ended before it was ready: {said}");
    }
    SuiteReflector {
        _child: child,
        _log: log,
    }
}

/// The summary of stamp-suite's sender.
fn suite_asks(ends: &Ends, arguments: &[&str]) -> Value {
    let port = PORT.to_string();
    let base = [
        "-r",
        THERE[0],
        "-S",
        HERE[0],
        "-p",
        &port,
        "-c",
        "10",
        "-d",
        "20ms",
        "-L",
        "5",
        "--ssid",
        "7",
        "--output-format",
        "json",
    ];
    let output = suite(&ends.here, &[&base[..], arguments].concat())
        .output()
        .expect("run stamp-suite");
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_else(|| {
        panic!("{}", String::from_utf8_lossy(&output.stderr));
    });
    let summary: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(
        summary["packets_sent"], summary["packets_received"],
        "{summary}"
    );
    summary
}

/// The key as stamp-suite reads it, beside ours.
fn keys(directory: &std::path::Path) -> (String, String) {
    let ours = key_file(directory, 7);
    let (_, path) = ours.split_once(':').expect("a path");
    // It refuses a key file that others may read.
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(path, permissions).expect("permissions");
    let path = path.to_owned();
    (ours, path)
}

/// How many TLVs of a type had which flags, by stamp-suite's sender.
fn flags<'a>(summary: &'a Value, kind: &str) -> (&'a Value, &'a Value, &'a Value) {
    let of = &summary["measurements"]["tlv_validation"]["by_type"][kind]["flags"];
    let count = |flag: &str| &of[flag];
    (
        count("unrecognized"),
        count("malformed"),
        count("integrity_failed"),
    )
}

#[cfg_attr(feature = "stamp-suite", test)]
fn its_sender_believes_our_reflector() {
    turn::take();
    let ends = Ends::new();
    let reflector = Reflector::start(&ends, &["--allow", HERE[0]]);
    let asks = [
        "--cos",
        "--dscp",
        "46",
        "--timestamp-info",
        "--direct-measurement",
        "--location",
        "--follow-up-telemetry",
        "--extra-padding",
        "10",
    ];
    let summary = suite_asks(&ends, &asks);
    for kind in ["1", "2", "3", "4", "5", "7"] {
        assert_eq!(
            flags(&summary, kind),
            (&0.into(), &0.into(), &0.into()),
            "TLV {kind}"
        );
    }
    // The first answer knows none before it.
    let follow_up = &summary["measurements"]["follow_up"];
    assert_eq!(
        (&follow_up["matched"], &follow_up["unavailable"]),
        (&9.into(), &1.into())
    );
    // Counters that nobody counts are told as that.
    assert_eq!(
        summary["measurements"]["direct_measurement"]["unavailable"],
        10
    );
    assert_eq!(summary["measurements"]["last_reflector_sequence"], 9);
    assert!(reflector.end().contains("lpm: 10 packets answered\n"));
}

#[cfg_attr(feature = "stamp-suite", test)]
fn its_sender_believes_our_hmacs() {
    turn::take();
    let ends = Ends::new();
    let directory = tempfile::tempdir().expect("a directory");
    let (ours, its) = keys(directory.path());
    let reflector = Reflector::start(&ends, &["--allow", HERE[0], "--key", &ours]);
    let asks = [
        "-A",
        "A",
        "--hmac-key-file",
        &its,
        "--timestamp-info",
        "--follow-up-telemetry",
        "--extra-padding",
        "10",
    ];
    let summary = suite_asks(&ends, &asks);
    let hmac = &summary["measurements"]["tlv_validation"]["hmac"];
    assert_eq!(
        (&hmac["verified"], &hmac["failed"]),
        (&10.into(), &0.into()),
        "{hmac}"
    );
    assert!(reflector.end().contains("lpm: 10 packets answered\n"));
}

#[cfg_attr(feature = "stamp-suite", test)]
fn our_sender_reads_its_reflector() {
    turn::take();
    let ends = Ends::new();
    let directory = tempfile::tempdir().expect("a directory");
    let (ours, its) = keys(directory.path());
    let key = ["--key", ours.as_str()];
    let keyed = ["-A", "A", "--hmac-key-file", its.as_str()];
    let cases: [(&[&str], &[&str], bool); 5] = [
        (&[], &[], false),
        (&["--stateful-reflector"], &[], true),
        (
            &["--clock-source", "PTP", "--stateful-reflector"],
            &[],
            true,
        ),
        (&keyed, &key, false),
        (
            &[&keyed[..], &["--stateful-reflector"]].concat(),
            &key,
            true,
        ),
    ];
    for (its, ours, counts) in cases {
        let _reflector = suite_reflects(&ends, its);
        let asks = [&["-c", "10", "-i", "0.02", "-W", "5", "-Q", "46"], ours].concat();
        let summary = ends.summary(&asks);
        assert_eq!(
            (&summary["sent"], &summary["received"]),
            (&10.into(), &10.into()),
            "{its:?}"
        );
        assert_eq!(
            (&summary["void"], &summary["foreign"]),
            (&0.into(), &0.into()),
            "{its:?}"
        );
        assert_eq!(summary["class"]["t2"], "peer", "{its:?}");
        assert_eq!(
            summary.get("lost_forward").is_some(),
            counts,
            "{its:?}: {summary}"
        );
    }
}

/// Another key on either side: no answer counts.
#[cfg_attr(feature = "stamp-suite", test)]
fn another_key_gets_no_answer() {
    turn::take();
    let ends = Ends::new();
    let directory = tempfile::tempdir().expect("a directory");
    let (_, its) = keys(directory.path());
    let _reflector = suite_reflects(&ends, &["-A", "A", "--hmac-key-file", &its]);
    let other = directory.path().join("other");
    fs::write(&other, "00112233445566778899aabbccddeeff").expect("a key file");
    let key = format!("7:{}", other.display());
    let summary = ends.summary(&["-c", "2", "-i", "0.02", "-W", "0.3", "--key", &key]);
    assert_eq!(
        (&summary["sent"], &summary["received"]),
        (&2.into(), &0.into())
    );
}
