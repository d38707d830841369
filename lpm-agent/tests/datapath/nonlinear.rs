//! Packets whose headers are outside the linear part of their buffer, as some cards hand them over:
//! they are measured like any other.

use std::{
    io::{IoSlice, Write as _},
    sync::atomic::Ordering::Relaxed,
};

use lpm_agent::kernel::{
    Direction::Ingress, maps::FlowMaps as _, rules::Rules, tables::KernelTables,
};
use lpm_common::{
    layout::Traffic,
    packet::Direction,
    testing::{frame::Frame, vectors},
};
use lpm_testbed::testbed::Netns;

use crate::support::kernel::{
    Agent, eventually, kernel_is_usable, native, neighbour::Neighbour, tap::tap_in_pieces,
};

const TAP: &str = "pieces0";
/// The least that a device hands over: an Ethernet header.
const LINEAR: usize = 14;
const PACKETS: u16 = 5;

#[test]
fn headers_outside_the_linear_part_are_read() {
    if !kernel_is_usable() {
        return;
    }
    let netns = Netns::new("pieces").expect("netns");
    let mut tap = netns.run_in(|| tap_in_pieces(TAP)).expect("enter");
    // Merging would make the headers linear.
    netns
        .output("ethtool", &["-K", TAP, "gro", "off"])
        .expect("ethtool");
    netns.ip_batch(&format!("link set {TAP} up")).expect("up");
    let agent = Agent::start(&netns, Rules::only([TAP.to_owned()]), native());
    // Behind ours: it sees what ours left.
    netns
        .output("tc", &["qdisc", "replace", "dev", TAP, "clsact"])
        .expect("clsact");
    let witness = Neighbour::load_for_nonlinear("witness", 34);
    witness.add_filter(&netns, TAP, Ingress, 2, 1);
    for v6 in [false, true] {
        let (local, remote) = vectors::ends(v6);
        for number in 0..PACKETS {
            let mut frame = Frame::new(remote, local, 5301, 41140);
            frame.timestamp = Some((1000 + u32::from(number), 1));
            frame.payload = 100;
            frame.seq = 100 * u32::from(number);
            let bytes = frame.bytes();
            let (head, rest) = bytes.split_at(LINEAR);
            let pieces = [IoSlice::new(head), IoSlice::new(rest)];
            assert_eq!(tap.write_vectored(&pieces).expect("write"), bytes.len());
        }
    }
    eventually("the packets", || witness.count() >= 2 * u64::from(PACKETS));
    let Agent {
        hotplug, kernel, ..
    } = agent;
    let tables = KernelTables::new(kernel).expect("maps");
    let flows: Vec<_> = (0..tables.flow_count())
        .filter_map(|index| tables.flow(index))
        .filter(|flow| flow.fingerprint.load(Relaxed) != 0)
        .map(|flow| {
            let hot = &flow.hot[Direction::ToLocal as usize];
            let port = flow.cold.local_port.load(Relaxed);
            (port, Traffic::unpack(hot.traffic.load(Relaxed)).packets)
        })
        .collect();
    assert_eq!(flows, [(41140, u64::from(PACKETS)); 2]);
    drop(hotplug);
}
