//! The last steps with a question or an answer (`lpm_common::query`), which all
//! hooks share. They hand over through the map, as those of [`crate::steps`].

use lpm_common::{
    query::{self, Role},
    rows, vlan,
};

use crate::{
    context::Context,
    env::{Kernel, answered},
    settings::Secrets,
    steps::scratch,
    store::{Store, control},
    vlans::lpm_asked,
};

/// What a hook's step `network` answers for another protocol than TCP.
pub(crate) const DATAGRAM: u32 = 2;

/// Takes what was found, if it is a question or an answer.
#[inline(always)]
pub(crate) fn question(skb: impl Context) {
    let role = role();
    if role & TAGGED != 0 {
        lpm_asked();
    }
    match role & !TAGGED {
        ASKS => ask(skb, question_row(skb)),
        ANSWERS if answer(skb) != 0 => sampled(),
        _ => {}
    }
}

const ASKS: u32 = 1;
const ANSWERS: u32 = 2;
/// Beside these: the other half may be in another VLAN.
const TAGGED: u32 = 1 << 8;

/// What was found: [`ASKS`], [`ANSWERS`] or neither.
#[inline(never)]
fn role() -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    scratch.fingerprint = scratch.query.fingerprint(&Secrets);
    let tagged = if vlan::question::concerns(&scratch.query, &Store) {
        TAGGED
    } else {
        0
    };
    match scratch.query.head.role {
        Role::Neither => 0,
        Role::Asks => {
            if let Some(control) = control() {
                query::note(&scratch.query, control);
            }
            ASKS | tagged
        }
        Role::Answers => ANSWERS | tagged,
    }
}

#[inline(never)]
fn question_row(skb: impl Context) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    rows::of_question(&scratch.query, &Store, &Kernel::new(skb))
}

#[inline(never)]
fn ask(skb: impl Context, row: u32) {
    let Some(scratch) = scratch() else { return };
    let env = Kernel::new(skb);
    query::ask(&scratch.query, row, scratch.fingerprint, &Store, &env);
}

/// 0: there is no sample.
#[inline(never)]
fn answer(skb: impl Context) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let env = Kernel::new(skb);
    scratch.sample = query::answer(&scratch.query, scratch.fingerprint, &Store, &env);
    u32::from(scratch.sample.found)
}

#[inline(never)]
fn sampled() {
    let Some(scratch) = scratch() else { return };
    answered(&scratch.query, &scratch.sample);
}
