//! Copies: frames that were recorded twice, by a mirror of both ports of a switch, by two taps, or
//! by a host's capture of several interfaces. The first sighting is measured, and the others are
//! left out.
//!
//! A copy must not be taken for a retransmission, nor the other way round. A retransmission has
//! another identification (IPv4, where its sender counts), or it has a cause: a timer, or what the
//! other end sent since. Without identifications neither cause can be ruled out by a single packet.
//! The timer's packet may pass a moment behind the first one, if that waited in a queue (of a busy
//! CPU, of a shaper). The packet that an acknowledgment answers may have passed a round trip before
//! it.
//!
//! But a capture that records a conversation twice does so with packet after packet. It also does
//! so with the SYN, which no end repeats within `AGAIN_NS`. So these two are checked first. Where
//! none of it decides, the packet is measured as a retransmission, which makes no sample, and is
//! counted.
//!
//! Memory is fixed: what was seen longest ago makes room.

use super::digest::{Digest, Repeats};

/// Largest distance of a packet and its copy, nanoseconds. Beyond it a copy cannot be told from a
/// retransmission. Linux's shortest timer, for the probe of a tail loss, is three ticks of at most
/// 1 ms (`tcp_schedule_loss_probe`).
const AGAIN_NS: u64 = 2_000_000;
/// Time for which a packet is remembered, nanoseconds.
const REMEMBERED_NS: u64 = 100_000_000;

/// Certainty that a conversation is recorded twice: what a repeated packet adds. The next constants
/// are where it is believed, and the most. Each packet that is measured takes one away. So one
/// retransmission is forgotten two packets later.
const ADDED: u8 = 3;
const BELIEVED: u8 = 4;
const CERTAIN: u8 = 8;

/// Number of sets of both tables. The next constant is the places in each.
const SETS: usize = 4096;
const WAYS: usize = 4;

/// The verdict on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Measure it: it is seen for the first time, or was retransmitted.
    Measure,
    /// Leave it out: it was seen before.
    Copy,
}

/// A packet that was measured.
#[derive(Clone, Copy, Debug, Default)]
struct Sighting {
    packet: u64,
    time_ns: u64,
    /// Number of packets measured up to this one.
    index: u64,
    /// Number of copies left out since.
    copies: u8,
}

/// The packets between two ends.
#[derive(Clone, Copy, Debug, Default)]
struct Talk {
    conversation: u64,
    /// Index of the first packet since the conversation is remembered.
    born: u64,
    /// Index of the last packet, by way.
    last: [u64; 2],
    /// Index of the last packet before the other way's last one, by way.
    before: [u64; 2],
    /// Last identification that is not 0, by way.
    ids: [u16; 2],
    /// True: the sender's identifications were seen to differ, by way.
    counts: [bool; 2],
    /// Certainty that packets are recorded twice, up to [`CERTAIN`]. The next field is the number
    /// of copies of one packet since that is believed.
    twice: u8,
    times: u8,
}

/// The memory of one replay.
#[derive(Debug)]
pub struct Copies {
    sightings: Box<[[Sighting; WAYS]]>,
    talks: Box<[[Talk; WAYS]]>,
    index: u64,
    /// Number of packets that were left out.
    pub copies: u64,
    /// Number of packets that may be copies or retransmissions. They are measured as the latter.
    pub unsure: u64,
}

impl Default for Copies {
    fn default() -> Self {
        Self {
            sightings: vec![[Sighting::default(); WAYS]; SETS].into(),
            talks: vec![[Talk::default(); WAYS]; SETS].into(),
            index: 0,
            copies: 0,
            unsure: 0,
        }
    }
}

