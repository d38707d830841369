//! One session of probes: it opens its socket, sends its trains, and counts.

use std::{
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use nix::errno::Errno;

use super::{
    figures::{Estimated, Figures, Outcome, Shown},
    losses::Losses,
    prober::Common,
    silence::{Silence, Turn as Change},
    spec::Spec,
    train::Train,
};
use crate::active::{
    offset::Basis,
    report::{Answered, Report, TrainEnd, Void},
    sender::{Pace, Sender, Turn},
    statistics::Answer,
    summary::{reordered_backward, reordered_forward},
    verdict::Collector,
};

/// Time until a session that could not begin tries again.
const RETRY: Duration = Duration::from_secs(5);

/// What is done so much later than it should be is late.
const LATE: Duration = Duration::from_millis(1);

/// Time over which the first trains of all sessions are spread, if their interval is not shorter.
const SPREAD: Duration = Duration::from_secs(10);

/// Most answers whose numbers are kept until the train ends: several for each of its packets.
const NUMBERS: usize = 4096;

/// A session of the thread that probes.
#[derive(Debug)]
pub(super) struct Probing {
    pub(super) spec: Spec,
    counted: Counted,
    sender: Option<Sender>,
    /// None: its name is not resolved.
    address: Option<IpAddr>,
    /// When to open the socket, if it is not open.
    open_at: Instant,
    /// When [`work`](Self::work) has something to do.
    pub(super) wake: Instant,
}

/// What is counted of a session.
#[derive(Debug)]
struct Counted {
    shown: Arc<Shown>,
    figures: Arc<Figures>,
    train: Train,
    losses: Losses,
    silence: Silence,
    /// What the train that runs says of the link. None: there is no socket yet.
    round: Option<Collector>,
    /// The numbers of the answers since the last train ended, in the order of their arrival.
    numbers: Vec<Answer>,
    /// Whether the target's state asks for another pace.
    is_repaced: bool,
    /// Why the socket is of no more use: the interface or the address is gone.
    cut_off: Option<Errno>,
}

impl Probing {
    pub(super) fn new(spec: Spec, shown: Arc<Shown>, figures: Arc<Figures>, now: Instant) -> Self {
        let probed = &spec.probed;
        let mut of = shown.figures();
        (of.interval, of.suppressed_since) = (spec.interval, None);
        drop(of);
        let counted = Counted {
            shown,
            figures,
            train: Train::default(),
            losses: Losses::new(probed.timeout, spec.interval),
            silence: Silence::new(spec.manner.suppress_after, probed.timeout),
            round: None,
            numbers: Vec::new(),
            is_repaced: false,
            cut_off: None,
        };
        // Sessions do not all send at the same moment, neither of one node nor of all.
        let spread = u64::try_from(spec.interval.min(SPREAD).as_nanos()).unwrap_or(u64::MAX);
        let phase = spec.seed(&counted.figures.node) % spread.max(1);
        let open_at = now + Duration::from_nanos(phase);
        Self {
            address: spec.address(),
            counted,
            sender: None,
            open_at,
            wake: open_at,
            spec,
        }
    }

    /// The target's address, as far as it is known.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Goes on as this session, which may have another interval.
    pub(super) fn go_on_as(&mut self, spec: Spec) {
        self.spec = spec;
        self.counted.losses.set_interval(self.spec.interval);
        self.keep_pace();
    }

    /// Sends as often, and as much, as the target's state asks for.
    fn keep_pace(&mut self) {
        let probed = &self.spec.probed;
        let pace = match self.counted.silence.interval(self.spec.interval) {
            Some(interval) => Pace {
                interval,
                probes: 1,
            },
            None => Pace {
                interval: self.spec.interval,
                probes: probed.train.packets.into(),
            },
        };
        let mut figures = self.counted.shown.figures();
        figures.interval = pace.interval;
        let stretch = self.spec.interval.div_duration_f64(probed.interval);
        figures.stretch = (stretch > 1.0).then_some(stretch);
        drop(figures);
        if let Some(sender) = &mut self.sender {
            sender.set_pace(pace);
            self.wake = self.wake.min(sender.next());
        }
    }

    /// Takes the addresses of the target's name. An unknown name ends nothing that runs.
    pub(super) fn resolved(&mut self, addresses: &Result<Vec<IpAddr>, String>, now: Instant) {
        let from = self.spec.local_address();
        let fits = |one: &IpAddr| from.is_none_or(|from| from.is_ipv4() == one.is_ipv4());
        let found = match addresses {
            // An address that the name still has stays.
            Ok(all) if self.address.is_some_and(|address| all.contains(&address)) => return,
            Ok(all) => all.iter().copied().find(fits),
            Err(reason) => {
                let name = self.spec.host().unwrap_or_default();
                return self.fail("name", format!("{name}: {reason}"));
            }
        };
        let Some(address) = found else {
            let name = self.spec.host().unwrap_or_default();
            let reason = "it has no address of the family that `from` asks for";
            return self.fail("name", format!("{name}: {reason}"));
        };
        self.address = Some(address);
        self.sender = None;
        (self.open_at, self.wake) = (now, now);
    }

    /// Does what is due, and takes what the socket has.
    pub(super) fn work(&mut self, now: Instant, token: u64, common: &Common) {
        if now >= self.wake + LATE {
            self.counted.figures.together().late_timers += 1;
        }
        if self.sender.is_none() {
            self.open(now, token, common);
        }
        let counted = &mut self.counted;
        let mut take = |report: Report| -> io::Result<()> {
            counted.take(report, now);
            Ok(())
        };
        let turn = self.sender.as_mut().map(|sender| sender.step(&mut take));
        match turn {
            Some(Ok(Turn::Wait(wake))) => self.wake = wake,
            // No plan has an end.
            Some(Ok(Turn::Done)) | None => self.wake = self.open_at,
            Some(Err(error)) => self.broken(&error, now),
        }
        if let Some(gone) = self.counted.cut_off.take() {
            self.broken(&gone.into(), now);
        }
        if std::mem::take(&mut self.counted.is_repaced) {
            self.keep_pace();
        }
        if let Some(due) = self.counted.settle(now) {
            self.wake = self.wake.min(due);
        }
    }

    /// Opens the socket, if it is time and the address is known.
    fn open(&mut self, now: Instant, token: u64, common: &Common) {
        if now < self.open_at {
            return;
        }
        let Some(address) = self.address else {
            // The resolver's news open it.
            self.open_at = now + RETRY;
            return;
        };
        let plan = self.spec.plan(address, &self.counted.figures.node);
        match common.open(plan, token) {
            Ok(sender) => {
                let interval = self.spec.interval;
                self.counted.begin(Collector::new(address, interval));
                self.sender = Some(sender);
                self.keep_pace();
            }
            Err(error) => self.broken(&error, now),
        }
    }

    /// The socket cannot be opened, or has failed.
    fn broken(&mut self, error: &io::Error, now: Instant) {
        self.sender = None;
        self.open_at = now + RETRY;
        self.wake = self.open_at;
        let from = self.spec.probed.from.as_deref().unwrap_or_default();
        let (reason, text) = match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENODEV | Errno::ENXIO) => (
                "interface",
                format!("there is no interface {from}: `ip link` shows those that are there"),
            ),
            Some(Errno::EADDRNOTAVAIL) => (
                "address",
                format!("{from} is no address of this machine: `ip address` shows its own"),
            ),
            Some(Errno::EADDRINUSE) => (
                "ports",
                format!(
                    "none of the ports {} is free: give more in probes.ports; `ss -lunp` shows who \
                     has them",
                    (self.spec.ports()).map_or_else(String::new, |ports| format!(
                        "{}-{}",
                        ports.start(),
                        ports.end()
                    ))
                ),
            ),
            Some(Errno::EMFILE | Errno::ENFILE) => (
                "socket",
                format!(
                    "no socket can be opened: {error}; raise the limit of open files (ulimit -n)"
                ),
            ),
            _ => ("socket", format!("its socket failed: {error}")),
        };
        self.fail(reason, text);
    }

    /// Counts why the session does not run, and logs each new reason.
    fn fail(&self, reason: &'static str, text: String) {
        let shown = &self.counted.shown;
        let mut figures = shown.figures();
        *figures.failures.entry(reason).or_default() += 1;
        figures.last_round_trip = None;
        if figures.error.as_ref() != Some(&text) {
            tracing::error!(target = %shown.target, class = shown.class, "the target is not probed: {text}; it is tried again every {} s", RETRY.as_secs());
            figures.error = Some(text);
        }
    }
}

