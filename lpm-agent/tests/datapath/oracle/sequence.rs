//! The methods `seq` and `handshake` against their references, where TCP
//! carries no timestamps.

use std::{net::SocketAddr, time::Duration};

use lpm_testbed::{
    testbed::{
        Impairment, Pair, PairConfig,
        wire::{Jitter, Loss, Reorder},
    },
    traffic::{Background, BulkConfig, Limit, Server, bulk},
};

use super::{
    Directory, MARKER_PORT, alone,
    files::{Files, compare},
    missing,
    seen::{Capture, Watch},
    traffic::{finish, set_wire, talks},
};

/// What the wire does, and the port of the server that is asked meanwhile.
struct Phase {
    name: &'static str,
    port: u16,
    wire: Impairment,
    /// Samples there must be, or the phase proves nothing.
    least: &'static str,
    /// The same of handshakes, and how far their mean and 99 % of them may be
    /// off, us. A SYN is a flow's first packet: its entry is made before the
    /// clock is read. Of a few samples one late packet makes the mean.
    handshakes: [&'static str; 3],
}

fn phases() -> [Phase; 4] {
    let long = Impairment {
        jitter: Jitter::Uniform(Duration::from_millis(1)),
        rate_bits_per_second: Some(50_000_000),
        ..Impairment::delay(Duration::from_millis(4))
    };
    let losing = |share| Impairment {
        loss: Loss::Random(share),
        ..long.clone()
    };
    [
        Phase {
            name: "clean",
            port: 5311,
            wire: Impairment::delay(Duration::from_micros(500)),
            least: "5000",
            handshakes: ["50", "12", "200"],
        },
        Phase {
            name: "1 % loss",
            port: 5312,
            wire: losing(0.01),
            least: "2000",
            handshakes: ["20", "200", "20000"],
        },
        Phase {
            name: "5 % loss",
            port: 5313,
            wire: losing(0.05),
            least: "1000",
            handshakes: ["10", "200", "20000"],
        },
        Phase {
            name: "reordering",
            port: 5314,
            wire: Impairment {
                reorder: Some(Reorder {
                    probability: 0.03,
                    extra: Duration::from_millis(3),
                }),
                ..long.clone()
            },
            least: "2000",
            handshakes: ["20", "200", "20000"],
        },
    ]
}

/// Rules of `seq` that matter to some phase; each broken on purpose must show. Others matter too
/// seldom here: `tests/oracle/test_seq.py` breaks all of them.
const BROKEN: [&str; 7] = [
    "copy",
    "copy-stamped",
    "sack",
    "beyond",
    "youngest",
    "prompt",
    "padding",
];

#[test]
fn samples_by_sequence_number_are_those_of_the_reference() {
    if let Some(reason) = missing() {
        println!("LPM-SKIP oracle: {reason}");
        return;
    }
    let _alone = alone();
    let directory = Directory::new("seq");
    let files = Files::new(&directory.path);
    let config = PairConfig {
        timestamps: false,
        ..PairConfig::default()
    };
    let pair = Pair::new(&config).expect("the testbed");
    let _marker = Server::start(&pair.server, MARKER_PORT).expect("a server for markers");

    let watch = Watch::start(&pair, &files.watch, &[]);
    watch.seen_after_now(&pair);
    let capture = Capture::start(&pair, &files, "tcp portrange 5311-5314");
    for phase in &phases() {
        talk(&pair, phase);
    }
    // Over the same wire: what is still under way passes before.
    watch.seen_after_now(&pair);
    capture.stop();
    set_wire(&pair, &Impairment::default());
    watch.seen_after_now(&pair);
    watch.stop();

    files.fields();
    let seq = files.oracle("seq", &[]);
    let handshake = files.oracle("handshake", &[]);
    let second = |phase: &Phase| {
        let least = ["--min-samples", phase.least];
        compare(&seq, &files.second, "seq", phase.port, &least)
    };
    files.second_reading("slotted_seq.py", &[]);
    for phase in &phases() {
        second(phase).expect_pass(&format!("the second reading, {}", phase.name));
    }
    for phase in &phases() {
        let least = ["--min-samples", phase.least];
        let verdict = files.live(&seq, &files.watch, "seq", phase.port, &least);
        verdict.expect_pass(&format!("lpm watch, seq, {}", phase.name));
        let [least, mean, far] = phase.handshakes;
        let bounds = ["--min-samples", least, "--mean", mean, "--p99", far];
        let verdict = files.live(&handshake, &files.watch, "handshake", phase.port, &bounds);
        verdict.expect_pass(&format!("lpm watch, handshake, {}", phase.name));
    }
    for rule in BROKEN {
        files.second_reading("slotted_seq.py", &["--break", rule]);
        // Those with few packets first.
        let found = phases().iter().rev().any(|phase| !second(phase).holds());
        assert!(found, "rule {rule} was broken and nobody noticed");
    }
}

/// Requests, paced messages and bulk both ways.
fn talk(pair: &Pair, phase: &Phase) {
    let servers = [&pair.server, &pair.client].map(|netns| Server::start(netns, phase.port));
    let [_far, _pod] = servers.map(|server| server.expect("a server"));
    set_wire(pair, &phase.wire);
    // A clean path gives ten times the packets.
    let seconds = if phase.name == "clean" { 2 } else { 5 };
    let limit = Limit::duration(Duration::from_secs(seconds));
    let mut talking = talks(pair, phase.port, limit);
    let ([server, _], [pod, _]) = (Pair::SERVER, Pair::CLIENT);
    if phase.name != "clean" {
        for (netns, target) in [(&pair.client, server), (&pair.server, pod)] {
            let config = BulkConfig {
                target: SocketAddr::new(target, phase.port),
                limit: Limit::duration(Duration::from_secs(4)),
                verify: true,
            };
            let talk = Background::start(netns, move |control| bulk(&config, control).map(drop));
            talking.push(talk.expect("a bulk client"));
        }
    }
    finish(talking);
}
