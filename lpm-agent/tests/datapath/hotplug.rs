//! Interfaces appear, vanish, are renamed and moved; the programs follow.

use std::{
    fs,
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use aya::programs::loaded_programs;
use lpm_agent::kernel::{
    Direction::{Egress, Ingress},
    attach::Mode,
    hotplug::Event,
    rules::{Rule, Rules, Watch},
};
use lpm_testbed::testbed::Netns;

use crate::support::kernel::{
    Agent, Datagrams, comes_to, eventually, filters, kernel_is_usable, modes, native, native_chain,
    neighbour::index_of, node_with_pod, process::AgentProcess, tcx_chain,
};

fn add_pod_veth(node: &Netns, pod: &Netns, name: &str) {
    let (pod, peer) = (pod.name(), name.replace("veth", "p"));
    node.ip(&format!(
        "link add {name} type veth peer name {peer} netns {pod}"
    ))
    .expect("veth");
}

#[test]
fn a_new_interface_is_attached_and_a_gone_one_forgotten() {
    if !kernel_is_usable() {
        return;
    }
    let (node, pod) = node_with_pod("va");
    let agent = Agent::start(&node, Rules::default(), native());
    add_pod_veth(&node, &pod, "veth7");
    eventually("the new interface", || agent.watched().len() == 2);
    assert_eq!(
        native_chain(&node, "veth7", Ingress),
        [agent.id("lpm_from_local")]
    );
    assert_eq!(
        native_chain(&node, "veth7", Egress),
        [agent.id("lpm_to_local")]
    );
    let index = index_of(&node, "veth7");
    node.ip("link del veth7").expect("delete");
    let gone = agent.wait_for("the end of veth7", |event| match event {
        Event::Detached { interface, gone } => Some((interface.interface.index, gone)),
        _ => None,
    });
    assert_eq!(gone, (index, true));
    assert_eq!(agent.watched(), [("va".to_owned(), "pod")]);
}

#[test]
fn the_kernels_settings_follow() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let settings = crate::support::kernel::Recorder::default();
    let agent = Agent::recording(&node, settings.clone());
    let index = index_of(&node, "va");
    assert_eq!(settings.get(index), Some(1), "vantage pod");
    node.ip("link del va").expect("delete");
    agent.wait_for("the end", |event| {
        matches!(event, Event::Detached { .. }).then_some(())
    });
    assert_eq!(settings.get(index), None);
}

#[test]
fn a_rename_is_followed() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let rules = Rules {
        rules: vec![Rule {
            name: Some("ignored*".into()),
            kind: None,
            vantage: Watch::None,
            inner: false,
            xdp: None,
        }],
        ..Rules::default()
    };
    let agent = Agent::start(&node, rules, native());
    let rename = |to: &str, from: &str| {
        let lines = format!("link set {from} down\nlink set {from} name {to}\nlink set {to} up");
        node.ip_batch(&lines).expect("rename");
    };
    rename("vb", "va");
    agent.wait_for("the rename", |event| match event {
        Event::Renamed { old, interface } if interface.interface.name == "vb" => {
            assert_eq!(old, "va");
            Some(())
        }
        Event::Detached { .. } => panic!("a rename within a rule detaches nothing"),
        _ => None,
    });
    assert_eq!(
        native_chain(&node, "vb", Ingress),
        [agent.id("lpm_from_local")]
    );
    // Into another rule: off; and back on.
    rename("ignored0", "vb");
    eventually("the other rule", || agent.watched().is_empty());
    // A test beside this one that starts a process holds a copy of the link for a moment.
    eventually("nothing is attached", || {
        native_chain(&node, "ignored0", Ingress).is_empty()
    });
    rename("va", "ignored0");
    eventually("the old rule", || agent.watched().len() == 1);
    assert_eq!(
        native_chain(&node, "va", Egress),
        [agent.id("lpm_to_local")]
    );
}

#[test]
fn a_move_to_another_namespace_and_back() {
    if !kernel_is_usable() {
        return;
    }
    for &mode in modes() {
        let (node, _pod) = node_with_pod("va");
        let other = Netns::new("other").expect("netns");
        let agent = Agent::start(&node, Rules::default(), mode);
        node.ip(&format!("link set va netns {}", other.name()))
            .expect("move away");
        eventually("the move away", || agent.watched().is_empty());
        assert_eq!(
            tcx_chain(&other, "va", Ingress),
            [0; 0],
            "nothing of ours goes with it"
        );
        assert_eq!(filters(&other, "va", Ingress), []);
        other
            .ip(&format!("link set va netns {}", node.name()))
            .expect("move back");
        eventually("the move back", || agent.watched().len() == 1);
        let hooks = |direction| match mode {
            Mode::Netlink => filters(&node, "va", direction).len(),
            _ => tcx_chain(&node, "va", direction).len(),
        };
        assert_eq!((hooks(Ingress), hooks(Egress)), (1, 1), "{mode:?}");
    }
}

