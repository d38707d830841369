//! Queries to Debian's resolver, unbound, across the wire.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    process::Command,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use lpm_common::testing::query::Message;
use lpm_testbed::testbed::{Netns, Pair};

use super::{
    Site, WIRE_NS, rtt,
    second::{Capture, compare},
};
use crate::support::lpm::{LIMIT, Lpm, eventually};

/// How long the slow upstream thinks.
const THINK: Duration = Duration::from_millis(60);
/// Ports of the resolver's upstreams, on its own machine.
const SLOW: u16 = 5391;
const DEAD: u16 = 5392;
const FAILING: u16 = 5393;

/// The resolver; installed, or unpacked by `cargo xtask setup`.
fn unbound() -> Option<String> {
    let unpacked = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../target/tools/usr/sbin/unbound"
    );
    let found = ["unbound", "/usr/sbin/unbound", unpacked]
        .into_iter()
        .find(|path| {
            Command::new(path)
                .arg("-V")
                .output()
                .is_ok_and(|o| o.status.success())
        });
    if found.is_none() {
        println!("LPM-SKIP dns: there is no unbound; run `cargo xtask setup`");
    }
    found.map(str::to_owned)
}

/// The resolver and its upstreams: one that thinks, one that fails, one that
/// never answers.
struct Resolver {
    _unbound: Lpm,
    _upstreams: [JoinHandle<()>; 2],
    _dead: UdpSocket,
}

impl Resolver {
    fn start(site: &Site, program: &str) -> Self {
        let on = |port: u16| {
            let bind = || UdpSocket::bind(("127.0.0.1", port)).expect("bind");
            site.pair.server.run_in(bind).expect("enter")
        };
        site.pair.server.ip("link set lo up").expect("loopback");
        let (slow, dead, failing) = (on(SLOW), on(DEAD), on(FAILING));
        let upstreams = [
            thread::spawn(move || upstream(&slow, THINK, NOERROR)),
            thread::spawn(move || upstream(&failing, Duration::ZERO, SERVFAIL)),
        ];
        let directory = site.directory.path().display().to_string();
        let forward = |zone: &str, port: u16| {
            format!("forward-zone:\n name: \"{zone}.\"\n forward-addr: 127.0.0.1@{port}\n")
        };
        let [v4, v6] = Pair::SERVER;
        let config = format!(
            "server:\n directory: \"{directory}\"\n chroot: \"\"\n username: \"\"\n pidfile: \"\"\n \
             use-syslog: no\n logfile: \"\"\n do-daemonize: no\n verbosity: 1\n num-threads: 1\n \
             interface: {v4}\n interface: {v6}\n access-control: 0.0.0.0/0 allow\n \
             access-control: ::0/0 allow\n module-config: \"iterator\"\n \
             do-not-query-localhost: no\n cache-max-ttl: 0\n \
             local-zone: \"here.\" static\n local-data: \"www.here. A 198.18.0.1\"\n \
             local-zone: \"refused.\" always_refuse\n\
             remote-control:\n control-enable: no\n{}{}{}",
            forward("slow", SLOW),
            forward("dead", DEAD),
            forward("fails", FAILING),
        );
        let file = site.directory.path().join("unbound.conf");
        fs::write(&file, config).expect("a configuration");
        let mut command = site.pair.server.command(program);
        command.arg("-d").arg("-c").arg(&file);
        let unbound = Lpm::spawn(&site.pair.server, &mut command);
        unbound.wait_for("start of service");
        Self {
            _unbound: unbound,
            _upstreams: upstreams,
            _dead: dead,
        }
    }
}

/// An upstream that answers each query with its own question, later. Ends when
/// nobody has asked for long.
fn upstream(socket: &UdpSocket, think: Duration, rcode: u8) {
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
    let mut bytes = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut bytes) {
        thread::sleep(think);
        // An answer without records.
        (bytes[2], bytes[3]) = (0x84, rcode);
        bytes[6..12].fill(0);
        let question = 12 + name_length(&bytes[12..length]) + 4;
        if socket.send_to(&bytes[..question], from).is_err() {
            return;
        }
    }
}

fn name_length(bytes: &[u8]) -> usize {
    let end = bytes.iter().position(|byte| *byte == 0);
    end.expect("a name ends") + 1
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut tail = Vec::new();
    for label in name.split('.') {
        tail.push(u8::try_from(label.len()).expect("short"));
        tail.extend(label.bytes());
    }
    tail.extend([0, 0, 1, 0, 1]);
    Message {
        tail,
        ..Message::query(id)
    }
    .bytes()
}

