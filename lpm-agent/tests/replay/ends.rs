//! Which end is local, what a flow comes to, how long a full segment is.

use lpm_agent::replay::{Choice, LocalEnd, Settings};
use lpm_common::{
    layout::{Echo, Method, Methods, Vantage},
    packet::flag,
};

use crate::{
    run::{Out, Seen, replay, replay_with, settings, undirected},
    talk::Talk,
    write::{ETHERNET, PCAP, PCAPNG, capture},
};

fn bytes(talk: &Talk) -> Vec<u8> {
    capture(PCAP, false, &[(ETHERNET, None)], &talk.records())
}

/// The port of the end that samples of the remote leg were stamped at.
fn local_port(out: &Out) -> u16 {
    let remote = out.samples.iter().find(|sample| sample.leg == 0);
    remote.expect("a sample of the remote leg").src.1
}

fn local(range: &str) -> Settings {
    Settings {
        local: LocalEnd::new(vec![range.parse().expect("a range")]),
        ..undirected()
    }
}

#[test]
fn ranges_say_which_end_is_local() {
    let bytes = bytes(&Talk::usual(false));
    for (range, port) in [
        ("198.18.5.1/32", 41_140),
        ("198.18.5.2/32", 5301),
        // Both ends, or neither: the one that opened.
        ("198.18.0.0/15", 41_140),
        ("10.0.0.0/8", 41_140),
    ] {
        let out = replay_with(&bytes, local(range), Choice::default());
        assert_eq!(local_port(&out), port, "{range}");
    }
}

#[test]
fn without_ranges_the_one_that_opens_is_local() {
    // Its address being the higher one changes nothing.
    for talk in [Talk::usual(false), swapped()] {
        let out = replay_with(&bytes(&talk), undirected(), Choice::default());
        assert!(out.samples.len() >= 10);
        assert_eq!(local_port(&out), 41_140);
    }
    // The SYN was missed and the SYN-ACK was not: the same.
    let records = swapped().records();
    let late = capture(PCAP, false, &[(ETHERNET, None)], &records[1..]);
    let out = replay_with(&late, undirected(), Choice::default());
    assert_eq!(local_port(&out), 41_140);
}

/// The usual connection, but opened by the end with the higher address.
fn swapped() -> Talk {
    Talk::usual_of(false, true)
}

#[test]
fn without_an_opening_the_lower_address_is_local() {
    for (talk, port) in [(Talk::usual(false), 41_140), (swapped(), 5301)] {
        let records = talk.records();
        let late = capture(PCAP, false, &[(ETHERNET, None)], &records[3..]);
        let out = replay_with(&late, undirected(), Choice::default());
        assert_eq!(local_port(&out), port);
    }
}

#[test]
fn a_flow_comes_to_its_packets_and_round_trips() {
    let talk = Talk::usual(false);
    let frames = talk.frames();
    let out = replay(&bytes(&talk));
    let flows = out.flows.sorted();
    let [(id, totals)] = flows.as_slice() else {
        panic!("{flows:?}");
    };
    assert_eq!((id.local.1, id.remote.1), (41_140, 5301));
    let [from, to] = totals.traffic;
    assert_eq!(from.packets + to.packets, frames.len() as u64);
    let total: usize = frames.iter().map(|(_, frame)| frame.len()).sum();
    assert_eq!(from.bytes + to.bytes, total as u64);
    assert!(totals.opened && totals.closed);
    assert_eq!((totals.parts, out.flows.left_out), (1, 0));
    assert_eq!(totals.times.count(), out.samples.len() as u64);
}

/// Many flows through a small table: what gave up its entry is in the summary too.
#[test]
fn flows_that_gave_up_their_entries_are_in_the_summary() {
    let mut records = Vec::new();
    for port in 0..500_u16 {
        let talk = Talk::usual_from(port);
        records.extend(talk.records_after(u64::from(port) * 100_000_000));
    }
    let out = replay(&capture(PCAP, false, &[(ETHERNET, None)], &records));
    let flows = out.flows.sorted();
    assert_eq!(flows.len(), 500);
    let packets: u64 = flows
        .iter()
        .flat_map(|(_, t)| t.traffic)
        .map(|t| t.packets)
        .sum();
    assert_eq!(packets, records.len() as u64);
    let samples: u64 = flows.iter().map(|(_, totals)| totals.times.count()).sum();
    assert_eq!(samples, out.samples.len() as u64);
    assert!(flows.iter().all(|(_, totals)| totals.times.count() >= 10));
}

/// A host captures segments put together; how long one is the SYNs say.
#[test]
fn full_segments_are_those_of_the_wire() {
    for (size, syn, echo) in [
        // Ten segments at once: two full ones are complete.
        (14_480, true, Echo::Prompt),
        // Without the SYNs nobody knows how long a full one is.
        (14_480, false, Echo::Lone),
        // One segment only.
        (1448, true, Echo::Lone),
    ] {
        let mut talk = Talk::new(false);
        if syn {
            talk.packet(0, true, flag::SYN, 0, (100, 0));
            talk.packet(800, false, flag::SYN | flag::ACK, 0, (900, 100));
        }
        talk.packet(816, true, flag::ACK, 0, (100, 900));
        talk.packet(900, false, flag::ACK, 0, (900, 100));
        talk.packet(5000, true, flag::ACK, size, (105, 900));
        talk.packet(5800, false, flag::ACK, 0, (905, 105));
        let out = replay(&bytes(&talk));
        let ts: Vec<_> = out
            .samples
            .iter()
            .filter(|s| s.method == Method::Ts as u8)
            .collect();
        assert_eq!(ts.len(), 1, "{out:?}");
        assert_eq!(
            (ts[0].rtt_ns, ts[0].echo),
            (800_000, echo as u8),
            "{size} {syn}"
        );
    }
}

#[test]
fn methods_can_be_chosen() {
    let bytes = bytes(&Talk::usual(false));
    for (method, samples) in [
        (Method::Ts, 10),
        (Method::Seq, 10),
        (Method::Handshake, 2),
        (Method::Dns, 0),
    ] {
        let settings = Settings {
            methods: Methods(method.bit()),
            ..settings()
        };
        let out = replay_with(&bytes, settings, Choice::default());
        let all = |sample: &Seen| sample.method == method as u8;
        assert!(out.samples.iter().all(all), "{method:?}");
        assert_eq!(out.samples.len(), samples, "{method:?}: {:?}", out.samples);
    }
}

#[test]
fn interfaces_can_be_chosen_and_named() {
    let records = Talk::usual(false).records();
    let interfaces = [(ETHERNET, Some("eth0"))];
    let bytes = capture(PCAPNG, false, &interfaces, &records);
    let choice = |name: &str| Choice {
        only: vec![name.to_owned()],
        vantages: vec![(None, Vantage::Nic)],
        ..Choice::default()
    };
    let out = replay_with(&bytes, settings(), choice("eth1"));
    assert_eq!((out.samples.len(), out.packets), (0, records.len() as u64));
    let out = replay_with(&bytes, settings(), choice("eth0"));
    assert!(out.samples.len() >= 10);
    let unnamed = capture(PCAP, false, &[(ETHERNET, None)], &records);
    let out = replay_with(&unnamed, settings(), choice("tap"));
    assert!(out.samples.iter().all(|sample| sample.interface == "tap"));
    assert!(out.samples.len() >= 10);
}
