//! What an answer tells of its probe.

use lpm_common::stamp::Timestamp;

use super::{Answer, Flight, Sender};
use crate::active::{
    Stamps,
    report::{Answered, At, Sources},
};

impl Sender {
    /// Makes of an answer what is known of the probe.
    pub(super) fn judge(&mut self, probe: u32, flight: &Flight, answer: &Answer) -> Answered {
        let packet = &answer.reply.packet;
        let extensions = &answer.reply.extensions;
        let near = u64::try_from(answer.received.nanoseconds).unwrap_or(0);
        let read = |timestamp: Timestamp| {
            let nanoseconds = timestamp.to_unix(packet.error.format(), near)?;
            i64::try_from(nanoseconds).ok()
        };
        let agent = extensions.agent;
        let (sent_there, sent_source) = match answer.follow_up {
            Some((timestamp, source)) => (timestamp, source),
            None => (packet.timestamp, agent.map_or(At::Peer, |_| At::User)),
        };
        let is_set = self.was_set(flight, answer);
        let stamps = (|| {
            let stamps = Stamps {
                sent: flight.sent.nanoseconds,
                reflector_received: read(packet.receive)?,
                reflector_sent: read(sent_there)?,
                received: answer.received.nanoseconds,
            };
            stamps.round_trip()?;
            (!is_set).then_some(stamps)
        })();
        let delays = stamps.and_then(|stamps| {
            // A contradiction begins the window anew, and this packet is its first.
            let _ = self.offset.take([(flight.monotonic, stamps)]);
            self.offset.delays(flight.monotonic, &stamps)
        });
        Answered {
            probe,
            stamps,
            sources: Sources {
                sent: At::of(flight.sent.source),
                reflector_received: agent.map_or(At::Peer, |agent| At::of_agent(agent.receive)),
                reflector_sent: sent_source,
                received: At::of(answer.received.source),
            },
            delays,
            ttl: packet.ttl,
            dscp_forward: extensions.class.map(|class| class.dscp),
            dscp_backward: answer.class.map(|class| class >> 2),
        }
    }

    /// Whether a clock was set while the packet was on its way. Then the window begins anew.
    fn was_set(&mut self, flight: &Flight, answer: &Answer) -> bool {
        let mut is_set = flight.changes != answer.changes;
        if let Some(agent) = answer.reply.extensions.agent {
            let before = self.changes_there.replace(agent.clock_changes);
            is_set |= before.is_some_and(|before| before != agent.clock_changes);
        }
        if is_set {
            self.offset.restart();
        }
        is_set
    }
}
