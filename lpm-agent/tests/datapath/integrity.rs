//! Traffic is never altered: a transfer's checksum, and frames cut off at every
//! byte, with the agent on both sides of a bridge.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use lpm_common::{
    counter::Counter,
    host::{Arrival, Model, Settings},
    packet::Direction,
    parse::Link,
    testing::frame::layouts,
};
use lpm_testbed::{
    testbed::{Netns, Pair, PairConfig},
    traffic::{Background, BulkConfig, Limit, PORT, Server, bulk},
    truth::Monitor,
};

use crate::support::kernel::{eventually, kernel_is_usable, neighbour::index_of, raw::Raw};

/// How long a frame may take.
const LIMIT: Duration = Duration::from_secs(10);

fn monitor(netns: &Netns, arguments: &[&str]) -> Monitor {
    let lpm = Path::new(env!("CARGO_BIN_EXE_lpm"));
    Monitor::start(lpm, netns, arguments).expect("an agent")
}

/// Transfers both ways, at the same time, and both arrive as they were sent.
fn transfers(config: &PairConfig, bytes: u64) {
    if !kernel_is_usable() {
        return;
    }
    let pair = Pair::new(config).expect("the testbed");
    let _servers =
        [&pair.server, &pair.client].map(|netns| Server::start(netns, PORT).expect("a server"));
    let monitor = monitor(&pair.node, &["-i", Pair::POD_INTERFACE]);
    let ways = [(&pair.client, Pair::SERVER), (&pair.server, Pair::CLIENT)];
    let mut transfers = Vec::new();
    for (from, addresses) in ways {
        for address in addresses {
            let config = BulkConfig {
                target: SocketAddr::new(address, PORT),
                limit: Limit::count(bytes),
                verify: true,
            };
            transfers.push(Background::start(from, move |c| bulk(&config, c)).expect("a client"));
        }
    }
    for transfer in transfers {
        let report = transfer.join().expect("it ends well");
        assert_eq!((report.bytes, report.intact), (bytes, Some(true)));
    }
    monitor.settle().expect("all samples");
    // It did look at them.
    let seen = monitor.counter("lpm_bytes_total").expect("a counter");
    assert!(seen > 4 * bytes, "{seen} bytes seen of four transfers");
    assert!(monitor.received() > 0, "nothing was measured");
}

#[test]
fn a_transfer_over_a_wire_is_intact() {
    transfers(&PairConfig::default(), 5_000_000);
}

#[test]
fn a_transfer_of_super_packets_is_intact() {
    let direct = PairConfig {
        wire: None,
        ..PairConfig::default()
    };
    transfers(&direct, 50_000_000);
}

/// Why packets are not looked into.
const REASONS: [Counter; 6] = [
    Counter::SkippedNotIp,
    Counter::SkippedNotTcp,
    Counter::SkippedFragment,
    Counter::SkippedTruncated,
    Counter::SkippedMalformed,
    Counter::SkippedTooDeep,
];

/// Frames of all layouts, cut off at every byte behind the Ethernet header,
/// and some that are nothing at all.
fn frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for [src, dst] in [
        ["198.18.7.1", "198.18.7.2"],
        ["fd00:18:7::1", "fd00:18:7::2"],
    ] {
        let [src, dst]: [IpAddr; 2] = [src, dst].map(|text| text.parse().expect("an address"));
        for (_, frame) in layouts(src, dst, 4000, 5000) {
            // Tags travel beside the frame, and what has no Ethernet header cannot pass a bridge.
            if !frame.ethernet || !frame.tags.is_empty() {
                continue;
            }
            let bytes = frame.bytes();
            frames.extend((14..=bytes.len()).map(|length| bytes[..length].to_vec()));
            let mut longer = bytes.clone();
            longer.extend([0xa5; 30]);
            frames.push(longer);
            // No version of IP, then a header length that is none.
            for (at, value) in [(14, 0x95), (14, 0x41), (46, 0x10)] {
                let mut broken = bytes.clone();
                broken[at] = value;
                frames.push(broken);
            }
        }
    }
    frames
}

#[test]
fn malformed_frames_pass_as_they_are_and_are_counted() {
    if !kernel_is_usable() {
        return;
    }
    let [node, one, other] = ["node", "one", "other"].map(|name| Netns::new(name).expect("netns"));
    for netns in [&node, &one, &other] {
        // Nothing but what the test sends.
        let quiet = netns.sysctl("net.ipv6.conf.default.disable_ipv6", "1");
        quiet.expect("sysctl");
    }
    node.ip_batch("link add br0 type bridge stp_state 0 mcast_snooping 0\nlink set br0 up")
        .expect("a bridge");
    for (own, pod) in [("va", &one), ("vb", &other)] {
        node.veth(own, pod, "eth0", 1500).expect("a veth");
        pod.ip("link set eth0 up").expect("up");
        node.ip(&format!("link set {own} master br0 up"))
            .expect("up");
    }
    for family in ["iptables", "ip6tables"] {
        // Where the bridge hands frames to the packet filter, that drops bad IP headers. It is not
        // there on every machine.
        let _ = node.sysctl(&format!("net.bridge.bridge-nf-call-{family}"), "0");
    }
    let (sender, receiver) = (Raw::open(&one, "eth0"), Raw::open(&other, "eth0"));
    // The bridge's ports take a moment to come up. An ethertype for experiments.
    let probe = [
        &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5][..],
        &[7; 46],
    ]
    .concat();
    eventually("the bridge forwards", || {
        sender.send(&probe).expect("sent");
        receiver
            .receive_within(Duration::from_millis(100))
            .is_some()
    });
    let monitor = monitor(&node, &["-i", "va", "-i", "vb"]);
    let model = Model::new(Settings {
        flow_entries: 64,
        query_entries: 16,
        rows: 8,
        seeds: [1; 14],
        hz: 100,
        idle_seconds: 60,
        methods: lpm_common::layout::Methods::DEFAULT,
    });
    let skipped = || {
        REASONS.map(|reason| {
            let (metric, label) = reason.metric();
            let series = format!("lpm_{metric}_total{{reason=\"{label}\"}}");
            monitor.counter(&series).expect("a counter")
        })
    };
    let before = skipped();
    let hooks = [("va", Direction::FromLocal), ("vb", Direction::ToLocal)]
        .map(|(interface, direction)| (index_of(&node, interface), direction));
    let frames = frames();
    for frame in &frames {
        sender.send(frame).expect("sent");
        let mut arrived = receiver.receive_within(LIMIT);
        while arrived.as_deref() == Some(&probe[..]) {
            arrived = receiver.receive_within(LIMIT);
        }
        let arrived = arrived.unwrap_or_else(|| panic!("lost: {frame:x?}"));
        assert_eq!(arrived, *frame);
        for (ifindex, direction) in hooks {
            let arrival = Arrival {
                now_ns: 1,
                link: Link::Ethernet,
                direction,
                ifindex,
                vlan: 0,
                segments: 1,
                segment_size: 0,
            };
            model.packet(frame, &arrival);
        }
    }
    let after = skipped();
    for (place, reason) in REASONS.into_iter().enumerate() {
        let (found, expected) = (after[place] - before[place], model.counter(reason));
        println!(
            "{}: {found} of {} passages",
            reason.metric().1,
            2 * frames.len()
        );
        assert_eq!(found, expected, "{}", reason.metric().1);
    }
    let truncated = model.counter(Counter::SkippedTruncated);
    assert!(truncated > 1000, "{truncated} of {}", frames.len());
}
