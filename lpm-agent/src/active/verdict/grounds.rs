//! On what grounds a verdict stands: figures, and the thresholds beside them.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{Baseline, LOSS, Neighbour, Passive, Paths, Presence, Refused, STALL, Surroundings};

/// Why a verdict is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No figure is beyond its threshold.
    Fine,
    /// A filter told that it prohibits the probes.
    Prohibited,
    /// No probe is answered, while others' flows between the nodes are.
    SilentWhileFlowsLive,
    /// The peer does not answer ARP or ND.
    NeighbourFailed,
    /// A router, or this machine, told that the host cannot be reached.
    HostUnreachable,
    /// The peer was in the API, or in the names file, and is not any more.
    NotInApi,
    /// The peer's kernel told that no program has the port.
    PortClosed,
    /// The kernel here, or a router, told that there is no way.
    NetworkUnreachable,
    /// No probe is answered, and nothing else is known.
    Silent,
    /// Some paths are bad, and others are not.
    SomePaths,
    /// The round trip by kernel times is beyond the baseline.
    Delay,
    /// The reflector's program keeps the probes.
    ReflectorStalled,
    /// The program on this machine takes the answers late.
    SenderStalled,
    /// Probes are lost.
    Loss,
    /// A clock was set, left its rate, or contradicts itself.
    ClockChanged,
    /// The bounds of the offset refute what the clocks claim.
    ClaimsRefuted,
    /// The reflector's times cannot be.
    ImpossibleTimes,
}

/// The figures of a verdict. Times are in nanoseconds. What was not measured is absent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Grounds {
    /// Which figure decided.
    pub reason: Reason,
    /// DSCP of the session.
    pub dscp: u8,
    /// Trains that the counts are of.
    pub rounds: usize,
    /// Probes in these trains.
    pub sent: u32,
    /// Probes that were answered in time.
    pub answered: u32,
    /// Probes without an answer in time, refused ones included.
    pub lost: u32,
    /// Answers that came late.
    pub late: u32,
    /// Refused probes.
    pub refused: Refused,
    /// Share of lost probes in these trains.
    pub loss_ratio: f64,
    /// Share from which on it is a loss.
    pub loss_limit: f64,
    /// Median round trip of the last train.
    #[serde(
        rename = "rtt_p50_ns",
        serialize_with = "nanoseconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub rtt_p50: Option<Duration>,
    /// 99th percentile of the last train's round trips.
    #[serde(
        rename = "rtt_p99_ns",
        serialize_with = "nanoseconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub rtt_p99: Option<Duration>,
    /// The link's normal round trip.
    #[serde(
        rename = "baseline_rtt_ns",
        serialize_with = "nanoseconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub baseline: Option<Duration>,
    /// Trains that the baseline is made of.
    pub baseline_rounds: usize,
    /// Median round trip from which on it is a delay.
    #[serde(
        rename = "rtt_limit_ns",
        serialize_with = "nanoseconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub rtt_limit: Option<Duration>,
    /// Median time in the reflector in the last train.
    #[serde(
        rename = "dwell_p50_ns",
        serialize_with = "nanoseconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub dwell: Option<Duration>,
    /// Median time from this kernel receiving an answer to the program taking it.
    #[serde(
        rename = "wait_p50_ns",
        serialize_with = "nanoseconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub wait: Option<Duration>,
    /// Answers in these trains that the reflector kept for too long.
    pub kept: u32,
    /// Answers of the last train that waited too long for this machine's program.
    pub waited: u32,
    /// Time from which on a packet is kept, or waits, for too long.
    #[serde(rename = "stall_limit_ns", serialize_with = "nanoseconds")]
    pub stall_limit: Option<Duration>,
    /// Answers of the last train that lack a kernel's time.
    pub untimed: u32,
    /// Answers of the last train whose times count for nothing.
    pub void: u32,
    /// How often a clock changed in these trains.
    pub clock_changes: u32,
    /// Whether the clocks' claims were refuted in the last train.
    pub claims_refuted: bool,
    /// What the kernel knows of the neighbour. Absent: nothing, or nobody asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub neighbour: Option<&'static str>,
    /// Whether the API has the peer. Absent: nobody asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence: Option<Presence>,
    /// What passive measurement knows. Absent: nothing, or nobody asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passive: Option<&'static str>,
    /// The paths, if several were tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paths: Option<Paths>,
}

