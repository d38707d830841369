//! One pod against the tables: SYNs that it never acknowledges, pings that nobody answers, packets
//! under another's address, and flows of one direction. The frames are hand-made, the hooks and
//! their agent real. Neither end is a TCP, so nothing but the frames decides what happens.

use std::net::{IpAddr, Ipv4Addr};

use lpm_common::{
    packet::flag,
    testing::{
        frame::Frame,
        query::{Message, echo},
    },
};
use lpm_testbed::{testbed::Netns, truth::Monitor};

use crate::support::{
    kernel::raw::Raw,
    paths::{agent, counted, eventually, file, kernel_is_usable, value, watched_as},
};

/// Entries of the tables, so small that seconds fill them.
const TABLES: &str = "flows: 4096\nqueries: 1024\nmethods: [ts, handshake, icmp, dns]\n";

const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 19, 0, 1));

/// A pod behind a veth of the node, and whoever answers it there.
pub(crate) struct Pod {
    address: IpAddr,
    from: Raw,
    to: Raw,
    _netns: Netns,
}

impl Pod {
    pub(crate) fn new(node: &Netns, interface: &str, name: &str, address: Ipv4Addr) -> Self {
        let netns = Netns::new(name).expect("netns");
        let quiet = netns.sysctl("net.ipv6.conf.default.disable_ipv6", "1");
        quiet.expect("sysctl");
        node.veth(interface, &netns, "eth0", 1500).expect("a veth");
        netns.ip("link set eth0 up").expect("up");
        node.ip(&format!("link set {interface} up")).expect("up");
        Self {
            address: IpAddr::V4(address),
            from: Raw::open(&netns, "eth0"),
            to: Raw::open(node, interface),
            _netns: netns,
        }
    }

    /// A packet of the flow from this port, to the far end's port 80.
    fn tcp(&self, outward: bool, port: u16, tcp: Tcp) {
        let frame = if outward {
            Frame::new(self.address, FAR, port, 80)
        } else {
            Frame::new(FAR, self.address, 80, port)
        };
        let frame = Frame {
            flags: tcp.flags,
            seq: tcp.seq,
            ack: tcp.ack,
            payload: tcp.payload,
            timestamp: Some((tcp.tsval, tcp.tsecr)),
            ..frame
        };
        self.send(outward, &frame);
    }

    fn send(&self, outward: bool, frame: &Frame) {
        let socket = if outward { &self.from } else { &self.to };
        // A full queue of the veth is a matter of a moment.
        eventually("a frame is sent", || socket.send(&frame.bytes()).is_ok());
    }

    /// A connection with this many requests and answers.
    fn converse(&self, port: u16, requests: u32) {
        let mut talk = Talk::open(self, port);
        for _ in 0..requests {
            talk.ask(self);
        }
    }
}

#[derive(Clone, Copy)]
struct Tcp {
    flags: u8,
    seq: u32,
    ack: u32,
    payload: u32,
    tsval: u32,
    tsecr: u32,
}

/// A connection that a pod has opened.
pub(crate) struct Talk {
    port: u16,
    next: [u32; 2],
    clock: u32,
}

const REQUEST: u32 = 100;

impl Talk {
    /// SYN, SYN-ACK and, unless it is an attacker's, the ACK.
    fn open(pod: &Pod, port: u16) -> Self {
        let mut talk = Self::half_open(pod, port);
        talk.say(pod, true, flag::ACK, 0);
        talk
    }

    /// SYN and SYN-ACK, without the ACK.
    pub(crate) fn half_open(pod: &Pod, port: u16) -> Self {
        let begin = u32::from(port).wrapping_mul(0x9e37_79b1);
        let mut talk = Self {
            port,
            next: [begin, begin ^ 0x5555_5555],
            clock: 1000,
        };
        talk.say(pod, true, flag::SYN, 0);
        talk.say(pod, false, flag::SYN | flag::ACK, 0);
        talk
    }

    /// A request and its answer: one sample of each leg.
    fn ask(&mut self, pod: &Pod) {
        self.say(pod, true, flag::ACK, REQUEST);
        self.say(pod, false, flag::ACK, REQUEST);
        self.say(pod, true, flag::ACK, 0);
    }

