//! Detects hooks that do not see the packets of their interface.
//!
//! Two things are checked: which programs run before ours (`attach::front`), and whether packets
//! reach ours while the interface counts some. Flows show the second cheaply. Where they show none,
//! the packets at the hook are counted for a while. So an interface without TCP is not taken for a
//! blind one.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::{attach::Other, bpf::Direction, contest::Contest};

/// Why an interface is not measured though it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A program of another owner runs before ours, and no packet has been seen behind it.
    Behind,
    /// Another program comes before ours again and again. The interface is measured part of the
    /// time only.
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

/// A hook that does not see the packets, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blind {
    /// Reason why nothing, or not all, is measured.
    pub reason: Reason,
    /// The hook.
    pub direction: Direction,
    /// The programs that run before ours, or last did.
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
                "no packet of its {direction} reaches our program: {others} comes first, and our \
                 program cannot be put in front of it; attach the other way (`attach` in the \
                 configuration), or have the other program pass packets on to the next program \
                 (TC_ACT_UNSPEC)"
            ),
            Reason::Contested => write!(
                f,
                "its {direction} is not measured all the time: {others} takes the place before our \
                 program again and again; where possible the agent puts our program back in front, \
                 at growing intervals"
            ),
            Reason::Silent => write!(
                f,
                "it counts packets at its {direction}, but none reaches our program; `bpftool net` \
                 and `tc filter show` list the other programs"
            ),
            Reason::Refused => f.write_str("the programs could not be attached"),
        }
    }
}

/// Fewest packets of the interface for a conclusion.
const ENOUGH: u64 = 20;

/// Time without a new check once packets have reached the hook. It doubles each time.
const FIRST_REST: Duration = Duration::from_mins(1);
const LONGEST_REST: Duration = Duration::from_mins(30);

/// The next step in counting packets at a hook.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    Begin,
    End,
}

/// Numbers of one look at a hook.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// Packets counted by the interface.
    pub(crate) passed: u64,
    /// Packets in the flows of this direction. A number other than before is a sign of life.
    pub(crate) flows: Option<u64>,
    /// Packets counted at the hook. None: they are not counted.
    pub(crate) counted: Option<u64>,
}

/// State of the check whether packets reach a hook.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    last: Option<Seen>,
    /// The interface's count when the counting at the hook began.
    since: u64,
    rest: Duration,
    rests_until: Option<Instant>,
    silent: bool,
}

impl Silence {
    /// Takes the numbers of one look. `doubted`: another program is in front, so the check begins
    /// at once.
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

    /// True if the interface counts packets and none reaches the hook.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    /// Drops what is known, so that the check begins again.
    pub(crate) fn forget(&mut self) {
        self.silent = false;
        self.last = None;
    }
}

/// State of one hook.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(crate) contest: Contest,
    pub(crate) silence: Silence,
    /// The programs in front, or those that were last.
    pub(crate) others: Vec<Other>,
    /// True: packets were seen behind these programs.
    pub(crate) passes: bool,
}

impl Watch {
    /// The reason why the hook is blind, if it is. `behind`: another program is in front now.
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
