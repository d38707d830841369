//! The thread that carries one direction of a wire.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::{TimeSpec, TimeValLike},
};

use super::{
    Shared, Side,
    clock::{Converter, monotonic_ns},
    frame,
    impairment::{Impairment, PacketView},
    log::{Fate, Record},
    socket::{Captured, PacketSocket, Ring},
};

/// Frames taken from the ring before due ones are sent again.
const BURST: usize = 64;
/// Nobody wants to sleep less than this before spinning: a timer costs it.
const MARGIN_FLOOR_NS: u64 = 4_000;
/// Later than this no idle processor wakes up.
const MARGIN_CEILING_NS: u64 = 200_000;
/// One part in this many of the time may be spent spinning: more would take
/// the processor from the traffic itself.
const SPIN_SHARE: u64 = 5;
/// The most spinning that can be saved up.
const SPIN_SAVINGS_NS: u64 = 2_000_000;

/// One direction of a wire.
pub(super) struct Relay {
    pub(super) ring: Ring,
    pub(super) receiver: Arc<PacketSocket>,
    pub(super) sender: Arc<PacketSocket>,
    pub(super) side: Arc<Side>,
    pub(super) shared: Arc<Shared>,
    pub(super) state: State,
}

/// What the relay remembers between packets.
pub(super) struct State {
    settings: Impairment,
    generation: u64,
    random: fastrand::Rng,
    /// Packets seen since the settings changed.
    index: u64,
    /// Packets ever queued; keeps equal due times in order.
    queued: u64,
    /// When the rate limit lets the next packet start.
    idle_from_ns: u64,
    /// The latest due time of a packet that keeps its order.
    last_due_ns: u64,
    queue: BinaryHeap<Reverse<Waiting>>,
    clock: Converter,
    /// How long before the due time the sleep ends, if the budget allows.
    margin_ns: u64,
    /// How long may be spun now.
    spin_budget_ns: u64,
    /// When the budget was last added to.
    budget_at_ns: u64,
}

/// A packet on its way.
struct Waiting {
    due_ns: u64,
    number: u64,
    frame: Vec<u8>,
    record: Record,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due_ns, self.number).cmp(&(other.due_ns, other.number))
    }
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            settings: Impairment::default(),
            generation: 0,
            random: fastrand::Rng::with_seed(0),
            index: 0,
            queued: 0,
            idle_from_ns: 0,
            last_due_ns: 0,
            queue: BinaryHeap::new(),
            clock: Converter::new(),
            margin_ns: 20_000,
            spin_budget_ns: SPIN_SAVINGS_NS,
            budget_at_ns: monotonic_ns(),
        }
    }
}

impl Relay {
    /// Carries packets until the wire is dropped.
    pub(super) fn run(mut self) {
        become_punctual();
        let side = Arc::clone(&self.side);
        while !self.shared.stop.load(Ordering::Acquire) {
            let next = {
                // Held for the whole round, so that whoever reads the log after
                // a packet came out finds it there.
                let mut log = lock(&side.log);
                self.reload();
                self.admit(&mut log);
                self.release(&mut log);
                self.state
                    .queue
                    .peek()
                    .map(|Reverse(waiting)| waiting.due_ns)
            };
            self.wait(next);
        }
    }

    /// Takes over settings that changed.
    fn reload(&mut self) {
        let generation = self.side.generation.load(Ordering::Acquire);
        if generation != self.state.generation {
            let state = &mut self.state;
            state.settings = lock(&self.side.settings).clone();
            state.generation = generation;
            state.random = fastrand::Rng::with_seed(state.settings.seed);
            state.index = 0;
        }
    }

    /// Takes what came off the ring and decides its fate.
    fn admit(&mut self, log: &mut Vec<Record>) {
        let now = self.state.clock.refresh();
        for _ in 0..BURST {
            let Some(captured) = self.ring.next() else {
                break;
            };
            let now = now.max(monotonic_ns());
            self.admit_one(captured, now, log);
        }
    }

    fn admit_one(&mut self, captured: Captured, now: u64, log: &mut Vec<Record>) {
        let arrival_ns = self.state.clock.monotonic(captured.realtime_ns, now);
        let mut frame = captured.frame;
        let mut record = Record {
            direction: self.side.direction,
            fate: Fate::Forwarded,
            arrival_ns,
            due_ns: arrival_ns,
            departure_ns: None,
            frame_bytes: u32::try_from(frame.len()).unwrap_or(u32::MAX),
            tcp: frame::tcp_identity(&frame),
        };
        let state = &mut self.state;
        let settings = &state.settings;
        let view = PacketView {
            index: state.index,
            frame: &frame,
            tcp: record.tcp.as_ref(),
        };
        state.index += 1;
        let lost = settings.loss.takes(&view, &mut state.random);
        let fate = if captured.truncated {
            Some(Fate::Refused)
        } else if lost {
            Some(Fate::Lost)
        } else if state.queue.len() >= settings.queue_packets {
            Some(Fate::Overflowed)
        } else {
            None
        };
        if let Some(fate) = fate {
            record.fate = fate;
            log.push(record);
            return;
        }
        record.due_ns = state.due(arrival_ns, frame.len());
        frame::retag(&mut frame, &state.settings.vlan);
        if let Some(dscp) = state.settings.dscp {
            frame::set_dscp(&mut frame, dscp);
        }
        if state.settings.duplicate > 0.0 && state.random.f64() < state.settings.duplicate {
            let copy = Record {
                fate: Fate::Duplicated,
                ..record
            };
            state.enqueue(frame.clone(), record);
            state.enqueue(frame, copy);
        } else {
            state.enqueue(frame, record);
        }
    }

