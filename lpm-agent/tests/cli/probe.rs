//! `lpm probe` and `lpm reflect` across a wire whose own log is the truth. Neither loads a kernel
//! program.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Output, Stdio},
    time::Duration,
};

use lpm_testbed::testbed::{
    Direction, Impairment, NsChild, Pair, PairConfig,
    wire::{Fate, Loss, Record},
};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    kernel::{LIMIT, path_of, process::lpm},
    turn,
};

/// Bytes of a probe's frame: Ethernet, IPv4, UDP and 88 bytes of STAMP.
const FRAME: u32 = 14 + 20 + 8 + 88;

/// A reflector beyond the wire. Dropping it kills it.
struct Reflector {
    child: NsChild,
    log: BufReader<std::process::ChildStderr>,
}

impl Reflector {
    fn start(pair: &Pair, arguments: &[&str]) -> Self {
        let mut command = lpm();
        command
            .args(["--netns", &path_of(&pair.server), "reflect"])
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let child = pair.server.spawn(&mut command).expect("start lpm reflect");
        let mut log = BufReader::new(child.stderr().expect("stderr"));
        let mut line = String::new();
        log.read_line(&mut line).expect("read its log");
        assert!(line.contains("answering"), "{line}");
        Self { child, log }
    }

    /// Ends it, and gives what it counted.
    fn end(mut self) -> String {
        self.child.signal(Signal::SIGTERM).expect("end it");
        let mut counts = String::new();
        while self.log.read_line(&mut counts).expect("read its log") > 0 {}
        assert!(self.child.wait(LIMIT).expect("its end").success());
        counts
    }
}

fn pair(forward: Impairment, backward: Impairment) -> Pair {
    let pair = Pair::new(&PairConfig::default()).expect("a wire");
    pair.wire().set(Direction::Forward, forward);
    pair.wire().set(Direction::Backward, backward);
    drop(pair.wire().take_records());
    pair
}

fn probe(pair: &Pair, arguments: &[&str]) -> (Output, Vec<Value>) {
    let mut command: Command = lpm();
    command.args([
        "--netns",
        &path_of(&pair.client),
        "probe",
        "--format",
        "json",
    ]);
    let output = command.args(arguments).output().expect("run lpm probe");
    let lines = String::from_utf8_lossy(&output.stdout);
    let records = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    let records = records.collect();
    (output, records)
}

/// The records of probes on the wire, one way.
fn on_wire(pair: &Pair, direction: Direction) -> Vec<Record> {
    let records = pair.wire().records().into_iter();
    records
        .filter(|record| record.direction == direction && record.frame_bytes == FRAME)
        .collect()
}

fn summary(records: &[Value]) -> &Value {
    let last = records.last().expect("a summary");
    assert_eq!(last["type"], "summary", "{last}");
    last
}

fn ns(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("no number: {value}"))
}

/// 2 ms there and 10 ms back. The bounds contain each way's true time, and the round trip is the
/// wire's: never less, and at most half a millisecond more in the median of a busy machine.
#[test]
fn the_round_trip_is_the_wires() {
    turn::take();
    let pair = pair(
        Impairment::delay(Duration::from_millis(2)),
        Impairment::delay(Duration::from_millis(10)),
    );
    let reflector = Reflector::start(&pair, &["--allow", "198.18.1.0/24"]);
    let (output, records) = probe(&pair, &["-c", "50", "-i", "0.02", "198.18.2.2"]);
    assert!(output.status.success(), "{output:?}");
    let summary = summary(&records);
    assert_eq!((ns(&summary["sent"]), ns(&summary["received"])), (50, 50));
    assert_eq!(summary["class"]["t3"], "kernel");
    let (there, back) = (
        on_wire(&pair, Direction::Forward),
        on_wire(&pair, Direction::Backward),
    );
    // The packets behind the last probe fetched its time.
    assert!(there.len() > 50 && there.len() == back.len());
    let mut above = Vec::new();
    for ((record, there), back) in records.iter().zip(&there).zip(&back).take(50) {
        assert_eq!(record["result"], "ok", "{record}");
        assert_eq!(record["ttl_seen"], 63);
        let (there, back) = (
            there.delay_ns().expect("it left"),
            back.delay_ns().expect("it left"),
        );
        let rtt = ns(&record["rtt_ns"]);
        assert!(
            rtt >= there + back,
            "{record} below the wire's {there} + {back}"
        );
        above.push(rtt - there - back);
        let contains = |way: &str, truth: u64| {
            let (lower, upper) = (ns(&record[way][0]), ns(&record[way][1]));
            assert!(
                (lower..=upper).contains(&truth),
                "{way} of {record} without {truth}"
            );
        };
        contains("forward_ns", there);
        contains("backward_ns", back);
    }
    above.sort_unstable();
    eprintln!(
        "above the wire's time: median {} ns, most {} ns",
        above[25], above[49]
    );
    assert!(above[25] < 500_000, "{above:?}");
    assert!(reflector.end().contains("packets answered"));
}