impl Default for Grounds {
    fn default() -> Self {
        Self {
            reason: Reason::Fine,
            dscp: 0,
            rounds: 0,
            sent: 0,
            answered: 0,
            lost: 0,
            late: 0,
            refused: Refused::default(),
            loss_ratio: 0.0,
            loss_limit: LOSS,
            rtt_p50: None,
            rtt_p99: None,
            baseline: None,
            baseline_rounds: 0,
            rtt_limit: None,
            dwell: None,
            wait: None,
            kept: 0,
            waited: 0,
            stall_limit: Some(STALL),
            untimed: 0,
            void: 0,
            clock_changes: 0,
            claims_refuted: false,
            neighbour: None,
            presence: None,
            passive: None,
            paths: None,
        }
    }
}

impl Grounds {
    /// Notes the baseline.
    #[must_use]
    pub(super) fn beside(mut self, baseline: &Baseline) -> Self {
        self.baseline = baseline.median();
        self.baseline_rounds = baseline.rounds();
        self.rtt_limit = baseline.limit();
        self
    }

    /// Notes what was asked while the probes were silent.
    #[must_use]
    pub(super) fn among(mut self, surroundings: &Surroundings) -> Self {
        self.neighbour = match surroundings.neighbour {
            Neighbour::Unknown => None,
            Neighbour::Confirmed(_) => Some("confirmed"),
            Neighbour::Failed => Some("failed"),
        };
        self.presence = Some(surroundings.presence);
        self.passive = match surroundings.passive {
            Passive::Unknown => None,
            Passive::Silent => Some("silent"),
            Passive::Alive(_) => Some("alive"),
        };
        self
    }
}

impl Grounds {
    /// The grounds in a sentence, for the log.
    #[must_use]
    pub fn explain(&self) -> String {
        let time = |time: Option<Duration>| match time {
            Some(time) => format!("{time:.1?}"),
            None => "unknown".to_owned(),
        };
        match self.reason {
            Reason::Fine => format!(
                "no figure is beyond its threshold; median round trip {}, baseline {}, {} of {} \
                 probes lost",
                time(self.rtt_p50),
                time(self.baseline),
                self.lost,
                self.sent
            ),
            Reason::Prohibited => "a filter told that it prohibits the probes".to_owned(),
            Reason::SilentWhileFlowsLive => {
                "no probe is answered, while TCP between the two nodes is: a filter drops the \
                 probes, or the reflector stands still"
                    .to_owned()
            }
            Reason::NeighbourFailed => "the peer answers no ARP or ND".to_owned(),
            Reason::HostUnreachable => {
                "a router, or this machine, told that the host cannot be reached".to_owned()
            }
            Reason::NotInApi => "no probe is answered, and the API has the node no more".to_owned(),
            Reason::PortClosed => {
                "the peer's kernel told that no program has the port: is its agent running?"
                    .to_owned()
            }
            Reason::NetworkUnreachable => "there is no way to the peer's network".to_owned(),
            Reason::Silent => "no probe is answered".to_owned(),
            Reason::SomePaths => {
                let paths = self.paths.unwrap_or(Paths { bad: 0, of: 0 });
                format!("{} of {} paths are bad", paths.bad, paths.of)
            }
            Reason::Delay => format!(
                "the median round trip by kernel times is {}, above {}; its baseline is {}",
                time(self.rtt_p50),
                time(self.rtt_limit),
                time(self.baseline)
            ),
            Reason::ReflectorStalled => format!(
                "the reflector kept {} of {} answers for {} or longer, though its kernel had the \
                 probes in time",
                self.kept,
                self.answered + self.late,
                time(self.stall_limit)
            ),
            Reason::SenderStalled => format!(
                "this agent took {} answers {} or more after its kernel had them",
                self.waited,
                time(self.stall_limit)
            ),
            Reason::Loss => format!("{} of {} probes were lost", self.lost, self.sent),
            Reason::ClockChanged => {
                "a clock was set, left its rate, or contradicts itself".to_owned()
            }
            Reason::ClaimsRefuted => "the probes refute what the clocks claim".to_owned(),
            Reason::ImpossibleTimes => "the reflector's times cannot be".to_owned(),
        }
    }
}

#[expect(clippy::ref_option, reason = "serde calls it so")]
fn nanoseconds<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    let nanoseconds = time.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    nanoseconds.serialize(to)
}
