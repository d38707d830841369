//! What Prometheus answers is the truth: what a capture at the pod's interface shows of the round
//! trips between the very collections that the answer rests on.

use std::{
    collections::HashMap,
    ops::RangeInclusive,
    thread,
    time::{Duration, SystemTime},
};

use lpm_testbed::{kubernetes::Cluster, testbed::wire::Direction};

use crate::{
    eventually,
    prometheus::{Collected, Prometheus, WINDOW},
    reference_capture::Veth,
    traffic,
    truth::{self, Trip, trips},
};

/// How far a mean may be off, as a share. The design's terms are 5 %.
const MEAN: f64 = 0.02;

/// How many samples there must be, as a share of the round trips: where three timestamps are on their
/// way a fourth finds no slot. Twice the number would be twice counted.
const COUNT: RangeInclusive<f64> = 0.8..=1.03;

/// How far the truth may be from a bucket's bound, in ranks.
const RANKS: f64 = 0.02;

/// How long it is captured before the window and after it.
const MARGIN: Duration = Duration::from_secs(4);

/// What crosses the wire, directly and by a Service, is what was captured.
pub(crate) fn with_the_truth(cluster: &Cluster, prometheuses: [&Prometheus; 3]) {
    for prometheus in prometheuses {
        // A pair of namespaces has to be there before its rate can be told.
        for peer in ["pod", "service"] {
            let count = prometheus.count(&traffic::across(peer));
            eventually(&format!("samples of a {peer} in Prometheus"), || {
                prometheus.ask(&count).is_some_and(|count| count > 100.0)
            });
        }
    }
    let peers = ["pod", "service"];
    let clients = peers.map(|peer| traffic::client(cluster, peer));
    drop(cluster.wire.take_records());
    let veths = clients.map(|client| Veth::watch(&cluster.nodes[0], client));
    thread::sleep(MARGIN + WINDOW);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = since.expect("after 1970").as_secs_f64();
    thread::sleep(MARGIN);
    let records = cluster.wire.take_records();
    for ((peer, client), veth) in peers.into_iter().zip(clients).zip(veths) {
        let seen = trips(&veth.records(), client, Direction::Forward);
        let wire = trips(&records, client, Direction::Forward);
        beyond_the_wire(peer, &seen, &wire);
        for prometheus in prometheuses {
            judge(prometheus, &traffic::across(peer), now, &seen);
        }
    }
}

/// Holds an answer against what was captured between the collections that it rests on.
fn judge(prometheus: &Prometheus, series: &str, now: f64, seen: &[Trip]) {
    let who = prometheus.histograms;
    let collected = prometheus.collected(series, now);
    let truth = between(seen, collected);
    let mean = truth::mean(&truth);
    let found = prometheus.ask_at(&prometheus.mean(series), now);
    let found = found.expect("a mean");
    #[expect(clippy::cast_precision_loss, reason = "a number of packets")]
    let expected = truth.len() as f64;
    let count = collected.count;
    println!(
        "{who:?} {series}: {count} samples of {expected} round trips, mean {found:.6} s, \
         truth {mean:.6} s ({:+.2} %)",
        (found / mean - 1.0) * 100.0
    );
    assert!(expected > 200.0, "there was traffic");
    assert!(COUNT.contains(&(count / expected)), "{count} of {expected}");
    assert!((found / mean - 1.0).abs() < MEAN, "{found} s for {mean} s");
    for quantile in [0.5, 0.9] {
        let (low, _) = prometheus.bucket(series, truth::quantile(&truth, quantile - RANKS));
        let (_, high) = prometheus.bucket(series, truth::quantile(&truth, quantile + RANKS));
        let found = prometheus.ask_at(&prometheus.quantile(series, quantile), now);
        let found = found.expect("a quantile");
        println!(
            "{who:?} {series}: p{:.0} {found:.6} s, truth {:.6} s in ({low:.6}, {high:.6}]",
            quantile * 100.0,
            truth::quantile(&truth, quantile)
        );
        assert!(found > low && found <= high, "p{quantile}: {found}");
    }
}

/// The round trips that ended between two collections, whatever their echo, in seconds, in order of size.
/// (Prompt ones alone are others in the mean: the longer one is, the later its second segment may pass.)
fn between(seen: &[Trip], collected: Collected) -> Vec<f64> {
    let inside = |trip: &&Trip| {
        let end = Duration::from_nanos(trip.end_ns).as_secs_f64();
        end > collected.begin && end <= collected.end
    };
    let trips = seen.iter().filter(inside);
    let mut seconds: Vec<f64> = trips.map(|trip| trip.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    seconds
}

/// The capture is no truth of its own: each of its round trips holds what the wire's log says of the
/// same one, and little more.
fn beyond_the_wire(peer: &str, seen: &[Trip], wire: &[Trip]) {
    let wire: HashMap<_, _> = wire.iter().map(|trip| (trip.id, trip.seconds)).collect();
    let joined = seen
        .iter()
        .filter_map(|trip| Some(trip.seconds - wire.get(&trip.id)?));
    let mut more: Vec<f64> = joined.collect();
    more.sort_by(f64::total_cmp);
    assert!(more.len() * 10 > seen.len() * 9, "the same round trips");
    // The wire logs a packet once it has sent it on: where its CPU is taken away in between, the log
    // says more than the wire took. That is rare.
    let [least, half, most] = [0.001, 0.5, 1.0].map(|share| truth::quantile(&more, share) * 1e6);
    println!(
        "{peer}: {} round trips at the pod and on the wire; the node's own part: mean {:.0} us, \
         least {least:.0}, half {half:.0}, most {most:.0}",
        more.len(),
        truth::mean(&more) * 1e6
    );
    assert!(least > -100.0, "a round trip is shorter than its wire");
    assert!(half < 1000.0, "the node takes {half} us");
}
