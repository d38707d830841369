//! `lpm detach` and what an agent that was killed leaves behind.

use std::fs;

use lpm_agent::kernel::{
    Direction::{Egress, Ingress},
    attach::Mode,
    check::{self, Status, check},
    detach::{Report, Trace, detach_with},
    hotplug::Event,
    load::Kernel,
    netns,
    rules::Rules,
};
use lpm_testbed::testbed::{Bpffs, Netns};

use crate::support::kernel::{
    Agent, SETTINGS, filters, kernel_is_usable, modes, neighbour::Neighbour, node_with_pod,
    path_of, process::AgentProcess,
};

fn open(netns: &Netns) -> netns::Netns {
    netns::Netns::open(&path_of(netns)).expect("open the namespace")
}

fn detach(netns: &Netns) -> Report {
    let nowhere = tempfile::tempdir().expect("a directory");
    detach_with(Some(&open(netns)), &nowhere.path().join("lpm")).expect("detach")
}

/// A namespace in which an agent was killed, beside a neighbour that uses its very handle.
fn left_behind() -> (Netns, Netns, Neighbour) {
    let (node, pod) = node_with_pod("va");
    node.output("tc", &["qdisc", "add", "dev", "va", "clsact"])
        .expect("clsact");
    let neighbour = Neighbour::load("lpm_from_local", 0);
    neighbour.add_filter(&node, "va", Ingress, 1, 0x4C50);
    AgentProcess::start(&node, Mode::Netlink).kill();
    assert_eq!(filters(&node, "va", Ingress).len(), 2);
    assert_eq!(filters(&node, "va", Egress).len(), 1);
    (node, pod, neighbour)
}

#[test]
fn leftovers_are_removed_and_nothing_else() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod, _neighbour) = left_behind();
    let before = filters(&node, "va", Ingress);
    let report = detach(&node);
    assert_eq!(report.removed.len(), 2, "{report}");
    assert!(report.is_clean() && report.in_use.is_empty() && report.agents.is_empty());
    assert_eq!(filters(&node, "va", Egress), []);
    let after = filters(&node, "va", Ingress);
    assert_eq!(after.len(), 1);
    assert_eq!(
        after[0].handle, "0x4c50",
        "a program only called like ours stays"
    );
    assert!(before.contains(&after[0]));
    let qdiscs = node
        .output("tc", &["qdisc", "show", "dev", "va"])
        .expect("tc");
    assert!(qdiscs.contains("clsact"), "{qdiscs}");
    assert!(
        detach(&node).removed.is_empty(),
        "a second time there is nothing to do"
    );
}

#[test]
fn the_next_agent_removes_them_too() {
    if !kernel_is_usable() {
        return;
    }
    for &mode in modes() {
        let (node, _pod, _neighbour) = left_behind();
        let agent = Agent::start(&node, Rules::default(), mode);
        let removed: usize = agent
            .events
            .try_iter()
            .filter_map(|event| match event {
                Event::LeftoversRemoved { filters, .. } => Some(filters),
                _ => None,
            })
            .sum();
        assert_eq!(removed, 2, "{mode:?}");
        drop(agent);
        assert_eq!(filters(&node, "va", Egress), []);
        assert_eq!(filters(&node, "va", Ingress).len(), 1, "the neighbour's");
    }
}

#[test]
fn what_a_running_agent_uses_is_left_and_said() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let agent = AgentProcess::start(&node, Mode::Netlink);
    let report = detach(&node);
    assert!(report.removed.is_empty(), "{report}");
    let pid = agent.child.id();
    assert_eq!(
        report
            .agents
            .iter()
            .map(|agent| agent.pid)
            .collect::<Vec<_>>(),
        [pid]
    );
    let used =
        |trace: &Trace| matches!(trace, Trace::Filter { interface, .. } if interface == "va");
    assert_eq!(report.in_use.len(), 2);
    assert!(
        report
            .in_use
            .iter()
            .all(|(by, trace)| *by == pid && used(trace))
    );
    assert!(
        report.to_string().contains(&format!("process id {pid}")),
        "{report}"
    );
    assert_eq!(filters(&node, "va", Ingress).len(), 1);
    // Nor does another agent take them for leftovers.
    let second = Agent::start(&node, Rules::default(), Mode::Netlink);
    assert_eq!(filters(&node, "va", Ingress).len(), 2);
    drop(second);
    assert_eq!(filters(&node, "va", Ingress).len(), 1);
    agent.stop();
    assert_eq!(filters(&node, "va", Ingress), []);
}

#[test]
fn files_that_are_no_pins_stay() {
    if !kernel_is_usable() {
        return;
    }
    let netns = Netns::new("pins").expect("netns");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("precious");
    fs::write(&file, "data").expect("write");
    let report = detach_with(Some(&open(&netns)), directory.path()).expect("detach");
    assert!(report.removed.is_empty(), "{report}");
    assert!(file.exists(), "not on a BPF file system");
}

#[test]
fn pins_are_removed_and_others_stay() {
    if !kernel_is_usable() {
        return;
    }
    let netns = Netns::new("pins").expect("netns");
    let bpffs = Bpffs::mount("mode=0700").expect("a BPF file system");
    let (ours, other) = (bpffs.path().join("lpm"), bpffs.path().join("other"));
    let layout = ours.join("v1-0123456789abcdef");
    fs::create_dir_all(&layout).expect("directories");
    let mut kernel = Kernel::load(&SETTINGS).expect("load");
    let map = kernel.ebpf_mut().map("CLAIMS").expect("CLAIMS");
    let pin = layout.join("CLAIMS");
    map.pin(&pin).expect("pin");
    map.pin(&other).expect("pin");
    let report = detach_with(Some(&open(&netns)), &ours).expect("detach");
    assert_eq!(report.removed, [Trace::Pin { path: pin }]);
    assert!(!ours.exists());
    assert!(other.exists());
}

#[test]
fn check_shows_what_would_be_watched() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let options = check::Options {
        netns: Some(open(&node)),
        ..check::Options::default()
    };
    let report = check(&options).expect("check");
    let missing: Vec<_> = report
        .items
        .iter()
        .filter(|item| item.status == Status::Missing)
        .collect();
    assert!(report.usable && missing.is_empty(), "{missing:?}");
    let found = report
        .interfaces
        .iter()
        .map(|found| (found.interface.name.as_str(), found.vantage));
    assert_eq!(
        found.collect::<Vec<_>>(),
        [("lo", None), ("va", Some("pod"))]
    );
    let json = serde_json::to_value(&report).expect("JSON");
    assert_eq!(json["interfaces"][1]["kind"], "veth");
    assert_eq!(json["usable"], true);
}
