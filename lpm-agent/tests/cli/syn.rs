//! `lpm probe --protocol tcp`: the kernel answers, and the wire's log is the truth. It loads no kernel
//! program.

use std::{
    net::{IpAddr, TcpListener},
    time::Duration,
};

use lpm_testbed::testbed::{Direction, Impairment, Netns, Pair, PairConfig, wire::Record};
use serde_json::Value;

use crate::support::{kernel::process::lpm, turn};

/// A port that somebody listens at, and one that nobody does.
const OPEN: u16 = 7777;
const CLOSED: u16 = 7778;

/// Bytes of a SYN's frame over IPv4: by a raw socket with one option, and by the kernel's TCP.
const SYN_RAW: u32 = 14 + 20 + 24;
const SYN_CONNECT: u32 = 14 + 20 + 40;

/// What may be done: anything, or nothing that needs a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rights {
    Root,
    None,
}

fn probe(
    netns: &Netns,
    rights: Rights,
    target: &str,
    arguments: &[&str],
) -> (Option<i32>, Vec<Value>, String) {
    let program = lpm().get_program().to_owned();
    let mut command = netns.command("setpriv");
    if rights == Rights::None {
        command.args(["--bounding-set=-all", "--inh-caps=-all"]);
    }
    command.arg(program).args(["probe", "--protocol", "tcp"]);
    command.args(["--format", "json", target]).args(arguments);
    let output = command.output().expect("run setpriv");
    let lines = String::from_utf8_lossy(&output.stdout);
    let records = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), records, said)
}

