//! A capture of any size, made while it is read.

use std::io::{self, Read};

use lpm_common::{
    packet::flag,
    testing::{frame::Frame, vectors},
};

/// What the capture is like.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Length at least, bytes.
    pub bytes: u64,
    /// Connections at a time.
    pub flows: u16,
    /// What went over the wire, bits per second: it sets the times.
    pub rate: u64,
    /// Bytes captured of each packet at most.
    pub snap: u32,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            bytes: 50 << 20,
            flows: 200,
            rate: 1_000_000_000,
            snap: 262_144,
        }
    }
}

/// Requests and their answers of a connection before another one takes its place.
const TURNS: u32 = 40;
/// 2026-01-02, nanoseconds.
const BEGIN: u64 = 1_767_322_400_000_000_000;

/// pcap with nanoseconds: connections that open, ask, are answered with three full segments, and
/// close, in turn.
#[derive(Debug)]
pub struct Generator {
    plan: Plan,
    flows: Vec<Flow>,
    next: usize,
    /// Nanoseconds since [`BEGIN`].
    now: u64,
    /// Packets so far.
    packets: u64,
    made: u64,
    buffer: Vec<u8>,
    at: usize,
    random: fastrand::Rng,
}

#[derive(Debug, Clone)]
struct Flow {
    port: u16,
    step: usize,
    turn: u32,
    seq: [u32; 2],
    /// Newest TSval of each direction.
    tsval: [u32; 2],
}

/// Flags, payload and direction of each packet of a connection: the opening, a turn, the end.
const OPENING: [(u8, u32, bool); 3] = [
    (flag::SYN, 0, true),
    (flag::SYN | flag::ACK, 0, false),
    (flag::ACK, 0, true),
];
const TURN: [(u8, u32, bool); 6] = [
    (flag::ACK, 200, true),
    (flag::ACK, 0, false),
    (flag::ACK, 1448, false),
    (flag::ACK, 1448, false),
    (flag::ACK, 0, true),
    (flag::ACK, 800, false),
];
const END: [(u8, u32, bool); 3] = [
    (flag::FIN | flag::ACK, 0, true),
    (flag::FIN | flag::ACK, 0, false),
    (flag::ACK, 0, true),
];

impl Generator {
    /// A capture like this.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let flow = |i: u16| Flow {
            // So that they do not all open at once.
            turn: u32::from(i) % TURNS,
            ..Flow::new(10_000 + i, u32::from(i))
        };
        Self {
            flows: (0..plan.flows).map(flow).collect(),
            plan,
            next: 0,
            now: 0,
            packets: 0,
            made: 0,
            buffer: header(),
            at: 0,
            random: fastrand::Rng::with_seed(1),
        }
    }

    /// Packets so far.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// How long the packets so far took on the wire, nanoseconds.
    #[must_use]
    pub fn elapsed_ns(&self) -> u64 {
        self.now
    }

    fn record(&mut self) {
        let ports = self.plan.flows;
        let index = self.next;
        self.next = (index + 1) % self.flows.len();
        let frame = self.flows[index].packet(self.now, ports);
        let payload = frame.payload as usize;
        let mut frame = frame.bytes();
        // What cannot be compressed, as with TLS.
        let begin = frame.len() - payload;
        self.random.fill(&mut frame[begin..]);
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let captured = len.min(self.plan.snap);
        let time = BEGIN + self.now;
        let words = [time / 1_000_000_000, time % 1_000_000_000];
        for word in words {
            let word = u32::try_from(word).unwrap_or(u32::MAX);
            self.buffer.extend(word.to_le_bytes());
        }
        self.buffer.extend(captured.to_le_bytes());
        self.buffer.extend(len.to_le_bytes());
        self.buffer.extend(&frame[..captured as usize]);
        // Preamble, check sequence and gap: 24 bytes.
        self.now += u64::from(len + 24) * 8_000_000_000 / self.plan.rate;
        self.packets += 1;
    }
}

impl Flow {
    fn new(port: u16, seed: u32) -> Self {
        Self {
            port,
            step: 0,
            turn: 0,
            seq: [
                seed.wrapping_mul(0x9e37_79b9),
                seed.wrapping_mul(0x85eb_ca6b),
            ],
            tsval: [
                seed.wrapping_mul(0xc2b2_ae35),
                seed.wrapping_mul(0x27d4_eb2f),
            ],
        }
    }

    /// The next packet.
    fn packet(&mut self, now: u64, ports: u16) -> Frame {
        let opening = OPENING.len();
        let step = self.step;
        let last_turn = self.turn >= TURNS;
        let (flags, payload, from) = if step < opening {
            OPENING[step]
        } else if last_turn {
            END[step - opening]
        } else {
            TURN[step - opening]
        };
        let (local, remote) = vectors::ends(self.port.is_multiple_of(4));
        let mut frame = if from {
            Frame::new(local, remote, self.port, 443)
        } else {
            Frame::new(remote, local, 443, self.port)
        };
        let way = usize::from(!from);
        // A clock of milliseconds.
        let base = u32::from(self.port).wrapping_mul(0x9e37_79b9);
        self.tsval[way] =
            base.wrapping_add(u32::try_from(now / 1_000_000 % (1 << 32)).unwrap_or(0));
        let echo = if flags & flag::ACK == 0 {
            0
        } else {
            self.tsval[1 - way]
        };
        (frame.flags, frame.payload) = (flags, payload);
        frame.timestamp = Some((self.tsval[way], echo));
        frame.seq = self.seq[way];
        frame.ack = if flags & flag::ACK == 0 {
            0
        } else {
            self.seq[1 - way]
        };
        if flags & flag::SYN != 0 {
            frame.mss = Some(1460);
        }
        let sent = payload + u32::from(flags & (flag::SYN | flag::FIN) != 0);
        self.seq[way] = self.seq[way].wrapping_add(sent);
        self.advance(last_turn, ports);
        frame
    }

    fn advance(&mut self, last_turn: bool, ports: u16) {
        self.step += 1;
        let step = self.step.saturating_sub(OPENING.len());
        if last_turn && step == END.len() {
            let port = 10_000 + (self.port - 10_000 + ports) % (50_000 / ports * ports);
            *self = Self::new(port, self.seq[0]);
        } else if !last_turn && step == TURN.len() {
            self.turn += 1;
            self.step = OPENING.len();
        }
    }
}

/// pcap's, little-endian, nanoseconds, Ethernet.
fn header() -> Vec<u8> {
    let words = [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 262_144, 1];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

impl Read for Generator {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.at == self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
            while self.buffer.len() < 1 << 16
                && self.made + (self.buffer.len() as u64) < self.plan.bytes
            {
                self.record();
            }
            self.made += self.buffer.len() as u64;
        }
        let len = to.len().min(self.buffer.len() - self.at);
        to[..len].copy_from_slice(&self.buffer[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_the_size_that_was_asked_for() {
        let mut generator = Generator::new(Plan {
            bytes: 3_000_000,
            ..Plan::default()
        });
        let mut bytes = Vec::new();
        generator.read_to_end(&mut bytes).expect("memory");
        assert!(
            (3_000_000..3_010_000).contains(&bytes.len()),
            "{}",
            bytes.len()
        );
        assert!(generator.packets() > 4000);
        // At 1 Gbit/s, less the records' headers.
        let gigabits = bytes.len() as u64 * 8;
        assert!(generator.elapsed_ns().abs_diff(gigabits) < gigabits / 10);
    }
}