impl Copies {
    /// Judges a packet that passed the interface with this number.
    pub fn judge(&mut self, ifindex: u32, digest: &Digest, now_ns: u64) -> Verdict {
        if digest.packet == 0 {
            return Verdict::Measure;
        }
        // Nothing is ever matched across interfaces, or across settings of one interface's clock.
        let place = u64::from(ifindex).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let packet = (digest.packet ^ place).max(1);
        let conversation = (digest.conversation ^ place).max(1);
        let set = &mut self.sightings[set_of(packet)];
        let seen = set.iter().position(|seen| seen.packet == packet);
        let talk = talk(&mut self.talks[set_of(conversation)], conversation);
        if let Some(seen) = seen
            && now_ns.abs_diff(set[seen].time_ns) < REMEMBERED_NS
        {
            let apart = now_ns.abs_diff(set[seen].time_ns);
            if talk.is_copy(digest, &set[seen], apart) {
                set[seen].copies = set[seen].copies.saturating_add(1);
                if digest.repeats != Repeats::ByAny {
                    talk.times = talk.times.max(set[seen].copies);
                }
                self.copies += 1;
                return Verdict::Copy;
            }
            // A repeated acknowledgment is as usual as it is harmless.
            self.unsure += u64::from(digest.repeats != Repeats::ByAny);
        }
        self.index += 1;
        let oldest = || (0..WAYS).min_by_key(|way| set[*way].index).unwrap_or(0);
        let at = seen.unwrap_or_else(oldest);
        set[at] = Sighting {
            packet,
            time_ns: now_ns,
            index: self.index,
            copies: 0,
        };
        talk.note(digest, self.index);
        Verdict::Measure
    }
}

impl Talk {
    /// True if a packet that was measured this long ago is the same one.
    fn is_copy(&mut self, digest: &Digest, seen: &Sighting, apart_ns: u64) -> bool {
        let (way, other) = (digest.way, 1 - digest.way);
        if digest.id != 0 && self.counts[way] {
            self.twice = CERTAIN;
            return true;
        }
        if apart_ns >= AGAIN_NS {
            return false;
        }
        let believed = self.twice >= BELIEVED;
        let known = self.knows(seen.index);
        match digest.repeats {
            // Only data that was sent since can have made the other end report a loss.
            Repeats::BySlowTimer | Repeats::ByAnswer if !known || self.before[way] > seen.index => {
                false
            }
            Repeats::ByTimer | Repeats::BySlowTimer => {
                self.twice = CERTAIN;
                true
            }
            Repeats::ByAnswer => {
                self.twice = (self.twice + ADDED).min(CERTAIN);
                believed
            }
            // A packet that was recorded twice comes as often as all others do, each time.
            Repeats::ByAny => {
                let nothing_since = known && self.last[other] <= seen.index;
                believed && nothing_since && seen.copies < self.times
            }
        }
    }

    /// True if the conversation was remembered all the time since this packet.
    fn knows(&self, index: u64) -> bool {
        self.born != 0 && self.born <= index
    }

    fn note(&mut self, digest: &Digest, index: u64) {
        let (way, other) = (digest.way, 1 - digest.way);
        if self.born == 0 {
            self.born = index;
        }
        if digest.repeats != Repeats::ByAny {
            self.twice = self.twice.saturating_sub(1);
        }
        if self.twice < BELIEVED {
            self.times = 0;
        }
        self.last[way] = index;
        self.before[other] = self.last[other];
        if digest.id != 0 {
            self.counts[way] |= self.ids[way] != 0 && self.ids[way] != digest.id;
            self.ids[way] = digest.id;
        }
    }
}

/// The memory of a conversation. A new conversation takes the place of the one that was silent
/// longest.
fn talk(set: &mut [Talk; WAYS], conversation: u64) -> &mut Talk {
    let found = set
        .iter()
        .position(|talk| talk.conversation == conversation);
    let oldest = || {
        let last = |way: &usize| set[*way].last.into_iter().max();
        (0..WAYS).min_by_key(last).unwrap_or(0)
    };
    let at = found.unwrap_or_else(oldest);
    if found.is_none() {
        set[at] = Talk {
            conversation,
            ..Talk::default()
        };
    }
    &mut set[at]
}

