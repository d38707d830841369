//! Captures that are cut, damaged or not captures: what was good before is used, the fault is
//! named, nothing crashes, and no sample comes out that was not in it.

use std::collections::HashSet;

use lpm_agent::replay::CaptureError;
use proptest::prelude::*;

use crate::{
    run::{Out, Seen, replay},
    talk::Talk,
    write::{ETHERNET, Kind, MODIFIED, OBSOLETE, PCAP, PCAPNG, capture, gzip, unknown_block},
};

const KINDS: [(Kind, bool); 8] = [
    (PCAP, false),
    (PCAP, true),
    (MODIFIED, false),
    (MODIFIED, true),
    (PCAPNG, false),
    (PCAPNG, true),
    (OBSOLETE, false),
    (OBSOLETE, true),
];

fn good(kind: Kind, big: bool) -> Vec<u8> {
    capture(
        kind,
        big,
        &[(ETHERNET, None)],
        &Talk::usual(false).records(),
    )
}

/// Where records end.
fn ends(kind: Kind, big: bool) -> HashSet<usize> {
    let records = Talk::usual(false).records();
    (0..=records.len())
        .map(|count| capture(kind, big, &[(ETHERNET, None)], &records[..count]).len())
        .collect()
}

#[test]
fn a_capture_cut_anywhere_is_used_up_to_there() {
    for (kind, big) in KINDS {
        let whole = good(kind, big);
        let all = replay(&whole);
        let ends = ends(kind, big);
        for len in 0..whole.len() {
            let out = replay(&whole[..len]);
            assert!(all.samples.starts_with(&out.samples), "{len}");
            match out.error {
                None => {
                    let blocks = kind == PCAPNG || kind == OBSOLETE;
                    assert!(ends.contains(&len) || blocks && len >= 28, "{len}");
                }
                Some(CaptureError::Truncated { offset, need, have }) => {
                    assert!(!ends.contains(&len), "{len}");
                    assert_eq!(offset + have, len as u64);
                    assert!(need > have);
                }
                Some(CaptureError::NotACapture { .. }) => assert!(len < 4, "{len}"),
                Some(error) => panic!("{len}: {error}"),
            }
        }
    }
}

#[test]
fn a_compressed_capture_cut_anywhere_is_used_up_to_there() {
    let whole = gzip(&good(PCAP, false));
    let all = replay(&whole).samples;
    assert!(!all.is_empty());
    for len in 0..whole.len() {
        let out = replay(&whole[..len]);
        assert!(all.starts_with(&out.samples), "{len}");
        // Between two members it is whole, but its last record is not.
        assert!(out.error.is_some(), "{len}");
    }
}

#[test]
fn any_byte_may_be_anything() {
    for (kind, big) in KINDS {
        let whole = good(kind, big);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= [0x01, 0x80, 0xff][at % 3];
            // It ends, and does not panic.
            check(&replay(&bytes), &bytes);
        }
    }
    let whole = gzip(&good(PCAP, false));
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        check(&replay(&bytes), &bytes);
    }
}

/// An error lies within the capture, and samples are sane.
fn check(out: &Out, bytes: &[u8]) {
    match &out.error {
        Some(CaptureError::Corrupt { offset, .. }) if !bytes.starts_with(&[0x1f, 0x8b]) => {
            assert!(*offset <= bytes.len() as u64);
        }
        _ => {}
    }
    for sample in &out.samples {
        assert!(sample.rtt_ns < 275_000_000_000, "{sample:?}");
    }
}

/// What a damaged length field of a record leads to.
#[test]
fn lengths_that_cannot_be_are_corrupt() {
    let mut bytes = good(PCAP, false);
    let record = 24 + 16 + Talk::usual(false).records()[0].data.len();
    bytes[record + 8..record + 12].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    let out = replay(&bytes);
    let said = out.error.expect("corrupt").to_string();
    assert!(
        said.contains(&format!("byte {record}")) && said.contains("2147483647"),
        "{said}"
    );
    assert_eq!(out.packets, 1, "what was before is used");

    let mut bytes = good(PCAPNG, false);
    let last = bytes.len() - 4;
    bytes[last] ^= 4;
    let out = replay(&bytes);
    let said = out.error.expect("corrupt").to_string();
    assert!(said.contains("gives its length as"), "{said}");
    assert_eq!(out.packets + 1, Talk::usual(false).records().len() as u64);

    // A block that would want all memory.
    let bytes = [
        good(PCAPNG, false),
        vec![6, 0, 0, 0, 0xfc, 0xff, 0xff, 0xff, 0, 0, 0, 0],
    ]
    .concat();
    let said = replay(&bytes).error.expect("corrupt").to_string();
    assert!(said.contains("4294967292"), "{said}");
}

