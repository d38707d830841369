//! The testbed itself: wires are as slow and as lossy as they say, overlays
//! carry traffic, and nothing is left behind.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    panic::{self, AssertUnwindSafe},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use lpm_testbed::{
    testbed::{
        Direction, Flavour, Impairment, Netns, Overlay, OverlayConfig, Pair, PairConfig, VlanPair,
        connect_time,
        wire::{Fate, Jitter, Loss, Precision, Record, Reorder},
    },
    traffic::{
        Background, BulkConfig, Control, Limit, ManyConfig, PORT, PacedConfig, PacedSize,
        RequestConfig, Server, bulk, many, paced, requests,
    },
};

const PATIENCE: Duration = Duration::from_secs(10);

/// True, with a line that says why, if this machine cannot make namespaces.
fn skipped() -> bool {
    if nix::unistd::geteuid().is_root() {
        return false;
    }
    println!("LPM-SKIP testbed: network namespaces need root");
    true
}

fn pair(wire: Impairment) -> Pair {
    Pair::new(&PairConfig {
        wire: Some(wire),
        ..PairConfig::default()
    })
    .expect("a pair")
}

fn server() -> SocketAddr {
    SocketAddr::new(Pair::SERVER[0], PORT)
}

/// Sends one request after the other, this many.
fn ask(netns: &Netns, target: SocketAddr, count: u64) -> lpm_testbed::traffic::RequestReport {
    let config = RequestConfig {
        limit: Limit::count(count),
        ..RequestConfig::new(target)
    };
    netns
        .run_in(|| requests(&config, &Control::new()))
        .expect("a thread in the namespace")
        .expect("answers")
}

fn count(records: &[Record], direction: Direction, fate: Fate) -> usize {
    records
        .iter()
        .filter(|r| (r.direction, r.fate) == (direction, fate))
        .count()
}

#[test]
fn a_wire_delays_as_long_as_it_says() {
    if skipped() {
        return;
    }
    let pair = pair(Impairment::default());
    for millis in [0, 1, 5, 20] {
        let delay = Duration::from_millis(millis);
        pair.set_delay(delay);
        drop(pair.wire().take_records());
        let mut times: Vec<Duration> = (0..50)
            .map(|_| connect_time(&pair.client, Pair::SERVER[0], PATIENCE).expect("an answer"))
            .collect();
        times.sort_unstable();
        let records = pair.wire().take_records();
        let precision = Precision::of(&records).expect("packets");
        println!(
            "{delay:?} each way: connect p50 {:?}; late {precision:?}",
            times[25]
        );
        assert!(
            times[0] >= 2 * delay,
            "{:?} is faster than the wire",
            times[0]
        );
        assert!(
            times[25] < 2 * delay + Duration::from_millis(3),
            "p50 {:?}",
            times[25]
        );
        assert!(precision.p50_ns < 1_000_000, "{precision:?}");
        assert!(records.len() >= 100, "{} records", records.len());
        assert!(
            records
                .iter()
                .filter_map(Record::delay_ns)
                .all(|ns| ns >= millis * 1_000_000)
        );
    }
}

#[test]
fn directions_are_set_apart() {
    if skipped() {
        return;
    }
    let pair = pair(Impairment::default());
    pair.wire().set(
        Direction::Backward,
        Impairment::delay(Duration::from_millis(30)),
    );
    let time = connect_time(&pair.client, Pair::SERVER[0], PATIENCE).expect("an answer");
    assert!((30..45).contains(&time.as_millis()), "{time:?}");
    for record in pair
        .wire()
        .records()
        .iter()
        .filter(|record| record.tcp.is_some())
    {
        let slow = record.delay_ns().is_some_and(|ns| ns >= 30_000_000);
        assert_eq!(slow, record.direction == Direction::Backward, "{record:?}");
    }
}

