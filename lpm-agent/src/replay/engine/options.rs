//! TCP packets whose options were cut by the snap length.

use std::sync::atomic::Ordering::Relaxed;

use lpm_common::{
    hash,
    layout::{Method, Methods},
    matcher::state,
    packet::{Direction, FlowKey, Meta, Wrap, flag},
    parse::{self, Link, tunnel::Within},
    pipeline::{
        self,
        tunnel::{self, Unwrapped},
    },
    table,
};

use super::{
    super::{
        bytes::Captured,
        cut::{self, Cut},
    },
    Engine, KEPT,
};

impl Engine {
    /// Measures a TCP packet whose options were cut. False: the packet is no such packet.
    pub(super) fn options_cut(&self, bytes: &Captured<'_>, left: &Unwrapped, meta: &Meta) -> bool {
        // A longer capture holds all headers.
        if bytes.data.len() >= KEPT || bytes.data.len() >= bytes.len as usize {
            return false;
        }
        let Some(cut) = self.read_cut(bytes, left, meta) else {
            return false;
        };
        let packet = &cut.packet;
        let direction = self.settings.local.inside(self, packet, meta.ifindex);
        if cut.may_have_timestamps {
            self.optionless.set(self.optionless.get() + 1);
            self.cut.set(true);
            let key = packet.key(direction, meta.ifindex);
            if packet.head.has(flag::SYN) || self.is_timed(&key, direction) {
                // Other packets decide by which method the flow's data is measured.
                let handshake = self.settings.methods.0 & Method::Handshake.bit();
                self.methods.set(Methods(handshake));
            }
        }
        let inner = tunnel::meta_of(left, meta);
        pipeline::enter(packet, &self.context(inner, Link::Ethernet, direction));
        self.methods.set(self.settings.methods);
        self.cut.set(false);
        true
    }

    /// Reads the packet. The usual path counts packets that are skipped.
    fn read_cut(&self, bytes: &Captured<'_>, left: &Unwrapped, meta: &Meta) -> Option<Cut> {
        let within = Within::new(*bytes, left.base, left.len);
        let link = if left.is_ip { Link::Ip } else { Link::Ethernet };
        let inner = tunnel::meta_of(left, meta);
        let network = parse::network(&within, link, &inner, self.settings.methods).ok()?;
        if pipeline::is_datagram(&network) {
            return None;
        }
        let mut cut = cut::read(within, &network)?;
        if left.level != 0 {
            cut.packet.wrap = Wrap {
                inner_tags: cut.packet.segment,
                ..left.wrap
            };
            cut.packet.segment = left.segment;
        }
        Some(cut)
    }

    /// True if a direction of a flow is measured by timestamps.
    fn is_timed(&self, key: &FlowKey, direction: Direction) -> bool {
        let entry = table::find(self, hash::of_key(self, key));
        entry.is_some_and(|entry| {
            let state = entry.hot[direction.index()].state.load(Relaxed);
            state & (state::HAS_TSVAL | state::SEQ) == state::HAS_TSVAL
        })
    }
}
