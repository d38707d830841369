//! The figures of an agent's probes, shared between the thread that probes and those that show them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use super::targets::LeftOut;
use crate::{
    active::{
        offset::Bounds,
        report::At,
        verdict::{Grounds, Judge, Judgement, Paths, Round, Verdict},
    },
    config::Tags,
    passive::Counts,
};

/// What can become of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It was answered within the timeout.
    Answered,
    /// It was answered, but a clock was set meanwhile, or left its rate.
    Clock,
    /// It was answered with impossible times.
    Impossible,
    /// It was answered after the timeout.
    Late,
    /// It did not arrive at the reflector.
    LostForward,
    /// The reflector got it, and its answer was lost.
    LostBackward,
    /// It or its answer was lost.
    Lost,
    /// It was lost, and its target had not answered for long: a dead host is no lossy network.
    Suppressed,
    /// The network, or this machine, refused it.
    Unreachable,
    /// A further answer to a probe came.
    Duplicate,
}

impl Outcome {
    /// The word in the label `result`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "ok",
            Self::Clock => "clock",
            Self::Impossible => "impossible",
            Self::Late => "late",
            Self::LostForward => "lost_forward",
            Self::LostBackward => "lost_backward",
            Self::Lost => "lost",
            Self::Suppressed => "suppressed",
            Self::Unreachable => "unreachable",
            Self::Duplicate => "duplicate",
        }
    }
}

/// Bounds and the best estimate within them, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimated {
    /// The bounds.
    pub bounds: Bounds,
    /// The best estimate.
    pub best: i64,
}

/// What a session has measured. What was not measured is None or empty.
#[derive(Clone, Debug, Default)]
pub struct SessionFigures {
    /// Round trips without the reflector's dwell, of packets with both ends' kernel times.
    pub round_trips: Counts,
    /// How many probes this became of.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// Means of the forward and of the backward delay in the last train that was answered.
    pub ways: Option<[Estimated; 2]>,
    /// Mean round trip of the last train in nanoseconds, of packets as in `round_trips`. None: it had
    /// none, or the session does not run.
    pub last_round_trip: Option<f64>,
    /// Interarrival jitter of the forward way in nanoseconds.
    pub jitter: Option<f64>,
    /// Routers on the way there, by the last packet.
    pub hops: Option<u8>,
    /// Packets that a later one overtook, there and back.
    pub reordered: [u64; 2],
    /// When the last answer came.
    pub answered: Option<SystemTime>,
    /// The offset of the reflector's clock after the last train that was answered.
    pub offset: Option<Estimated>,
    /// How often the session could not begin, by reason.
    pub failures: BTreeMap<&'static str, u64>,
    /// Time from train to train now, around which it varies.
    pub interval: Duration,
    /// How many times longer that is than asked for, to fit the budget. None: it is as asked for.
    pub stretch: Option<f64>,
    /// Since when the target counts as dead. None: it does not.
    pub suppressed_since: Option<SystemTime>,
    /// Why the session does not run, for people. None: it runs.
    pub error: Option<String>,
}

/// A session of probes, for those who show it.
#[derive(Debug)]
pub struct Shown {
    /// Name of the target.
    pub target: Arc<str>,
    /// DSCP of the packets.
    pub class: u8,
    tags: Mutex<Arc<Tags>>,
    figures: Mutex<SessionFigures>,
    /// Trains that are not judged yet.
    rounds: Mutex<VecDeque<Round>>,
    judge: Mutex<Judge>,
    paths: Mutex<Option<Paths>>,
}

/// Most trains that wait for a judgement. It takes a second.
const ROUNDS: usize = 16;

/// The verdict on the link from this node to a target, over all classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// The word.
    pub verdict: Verdict,
    /// When it was named.
    pub since: SystemTime,
    /// The figures that it stands on.
    pub grounds: Grounds,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shown {
    /// The figures, held as they are.
    pub fn figures(&self) -> MutexGuard<'_, SessionFigures> {
        held(&self.figures)
    }

    /// Says how many of the paths to the target are bad, for the verdict. None: it is not known.
    pub fn set_paths(&self, paths: Option<Paths>) {
        *held(&self.paths) = paths;
    }

    /// How many of the paths to the target are bad.
    pub(super) fn paths(&self) -> Option<Paths> {
        *held(&self.paths)
    }

    /// What judges the session.
    pub(super) fn judge(&self) -> MutexGuard<'_, Judge> {
        held(&self.judge)
    }

    /// The verdict on the session. None: there are no grounds for one.
    #[must_use]
    pub fn judgement(&self) -> Option<Judgement> {
        self.judge().judgement().cloned()
    }

    /// Hands over a train to be judged. The oldest goes if nobody judges.
    pub(super) fn tell(&self, round: Round) {
        let mut rounds = held(&self.rounds);
        if rounds.len() >= ROUNDS {
            rounds.pop_front();
        }
        rounds.push_back(round);
    }

    /// Takes the trains that are not judged yet.
    pub(super) fn rounds(&self) -> VecDeque<Round> {
        std::mem::take(&mut *held(&self.rounds))
    }

    /// What else is known of the target.
    #[must_use]
    pub fn tags(&self) -> Arc<Tags> {
        let tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&tags)
    }

    /// Shows these tags from now on.
    pub(crate) fn tag(&self, tags: Arc<Tags>) {
        *self.tags.lock().unwrap_or_else(PoisonError::into_inner) = tags;
    }

    /// Counts a probe.
    pub(super) fn count(&self, outcome: Outcome) {
        self.count_many(outcome, 1);
    }

    /// Counts probes. A result that never happened has no count.
    pub(super) fn count_many(&self, outcome: Outcome, many: u64) {
        if many > 0 {
            *self.figures().outcomes.entry(outcome).or_default() += many;
        }
    }
}

