//! Handshakes against the wire's own log: accepted, refused, resent and
//! unanswered, to the pod and from it.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use lpm_testbed::{
    testbed::{
        Direction, Impairment, Netns, Pair, PairConfig,
        wire::{Loss, TcpIdentity},
    },
    traffic::Server,
    truth::{Echo, Leg, Method, Monitor, Sample, WireTruth},
};

use crate::support::kernel::kernel_is_usable;

/// One way: long enough to be told from what a busy machine adds.
const DELAY: Duration = Duration::from_millis(5);
/// Where a server listens.
const OPEN: u16 = 5331;
/// Where nobody listens.
const CLOSED: u16 = 5332;
/// What asks whether all earlier samples are out.
const MARKER: u16 = 5333;
/// More than any answer here takes.
const PATIENCE: Duration = Duration::from_secs(20);
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

struct Scene {
    monitor: Monitor,
    _servers: [Server; 3],
    pair: Pair,
}

impl Scene {
    /// None: the kernel cannot be tested here.
    fn new(timestamps: bool) -> Option<Self> {
        if !kernel_is_usable() {
            return None;
        }
        let config = PairConfig {
            timestamps,
            ..PairConfig::default()
        };
        let pair = Pair::new(&config).expect("the testbed");
        pair.set_delay(DELAY);
        let servers = [
            Server::start(&pair.server, OPEN).expect("a server"),
            Server::start(&pair.server, MARKER).expect("a server for markers"),
            Server::start(&pair.client, OPEN).expect("a server in the pod"),
        ];
        let lpm = Path::new(env!("CARGO_BIN_EXE_lpm"));
        let arguments = ["-i", Pair::POD_INTERFACE];
        let monitor = Monitor::start(lpm, &pair.node, &arguments).expect("an agent");
        drop(pair.wire().take_records());
        Some(Self {
            monitor,
            _servers: servers,
            pair,
        })
    }

    /// Samples of handshakes with a port, of all packets so far; those of the
    /// remote leg were held against the wire's log.
    fn samples(&self, port: u16) -> Vec<Sample> {
        connect(&self.pair.client, Pair::SERVER[0], MARKER, PATIENCE).expect("a marker");
        self.monitor
            .wait_for("the marker's sample", |samples| {
                samples.iter().any(|s| s.dport == MARKER)
            })
            .expect("a marker's sample");
        self.monitor.settle().expect("all samples");
        assert_eq!(self.pair.wire().missed().expect("a count"), 0);
        let wire = WireTruth::new(&self.pair.wire().take_records());
        let mut samples = self.monitor.take_samples();
        samples.retain(|s| s.method == Method::Handshake && [s.sport, s.dport].contains(&port));
        let remote = samples.iter().filter(|s| s.leg == Leg::Remote);
        let beyond = remote.map(|sample| beyond_truth(sample, &wire)).min();
        // What the node costs, at its best: a wrong pair is off by the wire's delay.
        assert!(
            beyond.is_none_or(|ns| u128::from(ns) < DELAY.as_nanos()),
            "too long: {beyond:?} ns beyond the truth"
        );
        samples
    }

    /// Loses what `when` says, one way.
    fn lose(
        &self,
        direction: Direction,
        when: impl Fn(&TcpIdentity) -> bool + Send + Sync + 'static,
    ) {
        let loss = Loss::when(move |packet| packet.tcp.is_some_and(&when));
        let impairment = Impairment::delay(DELAY);
        let wire = self.pair.wire();
        wire.set(direction, Impairment { loss, ..impairment });
    }
}

/// True once, for a segment with these flags to or from a port.
fn first(flags: u8, port: u16) -> impl Fn(&TcpIdentity) -> bool {
    let met = AtomicBool::new(false);
    move |tcp| {
        let fits = tcp.flags & (SYN | ACK) == flags
            && [tcp.source_port, tcp.destination_port].contains(&port);
        fits && !met.swap(true, Ordering::Relaxed)
    }
}

/// Opens a connection and closes it.
fn connect(from: &Netns, to: IpAddr, port: u16, patience: Duration) -> io::Result<()> {
    let target = SocketAddr::new(to, port);
    let open = || TcpStream::connect_timeout(&target, patience).map(drop);
    from.run_in(open).expect("enter the namespace")
}

/// What a sample shows beyond the truth, which begins behind the hook, ns.
#[track_caller]
fn beyond_truth(sample: &Sample, wire: &WireTruth) -> u64 {
    let truth = wire.truth(sample);
    let truth = truth.unwrap_or_else(|| panic!("the wire knows nothing of {sample:?}"));
    println!("{} ns of {} ns: {sample:?}", sample.rtt_ns, truth.beyond_ns);
    // The log reads another clock, a few microseconds off at the worst.
    assert!(sample.rtt_ns + 5_000 >= truth.beyond_ns, "too short");
    sample.rtt_ns.saturating_sub(truth.beyond_ns)
}

