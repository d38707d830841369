//! How much of a round trip lies between the places that see a flow: with the delay put into one
//! segment after the other, that one shows it and the others do not.

use std::{net::SocketAddr, time::Duration};

use lpm_testbed::{
    testbed::{Impairment, Segmented},
    traffic::{Limit, PORT, Server},
    truth::Monitor,
};

use crate::support::paths::{agent, eventually, file, kernel_is_usable, speak, value};

/// One way.
const DELAY: Duration = Duration::from_millis(5);

/// The wires' ends inside the node are no place on the way.
const CONFIGURATION: &str = "
window: 1s
methods: [ts]
tunnels: {vxlan: [7000]}
interfaces:
- {name: eth0, vantage: nic, inner: true}
- {name: f0, vantage: none}
- {name: f1, vantage: none}
- {name: g0, vantage: none}
- {name: g1, vantage: none}
";

/// Number and sum (seconds) of a segment's observations.
fn segment(monitor: &Monitor, (from, to): (&str, &str)) -> (f64, f64) {
    let [count, sum] = ["count", "sum"].map(|what| {
        let series = format!("lpm_segment_seconds_{what}{{from=\"{from}\",to=\"{to}\"}}");
        value(monitor, &series).unwrap_or(0.0)
    });
    (count, sum)
}

#[test]
fn the_slow_segment_shows() {
    if !kernel_is_usable() {
        return;
    }
    let testbed = Segmented::new().expect("the testbed");
    let _server = Server::start(&testbed.pods[1], PORT).expect("a server");
    let configuration = file(CONFIGURATION);
    let monitor = agent(&testbed.nodes[0], configuration.path(), file("").path());
    let targets = Segmented::addresses(1).map(|address| SocketAddr::new(address, PORT));
    let traffic = targets.map(|target| speak(&testbed.pods[0], target, Limit::default()));
    // Each segment by the wire that it holds, and from which place to which.
    let segments = [
        ("pod", ("local", "pod")),
        ("forwarding", ("pod", "overlay")),
        ("overlay", ("overlay", "nic")),
        ("wire", ("nic", "remote")),
    ];
    for (slow, _) in segments {
        testbed.slow(slow, &Impairment::delay(DELAY));
        // What is in the windows now, and what is on its way.
        let ended = |windows: f64| {
            let (count, _) = segment(&monitor, segments[3].1);
            eventually("windows end", || {
                segment(&monitor, segments[3].1).0 >= count + windows * 4.0
            });
        };
        ended(2.0);
        let before = segments.map(|(_, ends)| segment(&monitor, ends));
        ended(3.0);
        for ((name, ends), before) in segments.into_iter().zip(before) {
            let (count, sum) = segment(&monitor, ends);
            let (count, sum) = (count - before.0, sum - before.1);
            assert!(
                count >= 4.0,
                "{slow} is slow: {count} observations of {name}"
            );
            let mean = Duration::from_secs_f64(sum / count);
            println!("{slow} is slow: {name} {ends:?}: {mean:?} ({count})");
            if name == slow {
                assert!(mean >= 2 * DELAY && mean < 3 * DELAY, "{name}: {mean:?}");
            } else {
                assert!(mean < DELAY / 2, "{slow} is slow, {name}: {mean:?}");
            }
        }
    }
    assert_eq!(value(&monitor, "lpm_segment_ambiguous_total"), Some(0.0));
    for (pairs, asking) in traffic {
        pairs.stop().expect("it ends well");
        asking.stop().expect("it ends well");
    }
}