/// A stub resolver in the pod.
struct Stub<'n> {
    netns: &'n Netns,
    server: SocketAddr,
}

impl Stub<'_> {
    fn socket(&self) -> UdpSocket {
        let any = if self.server.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let bind = || UdpSocket::bind(any).expect("bind");
        let socket = self.netns.run_in(bind).expect("enter");
        socket.connect(self.server).expect("connect");
        socket.set_read_timeout(Some(LIMIT)).expect("a limit");
        socket
    }

    /// Asks over UDP; gives the response code and how long it took, ns.
    #[track_caller]
    fn udp(&self, id: u16, name: &str) -> (u8, u64) {
        let socket = self.socket();
        let mut answer = [0; 512];
        let begun = Instant::now();
        socket.send(&query(id, name)).expect("send");
        let length = socket.recv(&mut answer).expect(name);
        let took = elapsed(begun);
        assert!(length >= 12 && answer[..2] == id.to_be_bytes());
        (answer[3] & 0xf, took)
    }

    /// Asks over TCP: so many queries in one connection, one after the other.
    #[track_caller]
    fn tcp(&self, ids: std::ops::Range<u16>, name: &str) -> Vec<u64> {
        let connect = || TcpStream::connect(self.server).expect("connect");
        let mut stream = self.netns.run_in(connect).expect("enter");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        ids.map(|id| {
            let query = query(id, name);
            let length = u16::try_from(query.len()).expect("short").to_be_bytes();
            let begun = Instant::now();
            stream
                .write_all(&[&length[..], &query].concat())
                .expect("ask");
            let mut length = [0; 2];
            stream.read_exact(&mut length).expect("an answer");
            let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut answer).expect("an answer");
            let took = elapsed(begun);
            assert_eq!(answer[..2], id.to_be_bytes());
            took
        })
        .collect()
    }
}

fn elapsed(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_nanos()).expect("soon")
}

const NOERROR: u8 = 0;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
const REFUSED: u8 = 5;

#[test]
fn queries_over_ipv4_to_a_real_resolver() {
    queries(0);
}

#[test]
fn queries_over_ipv6_to_a_real_resolver() {
    queries(1);
}

fn queries(family: usize) {
    let (Some(site), Some(program)) = (Site::new(), unbound()) else {
        return;
    };
    let _resolver = Resolver::start(&site, &program);
    let capture = Capture::start(&site);
    let stub = Stub {
        netns: &site.pair.client,
        server: SocketAddr::new(Pair::SERVER[family], 53),
    };
    let think = u64::try_from(THINK.as_nanos()).expect("short");
    let kinds = [
        ("www.here", NOERROR, "NOERROR", 0),
        ("nobody.here", NXDOMAIN, "NXDOMAIN", 0),
        ("www.refused", REFUSED, "REFUSED", 0),
        ("w*.fails", SERVFAIL, "SERVFAIL", 0),
        ("w*.slow", NOERROR, "NOERROR", think),
    ];
    // A dead server, and a resolver that lives but whose upstream does not:
    // nobody answers in time. Meanwhile, the others.
    let to_nobody = Stub {
        netns: &site.pair.client,
        server: SocketAddr::new(Pair::CLIENT[family], 53),
    };
    let silent = Stub {
        server: SocketAddr::new(silent(family), 53),
        ..to_nobody
    };
    let unanswered: Vec<UdpSocket> = (900..903).map(|id| send(&silent, id, "www.here")).collect();
    let hanging = send(&stub, 903, "www.dead");
    let mut expected = Vec::new();
    for round in 0..5_u16 {
        for (at, (name, code, word, least)) in (0..).zip(kinds) {
            let id = round * 10 + at;
            // Another name each time: the resolver remembers answers.
            let name = name.replace('*', &id.to_string());
            let (rcode, took) = stub.udp(id, &name);
            assert_eq!(rcode, code, "{name}");
            expected.push((u64::from(id), word, least, took));
        }
    }
    let over_tcp = stub.tcp(500..510, "www.here");
    expected.extend(
        (500..)
            .zip(over_tcp)
            .map(|(id, took)| (id, "NOERROR", 0, took)),
    );
    let samples = site.samples("dns", expected.len());
    for (id, word, least, took) in expected {
        let sample = &samples[&id];
        assert_eq!(sample["rcode"], word, "{sample}");
        let ours = rtt(sample);
        assert!(ours >= WIRE_NS + least, "too short: {sample}");
        // The hooks lie between the stub and the wire.
        assert!(ours <= took, "too long, {took} ns at the stub: {sample}");
        assert_eq!(
            (&sample["leg"], &sample["dport"]),
            (&"remote".into(), &53.into())
        );
    }
    compare(&samples, &capture.times("dns.id", "dns.time", 1e9), |id| id);
    for (rcode, count) in [
        ("NOERROR", 20.0),
        ("NXDOMAIN", 5.0),
        ("SERVFAIL", 5.0),
        ("REFUSED", 5.0),
    ] {
        let series = format!("lpm_dns_seconds_count{{namespace=\"shop\",rcode=\"{rcode}\"}}");
        site.eventually(&series, count);
    }
    site.eventually("lpm_dns_unanswered_total{namespace=\"shop\"}", 4.0);
    drop((unanswered, hanging));
}

