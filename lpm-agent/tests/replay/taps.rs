//! Captures as taps, mirrors and cards with several queues write them: frames twice, batches out of
//! order, each direction at an interface of its own, clocks that tick seldom.

use std::{collections::HashSet, io::Cursor};

use lpm_agent::replay::{Choice, order::Disorder};
use lpm_common::{
    layout::Method,
    packet::flag,
    testing::{
        frame::Frame,
        query::{Message, echo},
        vectors,
    },
};

use crate::{
    run::{Out, Seen, replay, replay_with, replay_within, settings},
    talk::{BEGIN, Talk},
    write::{ETHERNET, PCAP, PCAPNG, Record, capture},
};

const MS: u64 = 1_000_000;

fn pcap(records: &[Record]) -> Vec<u8> {
    capture(PCAP, false, &[(ETHERNET, None)], records)
}

/// A talk with timestamps, one without, pings and DNS: samples by every method.
fn everything(v6: bool) -> Vec<Record> {
    let mut all = Talk::usual(v6).records();
    all.extend(without_timestamps(v6).records_after(200 * MS));
    let (local, remote) = vectors::ends(v6);
    for i in 0..3 {
        let at = BEGIN + (400 + 100 * u64::from(i)) * MS;
        let id = 7 + i;
        let ask = Message::query(id).udp(local, remote, 40_000, 53);
        let answer = Message::answer(id, 0).udp(remote, local, 53, 40_000);
        all.extend([
            Record::whole(at, echo(local, remote, false, 77, id).bytes()),
            Record::whole(at + 20 * MS, echo(remote, local, true, 77, id).bytes()),
            Record::whole(at + 30 * MS, ask.bytes()),
            Record::whole(at + 33 * MS, answer.bytes()),
        ]);
    }
    all
}

fn without_timestamps(v6: bool) -> Talk {
    let mut talk = Talk::new(v6);
    talk.plain = true;
    talk.sport = 50_000;
    talk.packet(0, true, flag::SYN, 0, (0, 0));
    talk.packet(5_000, false, flag::SYN | flag::ACK, 0, (0, 0));
    talk.packet(5_100, true, flag::ACK, 0, (0, 0));
    for i in 1..=5 {
        talk.packet(20_000 * i, true, flag::ACK, 100, (0, 0));
        talk.packet(20_000 * i + 5_000, false, flag::ACK, 0, (0, 0));
    }
    talk
}

/// What was measured, whatever the order in which it came out.
fn sorted(out: &Out) -> Vec<Seen> {
    let mut samples = out.samples.clone();
    samples.sort_by_key(|sample| (sample.time_ns, sample.method, sample.id, sample.leg));
    samples
}

#[test]
fn frames_that_were_recorded_twice_are_measured_once() {
    for v6 in [false, true] {
        let records = everything(v6);
        let once = replay(&pcap(&records));
        for method in [
            Method::Ts,
            Method::Seq,
            Method::Handshake,
            Method::Icmp,
            Method::Dns,
        ] {
            let of = |sample: &&Seen| sample.method == method as u8;
            assert!(once.samples.iter().filter(of).count() >= 2, "{method:?}");
        }
        assert_eq!((once.copies, once.retransmissions), ((0, 0), 0));
        // By another port of the switch, by a router; at once, or some microseconds later.
        for (later, again, hops) in [(0, 1, 0), (8_000, 1, 0), (8_000, 3, 1), (300_000, 1, 1)] {
            let mut twice = Vec::new();
            for record in &records {
                twice.push(record.clone());
                for i in 1..=again {
                    let mut copy = record.clone();
                    copy.time_ns += later * i;
                    copy.data[5] ^= 1;
                    copy.data[if v6 { 21 } else { 22 }] -= hops;
                    twice.push(copy);
                }
            }
            let out = replay(&pcap(&twice));
            assert_eq!(sorted(&out), sorted(&once), "{v6} {later}");
            let copies = records.len() as u64 * again;
            assert_eq!((out.copies, out.retransmissions), ((copies, 0), 0));
            assert_eq!(out.unanswered, once.unanswered);
            let flows = |out: &Out| -> Vec<_> {
                let flows = out.flows.sorted().into_iter();
                flows.map(|(id, totals)| (*id, totals.traffic)).collect()
            };
            assert_eq!(flows(&out), flows(&once), "counted once");
        }
    }
}

