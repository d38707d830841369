use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::*;
use crate::active::{
    Stamps,
    offset::Restart,
    report::{Answered, At, Report, Seen, Sources, Void},
};

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 2, 2));
const EVERY: Duration = Duration::from_secs(5);
const USUAL: Duration = Duration::from_micros(300);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[expect(clippy::unnecessary_wraps, reason = "rounds hold it so")]
fn spread(of: Duration) -> Option<Spread> {
    Some(Spread { p50: of, p99: of })
}

/// A train of 20 in which nothing is wrong.
fn fine() -> Round {
    Round {
        at: Instant::now(),
        to: PEER,
        interval: EVERY,
        sent: 20,
        answered: 20,
        late: 0,
        refused: Refused::default(),
        void: 0,
        untimed: 0,
        kept: 0,
        waited: 0,
        clock_changes: 0,
        refuted: false,
        rtt: spread(USUAL),
        dwell: spread(Duration::from_micros(80)),
        wait: spread(Duration::from_micros(10)),
    }
}

fn delayed(by: Duration) -> Round {
    Round {
        rtt: spread(USUAL + by),
        ..fine()
    }
}

fn lossy(lost: u32) -> Round {
    Round {
        answered: 20 - lost,
        ..fine()
    }
}

fn silent() -> Round {
    Round {
        answered: 0,
        rtt: None,
        dwell: None,
        wait: None,
        ..fine()
    }
}

fn refused(refused: Refused) -> Round {
    Round {
        refused,
        ..silent()
    }
}

fn stalled() -> Round {
    Round {
        kept: 20,
        dwell: spread(ms(300)),
        ..fine()
    }
}

/// A session that is judged train by train.
struct Session {
    judge: Judge,
    at: Instant,
    around: Surroundings,
    paths: Option<Paths>,
    named: Vec<Verdict>,
}

impl Session {
    /// One that has a baseline, and is `ok`.
    fn new() -> Self {
        let mut session = Self {
            judge: Judge::new(0),
            at: Instant::now(),
            around: Surroundings::default(),
            paths: None,
            named: Vec::new(),
        };
        session.take(&fine(), 5);
        assert_eq!(session.verdict(), Some(Verdict::Ok));
        session
    }

    fn verdict(&self) -> Option<Verdict> {
        self.judge.judgement().map(|judgement| judgement.verdict)
    }

    fn reason(&self) -> Option<Reason> {
        self.judge
            .judgement()
            .map(|judgement| judgement.grounds.reason)
    }

    /// Takes so many of these rounds. What silence confirms of a neighbour becomes older.
    fn take(&mut self, round: &Round, times: u32) {
        for _ in 0..times {
            self.at += EVERY;
            let round = Round {
                at: self.at,
                ..round.clone()
            };
            self.judge.take(round, &self.around, self.paths);
            if let Neighbour::Confirmed(age) = &mut self.around.neighbour {
                *age += EVERY;
            }
            if let Some(verdict) = self.verdict()
                && self.named.last() != Some(&verdict)
            {
                self.named.push(verdict);
            }
        }
    }
}

/// Trains until a verdict must be named: 30 s less the second that a timeout takes, and the second
/// that the judge waits.
const IN_TIME: u32 = 5;

/// A cause by name, its trains and surroundings, and what must be named.
type Cause = (
    &'static str,
    Round,
    Surroundings,
    Option<Paths>,
    Verdict,
    Reason,
);

