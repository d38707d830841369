//! The steps for packets and questions that are not known in their own VLAN
//! (`lpm_common::vlan`), which hand over through the map, as those of
//! [`crate::steps`].

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use lpm_common::{
    packet::Direction,
    query::Role,
    vlan::{self, question},
};

use crate::{
    context::Context,
    env::Kernel,
    settings::Secrets,
    steps::{Step, scratch},
    store::Store,
};

macro_rules! places {
    ($($context:ty, $direction:ident: $place:ident;)*) => { $(
        global! {
            /// Not 0: the flow has to be given an entry.
            fn $place(skb: $context) {
                let Some(scratch) = scratch() else { return 0 };
                let way = (skb.ifindex(), Direction::$direction);
                let env = Kernel::new(skb);
                let (packet, own) = (&scratch.packet, scratch.fingerprint);
                let placed = vlan::place(packet, own, way, &Secrets, &Store, &env);
                scratch.fingerprint = placed.fingerprint;
                scratch.packet.segment = placed.segment;
                u32::from(placed.appears)
            }
        }
    )* };
}

places! {
    *mut __sk_buff, FromLocal: lpm_place_from;
    *mut __sk_buff, ToLocal: lpm_place_to;
    *mut xdp_md, ToLocal: lpm_place_xdp;
}

macro_rules! asked {
    ($($context:ty: $asked:ident;)*) => { $(
        global! {
            /// Leaves word of a question's VLAN, or finds that of an answer's.
            fn $asked(skb: $context) {
                let Some(scratch) = scratch() else { return 0 };
                let query = &mut scratch.query;
                if query.head.role == Role::Asks {
                    question::ask(query, &Secrets, &Store);
                    return 0;
                }
                let (own, env) = (scratch.fingerprint, Kernel::new(skb));
                let asked = question::answer(query, own, &Secrets, &Store, &env);
                scratch.fingerprint = asked.fingerprint;
                query.key.segment = asked.segment;
                0
            }
        }
    )* };
}

asked! {
    *mut __sk_buff: lpm_asked;
    *mut xdp_md: lpm_asked_xdp;
}

/// What a context's own steps are: by direction where a packet's flow has its
/// entry, and the one for questions.
pub struct Vlans<C> {
    pub(crate) place: [Step<C>; 2],
    pub(crate) asked: Step<C>,
}

pub(crate) const OF_SKB: Vlans<*mut __sk_buff> = Vlans {
    place: [lpm_place_from, lpm_place_to],
    asked: lpm_asked,
};

/// At XDP, where packets come only to the local end.
pub(crate) const OF_XDP: Vlans<*mut xdp_md> = Vlans {
    place: [lpm_place_xdp; 2],
    asked: lpm_asked_xdp,
};
