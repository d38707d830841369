//! Ways that lose, copy, reorder and remark packets: each is told of the right way.

use std::time::Duration;

use lpm_agent::active::{
    plan::{Plan, Train},
    report::{Answered, Report},
    statistics::{self, Reordering},
    summary::Session,
};
use lpm_testbed::testbed::{
    Direction, Impairment,
    wire::{Fate, Loss, Record, Reorder},
};

use super::Scene;
use crate::support::turn;

const MS: Duration = Duration::from_millis(1);

/// Bytes of a probe's frame: Ethernet, IPv4, UDP and 88 bytes of STAMP.
const FRAME: u32 = 14 + 20 + 8 + 88;

/// 25 trains of 20, with a wire that does something there and something else back.
fn measure(there: Impairment, back: Impairment, edit: impl FnOnce(&mut Plan)) -> Told {
    let scene = Scene::new(Some([there, back]), |_, _| {});
    let mut plan = scene.plan(25, Train::default(), 40 * MS);
    edit(&mut plan);
    let mut answered = Vec::new();
    let (session, _) = scene.send(plan, |report| match report {
        Report::Answered(one) => answered.push(one.clone()),
        Report::Unreachable { .. } | Report::Restarted(_) => panic!("{report:?}"),
        _ => {}
    });
    let records = scene.pair.wire().records();
    let of = |direction| {
        let of = |record: &&Record| record.direction == direction && record.frame_bytes == FRAME;
        records.iter().filter(of).copied().collect()
    };
    Told {
        session,
        answered,
        wire: [of(Direction::Forward), of(Direction::Backward)],
    }
}

/// What the sender told, and what the wire's log says.
struct Told {
    session: Session,
    answered: Vec<Answered>,
    wire: [Vec<Record>; 2],
}

impl Told {
    fn on_wire(&self, fate: Fate) -> [u64; 2] {
        let of =
            |records: &Vec<Record>| records.iter().filter(|record| record.fate == fate).count();
        self.wire.each_ref().map(|records| of(records) as u64)
    }

    /// Reordering by RFC 4737 of the packets on the wire: those that left, by their places among
    /// those that came.
    fn reordered_on_wire(&self) -> [Reordering; 2] {
        self.wire.each_ref().map(|records| {
            let mut came: Vec<&Record> = records.iter().collect();
            came.sort_by_key(|record| record.arrival_ns);
            let mut left: Vec<(Option<u64>, u32)> = came
                .iter()
                .zip(0..)
                .filter(|(record, _)| record.departure_ns.is_some())
                .map(|(record, place)| (record.departure_ns, place))
                .collect();
            left.sort_unstable();
            statistics::reordering(left.into_iter().map(|(_, place)| place))
        })
    }
}

/// One in a hundred is lost on one way.
#[test]
fn a_loss_of_one_in_a_hundred_is_of_its_way() {
    turn::take();
    for is_forward in [true, false] {
        let lossy = Impairment {
            loss: Loss::Random(0.01),
            seed: 7,
            ..Impairment::delay(MS)
        };
        let clean = Impairment::delay(MS);
        let [there, back] = if is_forward {
            [lossy, clean]
        } else {
            [clean, lossy]
        };
        let told = measure(there, back, |_| {});
        let losses = told.session.losses();
        let wire = told.on_wire(Fate::Lost);
        eprintln!(
            "1 % lost on the way {}: told {} there, {} back, {} unknown; the wire lost {wire:?}, \
             packets that only fetch a time among them",
            if is_forward { "there" } else { "back" },
            losses.forward,
            losses.backward,
            losses.unknown
        );
        assert_eq!(told.session.sent, 500);
        let [lost, other] = if is_forward {
            [losses.forward, losses.backward]
        } else {
            [losses.backward, losses.forward]
        };
        let truth = wire[usize::from(!is_forward)];
        assert!(truth > 0 && other == 0);
        // The wire also lost some of the 25 packets that are no probes.
        assert!(lost <= truth && lost + losses.unknown + 3 >= truth);
        let missing = told.session.sent - told.session.received;
        assert_eq!(lost + losses.unknown, missing);
    }
}

