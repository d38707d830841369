//! The kernel's times of packets by device: which of the four there are, and that a packet without
//! one says so. Times are not judged, so that this runs on emulated kernels, too.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    process::{ChildStderr, Command, Stdio},
    time::Instant,
};

use lpm_agent::active::socket::{Notice, Outgoing, Stage, StampedSocket};
use lpm_testbed::testbed::{
    Flavour, Netns, NsChild, Overlay, OverlayConfig, Pair, PairConfig, Redirect, RedirectedPod,
    wait_reachable,
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
};
use serde_json::Value;

use crate::support::kernel::{LIMIT, kernel_is_usable, path_of, process::lpm};

/// Packets of each device.
const PACKETS: usize = 40;

/// A reflector. Dropping it kills it.
struct Reflector {
    child: NsChild,
    log: BufReader<ChildStderr>,
}

impl Reflector {
    fn start(netns: &Netns) -> Self {
        let mut command = lpm();
        command.args(["--netns", &path_of(netns), "reflect", "--threads", "2"]);
        command.args([
            "--listen",
            "[::]:862",
            "--allow",
            "0.0.0.0/0",
            "--allow",
            "::/0",
        ]);
        let child = netns.spawn(command.stdin(Stdio::null()).stderr(Stdio::piped()));
        let child = child.expect("start lpm reflect");
        let mut log = BufReader::new(child.stderr().expect("stderr"));
        let mut line = String::new();
        log.read_line(&mut line).expect("read its log");
        assert!(line.contains("answering"), "{line}");
        Self { child, log }
    }

    fn end(mut self) -> String {
        self.child.signal(Signal::SIGTERM).expect("end it");
        let mut counts = String::new();
        while self.log.read_line(&mut counts).expect("read its log") > 0 {}
        assert!(self.child.wait(LIMIT).expect("its end").success());
        counts
    }
}

/// What `lpm probe` says of each packet.
fn probe(netns: &Netns, to: IpAddr) -> Vec<Value> {
    let mut command: Command = lpm();
    command.args(["--netns", &path_of(netns), "probe", "--format", "json"]);
    command.args(["-c", &PACKETS.to_string(), "-i", "0.02", "-W", "20"]);
    let output = command.arg(to.to_string()).output().expect("run lpm probe");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let records = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let packets: Vec<_> = records
        .filter(|record| record["type"] == "packet")
        .collect();
    assert_eq!(packets.len(), PACKETS, "{output:?}");
    packets
}

/// How many packets had a kernel's time at each stage: T1 to T4.
fn stages(packets: &[Value]) -> [usize; 4] {
    ["t1", "t2", "t3", "t4"].map(|stage| {
        let sources: Vec<_> = packets
            .iter()
            .map(|packet| packet["stamps"][stage].as_str().expect("a source"))
            .collect();
        for source in &sources {
            assert!(["kernel", "user"].contains(source), "{source}");
        }
        sources.iter().filter(|source| **source == "kernel").count()
    })
}

/// Packets with a time of the queue and of the device each, out of [`PACKETS`] that are sent to a
/// closed port.
fn queued_and_sent(netns: &Netns, to: IpAddr) -> (usize, usize) {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let any: SocketAddr = any.parse().expect("an address");
    let socket = netns.run_in(|| StampedSocket::bind(any, false));
    let socket = socket.expect("enter").expect("a socket");
    let mut told: BTreeMap<u64, [bool; 2]> = BTreeMap::new();
    let end = Instant::now() + LIMIT;
    let mut sent = 0;
    while sent < PACKETS || told.values().filter(|stages| stages[1]).count() < PACKETS {
        if sent < PACKETS {
            let target = SocketAddr::new(to, 9);
            // An ICMP error about the packet before may come instead.
            if let Ok(number) = socket.send(&[0; 88], target, Outgoing::default()) {
                sent += 1;
                told.entry(number.unwrap_or(u64::MAX)).or_default();
            }
        }
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::from(100_u8)).expect("poll");
        while let Some(notice) = socket.notice().expect("a socket") {
            if let Notice::Sent { packet, stage, .. } = notice {
                let at = usize::from(stage == Stage::Sent);
                told.entry(packet).or_default()[at] = true;
            }
        }
        if Instant::now() > end {
            break;
        }
    }
    let count = |at: usize| told.values().filter(|stages| stages[at]).count();
    (count(0), count(1))
}

/// Probes a device, and prints its line of the table in docs/probes.md.
fn device(name: &str, client: &Netns, server: &Netns, to: IpAddr) {
    let reflector = Reflector::start(server);
    let packets = probe(client, to);
    let [t1, t2, t3, t4] = stages(&packets);
    let counts = reflector.end();
    let (queued, sent) = queued_and_sent(client, to);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
    println!(
        "STAMPS {} | {name} | {t1} | {t2} | {t3} | {t4} | {queued} | of {PACKETS}",
        kernel.trim()
    );
    assert_eq!([t1, t2, t3, t4, queued, sent], [PACKETS; 6], "{counts}");
    // What the reflector counts agrees: the packets behind the last probe fetch its time.
    assert!(!counts.contains("kernel time"), "{counts}");
}

