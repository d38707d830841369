//! Chooses the method that a direction is measured by.
//!
//! The first packets decide. Later on, one odd packet with or without the
//! timestamp option changes nothing: some stacks and middleboxes leave the
//! option out of keep-alives (RFC 7323 section 3.2 forbids it). Only several
//! such packets in a row change the method, because a path may begin to strip
//! the option.

use core::sync::atomic::Ordering::Relaxed;

use super::{FlowPacket, seq, sequence::SeqOrder, state};
use crate::{
    env::Env,
    layout::Method,
    packet::{TcpHead, flag},
};

/// Packets in a row, with new data and without the option, that turn a
/// direction with timestamps into one without.
const WITHOUT: u32 = 8;

/// Packets with the option that turn a direction into one with timestamps
/// again. No packet without the option brought new data between them.
const WITH: u32 = 3;

/// Chooses the method for a packet. `fast_ts`: the packet has timestamps that
/// are used. Returns the direction's new state.
#[inline(always)]
pub(super) fn choose<E: Env>(
    at: &FlowPacket<'_>,
    head: &TcpHead,
    (course, timed): (SeqOrder, bool),
    env: &E,
    state: u32,
) -> u32 {
    let by_seq = state & state::SEQ != 0;
    if by_seq && !timed && state & state::STALE == 0 {
        return state;
    }
    let new_data = course != SeqOrder::Nothing && course != SeqOrder::Again && head.payload != 0;
    if timed {
        if !by_seq || !in_a_row(at, env, state, WITH) {
            return if by_seq { state | state::STALE } else { state };
        }
        return seq::stop(at, env, state);
    }
    if by_seq {
        return if new_data {
            state & !state::STALE
        } else {
            state
        };
    }
    if !env.methods().has(Method::Seq) {
        return state;
    }
    let other = at.other_state();
    let undecided = state & (state::HAS_TSVAL | state::STALE) == 0;
    // An acknowledgment alone decides nothing, as it may be a keep-alive. But
    // the other direction, if it is measured by what its packets acknowledge,
    // must understand it.
    let decides = new_data || head.has_any(flag::SYN | flag::FIN);
    if other & state::SEQ != 0 || undecided && decides {
        return seq::start(at, env, state);
    }
    if undecided || !new_data {
        return state;
    }
    if in_a_row(at, env, state, WITHOUT) {
        seq::start(at, env, state)
    } else {
        state | state::STALE
    }
}

/// Counts a packet that does not fit the direction's method. Returns whether
/// there were `most` such packets in a row. [`state::STALE`] marks that the row
/// has begun.
#[inline(always)]
fn in_a_row<E: Env>(at: &FlowPacket<'_>, env: &E, state: u32, most: u32) -> bool {
    let row = &at.entry.cold.stale[at.direction.index()];
    let before = if state & state::STALE == 0 {
        0
    } else {
        row.load(Relaxed) >> state::ROW_SHIFT
    };
    let since = env.jiffies() & state::SINCE;
    row.store((before + 1) << state::ROW_SHIFT | since, Relaxed);
    before + 1 >= most
}
