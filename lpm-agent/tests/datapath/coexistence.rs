//! Other programs on the same hooks: they survive whatever becomes of us, and miss no packet.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
};

use lpm_agent::kernel::{Direction::Ingress, attach::Mode};
use lpm_testbed::testbed::Netns;

use crate::support::kernel::{
    Datagrams, Seen, comes_to, eventually, filters, has_tcx, kernel_is_usable, modes,
    neighbour::Neighbour, node_with_pod, process::AgentProcess, tcx_chain,
};

/// What a neighbour commonly ends with: `TC_ACT_OK`. The packet goes on and no later filter runs.
const OK: i32 = 0;

/// Filters on the ingress of `va` that are not ours.
fn theirs(node: &Netns) -> Vec<Seen> {
    let mut seen = filters(node, "va", Ingress);
    seen.retain(|filter| !filter.handle.starts_with("0x4c5"));
    seen
}

/// Filters on the ingress of `va` that are ours.
fn ours(node: &Netns) -> usize {
    filters(node, "va", Ingress).len() - theirs(node).len()
}

/// Our programs on the ingress of `va`, however attached.
fn hooks(node: &Netns, mode: Mode, neighbours: usize) -> usize {
    match mode {
        Mode::Netlink => ours(node),
        _ => tcx_chain(node, "va", Ingress).len() - neighbours,
    }
}

/// Starts, stops, kills and restarts an agent while packets pass, and holds after each step that
/// `unharmed` and that exactly one program of ours is on the hook where one should be. Returns
/// how many packets passed.
fn live_and_die(
    (node, pod): (&Netns, &Netns),
    mode: Mode,
    neighbours: usize,
    unharmed: impl Fn(&str),
) -> u64 {
    let traffic = Datagrams::new(node, pod);
    let (sent, end) = (AtomicU64::new(0), AtomicBool::new(false));
    // Every step lasts until packets have passed in it.
    let some_packets = || {
        let before = sent.load(Relaxed);
        eventually("packets to pass", || sent.load(Relaxed) > before + 20);
    };
    thread::scope(|scope| {
        let _end = EndOnDrop(&end);
        scope.spawn(|| {
            while !end.load(Relaxed) {
                traffic.send(sent.load(Relaxed));
                sent.fetch_add(1, Relaxed);
            }
        });
        some_packets();
        for step in ["first", "after a clean stop", "after SIGKILL"] {
            let agent = AgentProcess::start(node, mode);
            some_packets();
            unharmed(&format!("{step}: started"));
            assert_eq!(hooks(node, mode, neighbours), 1, "{step}");
            if step == "after a clean stop" {
                agent.kill();
                some_packets();
                unharmed("killed");
                // The link goes with the process; a filter stays until the next start.
                let left = usize::from(mode == Mode::Netlink);
                eventually("the kernel to close links", || {
                    hooks(node, mode, neighbours) == left
                });
            } else {
                agent.stop();
                some_packets();
                unharmed(&format!("{step}: stopped"));
                comes_to(step, || hooks(node, mode, neighbours), &0);
            }
        }
    });
    sent.load(Relaxed)
}

/// Ends the traffic also when an assertion fails, or its thread would be waited for forever.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn a_filter_attached_before_us(mode: Mode) {
    if !kernel_is_usable() {
        return;
    }
    let (node, pod) = node_with_pod("va");
    node.output("tc", &["qdisc", "add", "dev", "va", "clsact"])
        .expect("clsact");
    let neighbour = Neighbour::load("neighbour", OK);
    neighbour.add_filter(&node, "va", Ingress, 1, 1);
    let before = theirs(&node);
    assert_eq!(before.len(), 1);
    let sent = live_and_die((&node, &pod), mode, 0, |when| {
        assert_eq!(theirs(&node), before, "{when}");
    });
    assert_eq!(neighbour.count(), sent, "it saw every packet");
}

#[test]
fn a_filter_attached_before_us_beside_tcx() {
    if !has_tcx() {
        return;
    }
    a_filter_attached_before_us(Mode::Tcx);
}

#[test]
fn a_filter_attached_before_us_beside_filters() {
    a_filter_attached_before_us(Mode::Netlink);
}

fn a_filter_attached_after_us(mode: Mode) {
    if !kernel_is_usable() {
        return;
    }
    let (node, pod) = node_with_pod("va");
    let agent = AgentProcess::start(&node, mode);
    if mode == Mode::Tcx {
        node.output("tc", &["qdisc", "add", "dev", "va", "clsact"])
            .expect("clsact");
    }
    let neighbour = Neighbour::load("neighbour", OK);
    neighbour.add_filter(&node, "va", Ingress, 1, 1);
    let before = theirs(&node);
    agent.stop();
    assert_eq!(theirs(&node), before, "our end is not theirs");
    let sent = live_and_die((&node, &pod), mode, 0, |when| {
        assert_eq!(theirs(&node), before, "{when}");
    });
    assert_eq!(neighbour.count(), sent, "it saw every packet");
}

#[test]
fn a_filter_attached_after_us_beside_tcx() {
    if !has_tcx() {
        return;
    }
    a_filter_attached_after_us(Mode::Tcx);
}

#[test]
fn a_filter_attached_after_us_beside_filters() {
    a_filter_attached_after_us(Mode::Netlink);
}

#[test]
fn a_tcx_program() {
    if !kernel_is_usable() || !has_tcx() {
        return;
    }
    for &mode in modes() {
        let (node, pod) = node_with_pod("va");
        // It passes on what it counted: else nothing would reach our filter behind it.
        let neighbour = Neighbour::load("neighbour", -1);
        let _link = neighbour.add_tcx(&node, "va", Ingress).expect("TCX");
        let theirs = tcx_chain(&node, "va", Ingress)[0];
        let sent = live_and_die((&node, &pod), mode, 1, |when| {
            assert_eq!(
                tcx_chain(&node, "va", Ingress).last(),
                Some(&theirs),
                "{when}"
            );
        });
        assert_eq!(neighbour.count(), sent, "it saw every packet");
    }
}

#[test]
fn our_place_taken_over_by_another() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let agent = AgentProcess::start(&node, Mode::Netlink);
    let ours = "filter del dev va ingress prio 1 handle 0x4c50 bpf";
    node.output("tc", &ours.split(' ').collect::<Vec<_>>())
        .expect("delete our filter");
    // Same place, same name; only the program is another.
    let neighbour = Neighbour::load("lpm_from_local", OK);
    neighbour.add_filter(&node, "va", Ingress, 1, 0x4C50);
    let theirs = filters(&node, "va", Ingress);
    agent.stop();
    assert_eq!(filters(&node, "va", Ingress), theirs);
}
