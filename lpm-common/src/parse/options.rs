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

/// Number of rounds through the list, which has at most 40 bytes (RFC 9293
/// section 3.1). Two rounds take at least three bytes: a no-operation and an
/// option of length 2.
const MAX_ROUNDS: u32 = 27;

/// Reads the options between `at` and `end` into `head`. The first timestamp
/// option counts; the MSS counts on a SYN only.
///
/// The loop notes offsets and nothing else. If it decided anything between its
/// rounds, the verifier would follow every combination of options. A round
/// loads two bytes at once: an option's kind and length, or two no-operations.
/// Middleboxes overwrite the options that they strip with rows of
/// no-operations.
#[inline(always)]
pub(super) fn read<B: Bytes>(bytes: &B, at: u32, end: u32, head: &mut TcpHead) -> Result<(), Skip> {
    let mut at = at;
    let mut timestamp = 0;
    let mut mss = 0;
    let mut sack = 0;
    for _ in 0..MAX_ROUNDS {
        at = bytes.hide_from_verifier(at);
        timestamp = bytes.hide_from_verifier(timestamp);
        mss = bytes.hide_from_verifier(mss);
        sack = bytes.hide_from_verifier(sack);
        // The byte after the last one may be payload, or nothing.
        if at + 1 >= end {
            break;
        }
        let [kind, next] = bytes.load::<2>(at)?;
        let length = u32::from(next);
        if kind == END {
            at = end;
            break;
        }
        if kind == NOP {
            at += if next == NOP { 2 } else { 1 };
            continue;
        }
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
    if at < end && bytes.byte(at)? > NOP {
        return Err(Skip::Malformed);
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

#[cfg(test)]
mod tests {
    use super::{NOP, Skip, TIMESTAMP, TcpHead};

    /// Reads 4 bytes of options, with `behind` after them in the packet.
    fn read(options: [u8; 4], behind: &[u8]) -> Result<(), Skip> {
        let bytes = [&options[..], behind].concat();
        super::read(&&bytes[..], 0, 4, &mut TcpHead::default())
    }

    /// RFC 9293 section 3.1: only the end and the no-operation have no length.
    #[test]
    fn the_last_byte_begins_no_option() {
        for behind in [&[][..], &[10, 0, 0, 0, 0, 0, 0, 0, 0]] {
            for last in [0, NOP] {
                assert_eq!(read([NOP, NOP, NOP, last], behind), Ok(()));
            }
            let cut = read([NOP, NOP, NOP, TIMESTAMP], behind);
            assert_eq!(cut, Err(Skip::Malformed));
        }
        // Behind a window scale (RFC 7323).
        for (last, wanted) in [(0, Ok(())), (NOP, Ok(())), (5, Err(Skip::Malformed))] {
            assert_eq!(read([3, 3, 7, last], &[]), wanted);
        }
        assert_eq!(
            read([NOP, NOP, TIMESTAMP, 10], &[0; 8]),
            Err(Skip::Malformed)
        );
    }
}
