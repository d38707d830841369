//! Merged DNS datagrams, which the kernel put together before they were captured (UDP GRO). A
//! capture does not say how long each is. A DNS message does, if it was captured to its end.

/// Length of a message's header, bytes (RFC 1035 section 4.1.1).
const HEADER: usize = 12;
/// Bytes of a question after its name. The next constant is those of a record after its name, with
/// the length of its data.
const QUESTION: usize = 4;
const RECORD: usize = 10;

/// The content of a UDP payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Datagrams {
    /// One datagram.
    One,
    /// Several datagrams, all of the same length except the last one, which may be shorter.
    Several {
        /// Number of datagrams.
        count: u32,
        /// Length of each, bytes.
        size: u32,
    },
    /// More than one message, but what follows the first is no message of its length.
    Further,
    /// The end of the first message was not captured.
    Unknown,
}

/// Reads the captured part of a payload of `length` bytes. The kernel puts datagrams of one length
/// together, of which only the last one may be shorter.
pub(super) fn datagrams(captured: &[u8], length: u32) -> Datagrams {
    let whole = length as usize;
    let captured = &captured[..captured.len().min(whole)];
    let Some(first) = message_length(captured) else {
        // A malformed message that is all there: nothing shows that it is more than one.
        return if captured.len() < whole {
            Datagrams::Unknown
        } else {
            Datagrams::One
        };
    };
    if first >= whole {
        return Datagrams::One;
    }
    let mut parts = captured.chunks(first);
    if captured.len() == whole && parts.all(|part| message_length(part) == Some(part.len())) {
        Datagrams::Several {
            count: length.div_ceil(u32::try_from(first).unwrap_or(u32::MAX)),
            size: u32::try_from(first).unwrap_or(u32::MAX),
        }
    } else {
        Datagrams::Further
    }
}

/// Length of the message at the beginning of these bytes. Each step takes bytes away, so the walk
/// ends with them, whatever the counts say.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let count = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let mut at = HEADER;
    for _ in 0..count(4)? {
        at = name_end(bytes, at)? + QUESTION;
    }
    let records = u32::from(count(6)?) + u32::from(count(8)?) + u32::from(count(10)?);
    for _ in 0..records {
        at = name_end(bytes, at)? + RECORD;
        at += usize::from(count(at - 2)?);
    }
    (at <= bytes.len()).then_some(at)
}

/// The end of a name. A pointer ends it, and its target does not matter.
fn name_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            label @ 1..=63 => at += 1 + usize::from(label),
            192..=255 => return Some(at + 2),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use lpm_common::testing::query::Message;

    use super::*;

    fn answer(id: u16, data: usize) -> Vec<u8> {
        let mut message = Message::answer(id, 0);
        message.counts = [1, 1, 0, 1];
        message
            .tail
            .extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c");
        message
            .tail
            .extend(u16::try_from(data).expect("short").to_be_bytes());
        message.tail.extend(vec![7; data]);
        // An EDNS record.
        message.tail.extend([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
        message.bytes()
    }

    fn length(bytes: &[u8]) -> u32 {
        u32::try_from(bytes.len()).expect("short")
    }

    #[test]
    fn messages_of_one_length_are_told_apart() {
        let one = answer(1, 4);
        assert_eq!(datagrams(&one, length(&one)), Datagrams::One);
        for last in [4, 2] {
            let all = [answer(1, 4), answer(2, 4), answer(3, last)].concat();
            let several = Datagrams::Several {
                count: 3,
                size: length(&one),
            };
            assert_eq!(datagrams(&all, length(&all)), several);
        }
        // The kernel puts no longer datagram behind a shorter one.
        let all = [answer(1, 4), answer(2, 5)].concat();
        assert_eq!(datagrams(&all, length(&all)), Datagrams::Further);
        let all = [answer(1, 4), vec![0; 9]].concat();
        assert_eq!(datagrams(&all, length(&all)), Datagrams::Further);
    }

    #[test]
    fn what_was_not_captured_is_not_known() {
        let all = [answer(1, 4), answer(2, 4)].concat();
        let first = all.len() / 2;
        for captured in 0..all.len() {
            let expected = if captured < first {
                Datagrams::Unknown
            } else {
                Datagrams::Further
            };
            assert_eq!(datagrams(&all[..captured], length(&all)), expected);
        }
        // Bytes beyond the datagram's length are padding.
        assert_eq!(datagrams(&all, length(&all) / 2), Datagrams::One);
    }

    #[test]
    fn lies_end_with_the_bytes() {
        for bytes in [
            &b"\0\0\x81\x80\xff\xff\xff\xff\xff\xff\xff\xff"[..],
            &b"\0\0\x81\x80\0\x01\0\0\0\0\0\0\x80\0\0\0\0\0"[..],
            &b"\0\0\x81\x80\0\0\0\x01\0\0\0\0\xc0\x0c\0\0\0\0\0\0\0\0\xff\xff\0"[..],
        ] {
            assert_eq!(datagrams(bytes, length(bytes)), Datagrams::One);
        }
    }
}