/// What is counted for all sessions together.
#[derive(Clone, Debug, Default)]
pub struct Together {
    /// How long reflectors kept the packets, of packets with the reflector's kernel times.
    pub dwells: Counts,
    /// Where the four times of answered packets come from. The stage is T1 to T4, from 1 on.
    pub stamps: BTreeMap<(u8, At), u64>,
    /// Times at which the thread that probes did something more than 1 ms late.
    pub late_timers: u64,
    /// What the agent counts of its own probing.
    pub own: super::OwnProbing,
    /// Trains whose bounds refute what the clocks claim.
    pub refuted: u64,
    /// How many targets are not probed, by reason.
    pub left_out: BTreeMap<LeftOut, u64>,
    /// How many times longer than asked for the intervals of nodes are, to fit the budget. None: it
    /// is not limited.
    pub stretch: Option<f64>,
}

/// The figures of all sessions.
#[derive(Debug)]
pub struct Figures {
    /// The name of this node.
    pub node: Arc<str>,
    sessions: RwLock<Vec<Arc<Shown>>>,
    together: Mutex<Together>,
    groups: RwLock<Vec<Arc<str>>>,
    links: Mutex<BTreeMap<Arc<str>, Link>>,
}

impl Figures {
    /// Starts without a session.
    #[must_use]
    pub fn new(node: Arc<str>) -> Self {
        Self {
            node,
            sessions: RwLock::default(),
            together: Mutex::default(),
            groups: RwLock::default(),
            links: Mutex::default(),
        }
    }

    /// All sessions, in the configuration's order.
    #[must_use]
    pub fn sessions(&self) -> Vec<Arc<Shown>> {
        let sessions = self.sessions.read();
        sessions.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The tags by which targets are put together.
    #[must_use]
    pub fn groups(&self) -> Vec<Arc<str>> {
        let groups = self.groups.read();
        groups.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts targets together by these tags from now on.
    pub(crate) fn group_by(&self, tags: Vec<Arc<str>>) {
        *self.groups.write().unwrap_or_else(PoisonError::into_inner) = tags;
    }

    /// What is counted for all sessions together, held as it is.
    pub fn together(&self) -> MutexGuard<'_, Together> {
        held(&self.together)
    }

    /// The verdicts on the links to targets. A link on which there are no grounds for one is absent.
    #[must_use]
    pub fn links(&self) -> BTreeMap<Arc<str>, Link> {
        let sessions = self.sessions();
        let is_target = |name: &Arc<str>| sessions.iter().any(|one| one.target == *name);
        let mut links = held(&self.links).clone();
        links.retain(|target, _| is_target(target));
        links
    }

    /// Replaces all verdicts.
    pub(crate) fn set_links(&self, links: BTreeMap<Arc<str>, Link>) {
        *held(&self.links) = links;
    }

    /// Shows these sessions from now on, by target and class. One that was shown before goes on.
    pub(crate) fn show(&self, wanted: impl Iterator<Item = (Arc<str>, u8)>) -> Vec<Arc<Shown>> {
        let mut sessions = (self.sessions.write()).unwrap_or_else(PoisonError::into_inner);
        let shown = wanted.map(|(target, class)| {
            let is = |one: &&Arc<Shown>| one.target == target && one.class == class;
            let before = sessions.iter().find(is).map(Arc::clone);
            before.unwrap_or_else(|| {
                Arc::new(Shown {
                    target,
                    class,
                    tags: Mutex::default(),
                    figures: Mutex::default(),
                    rounds: Mutex::default(),
                    judge: Mutex::new(Judge::new(class)),
                    paths: Mutex::default(),
                })
            })
        });
        let shown: Vec<_> = shown.collect();
        sessions.clone_from(&shown);
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_stays_keeps_its_counts() {
        let figures = Figures::new("n1".into());
        let show = |names: &[&str]| {
            let wanted = names.iter().map(|name| (Arc::from(*name), 0));
            figures.show(wanted)
        };
        let first = show(&["a", "b"]);
        first[1].count(Outcome::Answered);
        let second = show(&["b", "c"]);
        let count = |shown: &Shown| shown.figures().outcomes.get(&Outcome::Answered).copied();
        assert_eq!((count(&second[0]), count(&second[1])), (Some(1), None));
        assert_eq!(count(&show(&["a"])[0]), None, "it begins anew");
        assert_eq!(figures.sessions().len(), 1);
    }
}
