//! Every format, byte order, resolution and link type gives the same round trips.

use std::{io::Read, path::Path};

use lpm_agent::replay::Choice;
use lpm_common::{
    host::{Arrival, Model, Settings as ModelSettings},
    layout::{Methods, UNIT_NS},
    packet::Direction,
    parse::Link,
    testing::vectors,
};

use crate::{
    run::{Seen, replay, replay_from, settings},
    talk::Talk,
    write::{
        ETHERNET, Kind, MODIFIED, OBSOLETE, PCAP, PCAPNG, RAW, Record, capture, gzip, unknown_block,
    },
};

pub(crate) fn usual() -> Vec<Seen> {
    let out = replay(&capture(
        PCAP,
        false,
        &[(ETHERNET, None)],
        &Talk::usual(false).records(),
    ));
    assert!(out.error.is_none(), "{:?}", out.error);
    let ts: Vec<_> = out
        .samples
        .iter()
        .filter(|sample| sample.method == 1)
        .collect();
    let legs = [0, 1].map(|leg| ts.iter().filter(|sample| sample.leg == leg).count());
    assert_eq!(legs, [5, 5], "five of each leg: {:?}", out.samples);
    assert_eq!((ts[0].rtt_ns, ts[1].rtt_ns), (1_600_000, 40_000));
    out.samples
}

#[test]
fn formats_and_byte_orders_are_the_same() {
    let expected = usual();
    assert!(expected.iter().all(|sample| sample.interface == "if0"));
    let resolutions = [None, Some(6), Some(9), Some(10), Some(0x80 | 0x1e)];
    let offsets = [None, Some(-3600), Some(1_700_000_000)];
    let ngs = resolutions
        .into_iter()
        .flat_map(|resolution| offsets.map(|offset| Kind::PcapNg { resolution, offset }));
    let pcaps = [Kind::Pcap { nanos: false }, PCAP, MODIFIED, OBSOLETE];
    let kinds = pcaps.into_iter().chain(ngs);
    for kind in kinds {
        for big in [false, true] {
            let records = Talk::usual(false).records();
            let bytes = capture(kind, big, &[(ETHERNET, None)], &records);
            // 2^-30 s is not a whole number of nanoseconds.
            let exact = !matches!(
                kind,
                Kind::PcapNg {
                    resolution: Some(0x9e),
                    ..
                }
            );
            for bytes in [gzip(&bytes), bytes] {
                let out = replay(&bytes);
                assert!(out.error.is_none(), "{kind:?} {big}: {:?}", out.error);
                if exact {
                    assert_eq!(out.samples, expected, "{kind:?} {big}");
                } else {
                    close(&out.samples, &expected);
                }
            }
        }
    }
}

fn close(samples: &[Seen], expected: &[Seen]) {
    assert_eq!(samples.len(), expected.len());
    for (one, other) in samples.iter().zip(expected) {
        assert!(one.time_ns.abs_diff(other.time_ns) <= 1);
        assert!(
            one.rtt_ns.abs_diff(other.rtt_ns) <= UNIT_NS,
            "{one:?} {other:?}"
        );
        assert_eq!((one.id, one.leg), (other.id, other.leg));
    }
}

/// Gives a byte at a time.
struct Drops(std::io::Cursor<Vec<u8>>);

impl Read for Drops {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let most = to.len().min(1);
        self.0.read(&mut to[..most])
    }
}

#[test]
fn a_pipe_that_drips_is_the_same() {
    for kind in [PCAP, PCAPNG] {
        let records = Talk::usual(false).records();
        let bytes = capture(kind, false, &[(ETHERNET, None)], &records);
        let source = Drops(std::io::Cursor::new(bytes));
        let out = replay_from(source, settings(), Choice::default());
        assert_eq!(out.samples, usual());
    }
}