impl Counted {
    /// The socket is a new one, and the reflector knows no session of it.
    fn begin(&mut self, round: Collector) {
        self.round = Some(round);
        self.train = Train::default();
        self.numbers.clear();
        let pending = self.losses.restart();
        self.shown.count_many(Outcome::Lost, pending);
        let pending = self.silence.restart();
        self.shown.count_many(Outcome::Suppressed, pending);
        if self.shown.figures().error.take().is_some() {
            tracing::info!(target = %self.shown.target, class = self.shown.class, "the target is probed");
        }
    }

    fn take(&mut self, report: Report, now: Instant) {
        self.figures.together().own.note(&report);
        let round = self.round.as_mut();
        if let Some(round) = round.and_then(|round| round.take(&report, now)) {
            self.shown.tell(round);
        }
        match report {
            Report::Answered(answered) => self.answered(&answered),
            Report::Lost { probe, sequence } => {
                if !self.silence.lost((probe, sequence), now) {
                    self.losses.lost((probe, sequence), now);
                }
            }
            Report::Late { probe, .. } => {
                self.losses.late(probe);
                self.silence.late(probe);
                self.shown.count(Outcome::Late);
            }
            Report::Duplicate { .. } => self.shown.count(Outcome::Duplicate),
            Report::Unreachable { error, .. } => {
                self.shown.count(Outcome::Unreachable);
                let is_gone = matches!(error, Errno::ENODEV | Errno::ENXIO | Errno::EADDRNOTAVAIL);
                self.cut_off = is_gone.then_some(error).or(self.cut_off);
            }
            Report::Numbered { answer, counts } => {
                let change = self.silence.hear(answer.packet);
                self.turn(change);
                // Who answers without end gets no memory for it.
                if self.numbers.len() < NUMBERS {
                    self.numbers.push(Answer {
                        reflected: answer.reflected.filter(|_| counts),
                        ..answer
                    });
                }
            }
            Report::Restarted(_) => {}
            Report::Train(end) => {
                let change = self.silence.end_train();
                self.turn(change);
                // Each packet to a dead target lengthens the interval.
                self.is_repaced |= self.silence.is_dead();
                self.end_train(&end);
            }
        }
    }

