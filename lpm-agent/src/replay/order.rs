//! Ordering: puts the packets of an interface in the order of their times. A capture may have them
//! in another order, because its queues or CPUs were written in turns, or because it was put
//! together from parts.
//!
//! A packet is held until [`WINDOW_NS`] more has passed at its interface, within a fixed amount of
//! memory. Of most packets only the headers are held: with their data a window would be many times
//! as large.
//!
//! A clock that was set back must not be taken for disorder: packets from before and after it would
//! be mixed. A queue keeps the order of its packets, and a card puts all packets of a flow's
//! direction into the same queue. So a direction that goes back in time by more than
//! [`DISORDER_NS`] shows that the clock was set. Then everything behind the place where times went
//! back stays behind.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, VecDeque},
};

use lpm_common::parse::Link;

use super::{digest::Digest, engine::DISORDER_NS, link::View};

/// Largest disorder that is put in order, nanoseconds.
pub const WINDOW_NS: u64 = 1_000_000_000;

/// Most packets that are held at a time.
pub const MOST_PACKETS: usize = 1 << 16;
/// Most bytes that are held; and one packet more, whatever its size.
pub const MOST_BYTES: usize = 16 << 20;
/// Sets of the table of directions, whose last time is remembered. The next constant is the places
/// in each set.
const SETS: usize = 2048;
const WAYS: usize = 4;

/// A packet that is held.
#[derive(Debug)]
pub struct Held {
    /// Time of the packet, nanoseconds since 1970.
    pub time_ns: u64,
    /// Digest of the packet. None: it is not IP.
    pub digest: Option<Digest>,
    serial: u64,
    run: u64,
    link: Link,
    len: u32,
    segment: u32,
    ifindex: u32,
    data: Box<[u8]>,
}

/// How far a capture was out of order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disorder {
    /// Number of packets with an earlier time than one before them.
    pub packets: u64,
    /// Largest distance of such a packet, nanoseconds.
    pub furthest_ns: u64,
    /// How often packets came too late to be put in order.
    pub beyond: u64,
}

/// The packets that are held, of all interfaces.
#[derive(Debug)]
pub struct Order {
    window_ns: u64,
    lanes: Vec<Lane>,
    directions: Box<[[Direction; WAYS]]>,
    serial: u64,
    packets: usize,
    bytes: usize,
    /// Disorder seen so far.
    pub disorder: Disorder,
}

/// The packets of one interface.
#[derive(Debug, Default)]
struct Lane {
    /// Packets in the order of the capture, as long as that is the order of times.
    row: VecDeque<Held>,
    /// Packets that came late.
    late: BinaryHeap<Reverse<Held>>,
    /// Packets that have to go, whatever their time.
    ready: VecDeque<Held>,
    /// Latest time since the clock was set.
    newest_ns: u64,
    /// Time of the last packet.
    last_ns: u64,
    /// Latest time of a packet that was released.
    gone_ns: u64,
    /// Number of the current run. Between two runs the times go back.
    run: u64,
    /// Number of the first run by the clock as it is set now.
    first: u64,
    /// Number of the first run that may belong to a clock that was set. It began because times went
    /// back, and no direction has confirmed yet that the clock was set.
    doubtful: Option<u64>,
}

/// The last packet that one end sent to another.
#[derive(Clone, Copy, Debug, Default)]
struct Direction {
    name: u64,
    serial: u64,
    time_ns: u64,
    run: u64,
}

impl Order {
    /// Holds packets for this long, nanoseconds. 0: packets are not held, and [`Self::watch`]
    /// records the disorder.
    #[must_use]
    pub fn new(window_ns: u64) -> Self {
        Self {
            window_ns,
            lanes: Vec::new(),
            directions: vec![[Direction::default(); WAYS]; SETS].into(),
            serial: 0,
            packets: 0,
            bytes: 0,
            disorder: Disorder::default(),
        }
    }

    /// Time for which packets are held, nanoseconds.
    #[must_use]
    pub fn window_ns(&self) -> u64 {
        self.window_ns
    }

    /// Records a packet without holding it.
    pub fn watch(&mut self, lane: usize, digest: Option<&Digest>, time_ns: u64) {
        self.serial += 1;
        if self.lanes.len() <= lane {
            self.lanes.resize_with(lane + 1, Lane::default);
        }
        let Some(lane_of) = self.lanes.get_mut(lane) else {
            return;
        };
        if is_before(time_ns, lane_of.last_ns) {
            lane_of.run += 1;
        }
        lane_of.last_ns = time_ns;
        let entry = digest.map(|digest| {
            let name = digest.direction ^ (lane as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            entry(&mut self.directions, name.max(1))
        });
        if let Some(entry) = entry {
            let went_back = is_before(time_ns, entry.time_ns);
            if went_back && lane_of.was_set(entry.run, &mut self.disorder) {
                lane_of.part(time_ns);
            }
            let same = !went_back && entry.run >= lane_of.first;
            entry.time_ns = if same {
                entry.time_ns.max(time_ns)
            } else {
                time_ns
            };
            (entry.run, entry.serial) = (lane_of.run, self.serial);
        }
        lane_of.follow(time_ns, self.window_ns.max(DISORDER_NS), &mut self.disorder);
    }

    /// Takes a packet to be held.
    pub fn push(&mut self, lane: usize, view: &View<'_>, digest: Option<Digest>, time_ns: u64) {
        self.watch(lane, digest.as_ref(), time_ns);
        let serial = self.serial;
        let Some(lane) = self.lanes.get_mut(lane) else {
            return;
        };
        let kept = view.data.len().min(Digest::needed(digest.as_ref()));
        let held = Held {
            time_ns,
            digest,
            serial,
            run: lane.run,
            link: view.link,
            len: view.len,
            segment: view.segment,
            ifindex: view.ifindex,
            data: view.data[..kept].into(),
        };
        self.packets += 1;
        self.bytes += held.size();
        if lane.row.back().is_none_or(|last| last.time_ns <= time_ns) {
            lane.row.push_back(held);
        } else {
            lane.late.push(Reverse(held));
        }
    }

    /// The next packet of an interface that no other can come before any more.
    pub fn next(&mut self, lane: usize) -> Option<Held> {
        let full = self.is_full();
        let lane = self.lanes.get_mut(lane)?;
        let held = match lane.ready.pop_front() {
            Some(held) => held,
            None => lane.earliest(full, self.window_ns)?,
        };
        self.packets -= 1;
        self.bytes -= held.size();
        Some(held)
    }

    /// True if more is held than the limits allow.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.packets > MOST_PACKETS || self.bytes > MOST_BYTES
    }

