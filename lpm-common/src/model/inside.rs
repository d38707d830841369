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
        let packet = inside::network(frame, &left, meta, self)
            .and_then(|network| inside::transport(frame, &left, meta, &network, self));
        if let Some(packet) = packet {
            let meta = inside::meta_of(&left, meta);
            pipeline::enter(&packet, &meta, arrival.direction, seeds, self, self);
        }
    }
}
