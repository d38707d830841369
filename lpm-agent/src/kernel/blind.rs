//! Whether a hook sees what passes its interface, and what is done until it does.
//!
//! Two things are looked at: who stands before our program (`attach::front`), and whether packets
//! reach it while the interface counts some. Flows show that cheaply; where they show none, the
//! packets at the hook are counted for a while, so that an interface without TCP is not taken for
//! a blind one.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::{attach::Other, bpf::Direction};

/// Why an interface is not measured though it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Somebody's program comes before ours, and no packet has been seen behind it.
    Behind,
    /// It comes before ours again and again: it is measured now and then only.
    Contested,
    /// The interface counts packets, and none reaches our program.
    Silent,
    /// The programs could not be attached.
    Refused,
}

impl Reason {
    /// The word used in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Behind => "behind",
            Self::Contested => "contested",
            Self::Silent => "silent",
            Self::Refused => "refused",
        }
    }
}

/// What is wrong with a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blind {
    /// Why nothing, or not all, is measured.
    pub reason: Reason,
    /// At which hook.
    pub direction: Direction,
    /// Who stands in front, or last did.
    pub others: Vec<Other>,
}

impl fmt::Display for Blind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = self.direction;
        let others: Vec<String> = self.others.iter().map(ToString::to_string).collect();
        let others = others.join("; ");
        match self.reason {
            Reason::Behind => write!(
                f,
                "no packet of its {direction} reaches us: {others} comes first, and ours cannot be put in front of it; attach the other way (`attach` in the configuration), or make the other program go on to the next (TC_ACT_UNSPEC)"
            ),
            Reason::Contested => write!(
                f,
                "its {direction} is not measured all the time: {others} comes before ours again and again; ours is put in front ever more rarely"
            ),
            Reason::Silent => write!(
                f,
                "it counts packets at its {direction}, and none reaches our program; `bpftool net` and `tc filter show` tell what else is there"
            ),
            Reason::Refused => f.write_str("the programs could not be attached"),
        }
    }
}

/// Moves to the front that are made at once; from then on they are waited for.
const FREE_MOVES: u32 = 3;

/// The first wait, doubled with each further move.
const FIRST_WAIT: Duration = Duration::from_secs(20);

/// The longest one.
const LONGEST_WAIT: Duration = Duration::from_mins(10);

/// Nobody was in front for so long: it is over.
const PEACE: Duration = Duration::from_mins(1);

/// Who is in front, in the long run: it must not become a tug of war.
#[derive(Debug, Default)]
pub(crate) struct Contest {
    moves: u32,
    next: Option<Instant>,
    last: Option<Instant>,
}

impl Contest {
    /// Somebody is in front. True: ours may be put in front of it now.
    pub(crate) fn disturbed(&mut self, now: Instant) -> bool {
        self.last = Some(now);
        self.next.is_none_or(|next| now >= next)
    }

    /// Ours was put in front.
    pub(crate) fn moved(&mut self, now: Instant) {
        self.moves += 1;
        let doublings = self.moves.saturating_sub(FREE_MOVES + 1).min(16);
        let wait = (FIRST_WAIT * 2_u32.pow(doublings)).min(LONGEST_WAIT);
        self.next = self.is_contested().then(|| now + wait);
    }

    /// Nobody is in front.
    pub(crate) fn undisturbed(&mut self, now: Instant) {
        if self.is_disturbed(now, PEACE) {
            return;
        }
        *self = Self::default();
    }

    /// Whether somebody was in front not longer ago than this.
    pub(crate) fn is_disturbed(&self, now: Instant, within: Duration) -> bool {
        self.last
            .is_some_and(|last| now.duration_since(last) < within)
    }

    /// Whether somebody has come before ours again and again.
    pub(crate) fn is_contested(&self) -> bool {
        self.moves > FREE_MOVES
    }
}

/// Packets of the interface without which nothing is concluded.
const ENOUGH: u64 = 20;

/// How long it is not asked again whether packets reach the hook, once some have: doubled each time.
const FIRST_REST: Duration = Duration::from_mins(1);
const LONGEST_REST: Duration = Duration::from_mins(30);

/// What is to be done about the counting of packets at a hook.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    Begin,
    End,
}

/// What is seen of a hook at one look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// Packets that the interface has counted.
    pub(crate) passed: u64,
    /// Packets in the flows of this direction; another number than before is a sign of life.
    pub(crate) flows: Option<u64>,
    /// Packets counted at the hook; `None`: they are not.
    pub(crate) counted: Option<u64>,
}

/// Whether packets reach a hook.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    last: Option<Seen>,
    /// What the interface had counted when the counting at the hook began.
    since: u64,
    rest: Duration,
    rests_until: Option<Instant>,
    silent: bool,
}

