//! Which program ends up on which hook, and what happens if one cannot.

use lpm_agent::kernel::{
    Direction::{Egress, Ingress},
    attach::{AttachError, Mode},
    hotplug::{Event, StartError},
    rules::Rules,
};
use lpm_testbed::testbed::Netns;

use crate::support::kernel::{
    Agent, comes_to, eventually, filters, has_tcx, kernel_is_usable, modes, native, native_chain,
    neighbour::Neighbour, node_with_pod, tap::tap_of_type, tcx_chain,
};

const FROM: &str = "lpm_from_local";
const TO: &str = "lpm_to_local";

#[test]
fn vantages_decide_which_program_is_where() {
    if !kernel_is_usable() {
        return;
    }
    let (node, pod) = node_with_pod("va");
    node.ip_batch("link add vx0 type vxlan id 7 dstport 7000\nlink set vx0 up")
        .expect("vxlan");
    pod.ip_batch("link add vx0 type vxlan id 7 dstport 7000")
        .expect("vxlan");
    let agent = Agent::start(&node, Rules::default(), native());
    assert_eq!(
        agent.watched(),
        [("va".to_owned(), "pod"), ("vx0".to_owned(), "overlay")]
    );
    let (from, to) = (agent.id(FROM), agent.id(TO));
    assert_eq!(
        native_chain(&node, "va", Ingress),
        [from],
        "a pod's packets enter by its veth"
    );
    assert_eq!(native_chain(&node, "va", Egress), [to]);
    assert_eq!(
        native_chain(&node, "vx0", Egress),
        [from],
        "local packets leave by the tunnel"
    );
    assert_eq!(native_chain(&node, "vx0", Ingress), [to]);
    // In the pod the same veth is named as a network card: other rules, other direction.
    let inside = Agent::start(&pod, Rules::default(), native());
    assert_eq!(
        inside.watched(),
        [("eth0".to_owned(), "nic"), ("vx0".to_owned(), "overlay")]
    );
    assert_eq!(native_chain(&pod, "eth0", Egress), [inside.id(FROM)]);
    assert_eq!(native_chain(&pod, "eth0", Ingress), [inside.id(TO)]);
}

#[test]
fn stopping_detaches() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    for &mode in modes() {
        let agent = Agent::start(&node, Rules::default(), mode);
        let hooks = |direction| match mode {
            Mode::Netlink => filters(&node, "va", direction).len(),
            _ => tcx_chain(&node, "va", direction).len(),
        };
        assert_eq!((hooks(Ingress), hooks(Egress)), (1, 1), "{mode:?}");
        agent.hotplug.stop();
        comes_to("empty hooks", || (hooks(Ingress), hooks(Egress)), &(0, 0));
    }
    let qdiscs = node
        .output("tc", &["qdisc", "show", "dev", "va"])
        .expect("tc");
    assert!(
        qdiscs.contains("clsact"),
        "the qdisc stays, others may use it: {qdiscs}"
    );
}

#[test]
fn tcx_is_at_the_head_of_the_chain() {
    if !kernel_is_usable() || !has_tcx() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let neighbour = Neighbour::load("neighbour", -1);
    let _link = neighbour.add_tcx(&node, "va", Ingress).expect("TCX");
    let theirs = tcx_chain(&node, "va", Ingress);
    let agent = Agent::start(&node, Rules::default(), Mode::Tcx);
    assert_eq!(tcx_chain(&node, "va", Ingress), [agent.id(FROM), theirs[0]]);
}

#[test]
fn netlink_filters_have_our_place() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let agent = Agent::start(&node, Rules::default(), Mode::Netlink);
    for (direction, program) in [(Ingress, FROM), (Egress, TO)] {
        let seen = filters(&node, "va", direction);
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!(seen[0].priority, 1);
        assert_eq!(seen[0].handle, "0x4c50");
        assert!(seen[0].direct_action);
        assert_eq!(seen[0].program, Some(agent.id(program).into()));
    }
}

#[test]
fn a_priority_of_another_kind_is_left_alone() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    node.output("tc", &["qdisc", "add", "dev", "va", "clsact"])
        .expect("clsact");
    let theirs = "filter add dev va ingress prio 1 protocol ip u32 match u32 0 0 classid 1:1";
    node.output("tc", &theirs.split(' ').collect::<Vec<_>>())
        .expect("u32 filter");
    let before = filters(&node, "va", Ingress);
    let agent = Agent::start(&node, Rules::default(), Mode::Netlink);
    let after = filters(&node, "va", Ingress);
    assert_eq!(after[..before.len()], before[..], "theirs is as it was");
    assert_eq!(
        after.last().map(|ours| (ours.priority, ours.kind.as_str())),
        Some((2, "bpf"))
    );
    let said = agent.hotplug.attached()[0].note.clone();
    assert!(said.expect("it is said").contains("priority 1"));
    drop(agent);
    assert_eq!(filters(&node, "va", Ingress), before);
}

