//! What is not a TCP flow of the outermost layer: tunnels, pings, DNS.

use std::net::IpAddr;

use lpm_agent::replay::{Choice, Settings};
use lpm_common::{
    layout::{Method, TunnelKind},
    parse::tunnel::TunnelPorts,
    testing::{
        query::{Message, echo},
        tunnel::Around,
        vectors,
    },
};

use crate::{
    run::{Out, replay, replay_with, settings, undirected},
    talk::{BEGIN, Talk},
    write::{ETHERNET, PCAP, Record, capture},
};

const MS: u64 = 1_000_000;

fn tunnels(settings: Settings) -> Settings {
    Settings {
        tunnels: TunnelPorts {
            vxlan: [4789, 0, 0, 0],
            geneve: [6081, 0, 0, 0],
        },
        ..settings
    }
}

/// The usual talk in a tunnel of this network, later by so much.
fn wrapped(around: &[Around], later: u64) -> Vec<Record> {
    let mut records = Talk::usual(false).records_after(later);
    for record in &mut records {
        for around in around {
            record.data = around.wrap(&record.data);
        }
        record.len = u32::try_from(record.data.len()).expect("a packet");
    }
    records
}

fn usual() -> Vec<u64> {
    let out = replay(&capture(
        PCAP,
        false,
        &[(ETHERNET, None)],
        &Talk::usual(false).records(),
    ));
    out.samples.iter().map(|sample| sample.rtt_ns).collect()
}

#[test]
fn flows_inside_tunnels_are_measured_if_asked_for() {
    let vxlan = Around::new(TunnelKind::Vxlan, 7);
    let geneve = Around::new(TunnelKind::Geneve, 9);
    for around in [
        vec![vxlan.clone()],
        vec![geneve.clone()],
        vec![vxlan.clone(), geneve.clone()],
        vec![vxlan.clone().v6()],
    ] {
        let bytes = capture(PCAP, false, &[(ETHERNET, None)], &wrapped(&around, 0));
        let plain = replay(&bytes);
        assert_eq!(plain.samples, [], "nobody asked");
        for settings in [settings(), undirected()] {
            let out = replay_with(&bytes, tunnels(settings), Choice::default());
            let rtts: Vec<u64> = out.samples.iter().map(|sample| sample.rtt_ns).collect();
            assert_eq!(rtts, usual(), "{around:?}");
            // Which end is local the flow inside says.
            let remote = out
                .samples
                .iter()
                .find(|sample| sample.leg == 0)
                .expect("one");
            assert_eq!(remote.src.1, 41_140);
        }
    }
}

#[test]
fn networks_with_the_same_addresses_stay_apart() {
    let one = [Around::new(TunnelKind::Vxlan, 7)];
    let other = [Around::new(TunnelKind::Vxlan, 8)];
    let (first, second) = (wrapped(&one, 0), wrapped(&other, 8000));
    let records: Vec<_> = first
        .into_iter()
        .zip(second)
        .flat_map(|(a, b)| [a, b])
        .collect();
    let bytes = capture(PCAP, false, &[(ETHERNET, None)], &records);
    let out = replay_with(&bytes, tunnels(settings()), Choice::default());
    assert_eq!(out.samples.len(), 2 * usual().len());
    assert_eq!(out.flows.sorted().len(), 2);
    let mut rtts: Vec<u64> = out.samples.iter().map(|sample| sample.rtt_ns).collect();
    let mut twice = [usual(), usual()].concat();
    rtts.sort_unstable();
    twice.sort_unstable();
    assert_eq!(rtts, twice);
}

#[test]
fn tunnels_that_lie_or_are_cut_make_no_other_sample() {
    let around = Around::new(TunnelKind::Vxlan, 7);
    let records = wrapped(std::slice::from_ref(&around), 0);
    let usual = usual();
    for snap in 0..180 {
        let cut: Vec<_> = records
            .iter()
            .map(|record| Record {
                data: record.data[..record.data.len().min(snap)].to_vec(),
                ..record.clone()
            })
            .collect();
        let bytes = capture(PCAP, false, &[(ETHERNET, None)], &cut);
        let out = replay_with(&bytes, tunnels(settings()), Choice::default());
        // A SYN's options are longer than the others'.
        let rtts: Vec<u64> = out.samples.iter().map(|sample| sample.rtt_ns).collect();
        assert!(
            rtts.iter().all(|rtt| usual.contains(rtt)),
            "{snap}: {rtts:?}"
        );
        // Handshakes need the control bits, and nothing behind them.
        if snap < 50 + 14 + 20 + 14 {
            assert!(rtts.is_empty(), "{snap}");
        }
        if snap >= 50 + 14 + 20 + 32 + 4 {
            assert_eq!(rtts, usual, "{snap}");
        }
    }
    for lie in [-40, -1, 1, 400] {
        let bogus = [Around {
            lie,
            ..around.clone()
        }];
        let bytes = capture(PCAP, false, &[(ETHERNET, None)], &wrapped(&bogus, 0));
        let out = replay_with(&bytes, tunnels(settings()), Choice::default());
        assert_eq!(out.samples, [], "{lie}");
    }
}