impl Silence {
    /// Takes in what is seen; `doubted`: somebody is in front, so it is asked at once.
    pub(crate) fn look(&mut self, now: Instant, seen: Seen, doubted: bool) -> Step {
        let last = self.last.replace(seen);
        match seen.counted {
            Some(0) => {
                self.silent = seen.passed.saturating_sub(self.since) >= ENOUGH;
                Step::Nothing
            }
            Some(_) => {
                self.silent = false;
                self.rest = (self.rest * 2).clamp(FIRST_REST, LONGEST_REST);
                self.rests_until = Some(now + self.rest);
                Step::End
            }
            None => {
                let alive = match last {
                    Some(last) => {
                        last.flows != seen.flows || seen.passed.saturating_sub(last.passed) < ENOUGH
                    }
                    None => true,
                };
                let rests = self.rests_until.is_some_and(|until| now < until);
                if doubted || (seen.flows.is_some() && !alive && !rests) {
                    self.since = seen.passed;
                    Step::Begin
                } else {
                    Step::Nothing
                }
            }
        }
    }

    /// Whether the interface counts packets and none reaches the hook.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    /// It is not known any more: what is asked begins anew.
    pub(crate) fn forget(&mut self) {
        self.silent = false;
        self.last = None;
    }
}

/// What is remembered of one hook.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(crate) contest: Contest,
    pub(crate) silence: Silence,
    /// Who is in front, or was last.
    pub(crate) others: Vec<Other>,
    /// Packets were seen behind these.
    pub(crate) passes: bool,
}

impl Watch {
    /// What is wrong, if anything; `behind`: somebody is in front now.
    pub(crate) fn reason(&self, behind: bool) -> Option<Reason> {
        if self.contest.is_contested() {
            Some(Reason::Contested)
        } else if behind && !self.passes {
            Some(Reason::Behind)
        } else if self.silence.is_silent() {
            Some(Reason::Silent)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_secs(10);

    #[test]
    fn a_tug_of_war_ends() {
        let mut contest = Contest::default();
        let begun = Instant::now();
        let mut moves = Vec::new();
        for look in 0..360 {
            let now = begun + LOOK * look;
            if contest.disturbed(now) {
                contest.moved(now);
                moves.push(look);
            }
            assert_eq!(contest.is_contested(), moves.len() > 3);
        }
        // At once, then after 20 s, 40 s, up to ten minutes.
        assert_eq!(moves, [0, 1, 2, 3, 5, 9, 17, 33, 65, 125, 185, 245, 305]);
        let end = begun + LOOK * 360;
        contest.undisturbed(end);
        assert!(contest.is_contested(), "not a minute ago");
        contest.undisturbed(end + PEACE);
        assert!(!contest.is_contested() && contest.disturbed(end + PEACE));
    }

    fn seen(passed: u64, flows: u64, counted: Option<u64>) -> Seen {
        let flows = Some(flows);
        Seen {
            passed,
            flows,
            counted,
        }
    }

    #[test]
    fn an_interface_whose_packets_do_not_reach_us() {
        let (mut silence, now) = (Silence::default(), Instant::now());
        let mut look = |seconds, seen| {
            let step = silence.look(now + Duration::from_secs(seconds), seen, false);
            (step, silence.is_silent())
        };
        assert_eq!(
            look(0, seen(1000, 7, None)),
            (Step::Nothing, false),
            "the first look"
        );
        assert_eq!(
            look(10, seen(1010, 7, None)),
            (Step::Nothing, false),
            "too few"
        );
        assert_eq!(
            look(20, seen(1100, 9, None)),
            (Step::Nothing, false),
            "flows go on"
        );
        assert_eq!(
            look(30, seen(1200, 9, None)),
            (Step::Begin, false),
            "no flow does"
        );
        assert_eq!(
            look(40, seen(1210, 9, Some(0))),
            (Step::Nothing, false),
            "too few"
        );
        assert_eq!(look(50, seen(1220, 9, Some(0))), (Step::Nothing, true));
        assert_eq!(
            look(60, seen(1300, 9, Some(3))),
            (Step::End, false),
            "they do again"
        );
        assert_eq!(
            look(70, seen(1400, 9, None)),
            (Step::Nothing, false),
            "it rests"
        );
        assert_eq!(
            look(130, seen(1500, 9, None)),
            (Step::Begin, false),
            "and asks again"
        );
    }

    #[test]
    fn without_flows_to_look_at_only_doubt_asks() {
        let (mut silence, now) = (Silence::default(), Instant::now());
        let idle = Seen {
            passed: 5,
            flows: None,
            counted: None,
        };
        assert_eq!(silence.look(now, idle, false), Step::Nothing);
        let busy = Seen {
            passed: 5000,
            ..idle
        };
        assert_eq!(silence.look(now, busy, false), Step::Nothing);
        assert_eq!(silence.look(now, busy, true), Step::Begin);
    }

    #[test]
    fn nobody_in_front_is_in_the_way() {
        let mut watch = Watch::default();
        assert_eq!(watch.reason(false), None);
        assert_eq!(watch.reason(true), Some(Reason::Behind));
        watch.passes = true;
        assert_eq!(watch.reason(true), None, "packets are seen behind it");
        watch.silence.silent = true;
        assert_eq!(watch.reason(false), Some(Reason::Silent));
        watch.silence.forget();
        assert_eq!(watch.reason(false), None, "it is not known any more");
    }
}
