//! What one delay came to.

use serde::Serialize;

use super::{Echo, Error, Leg, Monitor, Sample, Spread, Unlimited, WireTruth, float};
use crate::testbed::wire::Precision;

/// What became of the `TSval`s that could have been measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stamps {
    /// Got a slot.
    pub stored: u64,
    /// Not stamped: all slots were taken.
    pub slots_full: u64,
    /// Not stamped, to spread the stamps over the round trip.
    pub spaced: u64,
    /// Stamped, and passed by a later echo.
    pub passed: u64,
    /// Stamped, and too old when anything came back.
    pub expired: u64,
}

/// A client's own view of its round trips beside the agent's two legs.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Client {
    /// Mean and percentiles of what the client measured, ns.
    pub own_mean: f64,
    /// The median.
    pub own_p50: f64,
    /// How many requests that were.
    pub requests: usize,
    /// The remote leg of the same flows.
    pub remote: Spread,
    /// The local leg of the same flows.
    pub local: Spread,
}

/// The results at one delay. Times in ns.
#[derive(Debug, Clone, Serialize)]
pub struct RunResult {
    /// The wire's delay, each way.
    pub delay_ns: u64,
    /// Flows that count.
    pub flows: usize,
    /// How long they ran, seconds.
    pub seconds: f64,
    /// Samples of the remote leg of the flows that count, by echo: prompt,
    /// lone, data.
    pub remote: [usize; 3],
    /// Prompt samples of the remote leg.
    pub rtt: Spread,
    /// What the wire's log says of the same samples, beyond the wire's near end.
    pub truth: Spread,
    /// What they show beyond the time that the wire held their packets: the
    /// far end's turning around and the node's own cost.
    pub beyond_delay: Spread,
    /// What they show beyond all that happened from the wire on: the node's
    /// own cost.
    pub beyond_log: Spread,
    /// Samples of the remote leg whose packets the wire never saw: false ones.
    pub unlogged: usize,
    /// Samples of the local leg, pure ACKs of data sent to the pod.
    pub local: Spread,
    /// A client's own measurement.
    pub client: Client,
    /// What the slot policy did.
    pub stamps: Stamps,
    /// How well the wire kept its delay.
    pub wire: Precision,
    /// Beside a matcher without limits; None if it was not asked for.
    pub unlimited: Option<Unlimited>,
}

impl RunResult {
    /// Remote samples of the counted flows per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        float(self.remote.iter().sum::<usize>() as u64) / self.seconds
    }

    /// Remote prompt samples per second.
    #[must_use]
    pub fn prompt_per_second(&self) -> f64 {
        float(self.remote[0] as u64) / self.seconds
    }
}

impl Stamps {
    /// Reads the agent's counters of stamps, as they are now.
    pub(super) fn now(monitor: &Monitor) -> Result<Self, Error> {
        let count =
            |result: &str| monitor.counter(&format!("lpm_stamps_total{{result=\"{result}\"}}"));
        Ok(Self {
            stored: count("stored")?,
            slots_full: count("slots_full")?,
            spaced: count("spaced")?,
            passed: count("passed")?,
            expired: count("expired")?,
        })
    }

    /// What was added since.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            stored: self.stored - before.stored,
            slots_full: self.slots_full - before.slots_full,
            spaced: self.spaced - before.spaced,
            passed: self.passed - before.passed,
            expired: self.expired - before.expired,
        }
    }
}

/// The samples of one leg at one port of the far end, beside the truth.
#[derive(Debug, Default)]
pub(super) struct Judged {
    pub(super) count: [usize; 3],
    pub(super) rtt: Vec<u64>,
    pub(super) truth: Vec<u64>,
    pub(super) beyond_delay: Vec<f64>,
    pub(super) beyond_log: Vec<f64>,
    pub(super) unlogged: usize,
}

impl Judged {
    /// Judges samples of the remote leg; the figures are of prompt ones.
    pub(super) fn of<'a>(samples: impl Iterator<Item = &'a Sample>, wire: &WireTruth) -> Self {
        let mut judged = Self::default();
        for sample in samples.filter(|sample| sample.leg == Leg::Remote) {
            judged.count[sample.echo as usize] += 1;
            let Some(truth) = wire.truth(sample) else {
                judged.unlogged += 1;
                continue;
            };
            if sample.echo == Echo::Prompt {
                judged.rtt.push(sample.rtt_ns);
                judged.truth.push(truth.beyond_ns);
                let rtt = float(sample.rtt_ns);
                judged.beyond_delay.push(rtt - float(truth.delay_ns));
                judged.beyond_log.push(rtt - float(truth.beyond_ns));
            }
        }
        judged
    }
}

/// Round trips of one leg and of kinds of echo at a server's port.
pub(super) fn times(samples: &[Sample], leg: Leg, echoes: &[Echo], port: u16) -> Option<Spread> {
    let fits = |s: &&Sample| {
        s.leg == leg && echoes.contains(&s.echo) && (s.dport == port || s.sport == port)
    };
    Spread::of_times(samples.iter().filter(fits).map(|sample| sample.rtt_ns))
}
