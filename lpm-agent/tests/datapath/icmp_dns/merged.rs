//! Datagrams that the kernel puts together (UDP GRO) before they come to the hook.

use std::{
    net::{SocketAddr, UdpSocket},
    process::Command,
    thread,
};

use lpm_common::testing::query::Message;
use lpm_testbed::testbed::{Netns, Pair};
use nix::sys::signal::Signal;

use super::Site;
use crate::support::lpm::{LIMIT, Lpm};

/// Lookups, each of two queries from one socket, as the C library sends them.
const LOOKUPS: u16 = 20;

/// Makes an interface put together what comes within 2 ms, as a card that
/// moderates its interrupts does.
fn merge(netns: &Netns, interface: &str, feature: &str) {
    let features = ["-K", interface, "gro", "on", feature, "on"];
    netns.output("ethtool", &features).expect("ethtool");
    let settings =
        "echo 1 >threaded && echo 2000000 >gro_flush_timeout && echo 5 >napi_defer_hard_irqs";
    // The file system shows the interfaces of the namespace that mounts it.
    let script = format!("mount -t sysfs sys /sys && cd /sys/class/net/{interface} && {settings}");
    let arguments = ["-m", "sh", "-c", &script];
    netns.output("unshare", &arguments).expect("settings");
}

/// A server that waits for two queries and then answers both, with answers of
/// the queries' length.
fn serve(socket: &UdpSocket) {
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
    for _ in 0..LOOKUPS {
        let asked = [0, 1].map(|_| {
            let mut bytes = [0; 512];
            let (length, from) = socket.recv_from(&mut bytes).expect("a query");
            (bytes[..length].to_vec(), from)
        });
        for (mut bytes, from) in asked {
            bytes[2..4].copy_from_slice(&[0x81, 0x83]);
            socket.send_to(&bytes, from).expect("answer");
        }
    }
}

/// Packets from or to the server's port in a capture.
fn captured(file: &str, filter: &str) -> usize {
    let output = Command::new("tcpdump").args(["-nr", file, filter]).output();
    let output = output.expect("tcpdump");
    String::from_utf8_lossy(&output.stdout).lines().count()
}

fn each_is_read(family: usize, interface: &str, feature: &str) {
    let Some(site) = Site::new() else { return };
    merge(&site.pair.node, interface, feature);
    let file = site
        .directory
        .path()
        .join("merged.pcap")
        .display()
        .to_string();
    let mut tcpdump = site.pair.node.command("tcpdump");
    tcpdump.args([
        "--immediate-mode",
        "-U",
        "-Z",
        "root",
        "-w",
        &file,
        "-i",
        Pair::POD_INTERFACE,
    ]);
    let tcpdump = Lpm::spawn(&site.pair.node, &mut tcpdump);
    tcpdump.wait_for("listening on");
    let server = SocketAddr::new(Pair::SERVER[family], 53);
    let bind = || UdpSocket::bind(server).expect("bind");
    let socket = site.pair.server.run_in(bind).expect("enter");
    let serving = thread::spawn(move || serve(&socket));
    for lookup in 0..LOOKUPS {
        let any = SocketAddr::new(Pair::CLIENT[family], 0);
        let bind = || UdpSocket::bind(any).expect("bind");
        let socket = site.pair.client.run_in(bind).expect("enter");
        socket.connect(server).expect("connect");
        socket.set_read_timeout(Some(LIMIT)).expect("a limit");
        for id in [2 * lookup, 2 * lookup + 1] {
            socket.send(&Message::query(id).bytes()).expect("send");
        }
        for _ in 0..2 {
            socket.recv(&mut [0; 512]).expect("an answer");
        }
    }
    serving.join().expect("the server");
    let samples = site.samples("dns", usize::from(2 * LOOKUPS));
    assert_eq!(samples.len(), usize::from(2 * LOOKUPS));
    site.eventually(
        "lpm_dns_seconds_count{namespace=\"shop\",rcode=\"NXDOMAIN\"}",
        f64::from(2 * LOOKUPS),
    );
    site.eventually("lpm_dns_unanswered_total{namespace=\"shop\"}", 0.0);
    assert!(tcpdump.end(Signal::SIGINT).success());
    let way = if interface == Pair::POD_INTERFACE {
        "dst"
    } else {
        "src"
    };
    let packets = captured(&file, &format!("udp and {way} port 53"));
    assert!(
        packets > 0 && packets < usize::from(2 * LOOKUPS),
        "nothing was merged: {packets}"
    );
}

#[test]
fn of_merged_queries_each_is_read() {
    each_is_read(0, Pair::POD_INTERFACE, "rx-udp-gro-forwarding");
}

#[test]
fn of_merged_answers_each_is_read() {
    each_is_read(1, Pair::WIRE_INTERFACE, "rx-udp-gro-forwarding");
}

#[test]
fn of_listed_answers_each_is_read() {
    each_is_read(0, Pair::WIRE_INTERFACE, "rx-gro-list");
}