/// Every seventh packet is lost there, every eleventh answer on the way back.
#[test]
fn losses_are_told_by_their_way() {
    turn::take();
    let lossy = |nth| Impairment {
        loss: Loss::EveryNth(nth),
        ..Impairment::delay(Duration::from_millis(1))
    };
    let pair = pair(lossy(7), lossy(11));
    let _reflector = Reflector::start(&pair, &["--allow", "198.18.1.2"]);
    let arguments = ["-c", "300", "-i", "0.004", "-W", "0.5", "198.18.2.2"];
    let (_, records) = probe(&pair, &arguments);
    let summary = summary(&records);
    let lost_of = |way, within: usize| {
        let records = on_wire(&pair, way).into_iter().take(within);
        records.filter(|record| record.fate == Fate::Lost).count() as u64
    };
    let there = lost_of(Direction::Forward, 300);
    let answers = 300 - usize::try_from(there).expect("a small number");
    let back = lost_of(Direction::Backward, answers);
    let told = ns(&summary["lost_forward"]) + ns(&summary["lost_backward"]);
    let unknown = summary["lost"].as_u64().unwrap_or(0);
    eprintln!("lost there {there}, back {back}; told: {summary}");
    assert_eq!(ns(&summary["received"]) + there + back, 300);
    assert_eq!(told + unknown, there + back);
    // Behind the last answer the way cannot be told.
    assert!(unknown <= 2, "{unknown} of {}", there + back);
    assert!(ns(&summary["lost_forward"]) <= there);
    assert!(ns(&summary["lost_backward"]) <= back);
}

#[test]
fn duplicates_and_a_rewritten_dscp_are_told() {
    turn::take();
    let forward = Impairment {
        dscp: Some(10),
        ..Impairment::default()
    };
    let backward = Impairment {
        duplicate: 1.0,
        ..Impairment::default()
    };
    let pair = pair(forward, backward);
    let _reflector = Reflector::start(&pair, &["--allow", "198.18.1.2"]);
    let arguments = ["-c", "20", "-i", "0.01", "-Q", "46", "198.18.2.2"];
    let (_, records) = probe(&pair, &arguments);
    let answered = records.iter().filter(|record| record["result"] == "ok");
    let seen: Vec<&Value> = answered.map(|record| &record["dscp_seen"]).collect();
    assert_eq!(seen.len(), 20);
    for seen in seen {
        assert_eq!(
            (&seen["forward"], &seen["backward"]),
            (&10.into(), &46.into())
        );
    }
    assert!(
        ns(&summary(&records)["duplicates"]) >= 19,
        "{}",
        summary(&records)
    );
}

#[test]
fn what_does_not_answer_has_a_reason_and_an_exit_status() {
    turn::take();
    let pair = pair(Impairment::default(), Impairment::default());
    // A closed port: the kernel there says so.
    let (output, records) = probe(&pair, &["-c", "2", "-i", "0.01", "198.18.2.2:99"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(records[0]["result"], "unreachable", "{:?}", records[0]);
    assert_eq!(ns(&summary(&records)["received"]), 0);
    assert_eq!(
        summary(&records).get("rtt_ns"),
        None,
        "not measured is not 0"
    );
    // A client that is not allowed: silence, and a count.
    let reflector = Reflector::start(&pair, &["--allow", "198.18.77.0/24"]);
    let (output, records) = probe(&pair, &["-c", "2", "-i", "0.01", "-W", "0.2", "198.18.2.2"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(records[0]["result"], "lost");
    let counts = reflector.end();
    assert!(
        counts.contains("2 packets from clients that are not allowed"),
        "{counts}"
    );
    // What cannot be sent at all.
    for (arguments, words) in [
        (["-I", "nosuch0", "198.18.2.2"], "-I"),
        (
            ["-I", "198.18.99.9", "198.18.2.2"],
            "an address of this machine",
        ),
        (["-I", "fd00::1", "198.18.2.2"], "different families"),
        (
            ["-c", "1", "no.such.host.invalid"],
            "cannot find no.such.host.invalid",
        ),
    ] {
        let (output, _) = probe(&pair, &arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn with_a_key_only_those_who_have_it_get_answers() {
    turn::take();
    let pair = pair(Impairment::default(), Impairment::default());
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, digits: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, digits).expect("a key file");
        format!("7:{}", path.display())
    };
    let good = file("good", "00112233445566778899aabbccddeeff\n");
    let bad = file("bad", "ff112233445566778899aabbccddeeff\n");
    let reflector = Reflector::start(&pair, &["--allow", "198.18.1.2", "--key", &good]);
    let ask = |key: &str| {
        let arguments = [
            "-c",
            "3",
            "-i",
            "0.01",
            "-W",
            "0.2",
            "--key",
            key,
            "198.18.2.2",
        ];
        ns(&summary(&probe(&pair, &arguments).1)["received"])
    };
    assert_eq!(ask(&good), 3);
    assert_eq!(ask(&bad), 0);
    let (_, records) = probe(&pair, &["-c", "1", "-W", "0.2", "198.18.2.2"]);
    assert_eq!(ns(&summary(&records)["received"]), 0);
    let counts = reflector.end();
    assert!(counts.contains("packets without a valid HMAC"), "{counts}");
}
