//! The programs that look into tunnels.

use super::{Arrival, Model};
use crate::{
    packet::Meta,
    pipeline::{
        self, Known, Quick,
        inside::{self, Step, Unwrapped},
    },
};

impl Model {
    pub(super) fn packet_inside(&self, frame: &[u8], meta: &Meta, arrival: &Arrival) {
        let way = (arrival.link, arrival.direction);
        let seeds = &self.settings.seeds;
        let quick = |hand_over: &mut dyn FnMut(&Known)| {
            let tables = (self, &self.tunnels);
            inside::quick(&frame, meta, way, seeds, tables, self, hand_over)
        };
        if pipeline::after(quick, arrival.direction, self, self) != Quick::Uncommon {
            return;
        }
        let mut left = Unwrapped::whole(meta, arrival.link);
        loop {
            match inside::unwrap(frame, &left, meta, &self.tunnels, self) {
                Step::Plain => break,
                Step::Entered(inner) => left = inner,
                Step::Skipped => return,
            }
        }
        let Some(network) = inside::network(frame, &left, meta, self) else {
            return;
        };
        let direction = arrival.direction;
        if pipeline::is_datagram(&network) {
            let query = pipeline::datagram(&frame, meta, &network, direction, self);
            pipeline::question(&query, seeds, self, self);
            return;
        }
        let Some(packet) = inside::transport(frame, &left, meta, &network, self) else {
            return;
        };
        if left.level == 0 {
            let query = pipeline::message(&frame, &packet, meta.ifindex, direction, self);
            pipeline::question(&query, seeds, self, self);
        }
        let inner = inside::meta_of(&left, meta);
        pipeline::enter(&packet, &inner, direction, seeds, self, self);
    }
}
