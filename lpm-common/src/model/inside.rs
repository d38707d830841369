//! The programs that look into tunnels.

use super::{Arrival, Model};
use crate::{
    packet::Meta,
    pipeline::{
        self, Known, Quick,
        inside::{self, Step, Unwrapped},
    },
    query::Query,
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
        let question = |query: &mut Query| pipeline::question(query, seeds, self, self);
        if pipeline::is_datagram(&network) {
            let first = pipeline::datagram(&frame, meta, &network, direction, self);
            pipeline::questions(&frame, first, direction, self, question);
            return;
        }
        let Some(packet) = inside::transport(frame, &left, meta, &network, self) else {
            return;
        };
        if left.level == 0 {
            let way = (meta.ifindex, direction);
            let first = pipeline::message(&frame, &packet, way, seeds, self, self);
            pipeline::questions(&frame, first, direction, self, question);
        }
        let inner = inside::meta_of(&left, meta);
        pipeline::enter(&packet, &inner, direction, seeds, self, self);
    }
}
