//! Which samples there are, and no times: what an emulated machine can be held to, where a packet
//! may wait milliseconds between the hook and the capture beside it.
//!
//! Everything runs on one CPU, so no two packets are under way at once, and hook and capture see
//! them in the same order: nothing is excused.

use std::{net::SocketAddr, time::Duration};

use lpm_testbed::{
    testbed::{
        Impairment, Pair, PairConfig,
        wire::{Jitter, Loss, Reorder},
    },
    traffic::{
        Background, BulkConfig, Limit, PORT, PacedConfig, PacedSize, RequestConfig, Server, bulk,
        paced, requests,
    },
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use super::{
    Directory, MARKER_PORT, MUTATIONS, alone,
    files::{Files, identities},
    missing,
    seen::{Capture, Watch},
    traffic::{finish, set_wire},
};

#[test]
fn the_same_samples_exist_whatever_the_clock_says() {
    if let Some(reason) = missing() {
        println!("LPM-SKIP oracle: {reason}");
        return;
    }
    let _alone = alone();
    stay_on_one_cpu();
    let directory = Directory::new("identities");
    let files = Files::new(&directory.path);
    let pair = Pair::new(&PairConfig::default()).expect("the testbed");
    let _server = Server::start(&pair.server, PORT).expect("a server beyond the wire");
    let _pod = Server::start(&pair.client, PORT).expect("a server in the pod");
    let _marker = Server::start(&pair.server, MARKER_PORT).expect("a server for markers");

    let watch = Watch::start(&pair, &files.watch, &[]);
    watch.seen_after_now(&pair);
    let capture = Capture::start(&pair, &files, &format!("tcp port {PORT}"));
    talk(&pair);
    // Over the same wire: what is still under way passes before.
    watch.seen_after_now(&pair);
    capture.stop();
    watch.seen_after_now(&pair);
    watch.stop();

    files.fields();
    let ts = files.oracle("ts", &[]);
    let handshake = files.oracle("handshake", &[]);
    files.second_reading("slotted.py", &[]);
    identities(&ts, &files.second, "ts", PORT, "200").expect_pass("the second reading");
    identities(&ts, &files.watch, "ts", PORT, "200").expect_pass("lpm watch");
    identities(&handshake, &files.watch, "handshake", PORT, "10").expect_pass("lpm watch");
    for rule in MUTATIONS {
        let broken = files.oracle("ts", &["--mutate", rule]);
        identities(&broken, &files.watch, "ts", PORT, "200").expect_failure(rule);
    }
}

/// For this thread and all that it starts from now on.
fn stay_on_one_cpu() {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).expect("the CPUs of this thread");
    let first = (0..CpuSet::count()).find(|&cpu| allowed.is_set(cpu) == Ok(true));
    let mut one = CpuSet::new();
    one.set(first.expect("a CPU")).expect("a CPU's number");
    sched_setaffinity(this, &one).expect("one of the CPUs that it has already");
}

/// Few packets, counted and not timed: requests and their answers, messages that nobody answers,
/// connections made anew, bulk both ways; over a short path, then a long one that loses and
/// reorders.
fn talk(pair: &Pair) {
    let short = Impairment::delay(Duration::from_millis(2));
    let long = Impairment {
        jitter: Jitter::Uniform(Duration::from_millis(2)),
        loss: Loss::Random(0.01),
        rate_bits_per_second: Some(20_000_000),
        reorder: Some(Reorder {
            probability: 0.02,
            extra: Duration::from_millis(5),
        }),
        ..Impairment::delay(Duration::from_millis(25))
    };
    for (wire, bytes) in [(short, 200_000), (long, 1_000_000)] {
        set_wire(pair, &wire);
        let mut talks = asking(pair);
        talks.extend(sending(pair, bytes));
        finish(talks);
    }
}

/// Over IPv4 and IPv6, some with a connection for every few requests.
fn asking(pair: &Pair) -> Vec<Background<()>> {
    let [v4, v6] = Pair::SERVER.map(|server| SocketAddr::new(server, PORT));
    let wanted = [
        RequestConfig {
            limit: Limit::count(60),
            period: Duration::from_millis(7),
            ..RequestConfig::new(v4)
        },
        RequestConfig {
            limit: Limit::count(40),
            response: 9_000,
            requests_per_connection: Some(5),
            ..RequestConfig::new(v6)
        },
    ];
    let start = |config| {
        let talk = Background::start(&pair.client, move |control| {
            requests(&config, control).map(drop)
        });
        talk.expect("a request client")
    };
    wanted.map(start).into()
}

/// Messages of two segments, and this many bytes at once each way.
fn sending(pair: &Pair, bytes: u64) -> Vec<Background<()>> {
    let at = |address| SocketAddr::new(address, PORT);
    let config = PacedConfig {
        target: at(Pair::SERVER[0]),
        size: PacedSize::Segments(2),
        period: Duration::from_millis(45),
        limit: Limit::count(20),
    };
    let messages = Background::start(&pair.client, move |control| {
        paced(&config, control).map(drop)
    });
    let mut talks = vec![messages.expect("a paced client")];
    for (netns, target) in [
        (&pair.client, Pair::SERVER[0]),
        (&pair.server, Pair::CLIENT[0]),
    ] {
        let config = BulkConfig {
            target: at(target),
            limit: Limit::count(bytes),
            verify: true,
        };
        let talk = Background::start(netns, move |control| bulk(&config, control).map(drop));
        talks.push(talk.expect("a bulk client"));
    }
    talks
}
