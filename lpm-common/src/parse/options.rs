//! TCP options (RFC 9293 section 3.1, RFC 7323 section 3).

use super::{Skip, number};
use crate::{
    bytes::Bytes,
    packet::{TcpHead, flag},
};

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const TIMESTAMP: u8 = 8;

/// Options that are followed, no-operations included: all that 40 bytes hold.
const MAX_OPTIONS: u32 = 40;

/// Reads the options between `at` and `end` into `head`. The first timestamp
/// option counts; the MSS counts on a SYN only.
pub(super) fn read<B: Bytes>(bytes: &B, at: u32, end: u32, head: &mut TcpHead) -> Result<(), Skip> {
    if at + 12 <= end && bytes.be32(at)? == number::TIMESTAMP_FIRST {
        timestamp(bytes, at + 4, head)?;
        if !head.has(flag::SYN) {
            return Ok(());
        }
    }
    let mut at = at;
    for _ in 0..MAX_OPTIONS {
        if at >= end {
            return Ok(());
        }
        let kind = bytes.byte(at)?;
        if kind == END {
            return Ok(());
        }
        if kind == NOP {
            at += 1;
            continue;
        }
        if at + 1 >= end {
            return Err(Skip::Malformed);
        }
        let length = u32::from(bytes.byte(at + 1)?);
        if length < 2 || at + length > end {
            return Err(Skip::Malformed);
        }
        if kind == TIMESTAMP && length == 10 && !head.has_timestamp {
            timestamp(bytes, at + 2, head)?;
        } else if kind == MSS && length == 4 && head.has(flag::SYN) {
            head.mss = bytes.be16(at + 2)?;
        }
        at += length;
    }
    Ok(())
}

fn timestamp<B: Bytes>(bytes: &B, at: u32, head: &mut TcpHead) -> Result<(), Skip> {
    head.tsval = bytes.be32(at)?;
    head.tsecr = bytes.be32(at + 4)?;
    head.has_timestamp = true;
    Ok(())
}