/// A segment, a query and a ping that are sent again are no copies: nobody knows which was answered.
#[test]
fn what_was_sent_again_is_no_copy() {
    for v6 in [false, true] {
        for again in [2 * MS, 40 * MS, 250 * MS] {
            let mut records = Vec::new();
            for record in without_timestamps(v6).records() {
                let repeated = record.data.len() > 100;
                records.push(record.clone());
                if repeated {
                    records.push(Record {
                        time_ns: record.time_ns + again,
                        ..record
                    });
                }
            }
            let (local, remote) = vectors::ends(v6);
            let ask = Message::query(7).udp(local, remote, 40_000, 53).bytes();
            let answer = Message::answer(7, 0).udp(remote, local, 53, 40_000).bytes();
            let ping = echo(local, remote, false, 77, 1).bytes();
            let reply = echo(remote, local, true, 77, 1).bytes();
            let at = BEGIN + 1_000 * MS;
            for (time, data) in [(0, &ask), (0, &ping), (again, &ask), (again, &ping)] {
                records.push(Record::whole(at + time, data.clone()));
            }
            for data in [answer, reply] {
                records.push(Record::whole(at + again + MS, data));
            }
            records.sort_by_key(|record| record.time_ns);
            let out = replay(&pcap(&records));
            assert_eq!(out.copies.0, 0, "{again}");
            assert!(out.retransmissions >= 4, "{again}: {}", out.retransmissions);
            let other = |sample: &&Seen| {
                sample.method != Method::Handshake as u8 && sample.method != Method::Seq as u8
            };
            assert_eq!(out.samples.iter().find(other), None, "{again}");
        }
    }
}

/// Byte for byte the same within microseconds, as IPv6 without timestamps has it on a busy machine: a
/// second acknowledgment of a first segment while the second one is out (RFC 5681 section 2), and
/// a segment that waited in a queue until its repetition stood behind it (RFC 6298 section 3). By
/// neither are there samples of what was out.
#[test]
fn what_passes_twice_by_itself_is_no_copy() {
    for (v6, acknowledgment) in [(false, true), (false, false), (true, true), (true, false)] {
        let mut records = without_timestamps(v6).records();
        let frame = |from: bool, (seq, payload): (u32, u32), ack: u32| {
            let (local, remote) = vectors::ends(v6);
            let mut frame = if from {
                Frame::new(local, remote, 50_000, 5301)
            } else {
                Frame::new(remote, local, 5301, 50_000)
            };
            (frame.seq, frame.payload, frame.ack) = (seq, payload, ack);
            frame.flags = flag::ACK;
            frame.bytes()
        };
        let at = |micros: u64, data: Vec<u8>| Record::whole(BEGIN + micros * 1000, data);
        let [first, second] = [(1501, 20), (1521, 100)].map(|segment| frame(true, segment, 5001));
        records.extend([at(200_000, first), at(200_022, second.clone())]);
        if !acknowledgment {
            records.push(at(200_028, second));
        }
        records.push(at(200_830, frame(false, (5001, 0), 1521)));
        if acknowledgment {
            records.push(at(200_843, frame(false, (5001, 0), 1521)));
        }
        records.push(at(200_855, frame(false, (5001, 0), 1621)));
        let out = replay(&pcap(&records));
        let found = out
            .samples
            .iter()
            .filter(|sample| (1502..=1621).contains(&sample.id));
        let found: Vec<_> = found.map(|sample| (sample.id, sample.rtt_ns)).collect();
        let expected = if acknowledgment {
            &[(1521, 829_952)][..]
        } else {
            &[]
        };
        assert_eq!(found, expected, "{v6}");
        assert_eq!(out.copies.0, 0);
    }
}

