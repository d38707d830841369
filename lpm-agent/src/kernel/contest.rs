//! Decides, over time, how often a hook is inspected and how often our program moves to its front.
//!
//! An inspection sees an instant. A program that comes and goes between two inspections takes
//! packets from us all the same. So the time between two is random: no program can be absent at
//! each of them by its clock. A hook at which something has just changed is inspected again soon.

use std::time::{Duration, Instant};

/// Moves to the front that are made at once. Further moves wait.
const FREE_MOVES: u32 = 3;

/// Wait before the first move that is not made at once. Each further move doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(20);

/// Longest wait before a move.
const LONGEST_WAIT: Duration = Duration::from_mins(10);

/// Time without another program in front after which the contest is over.
const PEACE: Duration = Duration::from_mins(1);

/// Time for which a hook is inspected closely after another program left its front, or was put
/// behind.
const CLOSELY: Duration = Duration::from_secs(30);

/// The time to the next inspection: between half of `longest` and all of it, by the random `share`
/// (0 to 1).
pub(crate) fn pause(longest: Duration, share: f64) -> Duration {
    longest.mul_f64(0.5 + share / 2.0)
}

/// The contest between our program and others for the front of a hook. It must not become a tug of
/// war.
#[derive(Debug, Default)]
pub(crate) struct Contest {
    moves: u32,
    /// Number of times that another program left the front without a move of ours.
    departures: u32,
    next: Option<Instant>,
    /// When another program was last seen in front.
    last: Option<Instant>,
    /// When another program left the front, or ours was put there.
    changed: Option<Instant>,
    /// True: another program was in front at the last look, and still is.
    behind: bool,
}

impl Contest {
    /// Records that another program is in front. Returns true if ours may be put in front of it
    /// now.
    pub(crate) fn disturbed(&mut self, now: Instant) -> bool {
        self.last = Some(now);
        self.behind = true;
        self.next.is_none_or(|next| now >= next)
    }

    /// Records that ours was put in front.
    pub(crate) fn moved(&mut self, now: Instant) {
        self.moves += 1;
        self.behind = false;
        self.changed = Some(now);
        let doublings = self.moves.saturating_sub(FREE_MOVES + 1).min(16);
        let wait = (FIRST_WAIT * 2_u32.pow(doublings)).min(LONGEST_WAIT);
        self.next = self.is_contested().then(|| now + wait);
    }

    /// Records that no other program is in front. `harmless`: the one that was took nothing from
    /// us.
    pub(crate) fn undisturbed(&mut self, now: Instant, harmless: bool) {
        if self.behind {
            self.behind = false;
            self.departures += u32::from(!harmless);
            self.changed = Some(now);
        }
        if !self.is_disturbed(now, PEACE) {
            *self = Self::default();
        }
    }

    /// True if another program was in front within this time.
    pub(crate) fn is_disturbed(&self, now: Instant, within: Duration) -> bool {
        is_within(self.last, now, within)
    }

    /// True if another program has come before ours again and again.
    pub(crate) fn is_contested(&self) -> bool {
        self.moves + self.departures > FREE_MOVES
    }

    /// True if the next look should come before the next inspection. Either something has just
    /// changed, or it must be found whether the contest is over. A program that stays in front is
    /// not looked at closely.
    pub(crate) fn is_close(&self, now: Instant) -> bool {
        is_within(self.changed, now, CLOSELY) || (self.is_contested() && !self.behind)
    }
}

