//! Captures in which one tag, or none, goes one way and another back.

use std::fs;

use lpm_agent::replay::Choice;
use lpm_common::counter::Counter;

use crate::support::lpm::lpm;
use crate::{
    run::{Out, replay_with, settings, undirected},
    talk::Talk,
    write::{ETHERNET, PCAP, Record, capture},
};

/// Tags of a frame, outer first: ethertype and id.
type Tags = &'static [(u16, u16)];

const WAYS: [[Tags; 2]; 5] = [
    [&[(0x8100, 30)], &[(0x8100, 40)]],
    [&[(0x8100, 3136)], &[]],
    [&[], &[(0x8100, 3136)]],
    [
        &[(0x88a8, 1042), (0x8100, 120)],
        &[(0x88a8, 1041), (0x8100, 120)],
    ],
    [&[(0x9100, 9), (0x8100, 1)], &[(0x8100, 1)]],
];

fn pcap(records: &[Record]) -> Vec<u8> {
    capture(PCAP, false, &[(ETHERNET, None)], records)
}

fn both(records: &[Record]) -> [Out; 2] {
    let bytes = pcap(records);
    [settings(), undirected()].map(|settings| replay_with(&bytes, settings, Choice::default()))
}

#[test]
fn the_samples_are_those_without_tags() {
    for (v6, swapped) in [(false, false), (false, true), (true, false), (true, true)] {
        let talk = Talk::usual_of(v6, swapped);
        for skipped in [0, 1, 2, 3, 4, 6, 8] {
            let plain = &talk.records()[skipped..];
            let right = both(plain).map(|out| out.samples);
            assert!(!right[0].is_empty());
            for [there, back] in WAYS {
                let tagged = talk.tagged(|from| if from { there } else { back });
                for (out, right) in both(&tagged[skipped..]).into_iter().zip(&right) {
                    let what = format!("{there:?} {back:?}, {v6} {swapped} {skipped}");
                    assert_eq!(&out.samples, right, "{what}");
                    assert_eq!(out.counter(Counter::VlanFlowJoined), 1, "{what}");
                    assert_eq!(out.counter(Counter::VlanFlowAmbiguous), 0, "{what}");
                }
            }
        }
    }
}

#[test]
fn flows_that_each_vlan_shows_whole_stay_apart() {
    let talk = Talk::usual(false);
    let right = replay_with(&pcap(&talk.records()), settings(), Choice::default()).samples;
    for [one, other] in WAYS {
        // The second one a little, or by half a round trip, later.
        for later in [0, 8_000, 400_000] {
            let mut records = talk.tagged(|_| other);
            for record in &mut records {
                record.time_ns += later;
            }
            records.extend(talk.tagged(|_| one));
            records.sort_by_key(|record| record.time_ns);
            let out = replay_with(&pcap(&records), settings(), Choice::default());
            let times = |samples: &[crate::run::Seen]| {
                let mut times: Vec<u64> = samples.iter().map(|sample| sample.rtt_ns).collect();
                times.sort_unstable();
                times
            };
            let twice = [right.clone(), right.clone()].concat();
            assert_eq!(
                times(&out.samples),
                times(&twice),
                "{one:?} {other:?} {later}"
            );
            assert_eq!(out.counter(Counter::VlanFlowJoined), 0);
            assert_eq!(out.counter(Counter::VlanFlowAmbiguous), 0);
        }
    }
}

#[test]
fn what_is_not_joined_is_said_with_a_remedy() {
    let talk = Talk::usual(false);
    let [first, second, back]: [Tags; 3] = [&[(0x8100, 30)], &[(0x8100, 31)], &[(0x8100, 40)]];
    let mut records = talk.tagged(|from| if from { first } else { back });
    let others = talk.tagged(|from| if from { second } else { back });
    for (i, other) in others.into_iter().enumerate().filter(|(i, _)| *i > 4) {
        records[i] = other;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("vlans.pcap");
    fs::write(&file, pcap(&records)).expect("a file");
    let out = lpm().arg("replay").arg(&file).output().expect("lpm");
    assert!(out.status.success());
    let said = String::from_utf8_lossy(&out.stderr);
    // Ids are the reader's to choose: none is made up.
    let remedy = format!("tshark -r {} -Y 'vlan.id in {{ID, ID}}'", file.display());
    for part in [
        "taken for one flow",
        "several VLANs may carry the other direction",
        &remedy,
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