#[test]
fn link_types_are_the_same() {
    let ethertype = |v6: bool| if v6 { [0x86, 0xdd] } else { [0x08, 0x00] };
    let family = |v6: bool| if v6 { 30_u32 } else { 2 };
    let loopback = move |big: bool| {
        move |v6: bool| {
            let family = family(v6);
            Vec::from(if big {
                family.to_be_bytes()
            } else {
                family.to_le_bytes()
            })
        }
    };
    let cooked = move |v6: bool| [&[0; 14][..], &ethertype(v6)].concat();
    let cooked_vlan = |_| [&[0; 14][..], &[0x81, 0, 0, 7, 0x08, 0]].concat();
    let cooked2 = move |v6: bool| [&ethertype(v6)[..], &[0; 18]].concat();
    for v6 in [false, true] {
        let talk = Talk::usual(v6);
        let expected = if v6 {
            let out = replay(&capture(PCAP, false, &[(ETHERNET, None)], &talk.records()));
            assert_eq!(out.samples.len(), usual().len());
            out.samples
        } else {
            usual()
        };
        let mut all = vec![
            (RAW, talk.behind(|_| Vec::new())),
            (12, talk.behind(|_| Vec::new())),
            (14, talk.behind(|_| Vec::new())),
            (if v6 { 229 } else { 228 }, talk.behind(|_| Vec::new())),
            (0, talk.behind(loopback(false))),
            (0, talk.behind(loopback(true))),
            (108, talk.behind(loopback(true))),
            (113, talk.behind(cooked)),
            (276, talk.behind(cooked2)),
        ];
        if !v6 {
            all.push((113, talk.behind(cooked_vlan)));
        }
        for (link, records) in all {
            for kind in [PCAP, PCAPNG] {
                let out = replay(&capture(kind, false, &[(link, None)], &records));
                assert_eq!(out.samples, expected, "{link} {kind:?}");
            }
        }
    }
}

#[test]
fn other_link_types_are_refused_by_number_and_name() {
    let records = Talk::usual(false).records();
    let out = replay(&capture(PCAP, false, &[(105, None)], &records));
    let said = out.error.expect("refused").to_string();
    assert!(
        said.contains("105 (IEEE802_11)") && said.contains("Ethernet"),
        "{said}"
    );
    // Beside one that is read it is left out, and said.
    let mut both = records.clone();
    both.extend(records.iter().map(|record| Record {
        interface: 1,
        ..record.clone()
    }));
    let out = replay(&capture(
        PCAPNG,
        false,
        &[(ETHERNET, None), (105, Some("wlan0"))],
        &both,
    ));
    assert_eq!(out.samples, usual());
    assert_eq!(out.warnings.len(), 1);
    assert!(out.warnings[0].contains("wlan0") && out.warnings[0].contains("105"));
}

#[test]
fn blocks_that_nobody_knows_are_passed_over() {
    for big in [false, true] {
        let records = Talk::usual(false).records();
        let whole = capture(PCAPNG, big, &[(ETHERNET, Some("va"))], &records);
        // Name resolution, statistics, one without a meaning, a packet without a time.
        let extra: Vec<u8> = [(4, 40), (5, 12), (0x8000_1234, 1 << 20), (3, 80)]
            .iter()
            .flat_map(|(kind, len)| unknown_block(big, *kind, *len))
            .collect();
        // A second section has interfaces of its own.
        let bytes = [&whole[..], &extra, &whole].concat();
        let out = replay(&bytes);
        assert!(out.error.is_none(), "{:?}", out.error);
        assert_eq!(out.untimed, 1);
        assert_eq!(out.samples.len(), 2 * usual().len());
        assert!(out.samples.iter().all(|sample| sample.interface == "va"));
    }
}

/// The hand-made flows: what the host model makes of their frames, packet for packet.
#[test]
fn hand_made_flows_give_what_the_host_model_gives() {
    let mut samples = 0;
    for file in ["ts.json", "seq.json"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/vectors")
            .join(file);
        for case in vectors::read(&path) {
            for v6 in [false, true] {
                let packets = case.packets.iter();
                let frames: Vec<_> = packets
                    .map(|packet| (packet.t_ns, packet.frame(v6).bytes(), packet.direction()))
                    .collect();
                let expected = model(&frames);
                let records: Vec<_> = frames
                    .iter()
                    .map(|(time, frame, _)| Record::whole(*time, frame.clone()))
                    .collect();
                let out = replay(&capture(PCAP, false, &[(ETHERNET, None)], &records));
                let got: Vec<_> = out
                    .samples
                    .iter()
                    .map(|s| (s.time_ns, s.rtt_ns, s.id, s.leg, s.echo, s.method))
                    .collect();
                assert_eq!(got, expected, "{}", case.name);
                samples += got.len();
            }
        }
    }
    assert!(samples > 200, "{samples}");
}