#[test]
fn an_ingress_qdisc_is_no_clsact() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    node.output("tc", &["qdisc", "add", "dev", "va", "ingress"])
        .expect("ingress qdisc");
    // Filters for its egress would run on what comes in.
    let error = Agent::try_start(&node, Rules::only(["va".to_owned()]), Mode::Netlink).err();
    let error = error.expect("there is no egress hook");
    assert!(
        matches!(error, StartError::Attach(AttachError::IngressQdisc { .. })),
        "{error}"
    );
    let said = error.to_string();
    for word in ["va", "ingress", "clsact", "tc qdisc show"] {
        assert!(said.contains(word), "{said}");
    }
    assert_eq!(filters(&node, "va", Ingress), []);
    // TCX, which is the remedy, needs no qdisc.
    if native() == Mode::Tcx {
        assert!(said.contains("attach: tcx"), "{said}");
        let agent = Agent::start(&node, Rules::only(["va".to_owned()]), Mode::Tcx);
        assert_eq!(native_chain(&node, "va", Egress), [agent.id(TO)]);
    }
    let qdiscs = node.output("tc", &["qdisc", "show", "dev", "va"]);
    assert!(
        qdiscs.expect("tc").contains("qdisc ingress"),
        "theirs stays"
    );
}

#[test]
fn both_programs_or_none() {
    if !kernel_is_usable() || !has_tcx() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let neighbour = Neighbour::load("neighbour", -1);
    // A chain takes 64 programs (BPF_MPROG_MAX); ours will be one too many on the egress.
    let mut links: Vec<_> = std::iter::repeat_with(|| Neighbour::load("filler", -1))
        .map(|filler| filler.add_tcx(&node, "va", Egress))
        .take_while(Result::is_ok)
        .map(Result::unwrap)
        .take(100)
        .collect();
    assert!(links.len() < 100, "the chain never filled");
    drop(neighbour);
    let agent = Agent::start(&node, Rules::default(), Mode::Tcx);
    let retry = agent.wait_for("a failure", |event| match event {
        Event::Failed {
            retry,
            error: AttachError::Tcx { direction, .. },
            ..
        } => {
            assert_eq!(direction, Egress);
            Some(retry)
        }
        _ => None,
    });
    assert!(retry);
    assert_eq!(agent.watched(), []);
    assert!(agent.hotplug.failures() >= 1);
    comes_to(
        "the half that went on is off again",
        || tcx_chain(&node, "va", Ingress),
        &[0; 0],
    );
    // Room again: the next attempt succeeds by itself.
    links.pop();
    eventually("the retry", || agent.watched().len() == 1);
    assert_eq!(tcx_chain(&node, "va", Ingress), [agent.id(FROM)]);
}

#[test]
fn what_was_taken_off_comes_back() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let agent = Agent::start(&node, Rules::default(), Mode::Netlink);
    node.output("tc", &["qdisc", "del", "dev", "va", "clsact"])
        .expect("delete clsact");
    assert_eq!(filters(&node, "va", Ingress), []);
    agent.hotplug.resync();
    agent.wait_for("the resync", |event| {
        matches!(event, Event::Resynced).then_some(())
    });
    assert_eq!(filters(&node, "va", Ingress).len(), 1);
    assert_eq!(filters(&node, "va", Egress).len(), 1);
}

#[test]
fn an_interface_that_is_not_there() {
    if !kernel_is_usable() {
        return;
    }
    let netns = Netns::new("empty").expect("netns");
    let error = Agent::try_start(&netns, Rules::only(["nosuch0".to_owned()]), Mode::Auto).err();
    let text = error.expect("no such interface").to_string();
    assert!(text.contains("nosuch0") && text.contains("lo"), "{text}");
}

#[test]
fn a_device_without_ethernet_header_gets_the_programs_for_it() {
    if !kernel_is_usable() {
        return;
    }
    let netns = Netns::new("tun").expect("netns");
    netns
        .ip_batch("tuntap add mode tun name tun7\nlink set tun7 up")
        .expect("tun");
    let agent = Agent::start(&netns, Rules::only(["tun7".to_owned()]), native());
    assert_eq!(agent.watched(), [("tun7".to_owned(), "nic")]);
    assert_eq!(
        native_chain(&netns, "tun7", Egress),
        [agent.id("lpm_from_local_l3")]
    );
    assert_eq!(
        native_chain(&netns, "tun7", Ingress),
        [agent.id("lpm_to_local_l3")]
    );
}

#[test]
fn an_unknown_link_type_is_refused() {
    if !kernel_is_usable() {
        return;
    }
    let netns = Netns::new("ib").expect("netns");
    // InfiniBand, as far as anybody can tell.
    let _tap = netns.run_in(|| tap_of_type("ib7", 32)).expect("enter");
    let error = Agent::try_start(&netns, Rules::only(["ib7".to_owned()]), Mode::Auto).err();
    let error = error.expect("its packets cannot be read");
    let StartError::Attach(AttachError::LinkType {
        interface,
        link_type,
    }) = &error
    else {
        panic!("{error}");
    };
    assert_eq!((interface.as_str(), *link_type), ("ib7", 32));
    comes_to(
        "an empty hook",
        || native_chain(&netns, "ib7", Ingress),
        &[0; 0],
    );
}