    /// Takes all packets that are held, with their interfaces, in the order of their times.
    pub fn drain(&mut self) -> Vec<(usize, Held)> {
        let mut all = Vec::with_capacity(self.packets);
        let mut rest = Vec::new();
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            all.extend(lane.ready.drain(..).map(|held| (index, held)));
            rest.extend(lane.row.drain(..).map(|held| (index, held)));
            let late = lane.late.drain();
            rest.extend(late.map(|Reverse(held)| (index, held)));
            lane.gone_ns = lane.newest_ns;
        }
        rest.sort_by(|(_, one), (_, other)| one.cmp(other));
        all.append(&mut rest);
        (self.packets, self.bytes) = (0, 0);
        all
    }
}

impl Lane {
    /// True if a direction that was last seen in `run`, and later than now, shows that the clock
    /// was set since, and nothing has shown it before.
    fn was_set(&mut self, run: u64, disorder: &mut Disorder) -> bool {
        if run >= self.first {
            // It happened between other packets of the run, unnoticed.
            self.run += u64::from(run == self.run);
            return true;
        }
        // It was counted when times went back, by a packet that could not decide.
        if self.doubtful.take_if(|first| run >= *first).is_some() {
            disorder.beyond -= 1;
        }
        false
    }

    /// Releases all packets of earlier runs. The others have the clock as it was set.
    fn part(&mut self, now_ns: u64) {
        let late = self.late.drain().map(|Reverse(held)| held);
        let mut all: Vec<Held> = self.row.drain(..).chain(late).collect();
        all.sort();
        for held in all {
            if held.run < self.run {
                self.ready.push_back(held);
            } else {
                self.row.push_back(held);
            }
        }
        self.newest_ns = self.row.back().map_or(now_ns, |last| last.time_ns);
        self.begin();
    }

    fn begin(&mut self) {
        self.first = self.run;
        self.doubtful = None;
        self.gone_ns = 0;
    }

    /// Records how a packet's time follows the others.
    fn follow(&mut self, now_ns: u64, window_ns: u64, disorder: &mut Disorder) {
        let back_ns = self.newest_ns.saturating_sub(now_ns);
        if back_ns > window_ns || is_before(now_ns, self.gone_ns) {
            let first = self.first;
            self.run += 1;
            self.part(now_ns);
            self.doubtful = Some(first);
            disorder.beyond += 1;
        } else if back_ns > 0 {
            disorder.packets += 1;
            disorder.furthest_ns = disorder.furthest_ns.max(back_ns);
        }
        self.newest_ns = self.newest_ns.max(now_ns);
    }

    /// Takes the packet with the earliest time, if it may go.
    fn earliest(&mut self, whenever: bool, window_ns: u64) -> Option<Held> {
        let late = match (self.row.front(), self.late.peek()) {
            (Some(row), Some(Reverse(late))) => late < row,
            (None, Some(_)) => true,
            _ => false,
        };
        let time_ns = if late {
            self.late.peek()?.0.time_ns
        } else {
            self.row.front()?.time_ns
        };
        if !whenever && time_ns.saturating_add(window_ns) >= self.newest_ns {
            return None;
        }
        self.gone_ns = self.gone_ns.max(time_ns);
        if late {
            self.late.pop().map(|Reverse(held)| held)
        } else {
            self.row.pop_front()
        }
    }
}

/// True if a time lies before another by more than queues cause.
fn is_before(time_ns: u64, other_ns: u64) -> bool {
    time_ns.saturating_add(DISORDER_NS) < other_ns
}

/// The memory of a direction. A new direction takes the place of the one that was silent longest.
fn entry(directions: &mut [[Direction; WAYS]], name: u64) -> &mut Direction {
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are wanted")]
    let set = &mut directions[name as usize % SETS];
    let found = set.iter().position(|entry| entry.name == name);
    let oldest = || (0..WAYS).min_by_key(|way| set[*way].serial).unwrap_or(0);
    let at = found.unwrap_or_else(oldest);
    if found.is_none() {
        set[at] = Direction {
            name,
            ..Direction::default()
        };
    }
    &mut set[at]
}

impl Held {
    /// The packet as it was seen.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View {
            link: self.link,
            data: &self.data,
            len: self.len,
            segment: self.segment,
            ifindex: self.ifindex,
        }
    }

    /// Memory that the packet takes, bytes.
    fn size(&self) -> usize {
        size_of::<Self>() + self.data.len()
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.time_ns, self.serial).cmp(&(other.time_ns, other.serial))
    }
}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Held {}

#[cfg(test)]
mod tests;
