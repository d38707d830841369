//! Echo requests of ping(8).

use std::{collections::BTreeMap, net::IpAddr};

use lpm_testbed::testbed::{Netns, Pair};

use super::{
    Site, WIRE_NS, rtt,
    second::{Capture, compare},
};

const COUNT: usize = 40;

/// Pings; gives the round trips that ping tells, ns, by sequence number.
pub(crate) fn ping(from: &Netns, to: IpAddr, count: usize) -> BTreeMap<u64, u64> {
    let count = count.to_string();
    let to = to.to_string();
    let mut ping = from.command("ping");
    ping.args(["-n", "-i", "0.01", "-W", "20", "-c", &count, &to]);
    let output = ping.output().expect("ping");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut times = BTreeMap::new();
    for line in text.lines() {
        // Errors have a sequence number, but no time.
        let Some((before, time)) = line.split_once("time=") else {
            continue;
        };
        let rest = before.split_once("icmp_seq=").expect("a sequence number").1;
        let sequence = rest.split(' ').next().expect("a sequence number");
        let time: f64 = time.split(' ').next().expect("ms").parse().expect("ms");
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "milliseconds of a test"
        )]
        times.insert(sequence.parse().expect("a number"), (time * 1e6) as u64);
    }
    times
}

#[test]
fn an_echo_over_ipv4_is_what_ping_says() {
    is_what_ping_says(0, ("icmp.seq", "icmp.resptime"));
}

#[test]
fn an_echo_over_ipv6_is_what_ping_says() {
    is_what_ping_says(1, ("icmpv6.echo.sequence_number", "icmpv6.resptime"));
}

fn is_what_ping_says(family: usize, (sequence, time): (&str, &str)) {
    let Some(site) = Site::new() else { return };
    let capture = Capture::start(&site);
    let to = Pair::SERVER[family];
    let said = ping(&site.pair.client, to, COUNT);
    assert_eq!(said.len(), COUNT, "nothing is lost");
    let samples = site.samples("icmp", COUNT);
    let mut beyond = 0;
    for (id, sample) in &samples {
        let (ours, ping) = (rtt(sample), said[&(id >> 16)]);
        // The hooks lie between ping and the wire. Ping says three digits.
        assert!(ours >= WIRE_NS, "{ours} ns: {sample}");
        assert!(ours <= ping + ping / 100, "{ours} ns, ping says {ping} ns");
        beyond += ping.saturating_sub(ours);
        assert_eq!(sample["leg"], "remote");
        assert_eq!(sample["src"], Pair::CLIENT[family].to_string());
        assert_eq!(sample["dst"], to.to_string());
        assert_eq!((&sample["sport"], &sample["dport"]), (&0.into(), &0.into()));
    }
    println!("ping says {} ns more on average", beyond / COUNT as u64);
    compare(&samples, &capture.times(sequence, time, 1e6), |id| id >> 16);

    // The remote machine pings the pod: the local leg.
    let said = ping(&site.pair.server, Pair::CLIENT[family], COUNT);
    let samples = site.samples("icmp", COUNT);
    for (id, sample) in &samples {
        let (ours, ping) = (rtt(sample), said[&(id >> 16)]);
        assert_eq!(sample["leg"], "local");
        let beyond = ours + WIRE_NS;
        assert!(
            beyond <= ping + ping / 100,
            "the wire is not in it: {sample}"
        );
    }
    let labels = "namespace=\"shop\",peer_namespace=\"db\",peer_kind=\"service\"";
    for leg in ["remote", "local"] {
        let count = format!("lpm_icmp_rtt_seconds_count{{{labels},leg=\"{leg}\"}}");
        #[expect(clippy::cast_precision_loss, reason = "40")]
        site.eventually(&count, COUNT as f64);
    }
    let of_tcp = site.agent.value("lpm_samples_total{method=\"ts\"}");
    assert_eq!(of_tcp, Some(0.0), "an echo is no sample of TCP's");
}

#[test]
fn requests_without_reply_are_counted() {
    let Some(site) = Site::new() else { return };
    // The node knows no way there, and says so: that is no reply.
    site.pair
        .node
        .ip("route add unreachable 198.18.99.0/24")
        .expect("route");
    let nowhere = "198.18.99.1".parse().expect("an address");
    assert!(ping(&site.pair.client, nowhere, 5).is_empty());
    let series = "lpm_icmp_unanswered_total{namespace=\"shop\",peer_namespace=\"\",\
                  peer_kind=\"external\",leg=\"remote\"}";
    site.eventually(series, 5.0);
    let samples = site.agent.value("lpm_samples_total{method=\"icmp\"}");
    assert_eq!(samples, None, "nothing was measured");
}