/// One in twenty comes twice on one way.
#[test]
fn copies_are_of_their_way() {
    turn::take();
    for is_forward in [true, false] {
        let copying = Impairment {
            duplicate: 0.05,
            seed: 7,
            ..Impairment::delay(MS)
        };
        let clean = Impairment::delay(MS);
        let [there, back] = if is_forward {
            [copying, clean]
        } else {
            [clean, copying]
        };
        let told = measure(there, back, |_| {});
        let wire = told.on_wire(Fate::Duplicated);
        let duplicated = told.session.duplicated().expect("it counts");
        eprintln!(
            "5 % copied on the way {}: told {duplicated:?}, the wire copied {wire:?}",
            if is_forward { "there" } else { "back" }
        );
        assert_eq!(duplicated, wire);
        assert!(wire[usize::from(!is_forward)] > 5);
        assert_eq!(
            told.session.losses(),
            lpm_agent::active::summary::Lost::default()
        );
        let reordering = told.session.reordering().expect("it counts");
        assert!(
            reordering
                .iter()
                .all(|way| way.received >= 525 && way.reordered == 0)
        );
    }
}

/// One in ten waits for 3 ms, so that about three overtake it.
#[test]
fn reordering_is_of_its_way_with_ratio_and_extent() {
    turn::take();
    for is_forward in [true, false] {
        let reordering = Impairment {
            reorder: Some(Reorder {
                probability: 0.1,
                extra: 3 * MS + MS / 2,
            }),
            seed: 7,
            ..Impairment::delay(MS)
        };
        let clean = Impairment::delay(MS);
        let [there, back] = if is_forward {
            [reordering, clean]
        } else {
            [clean, reordering]
        };
        let told = measure(there, back, |_| {});
        let wire = told.reordered_on_wire();
        let ours = told.session.reordering().expect("it counts");
        eprintln!(
            "10 % held back for 3.5 ms on the way {}: told {ours:?}, on the wire {wire:?}",
            if is_forward { "there" } else { "back" }
        );
        assert_eq!(ours, wire);
        assert!(wire[usize::from(!is_forward)].reordered > 10);
        assert_eq!(wire[usize::from(is_forward)].reordered, 0);
        assert_eq!(told.session.received, 500);
    }
}

/// DSCP 46 becomes 10 on the way there, and 12 on the way back. ECN is left alone. A router on the
/// way takes one of the TTL.
#[test]
fn a_mark_is_told_as_it_arrived_on_each_way() {
    turn::take();
    let marking = |dscp| Impairment {
        dscp: Some(dscp),
        ..Impairment::delay(MS)
    };
    let told = measure(marking(10), marking(12), |plan| {
        plan.dscp = 46;
        plan.ecn = 1;
    });
    let seen: Vec<_> = told.answered.iter().map(|answered| answered.seen).collect();
    eprintln!("DSCP 46 sent, 10 and 12 written on the way: {:?}", seen[0]);
    assert_eq!(seen.len(), 500);
    for seen in seen {
        assert_eq!(
            (seen.dscp_forward, seen.dscp_backward),
            (Some(10), Some(12))
        );
        assert_eq!((seen.ecn_forward, seen.ecn_backward), (Some(1), Some(0)));
        assert_eq!((seen.hops(), seen.ttl_backward), (Some(1), Some(63)));
    }
}

/// What comes after the timeout is late, and not lost.
#[test]
fn late_is_not_lost() {
    turn::take();
    let slow = Impairment {
        reorder: Some(Reorder {
            probability: 0.1,
            extra: 150 * MS,
        }),
        loss: Loss::EveryNth(50),
        ..Impairment::delay(MS)
    };
    let told = measure(slow, Impairment::delay(MS), |plan| {
        plan.count = Some(10);
        plan.timeout = 100 * MS;
    });
    let losses = told.session.losses();
    let lost = losses.forward + losses.backward + losses.unknown;
    let (late, wire) = (told.session.late, told.on_wire(Fate::Lost));
    eprintln!("lost {lost} and late {late} of 200; the wire lost {wire:?} and held some back");
    assert!(late >= 10, "{late}");
    assert!(lost <= wire[0] && lost > 0);
    assert_eq!(told.session.received + late + lost, 200);
}