#[test]
fn rules_can_change() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    node.ip("link add vx0 type vxlan id 7 dstport 7000")
        .expect("vxlan");
    let agent = Agent::start(&node, Rules::default(), native());
    let before = agent.hotplug.attached();
    assert_eq!(before.len(), 2);
    let no_pods = Rule {
        name: None,
        kind: Some("veth".into()),
        vantage: Watch::None,
        inner: false,
        xdp: None,
    };
    agent.hotplug.set_rules(Rules {
        rules: vec![no_pods],
        ..Rules::default()
    });
    eventually("the new rules", || {
        agent.watched() == [("vx0".to_owned(), "overlay")]
    });
    let kept = agent.hotplug.attached().remove(0);
    assert!(
        before.contains(&kept),
        "what the rules leave as it was is not touched"
    );
    comes_to(
        "an empty hook",
        || native_chain(&node, "va", Ingress),
        &[0; 0],
    );
}

#[test]
fn dropped_messages_are_made_good() {
    if !kernel_is_usable() {
        return;
    }
    let (node, pod) = node_with_pod("va");
    // The first event holds the agent's thread until the burst is over.
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(Some(held));
    let (sender, events) = mpsc::channel();
    let on_event = move |event| {
        let waiting = matches!(&event, Event::Renamed { .. })
            .then(|| held.lock().expect("not poisoned").take())
            .flatten();
        if let Some(held) = waiting {
            held.recv().expect("released");
        }
        drop(sender.send(event));
    };
    let agent =
        Agent::with_events(&node, Rules::default(), native(), on_event, events).expect("start");
    node.ip_batch("link set va down\nlink set va name vb")
        .expect("rename");
    // Each line makes a message of more than a kilobyte; the socket takes some megabytes.
    let mut lines = Vec::new();
    for number in 0..100 {
        let peer = format!("p{number} netns {}", pod.name());
        lines.push(format!("link add veth{number} type veth peer name {peer}"));
    }
    for mtu in 1000..1060 {
        lines.extend((0..100).map(|number| format!("link set veth{number} mtu {mtu}")));
    }
    lines.extend((0..50).map(|number| format!("link del veth{number}")));
    node.ip_batch(&lines.join("\n")).expect("the burst");
    release.send(()).expect("the agent waits");
    eventually("the loss to be noticed", || agent.hotplug.resyncs() >= 1);
    assert_eq!(agent.watched().len(), 51);
    for number in 50..100 {
        let name = format!("veth{number}");
        assert_eq!(
            native_chain(&node, &name, Ingress),
            [agent.id("lpm_from_local")],
            "{name}"
        );
    }
}

#[test]
fn two_hundred_interfaces_come_and_go_under_traffic_and_nothing_stays() {
    if !kernel_is_usable() {
        return;
    }
    let (node, pod) = node_with_pod("va");
    let traffic = Datagrams::new(&node, &pod);
    let agent = Agent::start(&node, Rules::default(), native());
    let ids: Vec<u32> = agent.programs.iter().map(|program| program.id).collect();
    let mut waits = Vec::new();
    for number in 0..200 {
        let name = format!("veth{number}");
        add_pod_veth(&node, &pod, &name);
        let begun = Instant::now();
        agent.wait_for("the new one", |event| {
            matches!(event, Event::Attached(new) if new.interface.name == name).then_some(())
        });
        waits.push(begun.elapsed());
        traffic.send(number);
        node.ip(&format!("link del {name}")).expect("delete");
        agent.wait_for("its end", |event| {
            matches!(event, Event::Detached { interface, .. } if interface.interface.name == name)
                .then_some(())
        });
        // Not by the inspection, which comes after five seconds at the earliest.
        assert!(begun.elapsed() < Duration::from_secs(5), "{name}");
    }
    waits.sort();
    println!(
        "attached after: median {:?}, p99 {:?}",
        waits[100], waits[197]
    );
    assert!(waits[197] < Duration::from_secs(1));
    assert_eq!(agent.watched(), [("va".to_owned(), "pod")]);
    assert_eq!(agent.hotplug.failures(), 0);
    let Agent {
        hotplug,
        programs,
        kernel,
        ..
    } = agent;
    hotplug.stop();
    drop((programs, kernel));
    eventually("our programs to leave the kernel", || {
        loaded_programs()
            .filter_map(Result::ok)
            .all(|program| !ids.contains(&program.id()))
    });
}

#[test]
fn no_descriptor_leaks() {
    if !kernel_is_usable() {
        return;
    }
    for &mode in modes() {
        let (node, pod) = node_with_pod("va");
        let agent = AgentProcess::start(&node, mode);
        let open = || {
            fs::read_dir(format!("/proc/{}/fd", agent.child.id()))
                .expect("fd")
                .count()
        };
        let watched = |name: &str| match mode {
            Mode::Netlink => filters(&node, name, Egress).len() == 1,
            _ => tcx_chain(&node, name, Egress).len() == 1,
        };
        let cycle = || {
            add_pod_veth(&node, &pod, "veth1");
            eventually("the new interface", || watched("veth1"));
            node.ip("link del veth1").expect("delete");
        };
        cycle();
        let before = open();
        (0..20).for_each(|_| cycle());
        eventually("the descriptors to be as before", || open() <= before);
        agent.stop();
    }
}