type Known = (u64, u64, u32, u8, u8, u8);

fn model(frames: &[(u64, Vec<u8>, Direction)]) -> Vec<Known> {
    let model = Model::new(ModelSettings {
        flow_entries: 64,
        query_entries: 16,
        rows: 8,
        seeds: [1; 14],
        hz: 100,
        idle_seconds: 60,
        methods: Methods::DEFAULT,
    });
    for (now_ns, frame, direction) in frames {
        let arrival = Arrival {
            now_ns: *now_ns,
            link: Link::Ethernet,
            direction: *direction,
            ifindex: 1,
            vlan: 0,
            segments: 1,
            segment_size: 0,
        };
        model.packet(frame, &arrival);
    }
    let samples = model.samples.borrow();
    samples
        .iter()
        .map(|s| {
            (
                s.now_ns,
                u64::from(s.units) * UNIT_NS,
                s.id,
                s.leg,
                s.echo,
                s.method,
            )
        })
        .collect()
}

#[test]
fn interfaces_never_mix() {
    let talk = Talk::usual(false);
    let at = |interface: u32, later: u64| {
        talk.records().into_iter().map(move |record| Record {
            interface,
            time_ns: record.time_ns + later,
            ..record
        })
    };
    // One packet each in turn, seen 8 us later at the second interface.
    let records: Vec<_> = at(0, 0)
        .zip(at(1, 8000))
        .flat_map(|(a, b)| [a, b])
        .collect();
    let interfaces = [(ETHERNET, Some("va")), (ETHERNET, Some("eth0"))];
    let out = replay(&capture(PCAPNG, false, &interfaces, &records));
    let of = |name: &str| -> Vec<u64> {
        let samples = out.samples.iter().filter(|sample| sample.interface == name);
        samples.map(|sample| sample.rtt_ns).collect()
    };
    let expected: Vec<_> = usual().iter().map(|sample| sample.rtt_ns).collect();
    assert_eq!((of("va"), of("eth0")), (expected.clone(), expected.clone()));

    // The same in one cooked capture that names the interfaces.
    let cooked = |ifindex: u8| {
        talk.behind(move |_| [&[8, 0, 0, 0, 0, 0, 0, ifindex][..], &[0; 12]].concat())
    };
    let records: Vec<_> = cooked(3)
        .into_iter()
        .zip(cooked(9))
        .flat_map(|(a, b)| [a, b])
        .collect();
    let out = replay(&capture(PCAP, false, &[(276, None)], &records));
    assert_eq!(out.samples.len(), 2 * expected.len());
    assert!(out.samples.iter().any(|sample| sample.interface == "if9"));

    // One direction at one, the other at the other: nothing to match.
    let split: Vec<_> = talk
        .records()
        .into_iter()
        .map(|record| Record {
            interface: u32::from(record.data[29] == 1),
            ..record
        })
        .collect();
    let out = replay(&capture(PCAPNG, false, &interfaces, &split));
    assert_eq!(out.samples, [], "matched across interfaces");
}

#[test]
fn the_capture_of_any_without_interfaces_is_warned_of() {
    let records = Talk::usual(false).behind(|_| [&[0; 14][..], &[8, 0]].concat());
    let out = replay(&capture(PCAP, false, &[(113, None)], &records));
    assert!(
        out.warnings
            .iter()
            .any(|warning| warning.contains("LINUX_SLL2")),
        "{out:?}"
    );
}