/// Each cause alone, by what its trains and its surroundings look like.
#[expect(clippy::too_many_lines, reason = "one list")]
fn causes() -> Vec<Cause> {
    let around = Surroundings::default();
    let prohibited = Refused {
        prohibited: 6,
        ..Refused::default()
    };
    let port = Refused {
        port: 6,
        ..Refused::default()
    };
    let host = Refused {
        host: 20,
        ..Refused::default()
    };
    let other = Refused {
        other: 20,
        ..Refused::default()
    };
    let alive = Surroundings {
        passive: Passive::Alive(Duration::ZERO),
        ..around
    };
    let quiet = Surroundings {
        passive: Passive::Silent,
        ..around
    };
    let failed = Surroundings {
        neighbour: Neighbour::Failed,
        ..around
    };
    let removed = Surroundings {
        presence: Presence::Removed,
        ..around
    };
    let held_up = Round {
        waited: 20,
        wait: spread(ms(80)),
        ..fine()
    };
    // A stall beyond the timeout: answers come late, and say how long the reflector kept the probes.
    let too_late = Round {
        answered: 0,
        late: 20,
        kept: 20,
        ..silent()
    };
    // A delay beyond the timeout: the reflector kept none of them.
    let slow_wire = Round {
        late: 20,
        ..silent()
    };
    let stepped = Round {
        void: 20,
        clock_changes: 1,
        rtt: None,
        ..fine()
    };
    let lying = Round {
        void: 20,
        rtt: None,
        ..fine()
    };
    let wrong = Round {
        refuted: true,
        ..fine()
    };
    let some = Some(Paths { bad: 1, of: 16 });
    let all = Some(Paths { bad: 16, of: 16 });
    vec![
        ("nothing", fine(), around, None, Verdict::Ok, Reason::Fine),
        (
            "delay",
            delayed(ms(50)),
            around,
            None,
            Verdict::Network,
            Reason::Delay,
        ),
        (
            "loss",
            lossy(2),
            around,
            None,
            Verdict::Network,
            Reason::Loss,
        ),
        (
            "slow wire",
            slow_wire,
            around,
            None,
            Verdict::Network,
            Reason::Loss,
        ),
        (
            "no way",
            refused(other),
            around,
            None,
            Verdict::Network,
            Reason::NetworkUnreachable,
        ),
        (
            "silence",
            silent(),
            around,
            None,
            Verdict::Network,
            Reason::Silent,
        ),
        (
            "silence of all",
            silent(),
            quiet,
            None,
            Verdict::Network,
            Reason::Silent,
        ),
        (
            "all paths",
            silent(),
            around,
            all,
            Verdict::Network,
            Reason::Silent,
        ),
        (
            "stall",
            stalled(),
            around,
            None,
            Verdict::Host,
            Reason::ReflectorStalled,
        ),
        (
            "long stall",
            too_late,
            alive,
            None,
            Verdict::Host,
            Reason::ReflectorStalled,
        ),
        (
            "own stall",
            held_up,
            around,
            None,
            Verdict::Host,
            Reason::SenderStalled,
        ),
        (
            "no program",
            refused(port),
            alive,
            None,
            Verdict::Host,
            Reason::PortClosed,
        ),
        (
            "dropped",
            silent(),
            alive,
            None,
            Verdict::Blocked,
            Reason::SilentWhileFlowsLive,
        ),
        (
            "prohibited",
            refused(prohibited),
            around,
            None,
            Verdict::Blocked,
            Reason::Prohibited,
        ),
        (
            "no ARP",
            silent(),
            failed,
            None,
            Verdict::Gone,
            Reason::NeighbourFailed,
        ),
        (
            "router's word",
            refused(host),
            around,
            None,
            Verdict::Gone,
            Reason::HostUnreachable,
        ),
        (
            "deleted",
            silent(),
            removed,
            None,
            Verdict::Gone,
            Reason::NotInApi,
        ),
        (
            "step",
            stepped,
            around,
            None,
            Verdict::Clock,
            Reason::ClockChanged,
        ),
        (
            "lie",
            lying,
            around,
            None,
            Verdict::Clock,
            Reason::ImpossibleTimes,
        ),
        (
            "refuted",
            wrong,
            around,
            None,
            Verdict::Clock,
            Reason::ClaimsRefuted,
        ),
        (
            "a path",
            lossy(2),
            around,
            some,
            Verdict::Path,
            Reason::SomePaths,
        ),
        (
            "the only path",
            silent(),
            around,
            some,
            Verdict::Path,
            Reason::SomePaths,
        ),
    ]
}

