//! The model's run through the programs that look into tunnels.

use super::Model;
use crate::{
    pipeline::{
        self, FastPath, PacketContext, ParsedFlowPacket,
        tunnel::{self, Step, Unwrapped},
    },
    query::Query,
};

impl Model {
    pub(super) fn packet_inside(&self, frame: &[u8], cx: &PacketContext<'_, Self, Self>) {
        let fast_path = |stash: &mut dyn FnMut(&ParsedFlowPacket)| {
            tunnel::fast_path(&frame, cx, &self.tunnels, stash)
        };
        if pipeline::after(cx, fast_path) != FastPath::Uncommon {
            return;
        }
        let meta = &cx.meta;
        let mut left = Unwrapped::whole(meta, cx.link);
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
        let question = |query: &mut Query| pipeline::take_query(query, self, self);
        if pipeline::is_datagram(&network) {
            let first = pipeline::datagram(&frame, &network, cx);
            pipeline::queries(&frame, first, cx, question);
            return;
        }
        let Some(packet) = tunnel::transport(frame, &left, meta, &network, self) else {
            return;
        };
        if left.level == 0 {
            let first = pipeline::message(&frame, &packet, cx);
            pipeline::queries(&frame, first, cx, question);
        }
        pipeline::enter(&packet, &cx.with(tunnel::meta_of(&left, meta)));
    }
}