/// How many samples of each leg and echo, sorted.
fn kinds(samples: &[Sample]) -> Vec<(Leg, Echo, usize)> {
    let all = [Leg::Remote, Leg::Local].map(|leg| {
        [Echo::Prompt, Echo::Lone, Echo::Data].map(|echo| {
            let fits = |s: &&Sample| (s.leg, s.echo) == (leg, echo);
            (leg, echo, samples.iter().filter(fits).count())
        })
    });
    let mut kinds = all.concat();
    kinds.retain(|(_, _, count)| *count > 0);
    kinds
}

#[test]
fn accepted() {
    for timestamps in [true, false] {
        let Some(scene) = Scene::new(timestamps) else {
            return;
        };
        for _ in 0..5 {
            for address in Pair::SERVER {
                connect(&scene.pair.client, address, OPEN, PATIENCE).expect("accepted");
            }
        }
        let samples = scene.samples(OPEN);
        let both = [
            (Leg::Remote, Echo::Prompt, 10),
            (Leg::Local, Echo::Lone, 10),
        ];
        assert_eq!(kinds(&samples), both, "timestamps {timestamps}");
        let remote = samples.iter().filter(|s| s.leg == Leg::Remote);
        for sample in remote {
            assert!(u128::from(sample.rtt_ns) >= 2 * DELAY.as_nanos());
            assert_eq!(sample.dport, OPEN, "the SYN is the stamped packet");
        }
    }
}

#[test]
fn accepted_by_the_pod() {
    let Some(scene) = Scene::new(true) else {
        return;
    };
    for address in Pair::CLIENT {
        connect(&scene.pair.server, address, OPEN, PATIENCE).expect("accepted");
    }
    let samples = scene.samples(OPEN);
    let both = [(Leg::Remote, Echo::Lone, 2), (Leg::Local, Echo::Prompt, 2)];
    assert_eq!(kinds(&samples), both);
}

#[test]
fn refused() {
    let Some(scene) = Scene::new(true) else {
        return;
    };
    for address in Pair::SERVER {
        let refused = connect(&scene.pair.client, address, CLOSED, PATIENCE);
        let error = refused.expect_err("nobody listens");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
    for address in Pair::CLIENT {
        let refused = connect(&scene.pair.server, address, CLOSED, PATIENCE);
        refused.expect_err("nobody listens");
    }
    let samples = scene.samples(CLOSED);
    let both = [(Leg::Remote, Echo::Lone, 2), (Leg::Local, Echo::Lone, 2)];
    assert_eq!(kinds(&samples), both);
}

#[test]
fn unanswered() {
    let Some(scene) = Scene::new(true) else {
        return;
    };
    scene.lose(Direction::Forward, |tcp| tcp.destination_port == OPEN);
    // Time for one SYN more.
    let patience = Duration::from_millis(1300);
    let error = connect(&scene.pair.client, Pair::SERVER[0], OPEN, patience);
    assert_eq!(
        error.expect_err("lost").kind(),
        io::ErrorKind::TimedOut,
        "nothing answers"
    );
    assert_eq!(kinds(&scene.samples(OPEN)), [], "not measured is no sample");
}

#[test]
fn resent() {
    let Some(scene) = Scene::new(true) else {
        return;
    };
    // The first SYN is lost: the SYN-ACK answers the second, or the first.
    scene.lose(Direction::Forward, first(SYN, OPEN));
    connect(&scene.pair.client, Pair::SERVER[0], OPEN, PATIENCE).expect("accepted");
    let remote = |samples: &[Sample]| samples.iter().filter(|s| s.leg == Leg::Remote).count();
    assert_eq!(remote(&scene.samples(OPEN)), 0, "Karn: a SYN was resent");
    // The same with the SYN-ACK: both are resent then.
    scene.pair.set_delay(DELAY);
    scene.lose(Direction::Backward, first(SYN | ACK, OPEN));
    connect(&scene.pair.client, Pair::SERVER[1], OPEN, PATIENCE).expect("accepted");
    assert_eq!(remote(&scene.samples(OPEN)), 0, "Karn: a SYN was resent");
    // To the pod: the SYN passes the hook twice, and what answers it, too.
    scene.pair.set_delay(DELAY);
    scene.lose(Direction::Forward, first(SYN | ACK, OPEN));
    connect(&scene.pair.server, Pair::CLIENT[0], OPEN, PATIENCE).expect("accepted");
    let samples = scene.samples(OPEN);
    assert_eq!(remote(&samples), 0, "Karn: the SYN-ACK was resent");
    let first_answer = [(Leg::Local, Echo::Prompt, 1)];
    assert_eq!(kinds(&samples), first_answer, "it came before the copy");
}
