//! `kubectl rollout restart` loses no second: what the agents count is what a pod says it did.
//!
//! The wire's log has each request with its time, and so by when it was to be counted. At each moment
//! at which an agent answers, its count must be as far from that as ever: what a second holds would
//! be missed from then on.

use std::{collections::BTreeMap, thread, time::Duration};

use lpm_testbed::{
    kubernetes::Cluster,
    testbed::wire::{Direction, monotonic_ns},
};

use crate::{
    eventually,
    metrics::Scrape,
    tools::{address, ask, pod, tool},
    truth::{Trip, trips},
};

/// How long it is watched before the restart.
const BEFORE: Duration = Duration::from_secs(12);

/// How long the pod asks: before, meanwhile, after.
const LASTS: &str = "75s";

/// Connections, and requests that they make together in a second.
const CONNECTIONS: u64 = 8;
const RATE: u64 = 200;

/// For how many seconds what is late may be so.
const SPELL: usize = 5;

/// Who asks, and who answers on the other node.
const CLIENT: [&str; 2] = ["steady", "client"];
const SERVER: [&str; 2] = ["answers", "server"];

/// For how long after an agent is back names from other agents may be missing.
const TOLD_WITHIN: Duration = Duration::from_secs(4);

/// What the agents answered while the pod was asking, and when: of the client's node, of the server's.
/// And how many of those samples had no name for the other end.
#[derive(Default)]
struct Watch {
    seen: [Vec<(u64, u64)>; 2],
    unknown: [u64; 2],
}

impl Watch {
    /// The agents' counts of the pods' round trips, beyond the client's veth and the server's.
    fn look(&mut self, cluster: &Cluster) {
        let pairs = [(CLIENT[0], SERVER[0]), (SERVER[0], CLIENT[0])];
        for (at, (node, (one, other))) in cluster.nodes.iter().zip(pairs).enumerate() {
            if let Some(scrape) = Scrape::of(node) {
                let of = |peer| scrape.count(one, peer, "remote");
                self.unknown[at] = of("unknown");
                self.seen[at].push((monotonic_ns(), of(other) + self.unknown[at]));
            }
        }
    }

    /// The latest counts.
    fn last(&self) -> [Option<u64>; 2] {
        let last = |node: &Vec<(u64, u64)>| node.last().map(|(_, count)| *count);
        self.seen.each_ref().map(last)
    }
}

pub(crate) fn loses_nothing(cluster: &Cluster, scope: &str) {
    pod(cluster, CLIENT[0], CLIENT[1], "node-a", "");
    pod(cluster, SERVER[0], SERVER[1], "node-b", "");
    let server = address(cluster, SERVER[0], SERVER[1]);
    let client = address(cluster, CLIENT[0], CLIENT[1]);
    drop(cluster.wire.take_records());
    let words = [
        "--period=40ms",
        &format!("--connections={CONNECTIONS}"),
        &format!("--duration={LASTS}"),
        &format!("{server}:5301"),
    ];
    let mut watch = Watch::default();
    let (report, (begin, end)) = thread::scope(|scope| {
        let asking = scope.spawn(|| ask(cluster, CLIENT, &words));
        let restart = scope.spawn(|| {
            thread::sleep(BEFORE);
            let begin = monotonic_ns();
            rollout(cluster);
            (begin, monotonic_ns())
        });
        while !asking.is_finished() {
            watch.look(cluster);
            thread::sleep(Duration::from_millis(100));
        }
        let report = asking.join().expect("the pod's report");
        (report, restart.join().expect("the restart"))
    });
    eventually("the counts at rest", || {
        let last = watch.last();
        thread::sleep(Duration::from_secs(1));
        watch.look(cluster);
        watch.last() == last
    });
    let requests = report["requests"].as_u64().expect("its requests");
    let took = Duration::from_nanos(end - begin);
    println!("restart: {requests} requests by the pod's log, the restart took {took:.1?}");
    let records = cluster.wire.take_records();
    let client = client.parse().expect("an address");
    for ((way, node), seen) in [
        (Direction::Forward, "node-a"),
        (Direction::Backward, "node-b"),
    ]
    .into_iter()
    .zip(&watch.seen)
    {
        let trips = trips(&records, client, way);
        judge(node, seen, &trips, (begin, end), requests);
    }
    // With scope `node` a name is believed for as long as its agent is there, and some seconds. So it
    // is not there while that agent is replaced; the sample is.
    let most = match scope {
        "node" => (took + TOLD_WITHIN).as_secs() * RATE,
        _ => 0,
    };
    println!(
        "restart: without a name {:?}, at most {most}",
        watch.unknown
    );
    assert!(watch.unknown.iter().all(|count| *count <= most));
}

