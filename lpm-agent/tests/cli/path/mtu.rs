//! Paths of different MTUs, with routers that say so and with some that do not.

use serde_json::Value;

use super::line::{By, Line};
use crate::support::turn;

/// ICMP errors about packets that are too long never leave a router with these rules.
const SILENT: &str = "table inet t { chain o { type filter hook output priority 0; \
                      icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }; }";

/// Searches, and gives the summary.
fn search(line: &Line, by: By, target: &str, arguments: &[&str]) -> Value {
    let (code, records, said) = line.probe(by, target, &[&["--mtu"], arguments].concat());
    let last = records.last().unwrap_or_else(|| panic!("{said}")).clone();
    assert_eq!(last["type"], "summary", "{last}");
    assert_eq!(
        code,
        Some(i32::from(last.get("mtu").is_none())),
        "{last} {said}"
    );
    for record in &records[..records.len() - 1] {
        assert_eq!(
            (&record["type"], &record["schema"]),
            (&"mtu".into(), &1.into()),
            "{record}"
        );
    }
    eprintln!("{by:?} {target}: {} lengths, {last}", records.len() - 1);
    last
}

#[test]
fn the_narrowest_link_is_found_and_who_says_so() {
    turn::take();
    // The router is the one before the first link that is the narrowest. None: it is this machine's own.
    for (mtus, mtu, router) in [
        ([9000, 4000, 1280], 1280, Some(2)),
        ([9000, 1500, 9000], 1500, Some(1)),
        ([9000, 9000, 9000], 9000, None),
        ([1400, 9000, 9000], 1400, None),
        ([8999, 1281, 9000], 1281, Some(1)),
    ] {
        let line = Line::new(&mtus);
        let _reflector = line.reflector();
        for by in [By::Stamp, By::Icmp] {
            for target in line.targets() {
                let found = search(&line, by, &target, &[]);
                assert_eq!(found["mtu"], mtu, "{mtus:?} {found}");
                assert_eq!(found["fails"], mtu + 1);
                let Some(router) = router else {
                    assert_eq!(found["limit"], "interface", "{found}");
                    assert_eq!((found.get("by"), found.get("said")), (None, None));
                    continue;
                };
                assert_eq!(found["limit"], "too_big", "{found}");
                assert_eq!(found["said"], mtu);
                let is_v6 = target.contains(':');
                let address = if is_v6 {
                    format!("fd00:18:{router}::2")
                } else {
                    format!("198.18.{router}.2")
                };
                assert_eq!(found["by"], address.as_str(), "{found}");
            }
        }
    }
}

#[test]
fn a_black_hole_is_told_from_a_router_that_speaks_and_from_loss() {
    turn::take();
    let line = Line::new(&[9000, 4000, 1400]);
    let _reflector = line.reflector();
    line.rules(2, SILENT);
    // Every hundredth packet is lost on each way.
    line.rules(
        1,
        "table inet l { chain f { type filter hook forward priority 0; \
         numgen random mod 100 < 1 drop; }; }",
    );
    for by in [By::Stamp, By::Icmp] {
        for target in line.targets() {
            let found = search(&line, by, &target, &["-W", "0.3"]);
            assert_eq!(
                (&found["mtu"], &found["fails"]),
                (&1400.into(), &1401.into()),
                "{found}"
            );
            assert_eq!(found["limit"], "black_hole", "{found}");
            assert_eq!((found.get("by"), found.get("said")), (None, None));
        }
    }
}

/// Packets are lost by chance alone, many of them: no length is taken for a black hole.
#[test]
fn random_loss_is_no_black_hole() {
    turn::take();
    let line = Line::new(&[1500, 1500, 1500]);
    line.rules(
        1,
        "table inet l { chain f { type filter hook forward priority 0; \
         numgen random mod 100 < 10 drop; }; }",
    );
    for target in line.targets() {
        let found = search(&line, By::Icmp, &target, &["-W", "0.2"]);
        assert_eq!(
            (&found["mtu"], &found["limit"]),
            (&1500.into(), &"interface".into())
        );
        let short = &found["short"];
        assert!(
            short["answered"].as_u64() <= short["sent"].as_u64(),
            "{found}"
        );
    }
}

/// Two of three long packets are lost, and no short one: a length that passes once passes.
#[test]
fn a_length_is_tried_more_often_than_its_packets_are_lost() {
    turn::take();
    let line = Line::new(&[1500, 1500, 1500]);
    line.rules(
        1,
        "table inet l { chain f { type filter hook forward priority 0; \
         oifname \"next\" meta length > 1000 numgen inc mod 3 < 2 drop; }; }",
    );
    for target in line.targets() {
        let found = search(&line, By::Icmp, &target, &["-W", "0.2"]);
        assert_eq!(
            (&found["mtu"], &found["limit"]),
            (&1500.into(), &"interface".into()),
            "{found}"
        );
    }
}

#[test]
fn a_target_that_never_answers_has_no_mtu() {
    turn::take();
    let line = Line::new(&[1500, 1500]);
    let [v4, _] = line.targets();
    // There is no reflector, and the target says so.
    let found = search(&line, By::Stamp, &v4, &["-W", "0.2"]);
    assert_eq!(
        (found.get("mtu"), &found["limit"]),
        (None, &"unreachable".into()),
        "{found}"
    );
    assert_eq!(
        (&found["error"], &found["by"]),
        (&"Connection refused".into(), &v4.as_str().into())
    );
    line.rules(
        2,
        "table inet l { chain i { type filter hook input priority 0; drop; }; }",
    );
    let found = search(&line, By::Icmp, &v4, &["-W", "0.2"]);
    assert_eq!(
        (found.get("mtu"), &found["limit"]),
        (None, &"silent".into()),
        "{found}"
    );
}

#[test]
fn options_that_a_search_would_ignore_are_refused() {
    turn::take();
    let line = Line::new(&[1500]);
    let [v4, _] = line.targets();
    for (arguments, words) in [
        (["--mtu", "-c", "3"], "leave out -c"),
        (["--mtu", "-s", "100"], "leave out -s"),
        (["--mtu", "-i", "0.1"], "leave out -i"),
        (["--mtu", "--ecn", "1"], "leave out --ecn"),
        (["--hops", "--train", "5"], "leave out --train"),
    ] {
        let (code, _, said) = line.probe(By::Icmp, &v4, &arguments);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(words), "{words}: {said}");
    }
    let (code, _, said) = line.probe(By::Icmp, &v4, &["--mtu", "--hops"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("cannot be used with"), "{said}");
}