#[expect(clippy::cast_possible_truncation, reason = "the low bits are wanted")]
fn set_of(name: u64) -> usize {
    name as usize % SETS
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use lpm_common::{packet::flag, testing::frame::Frame};

    use super::*;
    use crate::replay::digest::{
        Digester,
        tests::{digest, digester},
    };

    const MS: u64 = 1_000_000;

    /// Packets of a conversation, judged as they come.
    struct Scene {
        digester: Digester,
        copies: Copies,
        ends: [IpAddr; 2],
    }

    impl Scene {
        fn new(v6: bool) -> Self {
            let (a, b) = lpm_common::testing::vectors::ends(v6);
            Self {
                digester: digester(),
                copies: Copies::default(),
                ends: [a, b],
            }
        }

        fn packet(&mut self, at: u64, way: usize, numbers: (u32, u32, u32), id: u8) -> Verdict {
            self.flagged(at, way, numbers, id, flag::ACK)
        }

        /// Sends a SYN and its copy, which begin a conversation. From here on packets come twice.
        fn syn_twice(&mut self) {
            for verdict in [Verdict::Measure, Verdict::Copy] {
                assert_eq!(self.flagged(0, 0, (0, 0, 0), 9, flag::SYN), verdict);
            }
        }

        fn flagged(
            &mut self,
            at: u64,
            way: usize,
            (seq, ack, payload): (u32, u32, u32),
            id: u8,
            flags: u8,
        ) -> Verdict {
            let mut frame = Frame::new(self.ends[way], self.ends[1 - way], 80, 80);
            (frame.seq, frame.ack, frame.payload, frame.flags) = (seq, ack, payload, flags);
            let mut bytes = frame.bytes();
            if self.ends[0].is_ipv4() {
                bytes[18] = 0;
                bytes[19] = id;
            }
            let digest = digest(&self.digester, &bytes);
            self.copies.judge(1, &digest, 1_000 * MS + at)
        }
    }

    #[test]
    fn what_comes_at_once_is_a_copy() {
        for v6 in [false, true] {
            let mut scene = Scene::new(v6);
            scene.syn_twice();
            for (at, seq) in [(0, 1), (MS, 101), (2 * MS, 201)] {
                assert_eq!(scene.packet(at, 0, (seq, 1, 100), 9), Verdict::Measure);
                for later in [0, 8_000, MS] {
                    let again = scene.packet(at + later, 0, (seq, 1, 100), 9);
                    assert_eq!(again, Verdict::Copy, "{later}");
                }
            }
            assert_eq!((scene.copies.copies, scene.copies.unsure), (10, 0));
        }
    }

    /// The first segment and the probe of a tail loss wait in one queue and pass at once.
    #[test]
    fn one_that_passes_twice_among_others_was_sent_again() {
        for later in [0, 6_000, MS] {
            let mut scene = Scene::new(true);
            scene.flagged(0, 0, (0, 0, 0), 0, flag::SYN);
            for seq in [1, 101, 201, 301, 401, 501] {
                assert_eq!(scene.packet(0, 0, (seq, 1, 100), 0), Verdict::Measure);
                if seq % 200 == 1 {
                    let again = scene.packet(later, 0, (seq, 1, 100), 0);
                    assert_eq!(again, Verdict::Measure, "{later} {seq}");
                }
            }
            assert_eq!((scene.copies.copies, scene.copies.unsure), (0, 3));
        }
    }

    /// The packet that both acknowledgments answer passed a round trip before them.
    #[test]
    fn an_acknowledgment_that_comes_again_is_measured() {
        for v6 in [false, true] {
            let mut scene = Scene::new(v6);
            for seq in [1, 101, 201, 301] {
                scene.packet(0, 0, (seq, 1, 100), 0);
            }
            for at in [800_000, 813_000, 820_000] {
                assert_eq!(scene.packet(at, 1, (1, 101, 0), 0), Verdict::Measure);
            }
        }
    }

    /// The capture has all acknowledgments twice.
    #[test]
    fn an_acknowledgment_that_comes_again_is_not_its_copy() {
        let mut scene = Scene::new(true);
        scene.syn_twice();
        let both = [Verdict::Measure, Verdict::Copy];
        for seq in [1, 101, 201, 301] {
            let seen = [0, 0].map(|at| scene.packet(at, 0, (seq, 1, 100), 0));
            assert_eq!(seen, both);
        }
        for at in [800_000, 813_000, 820_000] {
            let seen = [at, at].map(|at| scene.packet(at, 1, (1, 101, 0), 0));
            assert_eq!(seen, both);
        }
    }

    /// The capture has all packets twice, and begins in the middle of a conversation.
    #[test]
    fn packet_after_packet_twice_is_believed() {
        let mut scene = Scene::new(true);
        for i in 0..20 {
            let at = u64::from(i) * 100_000;
            let segment = (1 + i * 100, 1, 100);
            assert_eq!(scene.packet(at, 0, segment, 0), Verdict::Measure);
            let again = scene.packet(at + 8_000, 0, segment, 0);
            assert_eq!(again == Verdict::Copy, i >= 4, "{i}");
        }
        assert_eq!((scene.copies.copies, scene.copies.unsure), (16, 4));
    }

    #[test]
    fn what_a_timer_sends_again_is_measured() {
        for (later, unsure) in [(2 * MS, 1), (50 * MS, 1), (200 * MS, 0), (1000 * MS, 0)] {
            let mut scene = Scene::new(true);
            scene.packet(0, 0, (1, 1, 100), 0);
            let again = scene.packet(later, 0, (1, 1, 100), 0);
            assert_eq!(again, Verdict::Measure, "{later}");
            assert_eq!(scene.copies.unsure, unsure, "{later}");
        }
    }

    /// Three duplicate acknowledgments come within 50 us, as in a rack: the segment is
    /// retransmitted.
    #[test]
    fn what_the_other_end_asks_for_is_measured() {
        for v6 in [false, true] {
            let mut scene = Scene::new(v6);
            scene.packet(0, 0, (1, 1, 100), 7);
            for (i, seq) in [101, 201, 301].into_iter().enumerate() {
                let at = 1000 * (i as u64 + 1);
                scene.packet(at, 0, (seq, 1, 100), 7);
                // The same acknowledgment comes each time. None is left out.
                let ack = scene.packet(at + 50_000, 1, (1, 1, 0), 0);
                assert_eq!(ack, Verdict::Measure);
            }
            assert_eq!(scene.packet(60_000, 0, (1, 1, 100), 7), Verdict::Measure);
            assert_eq!(scene.copies.copies, 0);
        }
    }

    /// Where the sender counts its packets, the number decides: both ways, at any time.
    #[test]
    fn identifications_that_count_decide() {
        let mut scene = Scene::new(false);
        for (id, seq) in [(1, 1), (2, 101), (3, 201)] {
            scene.packet(0, 0, (seq, 1, 100), id);
            scene.packet(10, 1, (1, seq, 0), id);
        }
        assert_eq!(scene.packet(5_000, 0, (1, 1, 100), 1), Verdict::Copy);
        assert_eq!(scene.packet(30 * MS, 0, (101, 1, 100), 2), Verdict::Copy);
        assert_eq!(scene.packet(40 * MS, 0, (101, 1, 100), 4), Verdict::Measure);
        assert_eq!(scene.packet(41 * MS, 1, (1, 201, 0), 3), Verdict::Copy);
        assert_eq!(scene.copies.unsure, 0);
    }

    #[test]
    fn interfaces_and_epochs_stay_apart() {
        let digester = digester();
        let (a, b) = lpm_common::testing::vectors::ends(false);
        let mut frame = Frame::new(a, b, 1, 2);
        frame.flags = flag::SYN;
        let digest = digest(&digester, &frame.bytes());
        let mut copies = Copies::default();
        assert_eq!(copies.judge(1, &digest, MS), Verdict::Measure);
        assert_eq!(copies.judge(2, &digest, MS), Verdict::Measure);
        assert_eq!(copies.judge(1 << 16 | 1, &digest, MS), Verdict::Measure);
        assert_eq!(copies.judge(2, &digest, MS), Verdict::Copy);
    }

    /// A flood of flows passes between a packet and its copy. What is not remembered is not
    /// guessed.
    #[test]
    fn what_was_forgotten_is_measured() {
        let digester = digester();
        let (a, b) = lpm_common::testing::vectors::ends(true);
        let mut copies = Copies::default();
        let of = |port: u16, seq: u32| {
            let mut frame = Frame::new(a, b, port, 80);
            (frame.seq, frame.flags) = (seq, flag::SYN);
            digest(&digester, &frame.bytes())
        };
        copies.judge(1, &of(1, 0), MS);
        for port in 2..=u16::MAX {
            copies.judge(1, &of(port, 0), MS);
        }
        assert_eq!(copies.judge(1, &of(1, 0), MS), Verdict::Measure);
    }
}