#[test]
fn what_is_lost_is_in_the_log_and_nothing_else() {
    if skipped() {
        return;
    }
    let pair = pair(Impairment::default());
    let _server = Server::start(&pair.server, PORT).expect("a server");
    let every = Impairment {
        loss: Loss::EveryNth(20),
        ..Impairment::default()
    };
    pair.wire().set(Direction::Forward, every);
    drop(pair.wire().take_records());
    let config = BulkConfig {
        target: server(),
        limit: Limit::count(3_000_000),
        verify: true,
    };
    let report = pair.client.run_in(|| bulk(&config, &Control::new()));
    let report = report
        .expect("a thread in the namespace")
        .expect("a receipt");
    assert_eq!((report.bytes, report.intact), (3_000_000, Some(true)));
    let records = pair.wire().take_records();
    let lost = count(&records, Direction::Forward, Fate::Lost);
    let sent = count(&records, Direction::Forward, Fate::Forwarded);
    // The last packets of the connection may still be under way.
    assert_eq!(lost, (sent + lost) / 20, "{lost} of {}", sent + lost);
    assert!(lost > 100, "{lost}");
    assert_eq!(count(&records, Direction::Backward, Fate::Lost), 0);
    assert_eq!(pair.wire().missed().expect("counters"), 0);
    // Each lost data segment came again with the same number.
    let again = |lost: &Record| {
        let Some(tcp) = lost.tcp.filter(|tcp| tcp.payload > 0) else {
            return true;
        };
        records.iter().any(|r| {
            r.fate == Fate::Forwarded
                && r.tcp.is_some_and(|other| {
                    other.sequence.wrapping_sub(tcp.sequence) < 1500
                        && other.source_port == tcp.source_port
                })
        })
    };
    let gone = records
        .iter()
        .filter(|r| r.fate == Fate::Lost && !again(r))
        .count();
    assert_eq!(gone, 0, "{gone} lost segments never came again");
}

#[test]
fn a_predicate_picks_what_is_lost() {
    if skipped() {
        return;
    }
    let pair = pair(Impairment::default());
    // Only the first SYN: the kernel sends it again after a second.
    let done = AtomicBool::new(false);
    let loss = Loss::when(move |packet| {
        let syn = packet.tcp.is_some_and(|tcp| tcp.flags & 0x12 == 0x02);
        syn && !done.swap(true, Ordering::Relaxed)
    });
    pair.wire().set(
        Direction::Forward,
        Impairment {
            loss,
            ..Impairment::default()
        },
    );
    let time = connect_time(&pair.client, Pair::SERVER[0], PATIENCE).expect("an answer");
    assert!(time >= Duration::from_millis(900), "{time:?}");
}

#[test]
fn the_other_impairments_show() {
    if skipped() {
        return;
    }
    let pair = pair(Impairment::default());
    let _server = Server::start(&pair.server, PORT).expect("a server");
    let forward = Impairment {
        delay: Duration::from_millis(2),
        jitter: Jitter::Uniform(Duration::from_millis(1)),
        reorder: Some(Reorder {
            probability: 0.05,
            extra: Duration::from_millis(3),
        }),
        duplicate: 0.1,
        dscp: Some(46),
        ..Impairment::default()
    };
    pair.wire().set(Direction::Forward, forward);
    let back = Impairment {
        rate_bits_per_second: Some(2_000_000),
        ..Impairment::default()
    };
    pair.wire().set(Direction::Backward, back);
    let config = ManyConfig {
        limit: Limit::count(30),
        ..ManyConfig::new(server(), 20, 1000.0)
    };
    let report = pair.client.run_in(|| many(&config, &Control::new()));
    let report = report.expect("a thread in the namespace").expect("answers");
    assert_eq!((report.connections, report.requests), (20, 600));
    let mut records = pair.wire().take_records();
    let forwarded: Vec<u64> = records
        .iter()
        .filter(|r| (r.direction, r.fate) == (Direction::Forward, Fate::Forwarded))
        .map(|r| r.due_ns - r.arrival_ns)
        .collect();
    let duplicated = count(&records, Direction::Forward, Fate::Duplicated);
    let total = forwarded.len();
    assert!(
        (total / 30..total / 5).contains(&duplicated),
        "{duplicated} of {total} doubled"
    );
    assert!(
        forwarded.iter().any(|ns| *ns < 1_500_000),
        "no packet was early"
    );
    assert!(
        forwarded.iter().any(|ns| *ns > 4_000_000),
        "no packet was held back"
    );
    records.retain(|r| r.fate == Fate::Forwarded && r.direction == Direction::Forward);
    records.sort_by_key(|r| r.departure_ns);
    let overtaken = records
        .windows(2)
        .filter(|w| w[0].arrival_ns > w[1].arrival_ns)
        .count();
    assert!(overtaken > 0, "no packet was overtaken");
}