fn target(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

fn listener(pair: &Pair) -> TcpListener {
    let open = || TcpListener::bind(("::", OPEN)).expect("a listener");
    let listener = pair.server.run_in(open).expect("enter");
    listener.set_nonblocking(true).expect("no blocking");
    listener
}

fn pair(delay: Duration) -> Pair {
    let config = PairConfig {
        wire: Some(Impairment::delay(delay)),
        ..PairConfig::default()
    };
    Pair::new(&config).expect("a wire")
}

fn summary(records: &[Value]) -> &Value {
    let last = records.last().expect("a summary");
    assert_eq!(
        (&last["type"], &last["protocol"]),
        (&"summary".into(), &"tcp".into()),
        "{last}"
    );
    last
}

fn ns(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn both_ways_and_both_families_are_answered_and_say_how() {
    turn::take();
    let pair = pair(Duration::ZERO);
    let listener = listener(&pair);
    for rights in [Rights::Root, Rights::None] {
        for address in Pair::SERVER {
            for (port, answer, count) in [(OPEN, "syn-ack", "syn_acks"), (CLOSED, "rst", "resets")]
            {
                let target = target(address, port);
                let arguments = ["-c", "5", "-i", "0.01", "-Q", "46"];
                let (code, records, said) = probe(&pair.client, rights, &target, &arguments);
                assert_eq!(code, Some(0), "{said}");
                let end = summary(&records);
                assert_eq!((ns(&end["received"]), ns(&end[count])), (5, 5), "{end}");
                // A RST has no time of the kernel's TCP.
                let at = match (rights, port) {
                    (Rights::Root, _) => "kernel",
                    (Rights::None, OPEN) => "tcp",
                    (Rights::None, _) => "user",
                };
                for record in &records[..5] {
                    assert_eq!(
                        (&record["result"], &record["answer"]),
                        (&"ok".into(), &answer.into()),
                        "{record}"
                    );
                    let stamps = ["t1", "t2", "t3", "t4"].map(|name| &record["stamps"][name]);
                    assert_eq!(
                        stamps,
                        [at, "unknown", "unknown", at],
                        "{rights:?} {target}"
                    );
                    assert!(ns(&record["rtt_ns"]) > 0);
                    assert_eq!(record.get("ttl_seen").is_some(), rights == Rights::Root);
                    assert_eq!(record.get("dwell_ns"), None, "not measured is left out");
                }
            }
        }
        if rights == Rights::Root {
            let accepted = listener.accept().map(|(_, from)| from);
            assert!(accepted.is_err(), "no connection comes about: {accepted:?}");
        }
    }
}

/// The records of frames of a length on the wire, one way.
fn on_wire(pair: &Pair, direction: Direction, bytes: u32) -> Vec<Record> {
    let records = pair.wire().records().into_iter();
    records
        .filter(|record| record.direction == direction && record.frame_bytes == bytes)
        .collect()
}

/// The round trip is the wire's and no less, by each way.
#[test]
fn the_round_trip_is_the_wires() {
    turn::take();
    let pair = pair(Duration::from_millis(3));
    let _listener = listener(&pair);
    let target = target(Pair::SERVER[0], OPEN);
    for (rights, bytes) in [(Rights::Root, SYN_RAW), (Rights::None, SYN_CONNECT)] {
        drop(pair.wire().take_records());
        let arguments = ["-c", "50", "-i", "0.01"];
        let (_, records, said) = probe(&pair.client, rights, &target, &arguments);
        let there = on_wire(&pair, Direction::Forward, bytes);
        let back = on_wire(&pair, Direction::Backward, bytes);
        assert_eq!((there.len(), back.len()), (50, 50), "{said}");
        let mut above = Vec::new();
        for ((record, there), back) in records.iter().zip(&there).zip(&back) {
            let wire = there.delay_ns().expect("it left") + back.delay_ns().expect("it left");
            // The kernel's TCP has whole microseconds.
            let rtt = ns(&record["rtt_ns"]) + 1_000;
            assert!(rtt >= wire, "{record} below the wire's {wire}");
            above.push(rtt - 1_000 - wire.min(rtt - 1_000));
        }
        above.sort_unstable();
        eprintln!("{rights:?}: above the wire's time: median {} ns", above[25]);
        assert!(above[25] < 1_000_000, "{above:?}");
    }
}

/// Every second SYN is lost, then every second SYN-ACK. Either end sends its own again after a second:
/// that must never be a round trip.
#[test]
fn what_is_sent_again_is_lost_and_no_round_trip_of_a_second() {
    turn::take();
    for flags in ["syn", "syn | ack"] {
        let pair = pair(Duration::ZERO);
        let _listener = listener(&pair);
        let rules = format!(
            "table inet t {{ chain f {{ type filter hook forward priority 0; \
             tcp flags & (syn | ack | rst) == {flags} numgen inc mod 2 0 drop; }}; }}"
        );
        pair.node.output("nft", &[&rules]).expect("rules");
        for rights in [Rights::Root, Rights::None] {
            for address in Pair::SERVER {
                let target = target(address, OPEN);
                let arguments = ["-c", "8", "-i", "0.02", "-W", "1"];
                let (_, records, said) = probe(&pair.client, rights, &target, &arguments);
                let end = summary(&records);
                eprintln!("{flags} {rights:?}: {end} {said}");
                let missing = ns(&end["lost"]) + ns(&end["late"]);
                assert_eq!(ns(&end["received"]) + missing, 8, "{end}");
                assert!(missing >= 3, "{end}");
                assert!(ns(&end["rtt_ns"]["max"]) < 900_000_000, "{end}");
            }
        }
    }
}

#[test]
fn what_refuses_a_syn_is_told_with_who_says_so() {
    turn::take();
    let pair = pair(Duration::ZERO);
    let rules = "table inet t { chain f { type filter hook forward priority 0; \
                 tcp dport 7779 reject with icmpx admin-prohibited; }; }";
    pair.node.output("nft", &[rules]).expect("rules");
    for key in ["net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit"] {
        pair.node.sysctl(key, "0").expect("no limit");
    }
    for rights in [Rights::Root, Rights::None] {
        for (address, by) in Pair::SERVER.into_iter().zip(["198.18.1.1", "fd00:18:1::1"]) {
            let target = target(address, 7779);
            let arguments = ["-c", "3", "-i", "0.01"];
            let (code, records, said) = probe(&pair.client, rights, &target, &arguments);
            assert_eq!(code, Some(1), "{said}");
            for record in &records[..3] {
                assert_eq!(record["result"], "unreachable", "{rights:?} {record}");
                assert_eq!(record["by"], by, "{rights:?} {record}");
            }
            let end = summary(&records);
            assert_eq!(
                (ns(&end["unreachable"]), end.get("rtt_ns")),
                (3, None),
                "{end}"
            );
        }
    }
}

#[test]
fn what_a_syn_does_not_know_is_refused() {
    turn::take();
    let alone = Netns::new("alone").expect("a namespace");
    for (target, arguments, words) in [
        (
            "198.18.2.2",
            vec![],
            "198.18.2.2: TCP needs a port, such as 198.18.2.2:443",
        ),
        ("fd00::2", vec![], "TCP needs a port, such as [fd00::2]:443"),
        ("198.18.2.2:80", vec!["--train", "5"], "leave out --train"),
        ("198.18.2.2:80", vec!["--ecn", "1"], "leave out --ecn"),
        ("198.18.2.2:80", vec!["-s", "100"], "leave out -s"),
        ("198.18.2.2:80", vec!["-W", "2"], "give at most 1 with -W"),
        ("198.18.2.2:80", vec!["--hops"], "--protocol icmp"),
        (
            "127.0.0.1:80",
            vec!["-I", "198.18.99.9"],
            "an address of this machine",
        ),
    ] {
        let (code, _, said) = probe(&alone, Rights::Root, target, &arguments);
        assert_eq!(code, Some(2), "{target} {arguments:?}: {said}");
        assert!(said.contains(words), "{words}: {said}");
    }
}