/// Writers that do not carry over; the lengths are sound.
#[test]
fn parts_of_a_second_that_are_a_second_are_carried_over() {
    for (nanos, big, unit) in [
        (false, false, 1_000_000_u32),
        (false, true, 1_000_000),
        (true, false, 1_000_000_000),
        (true, true, 1_000_000_000),
    ] {
        let records = Talk::usual(false).records();
        let mut bytes = capture(Kind::Pcap { nanos }, big, &[(ETHERNET, None)], &records);
        let word = |bytes: [u8; 4]| {
            if big {
                u32::from_be_bytes(bytes)
            } else {
                u32::from_le_bytes(bytes)
            }
        };
        let mut at = 24;
        for (i, record) in records.iter().enumerate() {
            // One to three seconds too few; 4294 million parts are the most.
            let seconds = u32::try_from(i % 4).expect("few");
            for (at, add) in [(at, seconds.wrapping_neg()), (at + 4, seconds * unit)] {
                let field = &mut bytes[at..at + 4];
                let value = word(field.try_into().expect("four")).wrapping_add(add);
                field.copy_from_slice(&if big {
                    value.to_be_bytes()
                } else {
                    value.to_le_bytes()
                });
            }
            at += 16 + record.data.len();
        }
        let out = replay(&bytes);
        assert!(out.error.is_none(), "{:?}", out.error);
        assert_eq!(out.samples, usual());
        let carried = records.len() - records.len().div_ceil(4);
        assert_eq!(out.carried, carried as u64);
    }
}

/// A time that no year has is no reason to lose the rest.
#[test]
fn a_packet_with_an_impossible_time_is_left_out() {
    for big in [false, true] {
        let kind = Kind::PcapNg {
            resolution: Some(0),
            offset: None,
        };
        let mut bytes = capture(
            PCAPNG,
            big,
            &[(ETHERNET, None)],
            &Talk::usual(false).records(),
        );
        let odd = &Talk::usual(false).records()[..1];
        let mut section = capture(kind, big, &[(ETHERNET, None)], odd);
        // Seconds whose nanoseconds do not fit.
        let at = section.len() - 4 - odd[0].data.len().next_multiple_of(4) - 20 + 4;
        section[at..at + 8].fill(0xff);
        bytes.extend(section);
        let out = replay(&bytes);
        assert!(out.error.is_none(), "{:?}", out.error);
        assert_eq!((out.samples.len(), out.untimed), (usual().len(), 1));
    }
}

/// Options of pcapng behind the one that ends them (draft-ietf-opsawg-pcapng section 3.5), in every
/// block: resolution, name and offset of another interface, or what is no option at all.
#[test]
fn options_behind_their_end_are_none() {
    let kinds = [None, Some(6), Some(9)].map(|resolution| Kind::PcapNg {
        resolution,
        offset: None,
    });
    for (kind, big) in kinds
        .into_iter()
        .flat_map(|kind| [(kind, false), (kind, true)])
    {
        let half = |value: u16| {
            if big {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            }
        };
        let word = |value: u32| {
            if big {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            }
        };
        let option = |code: u16, len: u16, value: &[u8]| [&half(code), &half(len), value].concat();
        let options = [
            option(9, 1, &[3, 0, 0, 0]),
            option(2, 3, b"odd\0"),
            option(14, 8, &[0, 0, 1, 1, 0, 0, 0, 0]),
        ];
        for behind in [options.concat(), option(9, 0xffff, &[3, 0, 0, 0])] {
            let records = Talk::usual(false).records();
            let bytes = capture(kind, big, &[(ETHERNET, None)], &records);
            let mut odd = Vec::new();
            let mut rest = &bytes[..];
            while let Some(len) = rest.get(4..8) {
                let len = <[u8; 4]>::try_from(len).expect("four");
                let len = if big {
                    u32::from_be_bytes(len)
                } else {
                    u32::from_le_bytes(len)
                };
                let (block, others) = rest.split_at(len as usize);
                // Packets have no options yet.
                let is_packet = block[..4] == word(6);
                let end = if is_packet {
                    option(0, 0, &[])
                } else {
                    Vec::new()
                };
                let added = u32::try_from(end.len() + behind.len()).expect("short");
                let long = word(len + added);
                let body = &block[8..block.len() - 4];
                odd.extend([&block[..4], &long, body, &end, &behind, &long].concat());
                rest = others;
            }
            let out = replay(&odd);
            assert!(out.error.is_none(), "{kind:?} {big}: {:?}", out.error);
            assert_eq!(out.samples, usual(), "{kind:?} {big}");
        }
    }
}