fn records(packets: Vec<(u64, Vec<u8>)>) -> Vec<u8> {
    let records: Vec<_> = packets
        .into_iter()
        .map(|(at, data)| Record::whole(BEGIN + at, data))
        .collect();
    capture(PCAP, false, &[(ETHERNET, None)], &records)
}

fn of(out: &Out, method: Method) -> Vec<(u64, u32, u8)> {
    let samples = out
        .samples
        .iter()
        .filter(|sample| sample.method == method as u8);
    samples
        .map(|sample| (sample.rtt_ns, sample.id, sample.leg))
        .collect()
}

#[test]
fn pings_of_either_end() {
    for v6 in [false, true] {
        let (local, remote) = vectors::ends(v6);
        let bytes = records(vec![
            (0, echo(local, remote, false, 77, 1).bytes()),
            (3 * MS, echo(remote, local, true, 77, 1).bytes()),
            (10 * MS, echo(remote, local, false, 5, 1).bytes()),
            (11 * MS, echo(local, remote, true, 5, 1).bytes()),
            // Nobody answers that one.
            (20 * MS, echo(local, remote, false, 77, 2).bytes()),
            (20_000 * MS, echo(local, remote, false, 77, 9).bytes()),
        ]);
        let out = replay(&bytes);
        let ids = [0x1_004d, 0x1_0005];
        assert_eq!(
            of(&out, Method::Icmp),
            [(3 * MS, ids[0], 0), (MS, ids[1], 1)]
        );
        assert_eq!((out.unanswered.icmp, out.unanswered.dns), (1, 0));
        // Without ranges whoever asks is local.
        let out = replay_with(&bytes, undirected(), Choice::default());
        assert_eq!(
            of(&out, Method::Icmp),
            [(3 * MS, ids[0], 0), (MS, ids[1], 0)]
        );
    }
}

#[test]
fn dns_with_its_response_codes() {
    let (client, server) = vectors::ends(false);
    let ask = |id, port| Message::query(id).udp(client, server, port, 53).bytes();
    let answer = |id, rcode, port| {
        Message::answer(id, rcode)
            .udp(server, client, 53, port)
            .bytes()
    };
    let bytes = records(vec![
        (0, ask(1, 40_001)),
        (2 * MS, answer(1, 0, 40_001)),
        (5 * MS, ask(2, 40_002)),
        (9 * MS, answer(2, 3, 40_002)),
        (10 * MS, ask(3, 40_003)),
        // Nobody asked.
        (11 * MS, answer(4, 0, 40_004)),
        (9_000 * MS, ask(5, 40_005)),
    ]);
    for settings in [settings(), undirected()] {
        let out = replay_with(&bytes, settings, Choice::default());
        assert_eq!(of(&out, Method::Dns), [(2 * MS, 1, 0), (4 * MS, 2, 0)]);
        assert_eq!((out.unanswered.icmp, out.unanswered.dns), (0, 1));
        // Each question has a port of its own, and still the summary has one line.
        let flows = out.flows.sorted();
        assert_eq!(flows.len(), 1);
        let ends: (IpAddr, u16) = flows[0].0.local;
        assert_eq!((ends, flows[0].0.remote), ((client, 0), (server, 53)));
        let codes: Vec<_> = flows[0]
            .1
            .times
            .iter()
            .map(|(class, _)| class.rcode())
            .collect();
        assert_eq!(codes, [Some("NOERROR"), Some("NXDOMAIN")]);
        assert!(
            flows[0]
                .1
                .times
                .iter()
                .all(|(class, _)| class.echo() == "data")
        );
    }
}
