//! `lpm probe --protocol icmp`: the kernel answers, and ping is beside it.

use std::time::Duration;

use lpm_testbed::testbed::{
    Direction, Impairment, Pair, PairConfig,
    wire::{Fate, Loss, Record},
};
use serde_json::Value;

use super::ends::{Ends, THERE};
use crate::support::{kernel::path_of, kernel::process::lpm, turn};

/// Who may send echo requests by a datagram socket: nobody, or root's group.
const NOBODY: &str = "1 0";
const ROOT: &str = "0 0";
const RANGE: &str = "net.ipv4.ping_group_range";

/// Bytes of a probe's frame: Ethernet, IPv4, ICMP and ping's 56 bytes of data.
const FRAME: u32 = 14 + 20 + 8 + 56;

fn probe(ends: &Ends, arguments: &[&str]) -> Vec<Value> {
    let (_, records, said) = ends.probe(&[&["--protocol", "icmp"], arguments].concat());
    assert!(!records.is_empty(), "{said}");
    records
}

fn last(records: &[Value]) -> &Value {
    let last = records.last().expect("a summary");
    assert_eq!(
        (&last["type"], &last["protocol"]),
        (&"summary".into(), &"icmp".into()),
        "{last}"
    );
    last
}

fn ns(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("no number: {value}"))
}

/// Runs it as text, as root without any capability: so are the permissions the socket's alone.
fn text_without_capabilities(ends: &Ends, target: &str) -> (Option<i32>, String) {
    let mut command = ends.here.command("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all"]);
    command.arg(lpm().get_program());
    command.args([
        "probe",
        "--protocol",
        "icmp",
        "-c",
        "2",
        "-i",
        "0.01",
        target,
    ]);
    let output = command.output().expect("run setpriv");
    let both = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&both).into_owned(),
    )
}

#[test]
fn both_sockets_and_both_families_have_the_kernels_times() {
    turn::take();
    let ends = Ends::new();
    for range in [NOBODY, ROOT] {
        ends.here.sysctl(RANGE, range).expect("a range");
        for target in THERE {
            let records = probe(&ends, &["-c", "5", "-i", "0.01", "-Q", "46", target]);
            let summary = last(&records);
            assert_eq!(
                (ns(&summary["sent"]), ns(&summary["received"])),
                (5, 5),
                "{summary}"
            );
            assert_eq!(summary["foreign"], 0);
            for record in &records[..5] {
                assert_eq!(record["result"], "ok", "{record}");
                let stamps = ["t1", "t2", "t3", "t4"].map(|name| &record["stamps"][name]);
                assert_eq!(
                    stamps,
                    ["kernel", "unknown", "unknown", "kernel"],
                    "{range} {target}"
                );
                assert_eq!(record["ttl_seen"], 64);
                // The answer has the request's class.
                assert_eq!(record["dscp_seen"], serde_json::json!({"backward": 46}));
                assert!(ns(&record["rtt_ns"]) > 0);
                for unknown in ["dwell_ns", "forward_ns", "backward_ns"] {
                    assert_eq!(record.get(unknown), None, "{unknown} of {record}");
                }
            }
        }
    }
}

