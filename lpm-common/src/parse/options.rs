//! TCP options (RFC 9293 section 3.1, RFC 7323 section 3).

use super::Skip;
use crate::{
    bytes::Bytes,
    packet::{TcpHead, flag},
};

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const SACK: u8 = 5;
const TIMESTAMP: u8 = 8;

/// Options that are followed, no-operations included. The longest list that
/// stacks send, a SYN's, has eight.
const MAX_OPTIONS: u32 = 16;

/// Reads the options between `at` and `end` into `head`. The first timestamp
/// option counts; the MSS counts on a SYN only.
///
/// The loop notes places and nothing else: with anything to decide between
/// its rounds, the verifier would follow every combination of options.
#[inline(always)]
pub(super) fn read<B: Bytes>(bytes: &B, at: u32, end: u32, head: &mut TcpHead) -> Result<(), Skip> {
    let mut at = at;
    let mut timestamp = 0;
    let mut mss = 0;
    let mut sack = 0;
    let mut done = false;
    for _ in 0..MAX_OPTIONS {
        at = bytes.forget(at);
        timestamp = bytes.forget(timestamp);
        mss = bytes.forget(mss);
        sack = bytes.forget(sack);
        if at >= end {
            done = true;
            break;
        }
        let kind = bytes.byte(at)?;
        if kind == END {
            done = true;
            break;
        }
        if kind == NOP {
            at += 1;
            continue;
        }
        // The byte after the last option's kind may be payload, or nothing.
        if at + 1 >= end {
            return Err(Skip::Malformed);
        }
        let length = u32::from(bytes.byte(at + 1)?);
        if length < 2 || at + length > end {
            return Err(Skip::Malformed);
        }
        if kind == TIMESTAMP && length == 10 && timestamp == 0 {
            timestamp = at;
        }
        if kind == SACK {
            sack = at;
        }
        if kind == MSS && length == 4 {
            mss = at;
        }
        at += length;
    }
    if !done && at < end {
        return Err(Skip::TooDeep);
    }
    if timestamp != 0 {
        head.tsval = bytes.be32(timestamp + 2)?;
        head.tsecr = bytes.be32(timestamp + 6)?;
        head.has_timestamp = true;
    }
    head.sack = sack != 0;
    if mss != 0 && head.has(flag::SYN) {
        head.mss = bytes.be16(mss + 2)?;
    }
    Ok(())
}