#[test]
fn overlays_carry_both_ip_versions() {
    if skipped() {
        return;
    }
    for flavour in [Flavour::L2sm, Flavour::Flannel, Flavour::Layer3] {
        let config = OverlayConfig {
            pods_per_node: 2,
            ..OverlayConfig::new(flavour)
        };
        let overlay = Overlay::new(&config).expect("an overlay");
        let servers: Vec<Server> = overlay
            .pods
            .iter()
            .map(|pod| Server::start(&pod.netns, PORT).expect("a server"))
            .collect();
        let client = &overlay.pod("a0").netns;
        let far = overlay.pod("b1");
        let vni = if flavour == Flavour::Layer3 { 5 } else { 1 };
        for address in [IpAddr::V4(far.v4), IpAddr::V6(far.v6)] {
            drop(overlay.wire.take_records());
            let report = ask(client, SocketAddr::new(address, PORT), 20);
            assert_eq!(report.requests, 20);
            let records = overlay.wire.take_records();
            let inner: Vec<_> = records.iter().filter_map(|record| record.tcp).collect();
            assert!(
                inner.len() >= 40,
                "{flavour:?}: {} segments seen",
                inner.len()
            );
            assert!(
                inner
                    .iter()
                    .all(|tcp| tcp.vni == Some(vni) && tcp.timestamps.is_some())
            );
            assert!(inner.iter().any(|tcp| tcp.destination == address));
        }
        let beside = SocketAddr::new(overlay.pod("a1").v4.into(), PORT);
        assert_eq!(ask(client, beside, 20).requests, 20);
        let records = overlay.wire.take_records();
        let strays = records.iter().filter_map(|record| record.tcp);
        let strays = strays.filter(|tcp| tcp.destination == beside.ip()).count();
        assert_eq!(strays, 0, "packets between pods of one node on the wire");
        drop(servers);
    }
}

#[test]
fn tags_pass_through_the_node() {
    if skipped() {
        return;
    }
    for ids in [&[100][..], &[200, 7]] {
        let vlan = VlanPair::new(ids).expect("a VLAN pair");
        let _server = Server::start(&vlan.server, PORT).expect("a server");
        for address in VlanPair::server_addresses() {
            let report = ask(&vlan.client, SocketAddr::new(address, PORT), 20);
            assert_eq!(report.requests, 20);
        }
        // What arrives at the far wire comes from the node, and is tagged.
        let records = vlan.far.take_records();
        let segments = records
            .iter()
            .filter(|record| record.direction == Direction::Forward);
        let tags: Vec<_> = segments
            .filter_map(|record| record.tcp)
            .map(|tcp| tcp.vlan)
            .collect();
        assert!(tags.len() >= 40, "{} segments", tags.len());
        assert!(tags.iter().all(|tag| *tag == Some(ids[0])), "{tags:?}");
    }
}

#[test]
fn timestamps_can_be_off() {
    if skipped() {
        return;
    }
    let config = PairConfig {
        timestamps: false,
        ..PairConfig::default()
    };
    let pair = Pair::new(&config).expect("a pair");
    let _server = Server::start(&pair.server, PORT).expect("a server");
    ask(&pair.client, server(), 5);
    let records = pair.wire().take_records();
    let segments: Vec<_> = records.iter().filter_map(|record| record.tcp).collect();
    assert!(segments.len() > 5 && segments.iter().all(|tcp| tcp.timestamps.is_none()));
}