#[test]
fn without_capabilities_a_datagram_socket_is_enough() {
    turn::take();
    let ends = Ends::new();
    ends.here.sysctl(RANGE, NOBODY).expect("a range");
    for target in THERE {
        let (code, said) = text_without_capabilities(&ends, target);
        assert_eq!(code, Some(2), "{said}");
        for words in [
            "cannot probe",
            "ping_group_range=\"0 0\"",
            "now \"1 0\"",
            "NET_RAW",
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
    ends.here.sysctl(RANGE, ROOT).expect("a range");
    for target in THERE {
        let (code, said) = text_without_capabilities(&ends, target);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("by a datagram socket\n"), "{said}");
        assert!(said.contains("2 sent, 2 received, 0 lost"), "{said}");
        assert!(
            said.contains("t1 kernel, t2 unknown, t3 unknown, t4 kernel"),
            "{said}"
        );
    }
}

#[test]
fn what_cannot_be_reached_is_told_with_who_says_so() {
    turn::take();
    let pair = Pair::new(&PairConfig::default()).expect("a wire");
    // Not by routes: of those the kernel tells five times, then once a second (ip_error).
    pair.node
        .ip_batch(
            "route add 198.18.7.0/24 via 198.18.2.2\nroute add 198.18.8.0/24 via 198.18.2.2\n\
             route add fd00:77::/64 via fd00:18:2::2",
        )
        .expect("routes");
    let rules = "table inet t { chain f { type filter hook forward priority 0; \
                 ip daddr 198.18.7.0/24 reject with icmp host-unreachable; \
                 ip daddr 198.18.8.0/24 reject with icmp admin-prohibited; \
                 ip6 daddr fd00:77::/64 reject with icmpv6 no-route; }; }";
    pair.node.output("nft", &[rules]).expect("rules");
    for key in ["net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit"] {
        pair.node.sysctl(key, "0").expect("no limit");
    }
    for range in [NOBODY, ROOT] {
        pair.client.sysctl(RANGE, range).expect("a range");
        for (target, error, by) in [
            ("198.18.7.1", "No route to host", "198.18.1.1"),
            ("198.18.8.1", "No route to host", "198.18.1.1"),
            ("fd00:77::1", "Network is unreachable", "fd00:18:1::1"),
        ] {
            let netns = path_of(&pair.client);
            let output = lpm()
                .args([
                    "--netns",
                    &netns,
                    "probe",
                    "--protocol",
                    "icmp",
                    "--format",
                    "json",
                ])
                .args(["-c", "3", "-i", "0.01", target])
                .output()
                .expect("run lpm probe");
            assert_eq!(output.status.code(), Some(1));
            let text = String::from_utf8_lossy(&output.stdout);
            let records: Vec<Value> = text
                .lines()
                .map(|line| serde_json::from_str(line).expect("JSON"))
                .collect();
            // Each probe was sent, and each has its own error.
            for (number, record) in records[..3].iter().enumerate() {
                assert_eq!(record["seq"], number, "{target}: {record}");
                assert_eq!(record["result"], "unreachable", "{target}: {record}");
                assert_eq!(record["by"], by, "{range} {record}");
                assert_eq!(record["error"], error, "{record}");
            }
            let summary = last(&records);
            assert_eq!(ns(&summary["unreachable"]), 3, "{summary}");
            assert_eq!(summary.get("rtt_ns"), None, "not measured is not 0");
        }
    }
    // This machine itself has no route.
    let netns = path_of(&pair.client);
    pair.client.ip("route del default").expect("no route");
    let output = lpm()
        .args([
            "--netns",
            &netns,
            "probe",
            "--protocol",
            "icmp",
            "-c",
            "1",
            "198.19.0.1",
        ])
        .output()
        .expect("run lpm probe");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("seq=0 unreachable: Network is unreachable\n"),
        "{text}"
    );
}

/// A packet that netfilter refuses takes a number on the socket. The times of the others must not move.
#[test]
fn a_refused_packet_takes_no_others_time() {
    turn::take();
    let ends = Ends::new();
    let rules = "table inet t { chain o { type filter hook output priority 0; \
                 ip daddr 198.18.1.2 ip protocol icmp numgen inc mod 3 0 drop; }; }";
    ends.here.output("nft", &[rules]).expect("rules");
    for range in [NOBODY, ROOT] {
        ends.here.sysctl(RANGE, range).expect("a range");
        let records = probe(&ends, &["-c", "30", "-i", "0.002", THERE[0]]);
        let summary = last(&records);
        assert_eq!(
            (ns(&summary["unreachable"]), ns(&summary["received"])),
            (10, 20),
            "{summary}"
        );
        for record in records.iter().take(30) {
            match record["result"].as_str() {
                Some("ok") => assert_eq!(record["stamps"]["t1"], "kernel", "{record}"),
                _ => assert_eq!(record["error"], "Operation not permitted", "{record}"),
            }
        }
    }
}

