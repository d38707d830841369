//! The model's run through the programs that look into tunnels.

use super::{Arrival, Model};
use crate::{
    packet::Meta,
    pipeline::{
        self, FastPath, ParsedFlowPacket,
        tunnel::{self, Step, Unwrapped},
    },
    query::Query,
};

impl Model {
    pub(super) fn packet_inside(&self, frame: &[u8], meta: &Meta, arrival: &Arrival) {
        let way = (arrival.link, arrival.direction);
        let seeds = &self.settings.seeds;
        let fast_path = |stash: &mut dyn FnMut(&ParsedFlowPacket)| {
            let tables = (self, &self.tunnels);
            tunnel::fast_path(&frame, meta, way, seeds, tables, self, stash)
        };
        if pipeline::after(fast_path, arrival.direction, self, self) != FastPath::Uncommon {
            return;
        }
        let mut left = Unwrapped::whole(meta, arrival.link);
        loop {
            match tunnel::unwrap(frame, &left, meta, &self.tunnels, self) {
                Step::Plain => break,
                Step::Entered(inner) => left = inner,
                Step::Skipped => return,
            }
        }
        let Some(network) = tunnel::network(frame, &left, meta, self) else {
            return;
        };
        let direction = arrival.direction;
        let question = |query: &mut Query| pipeline::take_query(query, seeds, self, self);
        if pipeline::is_datagram(&network) {
            let first = pipeline::datagram(&frame, meta, &network, direction, self);
            pipeline::queries(&frame, first, direction, self, question);
            return;
        }
        let Some(packet) = tunnel::transport(frame, &left, meta, &network, self) else {
            return;
        };
        if left.level == 0 {
            let way = (meta.ifindex, direction);
            let first = pipeline::message(&frame, &packet, way, seeds, self, self);
            pipeline::queries(&frame, first, direction, self, question);
        }
        let inner = tunnel::meta_of(&left, meta);
        pipeline::enter(&packet, &inner, direction, seeds, self, self);
    }
}
