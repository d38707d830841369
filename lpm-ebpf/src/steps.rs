//! The last steps with a packet, which all hooks share.
//!
//! Steps are functions, one after the other: so their stack and registers are
//! not those of the packets that need none of them, nor each other's. What one
//! finds for the next goes through a map, where the verifier forgets by which
//! of the many ways it got there: on the stack each way would be followed to
//! the end.

use aya_ebpf::bindings::__sk_buff;
use lpm_common::{
    matcher::SHAKE,
    packet::Direction,
    parse::{Network, Packet},
    pipeline::{self, Known, SEQ, TS, inside::Unwrapped},
    query::{self, Query},
};

use crate::{env::Kernel, maps::SCRATCH, store::Store};

/// This CPU's packet, between the steps.
#[derive(Clone, Copy)]
pub struct Scratch {
    pub(crate) network: Network,
    pub(crate) packet: Packet,
    pub(crate) left: Unwrapped,
    pub(crate) known: Known,
    pub(crate) query: Query,
    /// The question's.
    pub(crate) fingerprint: u64,
    pub(crate) sample: query::Sample,
}

#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: this CPU's own value; TC programs do not interrupt each other on
    // one CPU, and no step keeps its reference over a call of another.
    SCRATCH
        .get_ptr_mut(0)
        .map(|scratch| unsafe { &mut *scratch })
}

/// Hands a packet over to [`finish`].
#[inline(never)]
pub(crate) fn hand_over(known: &Known) {
    if let Some(scratch) = scratch() {
        scratch.known = *known;
    }
}

/// Measures the packet that was handed over.
#[inline(always)]
pub(crate) fn finish(skb: *mut __sk_buff, direction: Direction) {
    match direction {
        Direction::FromLocal => of_direction::<false>(skb),
        Direction::ToLocal => of_direction::<true>(skb),
    }
}

const fn direction(to_local: bool) -> Direction {
    if to_local {
        Direction::ToLocal
    } else {
        Direction::FromLocal
    }
}

#[inline(always)]
fn of_direction<const TO_LOCAL: bool>(skb: *mut __sk_buff) {
    let next = prepare::<TO_LOCAL>(skb);
    if next & SHAKE != 0 {
        shake::<TO_LOCAL>(skb);
    }
    match next & 0xff {
        TS => by_ts::<TO_LOCAL>(skb),
        SEQ => by_seq::<TO_LOCAL>(skb),
        _ => {}
    }
}

/// Which step is the last one.
#[inline(never)]
fn prepare<const TO_LOCAL: bool>(skb: *mut __sk_buff) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let env = Kernel::new(skb);
    let next = pipeline::prepare(&scratch.known, direction(TO_LOCAL), &Store, &env);
    scratch.known.next = next;
    next
}

#[inline(never)]
fn shake<const TO_LOCAL: bool>(skb: *mut __sk_buff) {
    let Some(scratch) = scratch() else { return };
    let env = Kernel::new(skb);
    pipeline::shake(&scratch.known, direction(TO_LOCAL), &Store, &env);
}

#[inline(never)]
fn by_ts<const TO_LOCAL: bool>(skb: *mut __sk_buff) {
    let Some(scratch) = scratch() else { return };
    let env = Kernel::new(skb);
    pipeline::by_ts(&scratch.known, direction(TO_LOCAL), &Store, &env);
}

#[inline(never)]
fn by_seq<const TO_LOCAL: bool>(skb: *mut __sk_buff) {
    let Some(scratch) = scratch() else { return };
    let env = Kernel::new(skb);
    pipeline::by_seq(&scratch.known, direction(TO_LOCAL), &Store, &env);
}
