//! How long packets wait in the queues of this machine's devices: from the time at which a packet
//! entered the last queue (`SCHED`) to that at which the device took it (`SND`). A full queue here
//! looks like a slow network to everybody else.

use std::collections::VecDeque;

use super::{
    socket::{Notice, Stage},
    statistics::Distribution,
};

/// Packets of which only one time is known yet.
const WAITING: usize = 256;

/// Packets whose waiting time is kept.
const KEPT: usize = 1 << 20;

/// The times in queues of a sender's packets.
#[derive(Clone, Debug, Default)]
pub struct Queueing {
    /// A packet's number, and when it entered a queue, in nanoseconds.
    queued: VecDeque<(u64, i64)>,
    waited: Vec<i64>,
    untold: u64,
}

impl Queueing {
    /// Takes news from the error queue. Of a tunnel and a bridge there are several times of entering:
    /// the last one counts.
    pub fn take(&mut self, notice: &Notice) {
        let Notice::Sent {
            packet,
            stage,
            stamp,
        } = notice
        else {
            return;
        };
        let at = self.queued.iter().rposition(|(queued, _)| queued == packet);
        match (stage, at) {
            (Stage::Queued, Some(at)) => self.queued[at].1 = stamp.nanoseconds,
            (Stage::Queued, None) => {
                if self.queued.len() >= WAITING {
                    self.queued.pop_front();
                }
                self.queued.push_back((*packet, stamp.nanoseconds));
            }
            (Stage::Sent, Some(at)) => {
                let queued = self.queued.remove(at).map(|(_, queued)| queued);
                let waited = queued.map(|queued| stamp.nanoseconds.saturating_sub(queued));
                // A card's clock may be another one.
                match waited.filter(|waited| *waited >= 0) {
                    Some(waited) if self.waited.len() < KEPT => self.waited.push(waited),
                    _ => self.untold += 1,
                }
            }
            (Stage::Sent, None) => self.untold += 1,
        }
    }

    /// How long the packets waited, in nanoseconds.
    #[must_use]
    pub fn waited(&self) -> Distribution {
        self.waited.iter().copied().collect()
    }

    /// Packets that a device took, and of which it is not known how long they waited.
    #[must_use]
    pub fn untold(&self) -> u64 {
        self.untold
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::active::socket::{Source, Stamp};

    fn notice(packet: u64, stage: Stage, nanoseconds: i64) -> Notice {
        let stamp = Stamp {
            nanoseconds,
            source: Source::Kernel,
        };
        Notice::Sent {
            packet,
            stage,
            stamp,
        }
    }

    #[test]
    fn a_packet_waits_from_its_last_queue_to_the_device() {
        let mut queueing = Queueing::default();
        for notice in [
            notice(1, Stage::Queued, 100),
            notice(2, Stage::Queued, 150),
            // The queue below the tunnel.
            notice(1, Stage::Queued, 200),
            notice(1, Stage::Sent, 260),
            notice(2, Stage::Sent, 190),
            notice(3, Stage::Sent, 300),
            notice(4, Stage::Queued, 500),
            notice(4, Stage::Sent, 400),
        ] {
            queueing.take(&notice);
        }
        let waited = queueing.waited();
        assert_eq!(
            (waited.count(), waited.min(), waited.max()),
            (2, Some(40), Some(60))
        );
        assert_eq!(queueing.untold(), 2, "one without, one impossible");
    }

    #[test]
    fn packets_that_no_device_takes_are_forgotten() {
        let mut queueing = Queueing::default();
        for packet in 0..10_000 {
            queueing.take(&notice(packet, Stage::Queued, 0));
        }
        assert_eq!(queueing.queued.len(), WAITING);
        assert_eq!(queueing.waited().count(), 0);
    }
}
