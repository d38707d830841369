//! What the pod and the server say to each other.

use std::{net::SocketAddr, time::Duration};

use lpm_testbed::{
    testbed::{
        Direction, Impairment, Pair,
        wire::{Jitter, Loss, Reorder},
    },
    traffic::{
        Background, BulkConfig, Limit, PORT, PacedConfig, PacedSize, RequestConfig, bulk, paced,
        requests,
    },
};

/// Bulk, requests and paced messages, on a short path without loss and on a
/// long one with loss and reordering.
pub(crate) fn traffic(pair: &Pair) {
    set_wire(pair, &Impairment::delay(Duration::from_micros(500)));
    let short = Limit::duration(Duration::from_secs(4));
    let talks = talks(pair, PORT, short);
    finish(talks);

    let lossy = Impairment {
        jitter: Jitter::Uniform(Duration::from_millis(1)),
        loss: Loss::Random(0.01),
        rate_bits_per_second: Some(50_000_000),
        reorder: Some(Reorder {
            probability: 0.01,
            extra: Duration::from_millis(3),
        }),
        ..Impairment::delay(Duration::from_millis(8))
    };
    set_wire(pair, &lossy);
    let mut talks = self::talks(pair, PORT, Limit::duration(Duration::from_secs(6)));
    let [server, _] = Pair::SERVER;
    let [pod, _] = Pair::CLIENT;
    for (netns, target) in [(&pair.client, server), (&pair.server, pod)] {
        let config = BulkConfig {
            target: SocketAddr::new(target, PORT),
            limit: Limit::count(12_000_000),
            verify: true,
        };
        let talk = Background::start(netns, move |control| bulk(&config, control).map(drop));
        talks.push(talk.expect("a bulk client"));
    }
    finish(talks);
}

/// The wire does the same both ways, with other random decisions each way.
pub(crate) fn set_wire(pair: &Pair, impairment: &Impairment) {
    for (seed, direction) in [(1, Direction::Forward), (2, Direction::Backward)] {
        let impairment = Impairment {
            seed,
            ..impairment.clone()
        };
        pair.wire().set(direction, impairment);
    }
}

/// Clients in the pod: requests with and without think time, idle gaps and new
/// connections, over IPv4 and IPv6; messages that nobody answers, so that
/// their ACKs wait for the delayed-ACK timer.
pub(crate) fn talks(pair: &Pair, port: u16, limit: Limit) -> Vec<Background<()>> {
    let [v4, v6] = Pair::SERVER.map(|server| SocketAddr::new(server, port));
    let asking = |target| RequestConfig {
        limit,
        ..RequestConfig::new(target)
    };
    let wanted = [
        RequestConfig {
            connections: 4,
            ..asking(v4)
        },
        RequestConfig {
            connections: 2,
            response: 9_000,
            requests_per_connection: Some(7),
            ..asking(v6)
        },
        RequestConfig {
            think: Duration::from_millis(30),
            gap: Some((5, Duration::from_millis(700))),
            ..asking(v4)
        },
        RequestConfig {
            period: Duration::from_millis(3),
            jitter: 0.5,
            gap: Some((50, Duration::from_millis(300))),
            ..asking(v6)
        },
    ];
    let sizes = [
        (PacedSize::Bytes(200), 90),
        (PacedSize::Segments(1), 12),
        (PacedSize::Segments(2), 25),
        (PacedSize::Segments(8), 40),
    ];
    let client = &pair.client;
    let mut talks = Vec::new();
    for config in wanted {
        let talk = Background::start(client, move |control| requests(&config, control).map(drop));
        talks.push(talk.expect("a request client"));
    }
    for (size, milliseconds) in sizes {
        let config = PacedConfig {
            target: v4,
            size,
            period: Duration::from_millis(milliseconds),
            limit,
        };
        let talk = Background::start(client, move |control| paced(&config, control).map(drop));
        talks.push(talk.expect("a paced client"));
    }
    talks
}

pub(crate) fn finish(talks: Vec<Background<()>>) {
    for talk in talks {
        talk.join().expect("a client that ends well");
    }
}