/// An address at which nobody answers: nothing is there.
fn silent(family: usize) -> std::net::IpAddr {
    ["198.18.2.77", "fd00:18:2::77"][family]
        .parse()
        .expect("an address")
}

fn send(stub: &Stub<'_>, id: u16, name: &str) -> UdpSocket {
    let socket = stub.socket();
    socket.send(&query(id, name)).expect("send");
    socket
}

#[test]
fn a_query_that_is_sent_again_is_no_sample() {
    let Some(site) = Site::new() else { return };
    // A server that answers the second of two.
    let bind = || UdpSocket::bind((Pair::SERVER[0], 53)).expect("bind");
    let server = site.pair.server.run_in(bind).expect("enter");
    server.set_read_timeout(Some(LIMIT)).expect("a limit");
    let stub = Stub {
        netns: &site.pair.client,
        server: SocketAddr::new(Pair::SERVER[0], 53),
    };
    let socket = stub.socket();
    let mut bytes = [0; 512];
    for _ in 0..2 {
        socket.send(&query(7, "www.here")).expect("send");
        server.recv_from(&mut bytes).expect("a query");
    }
    let (length, from) = {
        socket.send(&query(7, "www.here")).expect("send");
        server.recv_from(&mut bytes).expect("a query")
    };
    bytes[2] |= 0x80;
    for _ in 0..2 {
        server.send_to(&bytes[..length], from).expect("answer");
        socket.recv(&mut [0; 512]).expect("an answer");
    }
    let event = |event: &str, count| {
        site.eventually(
            &format!("lpm_query_events_total{{method=\"dns\",event=\"{event}\"}}"),
            count,
        );
    };
    event("repeated", 2.0);
    event("ambiguous", 1.0);
    event("duplicate", 1.0);
    let samples = site.agent.value("lpm_samples_total{method=\"dns\"}");
    assert_eq!(samples, None, "nothing was measured");
    eventually("it was answered", || {
        site.agent
            .value("lpm_dns_unanswered_total{namespace=\"shop\"}")
            == Some(0.0)
    });
}

/// The C library itself: `getent` asks for both families of a name in one
/// segment, with `use-vc`.
#[test]
fn the_c_librarys_queries_over_tcp_are_each_measured() {
    let (Some(site), Some(program)) = (Site::new(), unbound()) else {
        return;
    };
    let _resolver = Resolver::start(&site, &program);
    let file = site.directory.path().join("resolv.conf");
    let server = Pair::SERVER[0];
    fs::write(&file, format!("nameserver {server}\noptions use-vc\n")).expect("a file");
    let script = format!(
        "mount --bind {} /etc/resolv.conf && for n in 1 2 3 4 5; do getent -s dns ahosts www.here; done",
        file.display()
    );
    let mut unshare = site.pair.client.command("unshare");
    let output = unshare.args(["-m", "sh", "-c", &script]).output();
    let output = output.expect("unshare");
    let found = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(found.contains("198.18.0.1"), "{found} {output:?}");
    for sample in site.samples("dns", 10).values() {
        assert!(rtt(sample) >= WIRE_NS, "{sample}");
    }
    let event = |event: &str| {
        let series = format!("lpm_query_events_total{{method=\"dns\",event=\"{event}\"}}");
        site.agent.value(&series).unwrap_or(0.0)
    };
    let missed = ["further", "no_message", "unasked"].map(event);
    assert!(missed.iter().all(|count| *count < 1.0), "{missed:?}");
}