#[test]
fn on_the_loopback_device() {
    if !kernel_is_usable() {
        return;
    }
    let netns = Netns::new("alone").expect("netns");
    device("lo", &netns, &netns, IpAddr::from([127, 0, 0, 1]));
}

#[test]
fn on_a_veth_by_both_families() {
    if !kernel_is_usable() {
        return;
    }
    let pair = Pair::new(&PairConfig {
        wire: None,
        ..PairConfig::default()
    });
    let pair = pair.expect("the testbed");
    let [v4, v6] = Pair::SERVER;
    device("veth", &pair.client, &pair.server, v4);
    device("veth, IPv6", &pair.client, &pair.server, v6);
}

/// Pods on bridges, whose nodes are joined by VxLAN; and two pods of one bridge.
#[test]
fn over_a_tunnel_and_a_bridge() {
    if !kernel_is_usable() {
        return;
    }
    let config = OverlayConfig {
        pods_per_node: 2,
        ..OverlayConfig::new(Flavour::Flannel)
    };
    let overlay = Overlay::new(&config).expect("the testbed");
    let (a, beside, b) = (overlay.pod("a0"), overlay.pod("a1"), overlay.pod("b0"));
    device("bridge", &a.netns, &beside.netns, beside.v4.into());
    device("bridge, VxLAN", &a.netns, &b.netns, b.v4.into());
    // From the nodes themselves: the socket's packets enter the tunnel and the bridge.
    let [node, other] = &overlay.nodes;
    let there = IpAddr::from([198, 19, 2, 0]);
    wait_reachable(node, there).expect("the tunnel");
    device("VxLAN", node, other, there);
    device("bridge's own", node, &a.netns, a.v4.into());
}

/// A program sends what is for the pod straight into its namespace, past the node's end of its veth.
#[test]
fn behind_a_program_that_redirects() {
    if !kernel_is_usable() {
        return;
    }
    let pair = Pair::new(&PairConfig {
        wire: None,
        ..PairConfig::default()
    });
    let pair = pair.expect("the testbed");
    let pod = RedirectedPod {
        netns: &pair.client,
        interface: Pair::POD_INTERFACE,
        addresses: &Pair::CLIENT,
    };
    let interfaces = [Pair::WIRE_INTERFACE];
    let _redirect = Redirect::install(&pair.node, &interfaces, &[pod], false).expect("the CNI");
    // Answers are redirected to the client; then requests, with the pod as the server.
    device("redirect_peer", &pair.client, &pair.server, Pair::SERVER[0]);
    device(
        "redirect_peer, server",
        &pair.server,
        &pair.client,
        Pair::CLIENT[0],
    );
}

/// A full queue refuses a packet that the kernel has given a number. The packets behind it keep
/// their own times.
#[test]
fn a_packet_that_a_queue_refuses_leaves_the_others_times_alone() {
    if !kernel_is_usable() {
        return;
    }
    let pair = Pair::new(&PairConfig {
        wire: None,
        ..PairConfig::default()
    });
    let pair = pair.expect("the testbed");
    let any: SocketAddr = "0.0.0.0:0".parse().expect("an address");
    let socket = pair.client.run_in(|| StampedSocket::bind(any, false));
    let socket = socket.expect("enter").expect("a socket");
    let send = || {
        let target = SocketAddr::new(Pair::SERVER[0], 9);
        socket.send(&[0; 88], target, Outgoing::default())
    };
    // The numbers of the packets that devices have taken until one is this.
    let taken = |number: u64| {
        let mut taken = Vec::new();
        let end = Instant::now() + LIMIT;
        while taken.last() != Some(&number) {
            assert!(Instant::now() < end, "{number} is not in {taken:?}");
            let mut fds = [PollFd::new(socket.as_fd(), PollFlags::empty())];
            poll(&mut fds, PollTimeout::from(100_u8)).expect("poll");
            while let Some(notice) = socket.notice().expect("a socket") {
                if let Notice::Sent { packet, stage, .. } = notice
                    && stage == Stage::Sent
                {
                    taken.push(packet);
                }
            }
        }
        taken
    };
    let first = send().expect("sent").expect("a number");
    assert_eq!(taken(first), [0]);
    // A bucket that never holds enough for a packet.
    let tbf = "tbf rate 8kbit burst 1 limit 1";
    let tc = |arguments: &str| {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        pair.client.output("tc", &arguments).expect("tc")
    };
    tc(&format!("qdisc add dev eth0 root {tbf}"));
    let refused = send().expect_err("the queue is full");
    assert_eq!(
        refused.raw_os_error(),
        Some(nix::errno::Errno::ENOBUFS as i32)
    );
    tc("qdisc del dev eth0 root");
    while socket.notice().expect("a socket").is_some() {}
    let next = send().expect("sent").expect("a number");
    assert_eq!(taken(next), [next], "it has its own time and no other's");
}
