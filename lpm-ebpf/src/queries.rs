//! The last steps with queries and their answers (`lpm_common::query`), which
//! all hooks share. They pass results on through a map, as those of
//! [`crate::slow_path`] do.
//!
//! A packet may carry several messages, so they are taken in a loop. The loop's
//! steps are verified once, and the loop knows nothing of a message but a
//! number. (Steps take no argument that they do not use: the compiler would
//! leave it out, and the verifier would miss it.)

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use lpm_common::{
    counter::Counter,
    packet::Direction,
    pipeline,
    query::{self, Role},
    rows, vlan,
};

use crate::{
    context::Context,
    env::{KernelEnv, answered, count},
    packet::LoadBytes,
    slow_path::scratch,
    store::{Store, control},
    vlans::{lpm_asked, lpm_asked_no_more},
};

/// Takes the packet's queries and answers.
#[inline(always)]
pub(crate) fn queries<C: Context>(ctx: C, direction: Direction) {
    (C::QUERIES.all[direction.index()])(ctx);
}

/// Takes those of the packet's queries and answers that `wanted` accepts. If
/// `quiet` is not 0, another hook counts what is not parsed.
#[inline(always)]
pub(crate) fn queries_of<C: Context>(
    ctx: C,
    direction: Direction,
    quiet: u32,
    wanted: impl Fn(C) -> bool,
) {
    let further = C::QUERIES.further[direction.index()];
    // Nearly every packet carries one message. That there is no other needs no
    // call.
    if wanted(ctx) && take_query(ctx) & MORE == 0 {
        return;
    }
    for _ in 1..query::MOST {
        if further(ctx, quiet) == 0 {
            return;
        }
        if wanted(ctx) {
            take_query(ctx);
        }
    }
    lpm_left(quiet);
}

/// Takes one query or answer. The result has the bit [`MORE`] if there is
/// another.
#[inline(always)]
fn take_query<C: Context>(ctx: C) -> u32 {
    let role = lpm_role();
    if role & TAGGED != 0 {
        lpm_asked();
    }
    match role & ROLE {
        ASKS => {
            let row = (C::QUERIES.row)(ctx);
            (C::QUERIES.ask)(ctx, row);
        }
        ANNOUNCES => {
            (C::QUERIES.ask)(ctx, 0);
        }
        ANSWERS if (C::QUERIES.answer)(ctx) != 0 => {
            lpm_sampled();
        }
        _ => {}
    }
    if role & TAGGED != 0 {
        lpm_asked_no_more();
    }
    role
}

const ASKS: u32 = 1;
const ANSWERS: u32 = 2;
const ANNOUNCES: u32 = 3;
const ROLE: u32 = 0xff;
/// Bit beside the role: the other half of the exchange may be in another VLAN.
const TAGGED: u32 = 1 << 8;
/// Bit beside the role: the packet carries another message.
const MORE: u32 = 1 << 9;

global! {
    /// Returns the role of the message at hand: [`ASKS`], [`ANSWERS`],
    /// [`ANNOUNCES`] or nothing, with the bits beside it.
    fn lpm_role() {
        let Some(scratch) = scratch() else { return 0 };
        scratch.fingerprint = scratch.query.fingerprint(&Store);
        let tagged = if vlan::query::concerns(&scratch.query, &Store) {
            TAGGED
        } else {
            0
        };
        let more = if scratch.rest.at < scratch.rest.end {
            MORE
        } else {
            0
        };
        more | match scratch.query.head.role {
            Role::Neither => 0,
            Role::Asks => {
                if let Some(control) = control() {
                    query::note(&scratch.query, control);
                }
                ASKS | tagged
            }
            Role::Answers => ANSWERS | tagged,
            Role::Announces => ANNOUNCES,
        }
    }
}

global! {
    fn lpm_sampled() {
        let Some(scratch) = scratch() else { return 0 };
        answered(&scratch.query, &scratch.sample);
        0
    }
}

global! {
    /// Counts that a packet has messages beyond those that are read.
    fn lpm_left(quiet: u32) {
        let Some(scratch) = scratch() else { return 0 };
        if quiet == 0 && scratch.rest.at < scratch.rest.end {
            count(Counter::DnsFurther, 1);
        }
        0
    }
}

/// Reads the packet's next message. Returns 0 if there is none.
#[inline(always)]
fn further(ctx: impl Context, direction: Direction, quiet: u32) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let bytes = LoadBytes::new(ctx, ctx.meta().len);
    let env = KernelEnv::for_one_of(ctx, quiet);
    let (query, rest) = (&mut scratch.query, &mut scratch.rest);
    u32::from(pipeline::further(&bytes, query, rest, direction, &env))
}

/// The steps for one kind of context.
pub struct Queries<C> {
    row: extern "C" fn(C) -> u32,
    ask: extern "C" fn(C, u32) -> u32,
    answer: extern "C" fn(C) -> u32,
    /// Takes all messages of a packet, by direction.
    all: [extern "C" fn(C) -> u32; 2],
    /// Reads the next message, by direction; its argument is `quiet`.
    further: [extern "C" fn(C, u32) -> u32; 2],
}

macro_rules! queries {
    ($context:ty: $row:ident $ask:ident $answer:ident) => {
        global! {
            fn $row(ctx: $context) {
                let Some(scratch) = scratch() else { return 0 };
                rows::of_query(&scratch.query, &Store, &KernelEnv::new(ctx))
            }
        }
        global! {
            fn $ask(ctx: $context, row: u32) {
                let Some(scratch) = scratch() else { return 0 };
                let env = KernelEnv::new(ctx);
                query::ask(&scratch.query, row, scratch.fingerprint, &Store, &env);
                0
            }
        }
        global! {
            /// Takes an answer. Returns 0 if there is no sample.
            fn $answer(ctx: $context) {
                let Some(scratch) = scratch() else { return 0 };
                let env = KernelEnv::new(ctx);
                scratch.sample = query::answer(&scratch.query, scratch.fingerprint, &Store, &env);
                u32::from(scratch.sample.found)
            }
        }
    };
}

queries!(*mut __sk_buff: lpm_query_row lpm_ask lpm_answer);
queries!(*mut xdp_md: lpm_query_row_xdp lpm_ask_xdp lpm_answer_xdp);

macro_rules! directions {
    ($($context:ty, $direction:ident: $all:ident $further:ident;)*) => { $(
        global! {
            fn $all(ctx: $context) {
                queries_of(ctx, Direction::$direction, 0, |_| true);
                0
            }
        }
        global! {
            fn $further(ctx: $context, quiet: u32) {
                further(ctx, Direction::$direction, quiet)
            }
        }
    )* };
}

directions! {
    *mut __sk_buff, FromLocal: lpm_queries_from lpm_further_from;
    *mut __sk_buff, ToLocal: lpm_queries_to lpm_further_to;
    *mut xdp_md, ToLocal: lpm_queries_xdp lpm_further_xdp;
}

/// The steps at TC.
pub(crate) const OF_SKB: Queries<*mut __sk_buff> = Queries {
    row: lpm_query_row,
    ask: lpm_ask,
    answer: lpm_answer,
    all: [lpm_queries_from, lpm_queries_to],
    further: [lpm_further_from, lpm_further_to],
};

/// The steps at XDP, where packets come only to the local end.
pub(crate) const OF_XDP: Queries<*mut xdp_md> = Queries {
    row: lpm_query_row_xdp,
    ask: lpm_ask_xdp,
    answer: lpm_answer_xdp,
    all: [lpm_queries_xdp; 2],
    further: [lpm_further_xdp; 2],
};