/// Reorders records: of each `batch` milliseconds first the packets of one direction, then those of
/// the other.
fn batches(records: &[Record], batch: u64) -> Vec<Record> {
    let mut out = records.to_vec();
    out.sort_by_key(|record| {
        let v6 = record.data[12] == 0x86;
        let sender = if v6 { record.data[37] } else { record.data[29] };
        (
            (record.time_ns - BEGIN) / (batch * MS),
            sender != 2,
            record.time_ns,
        )
    });
    out
}

#[test]
fn batches_out_of_order_are_put_in_order() {
    for v6 in [false, true] {
        let records = everything(v6);
        let expected = replay(&pcap(&records));
        for batch in [3, 12, 40, 150, 800] {
            let written = batches(&records, batch);
            assert!(!written.is_sorted_by_key(|record| record.time_ns));
            let out = replay(&pcap(&written));
            assert_eq!(sorted(&out), sorted(&expected), "{batch} ms");
            assert_eq!((out.steps, out.backwards, out.disorder.beyond), (0, 0, 0));
            assert!(out.disorder.packets > 0 && out.disorder.furthest_ns < batch * MS);
            // Through a pipe nothing is held back: it is said.
            let source = Cursor::new(pcap(&written));
            let piped = replay_within(source, settings(), Choice::default(), 0);
            assert!(
                piped.disorder.packets + piped.disorder.beyond > 0,
                "{batch}"
            );
            for sample in &piped.samples {
                assert!(expected.samples.contains(sample), "{batch}: {sample:?}");
            }
        }
    }
}

/// Batches of more than the window: flows begin anew, it is said, and nothing is made up.
#[test]
fn what_is_too_far_out_of_order_is_said() {
    let mut records = Vec::new();
    for i in 0..40 {
        records.extend(Talk::usual_from(i).records_after(u64::from(i) * 100 * MS));
    }
    records.sort_by_key(|record| record.time_ns);
    let expected = replay(&pcap(&records));
    let out = replay(&pcap(&batches(&records, 2_000)));
    assert!(out.disorder.beyond >= 1, "{:?}", out.disorder);
    for sample in &out.samples {
        assert!(expected.samples.contains(sample), "{sample:?}");
    }
}

/// The clock is set back by less than what is put in order: by what the flows' own packets say.
#[test]
fn a_clock_that_is_set_back_a_little_is_no_disorder() {
    for back in [100, 300, 900, 4_000] {
        let records: Vec<_> = (0..40)
            .flat_map(|i| Talk::usual_from(1).records_after(i * 95 * MS))
            .collect();
        let half = records.len() / 2;
        let set = records.iter().enumerate().map(|(i, record)| Record {
            time_ns: record.time_ns - if i < half { 0 } else { back * MS },
            ..record.clone()
        });
        let set: Vec<_> = set.collect();
        let out = replay(&pcap(&set));
        assert_eq!(
            (out.steps, out.disorder),
            (1, Disorder::default()),
            "{back}"
        );
        let expected = replay(&pcap(&records));
        assert!(out.samples.len() + 12 > expected.samples.len(), "{back}");
        let rtts = |out: &Out| {
            out.samples
                .iter()
                .map(|s| (s.method, s.leg, s.rtt_ns))
                .collect()
        };
        let known: HashSet<_> = rtts(&expected);
        let found: HashSet<_> = rtts(&out);
        assert!(found.is_subset(&known), "{back}: {found:?}");
    }
}