#[test]
fn packets_of_interfaces_that_are_not_there_are_corrupt() {
    let mut records = Talk::usual(false).records();
    records[3].interface = 7;
    let out = replay(&capture(PCAPNG, false, &[(ETHERNET, None)], &records));
    let said = out.error.expect("corrupt").to_string();
    assert!(said.contains("interface"), "{said}");
    assert_eq!(out.packets, 3);
}

#[test]
fn a_flood_of_interfaces_is_refused() {
    let interfaces = vec![(ETHERNET, None); 70_000];
    let out = replay(&capture(PCAPNG, false, &interfaces, &[]));
    assert!(out.error.expect("refused").to_string().contains("65,536"));
}

#[test]
fn what_is_no_capture_is_said_to_be_none() {
    for (bytes, words) in [
        (&b""[..], "empty"),
        (b"\x28\xb5\x2f\xfdrest", "zstd -dc"),
        (b"\xfd7zXZ\0", "xz -dc"),
        (b"GET / HTTP/1.1", "47 45 54 20"),
        (b"ab", "61 62"),
    ] {
        let error = replay(bytes).error.expect("refused").to_string();
        assert!(error.contains(words), "{error}");
    }
    let mut bytes = good(PCAP, false);
    bytes[4] = 3;
    assert!(
        replay(&bytes)
            .error
            .expect("refused")
            .to_string()
            .contains("version 3")
    );
}

#[test]
fn impossible_clocks_are_refused() {
    for resolution in [20, 0x7f, 0x80 | 64, 0xff] {
        let kind = Kind::PcapNg {
            resolution: Some(resolution),
            offset: None,
        };
        let out = replay(&capture(kind, false, &[(ETHERNET, None)], &[]));
        let said = out.error.expect("refused").to_string();
        assert!(said.contains("resolution"), "{resolution}: {said}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Pieces of captures in any order, with bytes changed, put in and left out.
    #[test]
    fn nothing_makes_it_panic(
        kind in 0..KINDS.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 0..20),
        cut in any::<prop::sample::Index>(),
        again in any::<bool>(),
    ) {
        let (kind, big) = KINDS[kind];
        let mut bytes = good(kind, big);
        if again {
            bytes.extend(unknown_block(big, 3, 64));
            bytes.extend(good(kind, !big));
        }
        for (at, byte, what) in changes {
            let at = at.index(bytes.len());
            match what {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        check(&replay(&bytes), &bytes);
    }

    /// Random bytes behind a good beginning.
    #[test]
    fn noise_is_no_capture(kind in 0..KINDS.len(), noise in prop::collection::vec(any::<u8>(), 0..3000)) {
        let (kind, big) = KINDS[kind];
        let bytes = [capture(kind, big, &[(ETHERNET, None)], &[]), noise].concat();
        check(&replay(&bytes), &bytes);
    }
}

/// Headers that lie, in records that are sound: the packets say what they are not measured for.
#[test]
fn packets_that_lie_make_no_sample_that_was_not_there() {
    let talk = Talk::usual(false);
    let expected: HashSet<_> = keys(&replay(&good(PCAP, false)).samples);
    let records = talk.records();
    for victim in 0..records.len() {
        // Lengths: of the IP header, of the packet, of the TCP header.
        for (at, value) in [
            (14, 0x4f),
            (14, 0x44),
            (16, 0xff),
            (17, 0x00),
            (46, 0xf0),
            (46, 0x00),
        ] {
            let mut records = records.clone();
            records[victim].data[at] = value;
            let out = replay(&capture(PCAP, false, &[(ETHERNET, None)], &records));
            assert!(out.error.is_none());
            let found = keys(&out.samples);
            let other: Vec<_> = found.difference(&expected).collect();
            // A packet that is left out may let the next one take its part: as on a path that
            // lost it, the sample is longer, never shorter.
            for (id, leg, method, rtt) in other {
                let before = expected
                    .iter()
                    .find(|e| (&e.0, &e.1, &e.2) == (id, leg, method));
                assert!(
                    before.is_none_or(|before| rtt >= &before.3),
                    "{victim} {at}"
                );
            }
        }
    }
}

fn keys(samples: &[Seen]) -> HashSet<(u32, u8, u8, u64)> {
    let key = |sample: &Seen| (sample.id, sample.leg, sample.method, sample.rtt_ns);
    samples.iter().map(key).collect()
}