fn is_within(then: Option<Instant>, now: Instant, within: Duration) -> bool {
    then.is_some_and(|then| now.duration_since(then) < within)
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
        // Moves are made at once, then after 20 s, 40 s, up to ten minutes.
        assert_eq!(moves, [0, 1, 2, 3, 5, 9, 17, 33, 65, 125, 185, 245, 305]);
        let end = begun + LOOK * 360;
        contest.undisturbed(end, false);
        assert!(contest.is_contested(), "not a minute ago");
        contest.undisturbed(end + PEACE, false);
        assert!(!contest.is_contested() && contest.disturbed(end + PEACE));
    }

    #[test]
    fn pauses_are_of_many_lengths() {
        assert_eq!(pause(LOOK, 0.0), LOOK / 2);
        assert_eq!(pause(LOOK, 0.5), LOOK * 3 / 4);
        assert_eq!(pause(LOOK, 1.0), LOOK);
    }

    /// Another owner's program that is attached at the head for `on` of each `period`, in ms, for
    /// the first `end` ms.
    struct Flap {
        on: u64,
        period: u64,
        end: u64,
        /// True: ours can be put in front of it.
        movable: bool,
    }

    impl Flap {
        /// When, in ms, the contest was reported to begin and to end, and how often ours was put in
        /// front until then, over twenty minutes of looks.
        fn told(&self, seed: u64) -> (Vec<u64>, u32) {
            let (mut contest, begun) = (Contest::default(), Instant::now());
            let mut random = fastrand::Rng::with_seed(seed);
            let ms = |pause: Duration| u64::try_from(pause.as_millis()).expect("short");
            // The first look is at a time at which the other program is absent, if it ever is.
            let (mut at, mut full, mut moved_at) = (9500, 0, None);
            let (mut told, mut moves) = (Vec::new(), 0);
            while at < 1_200_000 {
                let now = begun + Duration::from_millis(at);
                let came = at / self.period * self.period;
                let there = at < self.end && at - came < self.on;
                if there && moved_at.is_none_or(|moved| moved < came) {
                    if contest.disturbed(now) && self.movable {
                        contest.moved(now);
                        moved_at = Some(at);
                        moves += u32::from(told.is_empty());
                    }
                } else {
                    contest.undisturbed(now, false);
                }
                if contest.is_contested() == (told.len() % 2 == 0) {
                    told.push(at);
                }
                if at >= full {
                    full = at + ms(pause(LOOK, random.f64()));
                }
                let close = at + ms(pause(Duration::from_secs(1), random.f64()));
                at = if contest.is_close(now) {
                    full.min(close)
                } else {
                    full
                };
            }
            (told, moves)
        }
    }

    #[test]
    fn one_that_comes_and_goes_is_told_once_until_it_is_over() {
        let end = 1_000_000;
        // A second on and a second off; on except for 700 ms of each 10 s, which is `behind` where
        // ours cannot pass it; on for a second of each 10 s. `most` is the time in which that is
        // found.
        for (on, period, movable, most) in [
            (1000, 2000, true, 120_000),
            (1000, 2000, false, 120_000),
            (9300, 10_000, true, 120_000),
            (1000, 10_000, true, end),
            (1000, 10_000, false, end),
        ] {
            let flap = Flap {
                on,
                period,
                end,
                movable,
            };
            for seed in 0..50 {
                let (told, moves) = flap.told(seed);
                let [from, to] = told[..] else {
                    panic!("{on} of {period}, {movable}, {seed}: {told:?}")
                };
                assert!(from < most, "{on} of {period}, {movable}: {from}");
                assert_eq!(moves, if movable { 4 } else { 0 });
                // The contest ends a minute after the program was last seen, which may be a while
                // before it went.
                let over = end + 45_000..end + 62_000;
                assert!(over.contains(&to), "{on} of {period}, {movable}: {to}");
            }
        }
    }

    #[test]
    fn one_overtaking_is_no_contest() {
        for (on, movable) in [(20_000, true), (200_000, true), (200_000, false)] {
            let (period, end) = (1_200_000, 1_200_000);
            let flap = Flap {
                on,
                period,
                end,
                movable,
            };
            assert_eq!(flap.told(1), (Vec::new(), u32::from(movable)));
        }
    }

    #[test]
    fn one_that_takes_nothing_may_come_and_go() {
        let (mut contest, begun) = (Contest::default(), Instant::now());
        for look in 0..20 {
            let now = begun + LOOK * look;
            assert!(contest.disturbed(now));
            assert!(!contest.is_close(now) || look > 0);
            contest.undisturbed(now + LOOK / 2, true);
            assert!(contest.is_close(now + LOOK / 2));
        }
        assert!(!contest.is_contested());
    }

    #[test]
    fn one_that_stays_is_not_looked_at_closely() {
        let (mut contest, now) = (Contest::default(), Instant::now());
        assert!(!contest.is_close(now));
        for _ in 0..5 {
            contest.disturbed(now);
            contest.moved(now);
        }
        assert!(
            contest.is_close(now) && contest.is_close(now + PEACE),
            "contested"
        );
        contest.disturbed(now + CLOSELY);
        assert!(!contest.is_close(now + CLOSELY));
    }
}