    fn say(&mut self, pod: &Pod, outward: bool, flags: u8, payload: u32) {
        let (own, other) = (usize::from(!outward), usize::from(outward));
        self.clock += 1;
        let tcp = Tcp {
            flags,
            seq: self.next[own],
            ack: if flags & flag::ACK == 0 {
                0
            } else {
                self.next[other]
            },
            payload,
            tsval: self.clock,
            tsecr: self.clock - 1,
        };
        pod.tcp(outward, self.port, tcp);
        let takes = payload + u32::from(flags & flag::SYN != 0);
        self.next[own] = self.next[own].wrapping_add(takes);
    }
}

/// A node with two pods, `mallory` and `victim`, and the agent that watches their veths.
struct Scene {
    mallory: Pod,
    victim: Pod,
    monitor: Monitor,
    _node: Netns,
}

impl Scene {
    fn new() -> Self {
        let node = Netns::new("node").expect("netns");
        let quiet = node.sysctl("net.ipv6.conf.default.disable_ipv6", "1");
        quiet.expect("sysctl");
        let mallory = Pod::new(&node, "va", "mallory", Ipv4Addr::new(198, 18, 1, 2));
        let victim = Pod::new(&node, "vb", "victim", Ipv4Addr::new(198, 18, 2, 2));
        let names = file(
            "- {cidr: 198.18.1.0/24, namespace: mallory}\n- {cidr: 198.18.2.0/24, namespace: victim}\n\
             - {cidr: 198.19.0.0/24, namespace: far}\n",
        );
        let configuration = file(TABLES);
        let monitor = agent(&node, configuration.path(), names.path());
        for interface in ["va", "vb"] {
            eventually("the pods are watched", || {
                watched_as(&monitor, interface, "pod")
            });
        }
        Self {
            mallory,
            victim,
            monitor,
            _node: node,
        }
    }

    fn samples(&self) -> u64 {
        counted(&self.monitor, "victim", "far")
    }

    fn counter(&self, series: &str) -> u64 {
        self.monitor.counter(series).expect("a counter")
    }
}

#[test]
fn answered_syns_that_nobody_acknowledges_take_no_room_from_other_pods() {
    if !kernel_is_usable() {
        return;
    }
    let scene = Scene::new();
    // What ten seconds of 2,500 a second are to the default table, and again as much.
    for port in 1024..13_312 {
        Talk::half_open(&scene.mallory, port);
    }
    let before = scene.samples();
    for port in 20_000..20_100 {
        for more in 0..5 {
            Talk::half_open(&scene.mallory, 1024 + (port - 20_000) * 5 + more);
        }
        scene.victim.converse(port, 10);
    }
    scene.monitor.settle().expect("all samples");
    // Two of the handshake, two of each request.
    let samples = scene.samples() - before;
    println!("{samples} of 2200 samples");
    assert!(samples >= 2200 * 95 / 100, "{samples} of 2200 samples");
}

#[test]
fn connections_of_one_pod_leave_others_their_share() {
    if !kernel_is_usable() {
        return;
    }
    let scene = Scene::new();
    for port in 1024..13_312 {
        scene.mallory.converse(port, 0);
    }
    let before = scene.samples();
    for port in 20_000..20_100 {
        scene.victim.converse(port, 10);
    }
    scene.monitor.settle().expect("all samples");
    let samples = scene.samples() - before;
    println!("{samples} of 2200 samples");
    assert!(samples >= 2200 * 95 / 100, "{samples} of 2200 samples");
    assert!(scene.counter("lpm_flow_events_total{event=\"evicted_share\"}") > 50);
}

