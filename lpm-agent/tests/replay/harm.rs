//! Captures that are sound and not whole: times out of order, packets cut short.

use lpm_agent::replay::Choice;
use lpm_common::counter::Counter;

use crate::{
    formats::usual,
    run::{Seen, replay, replay_within, settings},
    talk::Talk,
    write::{ETHERNET, PCAP, Record, capture},
};

#[test]
fn times_that_go_back_make_no_sample() {
    let bytes = |shift: &dyn Fn(usize, u64) -> u64| {
        let records = Talk::usual(false).records().into_iter().enumerate();
        let records: Vec<_> = records
            .map(|(i, record)| Record {
                time_ns: shift(i, record.time_ns),
                ..record
            })
            .collect();
        capture(PCAP, false, &[(ETHERNET, None)], &records)
    };
    // From the middle on the clock is 5 s behind: the flow starts anew there.
    let out = replay(&bytes(&|i, time| {
        if i < 10 { time } else { time - 5_000_000_000 }
    }));
    assert_eq!(out.steps, 1);
    let expected = usual();
    assert!(out.samples.len() < expected.len());
    for sample in &out.samples {
        let same = |other: &&Seen| other.id == sample.id && other.method == sample.method;
        let other = expected
            .iter()
            .find(same)
            .expect("no sample that was not there");
        assert_eq!(sample.rtt_ns, other.rtt_ns);
    }
    // Every answer 1.7 ms early: before what it answers.
    let from_remote = |i: usize| matches!(i, 1 | 4 | 7 | 10 | 13 | 16 | 19);
    let early = bytes(&|i, time| {
        if from_remote(i) {
            time - 1_700_000
        } else {
            time
        }
    });
    // In the order of the times an answer comes before its question: none of the remote leg.
    let out = replay(&early);
    assert_eq!((out.steps, out.backwards), (0, 0));
    assert!(out.disorder.packets >= 5 && out.disorder.furthest_ns < 1_700_000);
    // As they come through a pipe.
    let source = std::io::Cursor::new(early);
    let out = replay_within(source, settings(), Choice::default(), 0);
    assert_eq!(out.steps, 0);
    assert!(out.backwards >= 5, "{}", out.backwards);
    assert!(
        out.samples.iter().all(|sample| sample.rtt_ns < 3_000_000),
        "{:?}",
        out.samples
    );
    assert!(
        out.samples.iter().all(|sample| sample.leg == 1),
        "{:?}",
        out.samples
    );
}

#[test]
fn a_snap_length_never_makes_another_sample() {
    for v6 in [false, true] {
        let talk = Talk::usual(v6);
        let records = talk.records();
        let all = replay(&capture(PCAP, false, &[(ETHERNET, None)], &records)).samples;
        for snap in 0..120 {
            let cut: Vec<_> = records
                .iter()
                .map(|record| Record {
                    data: record.data[..record.data.len().min(snap)].to_vec(),
                    ..record.clone()
                })
                .collect();
            let out = replay(&capture(PCAP, false, &[(ETHERNET, None)], &cut));
            assert!(out.error.is_none());
            assert!(out.cut > 0);
            let headers = if v6 { 14 + 40 + 32 } else { 14 + 20 + 32 };
            // A SYN's options are longer by the MSS, 4 bytes.
            if snap >= headers + 4 {
                assert_eq!(out.samples, all, "{snap}");
                assert_eq!(out.counter(Counter::SkippedTruncated), 0);
            }
            let of = |sample: &Seen| (sample.time_ns, sample.rtt_ns, sample.leg);
            assert!(
                out.samples
                    .iter()
                    .all(|s| all.iter().any(|o| of(o) == of(s))),
                "{snap}: {:?}",
                out.samples
            );
            // Handshakes need the control bits, and nothing behind them.
            if snap < headers - 12 - 6 {
                assert_eq!(out.samples, [], "{snap}");
                let refused = [
                    Counter::SkippedTruncated,
                    Counter::SkippedNotIp,
                    Counter::SkippedNotTcp,
                ];
                let refused: u64 = refused.map(|counter| out.counter(counter)).iter().sum();
                assert_eq!(refused, records.len() as u64, "{snap}");
            }
        }
    }
}

/// The clock is set back between a segment and its answer, but not behind the segment: another flow
/// had seen it go on. How long the answer took nobody knows.
#[test]
fn a_clock_that_is_set_back_behind_another_flow_makes_no_sample() {
    let talk = Talk::usual(false).records();
    let other = Talk::usual_from(7).records_after(20_000_000_000);
    // A request; 20 s later another flow; the answer, by a clock that was set back by 19.9 s.
    let mut records = talk[..4].to_vec();
    records.extend(other);
    records.extend(talk[4..].iter().cloned().map(|record| Record {
        time_ns: record.time_ns + 100_000_000,
        ..record
    }));
    let out = replay(&capture(PCAP, false, &[(ETHERNET, None)], &records));
    assert_eq!(out.steps, 1);
    let longest = out.samples.iter().map(|sample| sample.rtt_ns).max();
    assert!(longest < Some(3_000_000), "{:?}", out.samples);
}

/// Behind a tag every packet goes the slow path; its length is that on the wire.
#[test]
fn tagged_packets_may_be_cut_too() {
    let records: Vec<_> = Talk::usual(false)
        .frames()
        .into_iter()
        .map(|(time_ns, frame)| {
            let tagged = [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
            let len = u32::try_from(tagged.len()).expect("a packet");
            let headers = 18 + 20 + 32 + 4;
            Record {
                interface: 0,
                time_ns,
                data: tagged[..tagged.len().min(headers)].to_vec(),
                len,
            }
        })
        .collect();
    let out = replay(&capture(PCAP, false, &[(ETHERNET, None)], &records));
    assert_eq!(out.counter(Counter::SkippedTruncated), 0);
    assert_eq!(out.samples, usual());
}
