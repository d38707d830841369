//! The active half: probes between two ends, and what their times mean.
//!
//! [`sender`] sends probes, [`reflector`] answers them. [`socket`] has the kernel's times of packets,
//! [`clock`] what this machine's clock claims, and whether it was set. The rest is pure and needs no
//! socket: [`offset`] bounds the offset between two clocks and each way's delay, [`statistics`] makes
//! figures of packets, [`schedule`] says who probes whom, and when. Nothing here needs a kernel
//! program.
//!
//! [`sweep`] probes by many source ports, so by many paths. [`vote`] names what many results have in
//! common. Both judge by [`chance`].

pub mod agent;
pub mod allow;
pub mod chance;
pub mod clock;
pub mod fate;
pub mod icmp;
pub mod mac;
pub mod news;
pub mod offset;
pub mod path;
pub mod plan;
pub mod queueing;
pub mod rate;
pub mod reflector;
pub mod report;
pub mod schedule;
pub mod sender;
pub mod sessions;
pub mod socket;
pub mod statistics;
pub mod summary;
pub mod sweep;
pub mod tcp;
pub mod verdict;
pub mod vote;

/// The four times of a packet and its answer, in nanoseconds since 1970, each by its own end's
/// clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamps {
    /// T1: the sender sends the packet.
    pub sent: i64,
    /// T2: the reflector receives it.
    pub reflector_received: i64,
    /// T3: the reflector sends the answer.
    pub reflector_sent: i64,
    /// T4: the sender receives the answer.
    pub received: i64,
}

impl Stamps {
    /// The round trip without the reflector's dwell, in nanoseconds: (T4 - T1) - (T3 - T2).
    ///
    /// None: the times are impossible. One end's clock was changed in between, or the reflector does
    /// not tell the truth.
    #[must_use]
    pub fn round_trip(&self) -> Option<i64> {
        let whole = self.received.checked_sub(self.sent)?;
        whole
            .checked_sub(self.dwell()?)
            .filter(|round_trip| *round_trip >= 0)
    }

    /// How long the reflector kept the packet, in nanoseconds: T3 - T2. None: less than nothing.
    #[must_use]
    pub fn dwell(&self) -> Option<i64> {
        let dwell = self.reflector_sent.checked_sub(self.reflector_received)?;
        Some(dwell).filter(|dwell| *dwell >= 0)
    }

    /// T4 - T1, in nanoseconds.
    fn whole(&self) -> i128 {
        i128::from(self.received) - i128::from(self.sent)
    }

    /// T2 - T1: the forward delay and the offset of the reflector's clock.
    fn forward(&self) -> i64 {
        self.reflector_received.saturating_sub(self.sent)
    }

    /// T4 - T3: the backward delay less the offset of the reflector's clock.
    fn backward(&self) -> i64 {
        self.received.saturating_sub(self.reflector_sent)
    }
}
