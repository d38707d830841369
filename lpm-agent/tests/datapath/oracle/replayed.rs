//! `lpm replay` of random conversations against the references: what no
//! network does on demand. Needs neither root nor the kernel programs.

use std::{path::Path, process::Command};

use super::{
    Directory,
    files::{Files, compare, into, script},
    runs,
};

#[test]
fn random_conversations_are_measured_as_the_reference_says() {
    if let Some(tool) = ["tshark", "python3"].into_iter().find(|tool| !runs(tool)) {
        println!("LPM-SKIP oracle: {tool} is not installed");
        return;
    }
    for (seed, timestamps) in [("1", false), ("2", false), ("3", true)] {
        let directory = Directory::new(&format!("random-{seed}"));
        let files = Files::new(&directory.path);
        let mut conversations = script("conversations.py");
        conversations.arg(&files.capture).args(["--seed", seed]);
        conversations.args(timestamps.then_some("--timestamps"));
        assert!(conversations.status().expect("python3 to run").success());
        replay(&files, timestamps);
        files.fields();
        let forced: &[&str] = if timestamps { &["--forced"] } else { &[] };
        for (method, options, least) in [("seq", forced, "500"), ("handshake", &[], "200")] {
            let oracle = files.oracle(method, options);
            let least = ["--min-samples", least];
            let verdict = compare(&oracle, &files.watch, method, 5301, &least);
            verdict.expect_pass(&format!("lpm replay, {method}, seed {seed}"));
        }
    }
}

/// Made captures, written in the ways that captures go wrong: the same times as tshark's, by every
/// method, where the definitions are the same.
#[test]
fn captures_written_in_odd_ways_agree_with_tshark() {
    let tools = ["tshark", "editcap", "reordercap", "python3"];
    if let Some(tool) = tools.into_iter().find(|tool| !runs(tool)) {
        println!("LPM-SKIP oracle: {tool} is not installed");
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures/beside_tshark.py");
    let mut beside = Command::new("python3");
    let output = beside.arg(script).arg(env!("CARGO_BIN_EXE_lpm")).output();
    let output = output.expect("python3 to run");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "a time differs");
    assert!(said.contains("| frames twice | 200 of 200 |"), "all pairs");
}

/// By sequence number, in any case.
fn replay(files: &Files, timestamps: bool) {
    let mut replay = Command::new(env!("CARGO_BIN_EXE_lpm"));
    replay.arg("replay").arg(&files.capture);
    replay.args(["--format", "json", "--vantage", "pod"]);
    replay.args(["--local", "198.18.1.0/24"]);
    if timestamps {
        replay.args(["--methods", "seq", "--methods", "handshake"]);
    }

    into(&mut replay, &files.watch);
}