/// Holds an agent's counts against the wire's log, and that against the pod's.
fn judge(node: &str, seen: &[(u64, u64)], trips: &[Trip], (begin, end): (u64, u64), requests: u64) {
    // How many a count is ahead of the wire's log. The freshest of a second: each count is behind
    // by the time since it was read.
    let mut ahead: BTreeMap<u64, i64> = BTreeMap::new();
    for (time, count) in seen {
        let done = trips.partition_point(|trip| trip.end_ns <= *time);
        let now = count.cast_signed() - i64::try_from(done).expect("a number");
        let second = (*time - seen[0].0) / 1_000_000_000;
        let most = ahead.entry(second).or_insert(now);
        *most = now.max(*most);
    }
    let second = |time: u64| (time - seen[0].0) / 1_000_000_000;
    let before: Vec<_> = ahead.range(2..second(begin)).map(|(_, n)| *n).collect();
    let after: Vec<_> = ahead.range(second(end) + 1..).map(|(_, n)| *n).collect();
    let silent = seen.windows(2).map(|two| two[1].0 - two[0].0).max();
    let silent = Duration::from_nanos(silent.expect("answers"));
    let last = seen.last().expect("an answer").1;
    println!(
        "restart: {node}: {last} samples, {} round trips by the wire's log; no agent for \
         {silent:.1?}; ahead of the wire's log, second by second: before {before:?}, after {after:?}",
        trips.len()
    );
    assert!(
        silent > Duration::from_millis(500),
        "its agent was replaced"
    );
    let wire = u64::try_from(trips.len()).expect("a number");
    // Each connection's handshake is a round trip, too.
    assert!(
        last.abs_diff(wire + CONNECTIONS) <= CONNECTIONS,
        "{node}: {last} samples of {wire} round trips and {CONNECTIONS} handshakes"
    );
    let usual = before.iter().max().expect("a second before");
    assert!(after.len() > 2 * SPELL, "the restart took too long");
    // On a busy machine an answer may be late for once; what is lost stays lost.
    for seconds in after.windows(SPELL) {
        let most = seconds.iter().max().expect("some");
        assert!(
            most.abs_diff(*usual) <= RATE / 4,
            "{node}: {seconds:?} after the restart, {usual} before"
        );
    }
    let fell = seen.windows(2).find(|two| two[1].1 < two[0].1);
    assert!(fell.is_none(), "{node}: {fell:?}");
    // Not each request is one that a sample may be of: another packet may have its timestamp.
    assert!(
        (requests * 8 / 10..=requests + 2 * CONNECTIONS).contains(&wire),
        "{node}: {wire} round trips of {requests} requests"
    );
}

/// Restarts the agents, and waits until the new ones are ready.
fn rollout(cluster: &Cluster) {
    tool(
        cluster,
        &[
            "kubectl",
            "rollout",
            "restart",
            "daemonset",
            "lpm",
            "--namespace",
            "lpm",
        ],
    );
    cluster
        .wait_ready("daemonsets", "lpm", "lpm")
        .expect("the new agents");
}
