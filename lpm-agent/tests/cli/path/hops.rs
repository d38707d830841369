//! Three routers between two machines, and one of them that says nothing.

use serde_json::Value;

use super::line::{By, Line};
use crate::support::turn;

/// Walks, and gives the records of the hops and the summary.
fn walk(line: &Line, by: By, target: &str, arguments: &[&str]) -> (Vec<Value>, Value) {
    let (code, mut records, said) = line.probe(by, target, &[&["--hops"], arguments].concat());
    let last = records.pop().unwrap_or_else(|| panic!("{said}"));
    assert_eq!(last["type"], "summary", "{last}");
    let is_reached = last["reached"].as_bool().expect("a word");
    assert_eq!(code, Some(i32::from(!is_reached)), "{last} {said}");
    for (ttl, record) in (1..).zip(&records) {
        assert_eq!(
            (&record["type"], &record["ttl"]),
            (&"hop".into(), &ttl.into()),
            "{record}"
        );
    }
    (records, last)
}

/// The address of the machine with this number, on the side of the first one.
fn router(number: usize, target: &str) -> String {
    if target.contains(':') {
        format!("fd00:18:{number}::2")
    } else {
        format!("198.18.{number}.2")
    }
}

fn is_answered(hop: &Value, by: &str, result: &str) {
    assert_eq!(hop["sent"], 3);
    let answers = hop["answers"].as_array().expect("a list");
    assert_eq!(answers.len(), 3, "{hop}");
    for answer in answers {
        assert_eq!(
            (&answer["by"], &answer["result"]),
            (&by.into(), &result.into()),
            "{hop}"
        );
        assert_eq!(answer["stamps"]["t1"], "kernel", "{hop}");
        assert_eq!(answer["stamps"]["t4"], "kernel", "{hop}");
        assert!(answer["rtt_ns"].as_u64() > Some(0), "{hop}");
    }
}

#[test]
fn each_router_is_named_and_the_target_ends_it() {
    turn::take();
    let line = Line::new(&[1500; 4]);
    let reflector = line.reflector();
    for by in [By::Stamp, By::Icmp] {
        for target in line.targets() {
            let (hops, end) = walk(&line, by, &target, &[]);
            eprintln!("{by:?}: {end}");
            assert_eq!(hops.len(), 4, "{hops:?}");
            for (number, hop) in (1..4).zip(&hops) {
                is_answered(hop, &router(number, &target), "expired");
            }
            is_answered(&hops[3], &target, "reached");
            assert_eq!((&end["hops"], &end["unmatched"]), (&3.into(), &0.into()));
        }
    }
    drop(reflector);
    // A closed port shows as well that the target has the packet.
    for target in line.targets() {
        let (hops, end) = walk(&line, By::Stamp, &target, &[]);
        is_answered(&hops[3], &target, "reached");
        assert_eq!((hops.len(), &end["hops"]), (4, &3.into()));
    }
}

#[test]
fn a_router_that_says_nothing_is_shown_as_such() {
    turn::take();
    let line = Line::new(&[1500; 4]);
    line.rules(
        2,
        "table inet t { chain o { type filter hook output priority 0; \
         icmp type time-exceeded drop; icmpv6 type time-exceeded drop; }; }",
    );
    for target in line.targets() {
        let (hops, end) = walk(&line, By::Icmp, &target, &["-W", "0.3"]);
        is_answered(&hops[0], &router(1, &target), "expired");
        assert_eq!(hops[1]["answers"], serde_json::json!([]), "{}", hops[1]);
        is_answered(&hops[2], &router(3, &target), "expired");
        is_answered(&hops[3], &target, "reached");
        assert_eq!(end["hops"], 3);
    }
}

#[test]
fn a_router_that_refuses_ends_the_walk() {
    turn::take();
    let line = Line::new(&[1500; 4]);
    line.rules(
        2,
        "table inet t { chain f { type filter hook forward priority 0; \
         ip protocol icmp reject with icmp admin-prohibited; \
         meta l4proto icmpv6 reject with icmpv6 admin-prohibited; }; }",
    );
    for target in line.targets() {
        let (hops, end) = walk(&line, By::Icmp, &target, &["-W", "0.3"]);
        assert_eq!(
            (hops.len(), &end["reached"]),
            (3, &false.into()),
            "{hops:?}"
        );
        assert_eq!(end.get("hops"), None, "not reached is not 0 routers");
        let last = &hops[2]["answers"][0];
        assert_eq!(last["result"], "unreachable", "{last}");
        assert_eq!(last["by"], router(2, &target).as_str(), "{last}");
    }
}