#[test]
fn each_cause_alone_gives_its_verdict_and_no_other() {
    for (name, round, around, paths, verdict, reason) in causes() {
        let mut session = Session::new();
        (session.around, session.paths) = (around, paths);
        session.take(&round, IN_TIME);
        assert_eq!(session.verdict(), Some(verdict), "{name}");
        assert_eq!(session.reason(), Some(reason), "{name}");
        (session.around, session.paths) = (Surroundings::default(), None);
        // A loss leaves the window, and a clock's change is told for a while.
        session.take(&fine(), 10);
        assert_eq!(session.verdict(), Some(Verdict::Ok), "{name}: it is over");
        session.named.dedup();
        let mut expected = vec![Verdict::Ok, verdict, Verdict::Ok];
        expected.dedup();
        assert_eq!(session.named, expected, "{name}: nothing else was named");
    }
}

#[test]
fn nothing_is_named_before_two_trains() {
    let mut judge = Judge::new(0);
    assert_eq!(judge.judgement(), None);
    judge.take(fine(), &Surroundings::default(), None);
    assert_eq!(judge.judgement(), None);
    judge.take(fine(), &Surroundings::default(), None);
    assert_eq!(judge.judgement().map(|one| one.verdict), Some(Verdict::Ok));
    // Trains without a packet tell nothing.
    let mut idle = Judge::new(0);
    for _ in 0..4 {
        let nothing = Round {
            sent: 0,
            answered: 0,
            ..silent()
        };
        idle.take(nothing, &Surroundings::default(), None);
    }
    assert_eq!(idle.judgement(), None);
}

#[test]
fn one_bad_train_or_a_lost_packet_names_nothing() {
    for bad in [delayed(ms(50)), lossy(1), stalled(), silent()] {
        let mut session = Session::new();
        session.take(&bad, 1);
        // Of losses the window still has some.
        session.take(&fine(), 6);
        let is_silent = bad.is_silent();
        assert!(session.named == [Verdict::Ok] || is_silent, "{bad:?}");
    }
}

#[test]
fn what_comes_and_goes_does_not_flap() {
    let mut session = Session::new();
    for _ in 0..50 {
        session.take(&delayed(ms(50)), 1);
        session.take(&fine(), 1);
    }
    assert_eq!(session.named, [Verdict::Ok, Verdict::Network]);
    let mut session = Session::new();
    for _ in 0..50 {
        session.take(&delayed(ms(50)), 1);
        session.take(&stalled(), 1);
    }
    assert!(session.named.len() <= 2, "{:?}", session.named);
}

#[test]
fn a_bad_period_never_becomes_the_baseline() {
    let mut session = Session::new();
    session.take(&delayed(ms(50)), 1_000);
    assert_eq!(session.verdict(), Some(Verdict::Network));
    let grounds = &session.judge.judgement().expect("a verdict").grounds;
    assert_eq!(grounds.baseline, Some(USUAL));
    assert_eq!(grounds.rtt_limit, Some(USUAL + ms(2)));
    // Another path for six hours is the usual one.
    session.take(&delayed(ms(50)), 6 * 720);
    assert_eq!(session.verdict(), Some(Verdict::Ok));
    session.take(&delayed(ms(60)), 3);
    assert_eq!(
        session.verdict(),
        Some(Verdict::Ok),
        "within half of the baseline"
    );
    session.take(&delayed(ms(90)), 3);
    assert_eq!(session.verdict(), Some(Verdict::Network));
}