#[test]
fn pings_that_nobody_answers_take_no_room_from_questions() {
    if !kernel_is_usable() {
        return;
    }
    let scene = Scene::new();
    let (mallory, victim) = (&scene.mallory, &scene.victim);
    let ping = |id: u16| mallory.send(true, &echo(mallory.address, FAR, false, id, 1));
    for id in 0..4096 {
        ping(id);
    }
    for id in 0..200 {
        for more in 0..5 {
            ping(5000 + id * 5 + more);
        }
        let port = 30_000 + id;
        victim.send(true, &Message::query(id).udp(victim.address, FAR, port, 53));
        victim.send(
            false,
            &Message::answer(id, 0).udp(FAR, victim.address, 53, port),
        );
    }
    let series = "lpm_dns_seconds_count{namespace=\"victim\"";
    let answered = || {
        let metrics = scene.monitor.metrics().expect("metrics");
        let lines = metrics.lines().filter(|line| line.starts_with(series));
        let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        values.sum::<u64>()
    };
    let found = answered();
    println!("{found} of 200 questions");
    assert!(found >= 198, "{found} of 200 questions");
    assert!(scene.counter("lpm_map_drops_total{map=\"queries\",reason=\"share\"}") > 0);
}

/// Numbers that nobody can guess, the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 >> 16 & 0xffff_ffff).expect("32 bits")
    }
}

#[test]
fn a_blind_forger_ends_no_flow_and_spoils_no_measurement() {
    const ROUNDS: u32 = 2000;
    if !kernel_is_usable() {
        return;
    }
    let scene = Scene::new();
    let victim = &scene.victim;
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut talk = Talk::open(victim, 20_000);
    scene.monitor.settle().expect("all samples");
    drop(scene.monitor.take_samples());
    // One TSval all the time, as the packets that cost two thirds of the samples had.
    let tsval = random.next();
    for round in 0..ROUNDS {
        let flags = match round % 8 {
            0 => flag::RST,
            1 => flag::SYN,
            2 => flag::RST | flag::ACK,
            _ => flag::ACK,
        };
        let forged = Tcp {
            flags,
            seq: random.next(),
            ack: random.next(),
            payload: 0,
            tsval,
            tsecr: random.next(),
        };
        victim.tcp(false, 20_000, forged);
        talk.ask(victim);
    }
    scene.monitor.settle().expect("all samples");
    let samples = scene.monitor.take_samples();
    let (found, all) = (samples.len(), 2 * ROUNDS as usize);
    println!("{found} of {all} samples");
    assert!(
        found <= all && found * 1000 >= all * 999,
        "{found} of {all}"
    );
    // Each answers what the conversation has sent: its clock ran from 1000.
    assert!(samples.iter().all(|s| (1000..=talk.clock).contains(&s.id)));
    for event in ["reset", "reopened", "resynced"] {
        let series = format!("lpm_flow_events_total{{event=\"{event}\"}}");
        assert_eq!(scene.counter(&series), 0, "{event}");
    }
    let skipped = scene.counter("lpm_parse_skipped_total{reason=\"out_of_window\"}");
    assert!(skipped >= u64::from(ROUNDS) * 99 / 100, "{skipped}");
    assert_eq!(
        value(&scene.monitor, "lpm_active_flows{vantage=\"pod\"}"),
        Some(1.0)
    );
}

#[test]
fn flows_of_one_direction_mark_their_own_veth_only() {
    if !kernel_is_usable() {
        return;
    }
    let scene = Scene::new();
    let one_way = |pod: &Pod| {
        for packet in 0..15 {
            for port in 1024..1054 {
                let tcp = Tcp {
                    flags: flag::ACK,
                    seq: 1000 + packet * REQUEST,
                    ack: 5000,
                    payload: REQUEST,
                    tsval: packet + 1,
                    tsecr: 7,
                };
                pod.tcp(true, port, tcp);
            }
        }
    };
    let marked = |interface: &str| {
        let series = format!("lpm_interface_one_sided{{interface=\"{interface}\"}}");
        value(&scene.monitor, &series) == Some(1.0)
    };
    // When the second one is marked, what the first one's mark entails has been done.
    for (pod, interface) in [(&scene.mallory, "va"), (&scene.victim, "vb")] {
        one_way(pod);
        eventually("the veth is marked", || marked(interface));
    }
    assert!(watched_as(&scene.monitor, "va", "pod"));
    let said = scene.monitor.said();
    assert!(said.contains("give this one the vantage node"), "{said}");
}
