//! The steps for packets and queries that have no entry in their own VLAN
//! (`lpm_common::vlan`). They pass results on through a map, as those of
//! [`crate::slow_path`] do.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use lpm_common::{packet::Direction, query::Role, vlan};

use crate::{
    context::Context,
    env::{KernelEnv, count},
    slow_path::{Step, scratch},
    store::Store,
};

macro_rules! places {
    ($($context:ty, $direction:ident: $place:ident;)*) => { $(
        global! {
            /// Places the packet's flow. Returns not 0 if the flow needs an
            /// entry.
            fn $place(ctx: $context) {
                let Some(scratch) = scratch() else { return 0 };
                let way = (ctx.ifindex(), Direction::$direction);
                let env = KernelEnv::new(ctx);
                let (packet, own) = (&scratch.packet, scratch.fingerprint);
                let placed = vlan::place(packet, own, way, &Store, &env);
                scratch.fingerprint = placed.fingerprint;
                scratch.packet.segment = placed.segment;
                u32::from(placed.is_new_flow)
            }
        }
    )* };
}

places! {
    *mut __sk_buff, FromLocal: lpm_place_from;
    *mut __sk_buff, ToLocal: lpm_place_to;
    *mut xdp_md, ToLocal: lpm_place_xdp;
}

global! {
    /// Stores a query's VLAN, or finds the VLAN of the query that an answer
    /// belongs to.
    pub(crate) fn lpm_asked() {
        let Some(scratch) = scratch() else { return 0 };
        let query = &mut scratch.query;
        scratch.own_segment = query.key.segment;
        if query.head.role == Role::Asks {
            vlan::query::ask(query, &Store);
            return 0;
        }
        let asked = vlan::query::answer(query, scratch.fingerprint, &Store);
        if let Some(counter) = asked.counter {
            count(counter, 1);
        }
        scratch.fingerprint = asked.fingerprint;
        query.key.segment = asked.segment;
        0
    }
}

global! {
    /// Undoes [`lpm_asked`]: the packet's next message is in the packet's own
    /// VLAN.
    pub(crate) fn lpm_asked_no_more() {
        let Some(scratch) = scratch() else { return 0 };
        scratch.query.key.segment = scratch.own_segment;
        0
    }
}

/// The steps at TC, by direction.
pub(crate) const OF_SKB: [Step<*mut __sk_buff>; 2] = [lpm_place_from, lpm_place_to];

/// The steps at XDP, where packets come only to the local end.
pub(crate) const OF_XDP: [Step<*mut xdp_md>; 2] = [lpm_place_xdp; 2];