#[test]
fn clients_keep_their_pace_and_time_the_answers() {
    if skipped() {
        return;
    }
    let pair = pair(Impairment::default());
    let _server = Server::start(&pair.server, PORT).expect("a server");
    let thinking = RequestConfig {
        think: Duration::from_millis(30),
        requests_per_connection: Some(5),
        limit: Limit::count(10),
        ..RequestConfig::new(server())
    };
    let asking = Background::start(&pair.client, move |control| requests(&thinking, control));
    let report = asking.expect("a thread").join().expect("answers");
    let rtt = report.rtt.expect("ten answers");
    assert_eq!((report.connections, rtt.count), (2, 10));
    assert!((30_000_000..60_000_000).contains(&rtt.p50_ns), "{rtt:?}");

    drop(pair.wire().take_records());
    let pacing = PacedConfig {
        target: server(),
        size: PacedSize::Segments(1),
        period: Duration::from_millis(12),
        limit: Limit::default(),
    };
    let running = Background::start(&pair.client, move |control| paced(&pacing, control));
    let running = running.expect("a thread");
    running.wait_ready(PATIENCE).expect("a connection");
    let full = || {
        let records = pair.wire().records();
        records
            .iter()
            .filter(|r| r.tcp.is_some_and(|tcp| tcp.payload == 1448))
            .count()
    };
    wait_for("ten full segments", || full() >= 10);
    let report = running.stop().expect("a report");
    assert_eq!(report.message_bytes, 1448);
    assert!(report.seconds >= 0.1, "{report:?}");
}

#[test]
fn nothing_stays_behind() {
    if skipped() {
        return;
    }
    let mut names = Vec::new();
    let mut child = 0;
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        let overlay = Overlay::new(&OverlayConfig::new(Flavour::L2sm)).expect("an overlay");
        let _server = Server::start(&overlay.pods[0].netns, PORT).expect("a server");
        names.extend(
            overlay
                .nodes
                .iter()
                .chain(overlay.pods.iter().map(|pod| &pod.netns))
                .map(|netns| netns.name().to_owned()),
        );
        let mut sleep = overlay.nodes[0].command("sleep");
        let sleeping = overlay.nodes[0].spawn(sleep.arg("60")).expect("a child");
        child = sleeping.id();
        assert!(fs::exists(format!("/proc/{child}")).expect("proc"));
        std::panic::panic_any("on purpose");
    }));
    let payload = outcome.expect_err("the panic");
    assert_eq!(payload.downcast_ref(), Some(&"on purpose"));
    assert!(names.len() >= 4, "{names:?}");
    for name in &names {
        assert!(
            !fs::exists(format!("/run/netns/{name}")).expect("netns"),
            "{name} is left"
        );
    }
    assert!(
        !fs::exists(format!("/proc/{child}")).expect("proc"),
        "the child is left"
    );
}

#[test]
fn a_dead_testbeds_namespaces_are_removed_and_no_others() {
    if skipped() {
        return;
    }
    // A process that is gone: its id cannot be given out again so soon.
    let mut dead = Command::new("true").spawn().expect("true");
    let pid = dead.id();
    dead.wait().expect("its end");
    let stale = format!("lpmt-{pid}-0-stale");
    let made = Command::new("ip")
        .args(["netns", "add", &stale])
        .status()
        .expect("ip");
    assert!(made.success());
    let living = Netns::new("living").expect("a namespace");
    let removed = Netns::remove_stale().expect("a look at the namespaces");
    // Another process may have cleaned up in between: gone is what counts.
    assert!(
        !fs::exists(format!("/run/netns/{stale}")).expect("netns"),
        "{removed:?}"
    );
    assert!(living.path().exists());
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(
            std::time::Instant::now() < deadline,
            "{what}: not within {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
