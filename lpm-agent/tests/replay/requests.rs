//! Requests and their whole answers in a capture.

use lpm_agent::replay::{Choice, Settings};
use lpm_common::layout::{Leg, Method};

use crate::{
    run::{Out, replay, replay_with, settings},
    talk::{BEGIN, Talk},
    write::{ETHERNET, PCAP, capture},
};

fn requests(out: &Out) -> Vec<(u64, u64, u8)> {
    let samples = out.samples.iter();
    samples
        .filter(|sample| sample.method == Method::Request as u8)
        .map(|sample| (sample.time_ns, sample.rtt_ns, sample.leg))
        .collect()
}

#[test]
fn each_is_timed_to_its_answers_last_byte() {
    for v6 in [false, true] {
        let talk = Talk::usual(v6);
        let bytes = capture(PCAP, false, &[(ETHERNET, None)], &talk.records());
        let with = Settings {
            methods: Method::ALL.into_iter().collect(),
            ..settings()
        };
        let out = replay_with(&bytes, with, Choice::default());
        // Asked every 10 ms, answered 1.6 ms later and 8 us more each time.
        let wanted: Vec<_> = (0..5)
            .map(|i| {
                let rtt = 1_600_000 + i * 8_000;
                (BEGIN + 10_000_000 * (i + 1) + rtt, rtt, Leg::Remote as u8)
            })
            .collect();
        assert_eq!(requests(&out), wanted);
        // The other methods are what they are without it.
        let without = replay(&bytes);
        assert!(requests(&without).is_empty());
        let others = out.samples.iter();
        let others: Vec<_> = others
            .filter(|sample| sample.method != Method::Request as u8)
            .collect();
        assert_eq!(others, without.samples.iter().collect::<Vec<_>>());
    }
}