/// Flows that lived before the silence say nothing of it, and slow ones have some time.
#[test]
fn flows_must_live_while_probes_are_silent() {
    let mut session = Session::new();
    session.around.passive = Passive::Alive(Duration::from_mins(1));
    session.take(&silent(), 3);
    assert_eq!(session.named, [Verdict::Ok, Verdict::Network]);
    // Trains come fast, and flows are slow.
    let mut session = Session::new();
    session.around.passive = Passive::Silent;
    for _ in 0..9 {
        session.at -= EVERY / 10 * 9;
        session.take(&silent(), 1);
    }
    session.around.passive = Passive::Alive(Duration::from_secs(1));
    session.take(&silent(), 2);
    assert_eq!(session.named, [Verdict::Ok, Verdict::Blocked]);
}

/// The kernel asks a neighbour again only when what it knows is old. Until then silence may be a peer
/// that is gone.
#[test]
fn silence_waits_for_the_kernels_word_on_the_neighbour() {
    let mut session = Session::new();
    session.around.neighbour = Neighbour::Confirmed(Duration::from_secs(20));
    session.take(&silent(), 3);
    assert_eq!(session.verdict(), Some(Verdict::Ok), "nobody knows yet");
    session.around.neighbour = Neighbour::Failed;
    session.take(&silent(), 2);
    assert_eq!(session.named, [Verdict::Ok, Verdict::Gone]);
    // It answered the kernel after the silence began: it is there.
    let mut session = Session::new();
    session.take(&silent(), 1);
    session.around.neighbour = Neighbour::Confirmed(Duration::from_secs(1));
    session.take(&silent(), 2);
    assert_eq!(session.named, [Verdict::Ok, Verdict::Network]);
    // The kernel's word does not come: the wait has an end.
    let mut session = Session::new();
    session.around.neighbour = Neighbour::Confirmed(Duration::from_secs(20));
    session.take(&silent(), IN_TIME);
    assert_eq!(session.verdict(), Some(Verdict::Network));
}

#[test]
fn a_session_that_tells_nothing_has_no_verdict() {
    let mut session = Session::new();
    session.judge.expire(session.at + EVERY);
    assert_eq!(session.verdict(), Some(Verdict::Ok));
    session.judge.expire(session.at + Duration::from_mins(1));
    assert_eq!(session.verdict(), None);
    session.take(&delayed(ms(50)), 2);
    assert_eq!(
        session.verdict(),
        Some(Verdict::Network),
        "its baseline stays"
    );
}

#[test]
fn another_address_begins_anew() {
    let mut session = Session::new();
    let elsewhere = Round {
        to: [198, 18, 3, 3].into(),
        ..delayed(ms(50))
    };
    session.take(&elsewhere, 4);
    assert_eq!(session.verdict(), Some(Verdict::Ok), "this is its baseline");
}

fn answered(stamps: Result<Stamps, Void>, waited: Duration) -> Report {
    let at = At::Kernel;
    Report::Answered(Answered {
        probe: 0,
        train: 0,
        stamps,
        sources: Sources {
            sent: at,
            reflector_received: at,
            reflector_sent: at,
            received: at,
        },
        waited: Some(waited),
        window: 0,
        offset: None,
        delays: None,
        seen: Seen::default(),
    })
}