    /// Says that the target counts as dead, or does not any more.
    fn turn(&mut self, change: Option<Change>) {
        let Some(change) = change else {
            return;
        };
        self.is_repaced = true;
        let shown = &self.shown;
        let is_dead = change == Change::Dies;
        shown.figures().suppressed_since = is_dead.then(SystemTime::now);
        if is_dead {
            tracing::warn!(target = %shown.target, class = shown.class, "the target does not answer: it gets single packets, at intervals of up to a minute, until it does");
        } else {
            tracing::info!(target = %shown.target, class = shown.class, "the target answers again");
        }
    }

    fn answered(&mut self, answered: &Answered) {
        self.shown.figures().answered = Some(SystemTime::now());
        let stamps = match answered.stamps {
            Ok(stamps) => stamps,
            Err(Void::Clock) => return self.shown.count(Outcome::Clock),
            Err(Void::Impossible) => return self.shown.count(Outcome::Impossible),
        };
        self.shown.count(Outcome::Answered);
        let sources = answered.sources;
        let stages = [
            sources.sent,
            sources.reflector_received,
            sources.reflector_sent,
            sources.received,
        ];
        let mut together = self.figures.together();
        for (stage, source) in (1..).zip(stages) {
            *together.stamps.entry((stage, source)).or_default() += 1;
        }
        if !sources.is_whole() {
            return;
        }
        if let Some(dwell) = stamps.dwell() {
            together.dwells.observe(duration(dwell));
        }
        drop(together);
        self.train.take(answered, &stamps);
        let mut figures = self.shown.figures();
        if let Some(round_trip) = stamps.round_trip() {
            figures.round_trips.observe(duration(round_trip));
        }
        figures.hops = answered.seen.hops();
    }

    /// Shows what a train says that has ended.
    fn end_train(&mut self, end: &TrainEnd) {
        let reordered = [
            reordered_forward(&self.numbers),
            reordered_backward(&self.numbers),
        ];
        self.losses.hear(self.numbers.drain(..));
        let ways = self.train.end();
        let mut figures = self.shown.figures();
        for (sum, one) in figures.reordered.iter_mut().zip(reordered) {
            *sum += one.reordered;
        }
        figures.jitter = self.train.jitter();
        figures.last_round_trip = self.train.take_round_trip();
        let (Some(ways), Some(known)) = (ways, end.offset) else {
            return;
        };
        figures.ways = Some(ways);
        figures.offset = Some(Estimated {
            bounds: known.bounds,
            best: known.estimate.offset,
        });
        drop(figures);
        let is_refuted = known.estimate.basis == Basis::Refuted;
        self.figures.together().refuted += u64::from(is_refuted);
    }

    /// Counts the losses that are told by now. Returns when to look again. None: nothing is pending.
    fn settle(&mut self, now: Instant) -> Option<Instant> {
        let suppressed = self.silence.settle(now);
        self.shown.count_many(Outcome::Suppressed, suppressed);
        let lost = self.settle_losses(now);
        lost.into_iter().chain(self.silence.due()).min()
    }

    fn settle_losses(&mut self, now: Instant) -> Option<Instant> {
        if now >= self.losses.due()? {
            let lost = self.losses.settle(now);
            self.shown.count_many(Outcome::LostForward, lost.forward);
            self.shown.count_many(Outcome::LostBackward, lost.backward);
            self.shown.count_many(Outcome::Lost, lost.unknown);
        }
        // What is due now and stays waits for an answer that lies behind it.
        self.losses.due().filter(|due| *due > now)
    }
}

/// A time that is not below zero.
fn duration(nanoseconds: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
}
