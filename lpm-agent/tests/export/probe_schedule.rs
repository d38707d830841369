//! When an agent probes, from which ports, and what it makes of a host that is dead.

use std::{net::UdpSocket, time::Duration};

use lpm_testbed::testbed::{Direction, Impairment, wire::Loss};

use crate::{
    probes::{Configured, on_wire, pair, reflector},
    support::{
        lpm::{eventually, fails, kernel_is_usable, lpm},
        paths,
    },
};

/// Only probes from the ports of the range to the reflector, and their answers, pass a firewall on
/// both ends; the agent is answered. One port is somebody else's, and is passed over. A list that
/// takes more ports than there are is refused.
#[test]
fn probes_keep_to_their_ports() {
    if !kernel_is_usable() {
        return;
    }
    let pair = pair(Impairment::default(), Impairment::default());
    let _reflector = reflector(&pair);
    let taken = pair
        .client
        .run_in(|| UdpSocket::bind("0.0.0.0:40001").expect("a socket"))
        .expect("run");
    let rules = "table inet lpm-test {\n\
        chain in { type filter hook input priority 0; policy drop; iif lo accept;\n\
        udp sport 8620 udp dport 40000-40002 counter accept; }\n\
        chain out { type filter hook output priority 0; policy drop; oif lo accept;\n\
        udp sport 40000-40002 udp dport 8620 counter accept; counter comment \"else\"; }\n}\n";
    let there = "table inet lpm-test {\n\
        chain in { type filter hook input priority 0; policy drop; iif lo accept;\n\
        udp sport 40000-40002 udp dport 8620 accept; }\n}\n";
    for (node, rules) in [(&pair.client, rules), (&pair.server, there)] {
        node.output("nft", &[rules]).expect("rules");
    }
    let text = |targets: &str| {
        format!(
            "probes: {{interval: 100ms, timeout: 500ms, train: {{packets: 2}}, ports: 40000-40002, \
             targets: [{targets}]}}\n"
        )
    };
    let one = "{name: n2, address: 198.18.2.2}";
    let two = format!("{one}, {{name: second, address: 198.18.2.2}}");
    let agent = Configured::start(&pair.client, &text(&two));
    for target in ["n2", "second"] {
        eventually(target, || {
            let ok = agent.value("packets_total", target, ",result=\"ok\"");
            ok.is_some_and(|count| count > 20.0)
        });
    }
    for result in ["lost", "unreachable"] {
        let more = format!(",result=\"{result}\"");
        assert_eq!(agent.value("packets_total", "n2", &more), None, "{result}");
    }
    let four = "{name: n2, address: 198.18.2.2, classes: [0, 1, 2, 3]}";
    let file = paths::file(&text(four));
    let said = fails(lpm().args(["config", "check"]).arg(file.path()));
    let words = "line 1: probes.ports is 40000-40002: 3 ports for 4 sessions";
    assert!(said.contains(words), "{said}");
    // The third session finds no port until the other program is gone.
    let three = format!("{two}, {{name: third, address: 198.18.2.2}}");
    agent.reload(&text(&three));
    let failures = || agent.value("failures_total", "third", ",reason=\"ports\"");
    eventually("no port is left", || failures().is_some());
    agent
        .agent
        .lpm
        .wait_for("none of the ports 40000-40002 is free");
    drop(taken);
    eventually("the third is probed", || {
        agent
            .value("packets_total", "third", ",result=\"ok\"")
            .is_some()
    });
    agent.reload(&text(one));
}

/// The wire loses everything for a while, as if the other host were dead. Only the first trains are
/// loss. Then the wire sees single packets at growing intervals, which are counted apart, and the
/// first answer brings the trains back.
#[test]
fn a_dead_host_is_no_loss() {
    if !kernel_is_usable() {
        return;
    }
    let pair = pair(Impairment::default(), Impairment::default());
    let _reflector = reflector(&pair);
    let agent = Configured::start(
        &pair.client,
        "probes: {interval: 200ms, spread_factor: 0, timeout: 100ms, suppress_after: 3, \
         train: {packets: 4}, targets: [{name: n2, address: 198.18.2.2}]}\n",
    );
    let count = |result: &str| {
        let more = format!(",result=\"{result}\"");
        let value = agent.value("packets_total", "n2", &more);
        value.unwrap_or_default()
    };
    let lost = || {
        ["lost", "lost_forward", "lost_backward"]
            .map(count)
            .iter()
            .sum::<f64>()
    };
    eventually("it answers", || count("ok") > 20.0);
    assert_eq!((lost(), count("suppressed")), (0.0, 0.0));
    let dead = Impairment {
        loss: Loss::EveryNth(1),
        ..Impairment::default()
    };
    drop(pair.wire().take_records());
    pair.wire().set(Direction::Forward, dead);
    eventually("the dead host's packets are counted apart", || {
        count("suppressed") >= 4.0
    });
    let sent: Vec<u64> = on_wire(&pair, Direction::Forward)
        .iter()
        .map(|record| record.arrival_ns)
        .collect();
    let losses = lost();
    // Three trains were loss, and the one that was under way when the wire was cut.
    assert!((12.0..=20.0).contains(&losses), "{losses}");
    let gap = |back: usize| {
        let [.., earlier, later] = sent[..sent.len() - back] else {
            panic!("{sent:?}");
        };
        Duration::from_nanos(later - earlier)
    };
    assert!(
        gap(0) > gap(1) && gap(1) > gap(2),
        "{:?}",
        [2, 1, 0].map(gap)
    );
    let probe = &agent.agent.list("probes")[0];
    assert!(probe["suppressed_since"].is_string(), "{probe}");
    assert!(
        probe["interval_ns"].as_u64() > Some(1_000_000_000),
        "{probe}"
    );
    pair.wire().set(Direction::Forward, Impairment::default());
    let before = count("ok");
    eventually("its trains are back", || count("ok") > before + 12.0);
    agent.agent.lpm.wait_for("the target answers again");
    let suppressed = count("suppressed");
    eventually("it goes on", || count("ok") > before + 40.0);
    assert_eq!((lost(), count("suppressed")), (losses, suppressed));
    let probe = &agent.agent.list("probes")[0];
    assert!(probe["suppressed_since"].is_null(), "{probe}");
    assert_eq!(probe["interval_ns"].as_u64(), Some(200_000_000));
}