/// One direction at one interface, the other at the other, and their batches in turns.
#[test]
fn the_halves_of_a_tap_are_joined_if_asked_for() {
    let whole = everything(false);
    let expected = replay(&pcap(&whole));
    let split = |records: &[Record]| -> Vec<Record> {
        let half = |record: &Record| Record {
            interface: u32::from(record.data[29] == 1),
            ..record.clone()
        };
        records.iter().map(half).collect()
    };
    let joins = |names: [&str; 2]| Choice {
        joins: vec![names.map(str::to_owned).into()],
        ..Choice::default()
    };
    for (names, join) in [
        ([Some("east"), Some("west")], ["west", "east"]),
        ([None, None], ["if0", "if1"]),
    ] {
        let interfaces = names.map(|name| (ETHERNET, name));
        for records in [split(&whole), split(&batches(&whole, 40))] {
            let bytes = capture(PCAPNG, false, &interfaces, &records);
            let apart = replay(&bytes);
            assert_eq!(apart.samples, [], "interfaces do not mix");
            let out = replay_with(&bytes, settings(), joins(join));
            let strip = |mut samples: Vec<Seen>| {
                for sample in &mut samples {
                    sample.interface.clear();
                }
                samples
            };
            assert_eq!(strip(sorted(&out)), strip(sorted(&expected)));
            assert!(out.samples.iter().all(|s| s.interface == join.join("+")));
        }
    }
}

#[test]
fn coarse_clocks_are_told() {
    let records = everything(false);
    for (tick, zeros) in [(1, false), (1_000, false), (MS, true), (10 * MS, true)] {
        let coarse: Vec<_> = records
            .iter()
            .map(|record| Record {
                time_ns: record.time_ns / tick * tick,
                ..record.clone()
            })
            .collect();
        let out = replay(&pcap(&coarse));
        assert_eq!(out.coarse_ns, (tick >= MS).then_some(tick));
        assert_eq!(out.zero > 0, zeros, "{tick}");
        let found = out.samples.iter().filter(|sample| sample.rtt_ns == 0);
        assert_eq!(found.count() as u64, out.zero);
    }
}

/// Snap length 68: the options of SYNs are cut, those of others are not.
#[test]
fn handshakes_need_no_options() {
    for v6 in [false, true] {
        let (from, records) = (if v6 { 20 } else { 0 }, Talk::usual(v6).records());
        let all = replay(&pcap(&records));
        let of = |out: &Out, method: Method| -> Vec<Seen> {
            let samples = out.samples.iter().filter(|s| s.method == method as u8);
            samples.cloned().collect()
        };
        for snap in 48..=66_usize {
            let cut: Vec<_> = records
                .iter()
                .map(|record| Record {
                    data: record.data[..record.data.len().min(snap + from)].to_vec(),
                    ..record.clone()
                })
                .collect();
            let out = replay(&pcap(&cut));
            assert_eq!(of(&out, Method::Handshake).len(), 2, "{snap}");
            assert_eq!(
                of(&out, Method::Handshake)[0],
                of(&all, Method::Handshake)[0]
            );
            assert!(out.optionless > 0);
            let times = |samples: Vec<Seen>| -> Vec<_> {
                samples
                    .iter()
                    .map(|s| (s.time_ns, s.rtt_ns, s.leg))
                    .collect()
            };
            if snap == 66 {
                // Of the remote end no timestamp is known before its first segment's.
                let (ts, all) = (times(of(&out, Method::Ts)), times(of(&all, Method::Ts)));
                assert!(ts.len() == 9 && ts.iter().all(|one| all.contains(one)));
                assert_eq!(out.optionless, 2, "the SYNs");
            } else {
                assert_eq!(of(&out, Method::Ts), [], "{snap}: never guessed");
            }
            // By sequence numbers as far as there is no doubt: what they give is the truth.
            let seq = times(of(&out, Method::Seq));
            let ts = times(of(&all, Method::Ts));
            assert!(seq.iter().all(|one| ts.contains(one)), "{snap}: {seq:?}");
        }
    }
}