    /// Sends what is due.
    fn release(&mut self, log: &mut Vec<Record>) {
        let mut now = monotonic_ns();
        while let Some(Reverse(next)) = self.state.queue.peek() {
            if next.due_ns > now {
                break;
            }
            let Some(Reverse(mut waiting)) = self.state.queue.pop() else {
                break;
            };
            waiting.record.departure_ns = Some(monotonic_ns());
            if self.sender.send(&waiting.frame).is_err() {
                waiting.record.departure_ns = None;
                waiting.record.fate = Fate::Refused;
            }
            log.push(waiting.record);
            now = monotonic_ns();
        }
    }

    /// Waits for a packet, for `due` or for the end: sleeps until shortly
    /// before, then spins.
    fn wait(&mut self, due: Option<u64>) {
        let Some(due) = due else {
            self.poll(None);
            return;
        };
        let state = &mut self.state;
        let now = monotonic_ns();
        let wake = due.saturating_sub(state.affordable_margin(now));
        if now < wake {
            let timed_out = self.poll(Some(wake - now));
            if timed_out {
                self.state.learn(monotonic_ns().saturating_sub(wake));
            }
            return;
        }
        state.spin_budget_ns = state.spin_budget_ns.saturating_sub(due.saturating_sub(now));
        while monotonic_ns() < due {
            std::hint::spin_loop();
        }
    }

    /// Sleeps until a packet comes, the wire ends or `limit_ns` passed; true
    /// if the last.
    fn poll(&self, limit_ns: Option<u64>) -> bool {
        let mut sources = [
            PollFd::new(self.receiver.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.side.wake.as_fd(), PollFlags::POLLIN),
        ];
        let limit =
            limit_ns.map(|limit| TimeSpec::nanoseconds(i64::try_from(limit).unwrap_or(i64::MAX)));
        let woken = matches!(ppoll(&mut sources, limit, None), Ok(0));
        if sources[1].any().unwrap_or(false) {
            let _ = self.side.wake.read();
        }
        woken
    }
}

impl State {
    /// When a packet should leave.
    fn due(&mut self, arrival_ns: u64, bytes: usize) -> u64 {
        let settings = &self.settings;
        let mut start = arrival_ns;
        if let Some(rate) = settings.rate_bits_per_second.filter(|rate| *rate > 0) {
            let bits = u128::try_from(bytes).unwrap_or(0) * 8;
            let transmission = bits * 1_000_000_000 / u128::from(rate);
            start = self.idle_from_ns.max(arrival_ns)
                + u64::try_from(transmission).unwrap_or(u64::MAX >> 1);
            self.idle_from_ns = start;
        }
        let delay = u64::try_from(settings.delay.as_nanos()).unwrap_or(u64::MAX >> 1);
        let due = start.saturating_add(settings.jitter.apply(delay, &mut self.random));
        if let Some(reorder) = settings.reorder
            && self.random.f64() < reorder.probability
        {
            return due + u64::try_from(reorder.extra.as_nanos()).unwrap_or(0);
        }
        // Jitter alone does not reorder: a real queue would not either.
        self.last_due_ns = self.last_due_ns.max(due);
        if settings.jitter == super::Jitter::None {
            due
        } else {
            self.last_due_ns
        }
    }

    fn enqueue(&mut self, frame: Vec<u8>, record: Record) {
        self.queued += 1;
        let waiting = Waiting {
            due_ns: record.due_ns,
            number: self.queued,
            frame,
            record,
        };
        self.queue.push(Reverse(waiting));
    }

    /// The margin, or what the budget leaves of it.
    fn affordable_margin(&mut self, now: u64) -> u64 {
        let earned = now.saturating_sub(self.budget_at_ns) / SPIN_SHARE;
        self.budget_at_ns = now;
        self.spin_budget_ns = (self.spin_budget_ns + earned).min(SPIN_SAVINGS_NS);
        self.margin_ns.min(self.spin_budget_ns)
    }

    /// Learns how late timers are here: the margin follows their lateness,
    /// quickly up and slowly down.
    fn learn(&mut self, late_ns: u64) {
        let wanted = (late_ns + late_ns / 2).clamp(MARGIN_FLOOR_NS, MARGIN_CEILING_NS);
        if wanted > self.margin_ns {
            self.margin_ns += (wanted - self.margin_ns) / 2;
        } else {
            self.margin_ns -= (self.margin_ns - wanted) / 64;
        }
    }
}

/// Asks for timers without slack and, where allowed, for a real-time class;
/// without them the wire works, less precisely, and its log shows it.
fn become_punctual() {
    let _ = nix::sys::prctl::set_timerslack(1);
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the pointer is to a live local; 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