#[test]
fn reports_become_rounds() {
    use nix::errno::Errno;

    use crate::active::{offset::Claims, report::TrainEnd};

    let now = Instant::now();
    let stamps = |dwell_ms: i64| Stamps {
        sent: 0,
        reflector_received: 100,
        reflector_sent: 100 + dwell_ms * 1_000_000,
        received: 300 + dwell_ms * 1_000_000,
    };
    let unreachable = |error| Report::Unreachable { probe: 0, error };
    let reports = [
        answered(Ok(stamps(1)), ms(1)),
        answered(Ok(stamps(30)), ms(40)),
        answered(Err(Void::Clock), ms(1)),
        Report::Lost {
            probe: 1,
            sequence: 1,
        },
        Report::Late {
            probe: 1,
            dwell: Some(ms(900)),
        },
        Report::Late {
            probe: 2,
            dwell: None,
        },
        unreachable(Errno::EACCES),
        unreachable(Errno::EHOSTUNREACH),
        unreachable(Errno::ECONNREFUSED),
        unreachable(Errno::ENETUNREACH),
        Report::Restarted(Restart::There),
    ];
    let mut collector = Collector::new(PEER, EVERY);
    for report in &reports {
        assert_eq!(collector.take(report, now), None);
    }
    let end = Report::Train(TrainEnd {
        train: 0,
        offset: None,
        claims: Claims::default(),
    });
    let round = collector.take(&end, now).expect("a round");
    let expected = Round {
        at: now,
        sent: 8,
        answered: 3,
        late: 2,
        refused: Refused {
            prohibited: 1,
            host: 1,
            port: 1,
            other: 1,
        },
        void: 1,
        kept: 2,
        waited: 1,
        clock_changes: 1,
        rtt: spread(Duration::from_nanos(300)),
        dwell: Some(Spread {
            p50: ms(1),
            p99: ms(1),
        }),
        wait: Some(Spread {
            p50: ms(1),
            p99: ms(1),
        }),
        ..fine()
    };
    assert_eq!(round, expected);
    let next = collector.take(&end, now).expect("a round");
    assert_eq!((next.sent, next.clock_changes, next.rtt), (0, 0, None));
}

prop_compose! {
    fn any_round()(
        answered in 0..=20_u32,
        late in 0..=20_u32,
        kept in 0..=20_u32,
        waited in 0..=20_u32,
        clock in 0..=2_u32,
        delay in prop::option::of(0..200_u64),
    ) -> Round {
        Round {
            answered,
            late,
            kept: kept.min(answered + late),
            waited: waited.min(answered),
            clock_changes: clock,
            rtt: delay.filter(|_| answered > 0).and_then(|delay| spread(ms(delay))),
            ..fine()
        }
    }
}

proptest! {
    /// Whatever the trains say: a bad verdict is never named by one train alone, every verdict stands
    /// on the figure that its reason names, and three good trains in a row end it.
    #[test]
    fn a_verdict_stands_on_its_grounds(rounds in prop::collection::vec(any_round(), 1..40)) {
        let mut session = Session::new();
        let mut before = session.verdict();
        let mut bad_in_a_row = 0;
        for round in &rounds {
            session.take(round, 1);
            let judgement = session.judge.judgement().expect("a verdict").clone();
            let is_fine = session.judge.is_last_vote(Verdict::Ok);
            bad_in_a_row = if is_fine { 0 } else { bad_in_a_row + 1 };
            if before == Some(Verdict::Ok) && judgement.verdict != Verdict::Ok {
                prop_assert!(bad_in_a_row > 0);
            }
            let grounds = &judgement.grounds;
            match grounds.reason {
                Reason::Delay => prop_assert!(grounds.rtt_p50 > grounds.rtt_limit),
                Reason::Loss => prop_assert!(grounds.loss_ratio >= grounds.loss_limit),
                Reason::SenderStalled => prop_assert!(grounds.waited > 0),
                Reason::Silent => prop_assert_eq!(judgement.verdict, Verdict::Network),
                _ => {}
            }
            before = Some(judgement.verdict);
        }
        session.take(&fine(), 10);
        prop_assert_eq!(session.verdict(), Some(Verdict::Ok));
    }

    /// Without anything known of other flows, no silence is ever `blocked`, and without a neighbour or
    /// an API never `gone`.
    #[test]
    fn what_is_not_known_is_not_said(rounds in prop::collection::vec(any_round(), 1..40)) {
        let mut session = Session::new();
        for round in &rounds {
            session.take(round, 1);
        }
        prop_assert!(!session.named.contains(&Verdict::Blocked));
        prop_assert!(!session.named.contains(&Verdict::Gone));
        prop_assert!(!session.named.contains(&Verdict::Path));
    }
}