#[test]
fn what_icmp_does_not_know_is_refused() {
    turn::take();
    let ends = Ends::new();
    let directory = tempfile::tempdir().expect("a directory");
    let key = super::ends::key_file(directory.path(), 7);
    let with_port = format!("{}:862", THERE[0]);
    for (arguments, words) in [
        (vec![with_port.as_str()], "ICMP has no ports"),
        (vec!["--key", &key, THERE[0]], "ICMP knows no keys"),
        (vec!["--train", "20", THERE[0]], "ICMP knows no trains"),
        (vec!["--ecn", "1", THERE[0]], "leave out --ecn"),
        (vec!["-I", "nosuch0", THERE[0]], "-I takes an interface"),
        (
            vec!["-I", "198.18.99.9", THERE[0]],
            "an address of this machine",
        ),
        (vec!["-I", THERE[1], THERE[0]], "different families"),
    ] {
        let (status, _, said) = ends.probe(&[&["--protocol", "icmp"], &arguments[..]].concat());
        assert_eq!(status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{words}: {said}");
    }
}

/// The records of probes on the wire, one way.
fn on_wire(pair: &Pair, direction: Direction) -> Vec<Record> {
    let records = pair.wire().records().into_iter();
    records
        .filter(|record| record.direction == direction && record.frame_bytes == FRAME)
        .collect()
}

fn across(pair: &Pair, arguments: &[&str]) -> Vec<Value> {
    let output = lpm()
        .args([
            "--netns",
            &path_of(&pair.client),
            "probe",
            "--protocol",
            "icmp",
        ])
        .args(["--format", "json"])
        .args(arguments)
        .output()
        .expect("run lpm probe");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// The round trip is the wire's and no less; ping's mean is beside it.
#[test]
fn the_round_trip_is_the_wires_and_pings() {
    turn::take();
    let config = PairConfig {
        wire: Some(Impairment::delay(Duration::from_millis(3))),
        ..PairConfig::default()
    };
    let pair = Pair::new(&config).expect("a wire");
    let records = across(&pair, &["-c", "50", "-i", "0.01", "198.18.2.2"]);
    let (there, back) = (
        on_wire(&pair, Direction::Forward),
        on_wire(&pair, Direction::Backward),
    );
    assert_eq!((there.len(), back.len()), (50, 50));
    let mut above = Vec::new();
    for ((record, there), back) in records.iter().zip(&there).zip(&back) {
        let wire = there.delay_ns().expect("it left") + back.delay_ns().expect("it left");
        let rtt = ns(&record["rtt_ns"]);
        assert!(rtt >= wire, "{record} below the wire's {wire}");
        above.push(rtt - wire);
    }
    above.sort_unstable();
    let ping = pair
        .client
        .output("ping", &["-q", "-c", "50", "-i", "0.01", "198.18.2.2"])
        .expect("ping");
    // rtt min/avg/max/mdev = 6.1/6.2/6.4/0.1 ms
    let (_, figures) = ping.split_once("mdev = ").expect("its figures");
    let mean: f64 = figures
        .split('/')
        .nth(1)
        .expect("a mean")
        .parse()
        .expect("a number");
    let ours = ns(&last(&records)["rtt_ns"]["mean"]);
    eprintln!(
        "above the wire's time: median {} ns; mean {ours} ns beside ping's {mean} ms",
        above[25]
    );
    // Both crossed twice 3 ms; how far apart they are is the machine's noise.
    assert!(ours >= 6_000_000 && mean >= 6.0);
    assert!(above[25] < 1_000_000, "{above:?}");
}

#[test]
fn losses_duplicates_and_late_answers_are_told() {
    turn::take();
    let pair = Pair::new(&PairConfig::default()).expect("a wire");
    let set = |forward: Impairment, backward: Impairment| {
        pair.wire().set(Direction::Forward, forward);
        pair.wire().set(Direction::Backward, backward);
        drop(pair.wire().take_records());
    };
    set(
        Impairment {
            loss: Loss::EveryNth(7),
            ..Impairment::default()
        },
        Impairment {
            duplicate: 1.0,
            dscp: Some(10),
            ..Impairment::default()
        },
    );
    let arguments = [
        "-c",
        "100",
        "-i",
        "0.004",
        "-W",
        "0.5",
        "-Q",
        "46",
        "198.18.2.2",
    ];
    let records = across(&pair, &arguments);
    let lost = on_wire(&pair, Direction::Forward)
        .iter()
        .filter(|record| record.fate == Fate::Lost)
        .count() as u64;
    let summary = last(&records);
    assert!(lost >= 14);
    assert_eq!(ns(&summary["lost"]), lost, "{summary}");
    assert_eq!(ns(&summary["received"]) + lost, 100);
    assert!(ns(&summary["duplicates"]) >= 99 - lost, "{summary}");
    assert_eq!(summary.get("lost_forward"), None, "the way cannot be told");
    let answered = records.iter().find(|record| record["result"] == "ok");
    assert_eq!(answered.expect("one")["dscp_seen"]["backward"], 10);

    let slow = Impairment::delay(Duration::from_millis(300));
    set(Impairment::default(), slow);
    let records = across(&pair, &["-c", "3", "-i", "0.01", "-W", "0.2", "198.18.2.2"]);
    let summary = last(&records);
    let counts = ["received", "lost", "late"].map(|name| ns(&summary[name]));
    assert_eq!(counts, [0, 0, 3], "{summary}");
    assert_eq!(summary.get("rtt_ns"), None, "a late answer is no sample");
}
