//! Whether samples are right: by the wire's log, and by the delay that the wire has.

use super::site::DELAY;
use crate::{
    testbed::{DelayLine, wire::Record},
    truth::{Leg, Method, Sample, WireTruth},
};

/// How much shorter than the truth a sample may be: the wire's log reads another clock.
const SHORT_NS: i128 = 20_000;

/// How much longer than the truth a sample may be: the node may wait for a CPU between its hook and
/// the wire. What a confusion of packets makes is longer: the flows send every 50 ms and less often.
const LONG_NS: i128 = 20_000_000;

/// How many wrong samples are described.
const DESCRIBED: usize = 20;

/// What became of the samples.
#[derive(Debug, Clone, Default)]
pub struct Judgement {
    /// Samples that are what the wire's log says.
    pub right: u64,
    /// Those of ICMP and DNS, which the log does not identify: at least twice the wire's delay.
    pub bounded: u64,
    /// Samples that are not what happened.
    pub wrong: u64,
    /// The first wrong samples.
    pub described: Vec<String>,
    /// Samples of the local leg, about which the wire knows nothing.
    pub local: u64,
    /// Samples of times of which the wire's log lacks packets.
    pub unlogged: u64,
    /// The largest difference between a right sample and the truth, ns.
    pub off_ns: u64,
}

/// Judges samples, some seconds at a time.
#[derive(Debug, Default)]
pub(super) struct Judge {
    /// The wire's log of the time before: the packets of which samples may come yet.
    before: Vec<Record>,
    /// Whether that log is whole.
    whole: bool,
    pub(super) found: Judgement,
}

impl Judge {
    /// Judges samples that were taken before this call. The wire's log then has all their packets.
    pub(super) fn take(&mut self, samples: &[Sample], wire: &DelayLine) {
        let now = wire.take_records();
        let whole = matches!(wire.missed(), Ok(0));
        let known = [&self.before[..], &now[..]].concat();
        let truth = (whole && self.whole).then(|| WireTruth::new(&known));
        for sample in samples {
            self.found.judge(sample, truth.as_ref());
        }
        (self.before, self.whole) = (now, whole);
    }
}

impl Judgement {
    fn judge(&mut self, sample: &Sample, wire: Option<&WireTruth>) {
        if sample.leg == Leg::Local {
            self.local += 1;
            return;
        }
        let rtt = i128::from(sample.rtt_ns);
        if matches!(sample.method, Method::Icmp | Method::Dns) {
            let least = i128::try_from(2 * DELAY.as_nanos()).unwrap_or(i128::MAX);
            if rtt + SHORT_NS >= least {
                self.bounded += 1;
            } else {
                self.refuse(sample, &format!("at least {least} ns on the wire"));
            }
            return;
        }
        let Some(wire) = wire else {
            self.unlogged += 1;
            return;
        };
        let Some(truth) = wire.truth(sample) else {
            self.refuse(sample, "the wire had no such packets");
            return;
        };
        let off = rtt - i128::from(truth.beyond_ns);
        if (-SHORT_NS..=LONG_NS).contains(&off) {
            self.right += 1;
            let off = u64::try_from(off.abs()).unwrap_or(u64::MAX);
            self.off_ns = self.off_ns.max(off);
        } else {
            self.refuse(sample, &format!("{} ns by the wire", truth.beyond_ns));
        }
    }

    fn refuse(&mut self, sample: &Sample, truth: &str) {
        self.wrong += 1;
        if self.described.len() < DESCRIBED {
            self.described.push(format!("{truth}: {sample:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ping(rtt_ns: u64, leg: &str) -> Sample {
        let text = format!(
            r#"{{"interface":"v","vantage":"pod","src":"198.18.1.2","sport":0,"dst":"198.18.2.2",
            "dport":0,"rtt_ns":{rtt_ns},"leg":"{leg}","echo":"prompt","method":"icmp","id":7}}"#
        );
        serde_json::from_str(&text).expect("a sample")
    }

    #[test]
    fn a_round_trip_shorter_than_the_wire_is_wrong() {
        let mut found = Judgement::default();
        for (rtt, leg) in [(4_100_000, "remote"), (3_900_000, "remote"), (9, "local")] {
            found.judge(&ping(rtt, leg), None);
        }
        assert_eq!((found.bounded, found.wrong, found.local), (1, 1, 1));
    }

    #[test]
    fn what_the_wire_never_had_is_wrong_and_what_its_log_lacks_is_unknown() {
        let mut found = Judgement::default();
        let sample = Sample {
            method: Method::Ts,
            ..ping(4_100_000, "remote")
        };
        found.judge(&sample, None);
        assert_eq!((found.unlogged, found.wrong), (1, 0));
        found.judge(&sample, Some(&WireTruth::new(&[])));
        assert_eq!((found.unlogged, found.wrong), (1, 1));
    }
}
