//! The programs that look into tunnels.

use super::{Arrival, Model};
use crate::{
    packet::Meta,
    pipeline::{
        self,
        inside::{self, Step, Unwrapped},
    },
};

impl Model {
    pub(super) fn packet_inside(&self, frame: &[u8], meta: &Meta, arrival: &Arrival) {
        let way = (arrival.link, arrival.direction);
        let seeds = &self.settings.seeds;
        if inside::quick(&frame, meta, way, seeds, (self, &self.tunnels), self) {
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
