//! Where the third program is while an interface is watched as `node`: at the ingress of every
//! interface, those that appear later included, and nowhere afterwards.

use std::collections::BTreeSet;

use lpm_agent::kernel::{
    Direction::{self, Egress, Ingress},
    attach::Mode,
    rules::{Rule, Rules},
};
use lpm_testbed::testbed::Netns;

use crate::support::kernel::{
    Agent, eventually, filters, kernel_is_usable, node_with_pod, tcx_chain,
};

const MODES: [Mode; 2] = [Mode::Tcx, Mode::Netlink];

/// The interface `va` is watched as `node`, whatever passes there.
fn rules() -> Rules {
    let rule = serde_json::json!({"name": "va", "vantage": "node"});
    let rule: Rule = serde_json::from_value(rule).expect("a rule");
    Rules {
        rules: vec![rule],
        ..Rules::default()
    }
}

/// The names of our programs on a hook.
fn on(agent: &Agent, mode: Mode, (node, interface): (&Netns, &str), way: Direction) -> Vec<String> {
    let ids: BTreeSet<u64> = if mode == Mode::Netlink {
        let filters = filters(node, interface, way).into_iter();
        filters.filter_map(|filter| filter.program).collect()
    } else {
        let chain = tcx_chain(node, interface, way).into_iter();
        chain.map(u64::from).collect()
    };
    let programs = agent.programs.iter();
    let mut names: Vec<String> = programs
        .filter(|program| ids.contains(&u64::from(program.id)))
        .map(|program| program.name.to_owned())
        .collect();
    assert_eq!(names.len(), ids.len(), "ours and no other");
    names.sort();
    names
}

/// Another pod's veth.
fn add_pod(node: &Netns, pod: &Netns, interface: &str) {
    let lines = format!(
        "link add {interface} type veth peer name eth7 netns {}\nlink set {interface} up",
        pod.name()
    );
    node.ip_batch(&lines).expect("a veth");
}

#[test]
fn every_interface_has_it_while_one_is_joined() {
    if !kernel_is_usable() {
        return;
    }
    for mode in MODES {
        let (node, _pod) = node_with_pod("va");
        let (second, third) = (Netns::new("pod"), Netns::new("pod"));
        let (second, third) = (second.expect("netns"), third.expect("netns"));
        add_pod(&node, &second, "vb");
        node.ip_batch("link add vx0 type vxlan id 7 dstport 7000\nlink set vx0 up")
            .expect("vxlan");
        let agent = Agent::start(&node, rules(), mode);
        let expected = [
            ("va".to_owned(), "node"),
            ("vb".to_owned(), "pod"),
            ("vx0".to_owned(), "overlay"),
        ];
        assert_eq!(agent.watched(), expected);
        let ours = |interface: &str, way| on(&agent, mode, (&node, interface), way);
        assert_eq!(ours("va", Ingress), ["lpm_node_from", "lpm_node_to"]);
        assert_eq!(ours("va", Egress), ["lpm_node_out"]);
        assert_eq!(ours("vb", Ingress), ["lpm_from_local", "lpm_node_to"]);
        assert_eq!(ours("vb", Egress), ["lpm_to_local"]);
        assert_eq!(ours("vx0", Ingress), ["lpm_node_to", "lpm_to_local"]);
        assert_eq!(ours("vx0", Egress), ["lpm_from_local"]);

        add_pod(&node, &third, "vc");
        eventually("one that appears has it too", || {
            ours("vc", Ingress) == ["lpm_from_local", "lpm_node_to"]
        });
        agent.hotplug.set_rules(Rules::default());
        eventually("none is joined any more", || {
            ["va", "vb", "vc"].iter().all(|interface| {
                ours(interface, Ingress) == ["lpm_from_local"]
                    && ours(interface, Egress) == ["lpm_to_local"]
            }) && ours("vx0", Ingress) == ["lpm_to_local"]
        });
        agent.hotplug.set_rules(rules());
        eventually("again", || ours("vb", Ingress).len() == 2);
        node.ip("link del va").expect("delete");
        eventually("the joined one is gone", || {
            ours("vb", Ingress) == ["lpm_from_local"] && ours("vx0", Ingress) == ["lpm_to_local"]
        });
        agent.hotplug.set_rules(Rules::default());
        let Agent { hotplug, .. } = agent;
        hotplug.stop();
        let left = |way| match mode {
            Mode::Netlink => filters(&node, "vb", way).len(),
            _ => tcx_chain(&node, "vb", way).len(),
        };
        // A link may live for a moment in a child that another test is just starting.
        eventually("nothing is left", || {
            (left(Ingress), left(Egress)) == (0, 0)
        });
    }
}

#[test]
fn a_filter_that_somebody_took_off_is_put_on_again() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let agent = Agent::start(&node, rules(), Mode::Netlink);
    let joined = u64::from(agent.id("lpm_node_to"));
    let there = || filters(&node, "va", Ingress);
    let find = || there().into_iter().find(|f| f.program == Some(joined));
    let filter = find().expect("it is there");
    let place = [
        "filter",
        "del",
        "dev",
        "va",
        "ingress",
        "protocol",
        "all",
        "pref",
        "1",
        "handle",
        &filter.handle,
        "bpf",
    ];
    node.output("tc", &place).expect("tc");
    assert!(find().is_none());
    eventually("it is there again", || find().is_some());
    assert_eq!(there().len(), 2, "and nothing twice");
}
