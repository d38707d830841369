//! Method `handshake`: SYN to SYN-ACK, and SYN-ACK to ACK (RFC 9293 section
//! 3.5).
//!
//! A SYN is stamped in the first slot of its direction, whatever method
//! measures the flow's data. The packet that acknowledges the SYN makes the
//! sample.

use core::sync::atomic::Ordering::Relaxed;

use super::{
    Clock, FlowPacket, echo, serial_gt,
    slots::{put, void},
    state,
};
use crate::{
    counter::Counter,
    env::Env,
    layout::{Echo, Method},
    packet::{TcpHead, flag},
};

/// The slot of a SYN.
const SLOT: usize = 0;

/// Whether the packet may have to do with a handshake.
#[inline(always)]
pub(super) fn concerns(head: &TcpHead, state: u32, other_state: u32) -> bool {
    head.has(flag::SYN) || (state | other_state) & state::HANDSHAKE != 0
}

/// Stamps a SYN, unless it was sent again (`again`) or the method is off.
/// Returns the direction's
/// new state.
#[inline(always)]
pub(super) fn stamp<E: Env>(
    at: &FlowPacket<'_>,
    head: &TcpHead,
    again: bool,
    env: &E,
    state: u32,
) -> u32 {
    let slots = &at.entry.slots[at.direction.index()];
    let measured = env.methods().has(Method::Handshake);
    if measured && state & state::HANDSHAKE != 0 {
        // If this is a SYN, it was sent again, and nobody knows which one will
        // be answered (Karn). If not, the SYN's answer has come, or went
        // another way.
        void(slots, env);
    }
    if !head.has(flag::SYN) {
        return state & !state::HANDSHAKE;
    }
    if !again && !is_late(head, at.other_state()) {
        if measured {
            let units = Clock::new(env).units();
            put(slots, SLOT, head.seq.wrapping_add(1), units);
        }
    } else if state & state::HANDSHAKE == 0 {
        return state;
    }
    state | state::HANDSHAKE
}

/// Whether the answer to a SYN has passed before it (two CPUs, two queues of a
/// capture). The answer to a SYN is the other end's SYN; the answer to a
/// SYN-ACK is whatever the other end sends after its SYN.
#[inline(always)]
fn is_late(head: &TcpHead, other_state: u32) -> bool {
    let other_is_at_it = other_state & state::HANDSHAKE != 0;
    if head.has(flag::ACK) {
        other_state != 0 && !other_is_at_it
    } else {
        other_is_at_it
    }
}

/// Matches a packet against the SYN of the other direction.
#[inline(always)]
pub(super) fn answer<E: Env>(at: &FlowPacket<'_>, head: &TcpHead, early: bool, env: &E) {
    let reverse = at.direction.reverse().index();
    let other = &at.entry.hot[reverse];
    if !head.has(flag::ACK) || other.state.load(Relaxed) & state::HANDSHAKE == 0 {
        return;
    }
    let slot = &at.entry.slots[reverse].stamps[SLOT];
    let stamp = slot.load(Relaxed);
    let id = (stamp >> 32) as u32;
    // The number may be anything from the SYN itself to the end of the data
    // that came with it (RFC 7413: data on a SYN).
    let end = other.seq_end.load(Relaxed);
    let covers = head.ack.wrapping_sub(id) <= end.wrapping_sub(id);
    let beyond = early && serial_gt(head.ack, end);
    if stamp == 0 || !(covers || beyond) {
        return;
    }
    slot.store(0, Relaxed);
    if !covers {
        // The packet answers what has not passed yet.
        env.count(Counter::StampVoided, 1);
        return;
    }
    let echo = if head.has(flag::SYN) {
        Echo::Prompt
    } else if head.payload != 0 || head.has(flag::FIN) {
        Echo::Data
    } else {
        Echo::Lone
    };
    let mut clock = Clock::new(env);
    let units = clock.units().wrapping_sub(stamp as u32);
    echo::sample(at, &mut clock, (units, id), (echo, Method::Handshake));
}
