//! The answered probes of a train, and what they say together.

use super::figures::Estimated;
use crate::active::{
    Stamps,
    offset::{Bounds, Delays},
    report::Answered,
};

/// The answers of the train that runs.
#[derive(Debug, Default)]
pub(super) struct Train {
    /// Bounds of each way's delay, and best estimates of both.
    answers: Vec<(Delays, [i64; 2])>,
    /// Sum of the round trips in nanoseconds, and how many.
    round_trips: (i64, u32),
    /// Train, window and T2 - T1 of the probe before.
    before: Option<(u32, u32, i64)>,
    /// Interarrival jitter over all trains. Differences between packets of different trains would be
    /// of clocks that drift apart.
    jitter: Option<f64>,
}

impl Train {
    /// Takes an answered probe, in the order of sending.
    pub(super) fn take(&mut self, answered: &Answered, stamps: &Stamps) {
        let now = (answered.train, answered.window, stamps.forward());
        if let Some((train, window, transit)) = self.before.replace(now)
            && (train, window) == (now.0, now.1)
        {
            self.add_to_jitter(transit.abs_diff(now.2));
        }
        if let Some(round_trip) = stamps.round_trip() {
            let (sum, count) = self.round_trips;
            self.round_trips = (sum.saturating_add(round_trip), count + 1);
        }
        let best = answered.offset.and_then(|known| known.ways(stamps));
        self.answers.extend(answered.delays.zip(best));
    }

    /// RFC 3550 section 6.4.1: each difference counts a sixteenth.
    fn add_to_jitter(&mut self, difference: u64) {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53 ns")]
        let difference = difference as f64;
        let before = self.jitter.unwrap_or_default();
        self.jitter = Some(before + (difference - before) / 16.0);
    }

    /// Interarrival jitter in nanoseconds. None: no train had two answers in a row.
    pub(super) fn jitter(&self) -> Option<f64> {
        self.jitter
    }

    /// Takes the mean round trip of the train in nanoseconds. None: nothing was answered.
    pub(super) fn take_round_trip(&mut self) -> Option<f64> {
        let (sum, count) = std::mem::take(&mut self.round_trips);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53 ns")]
        (count > 0).then(|| sum as f64 / f64::from(count))
    }

    /// Ends the train: the means of the forward and the backward delay, each of the lower bounds, of
    /// the upper bounds and of the best estimates. None: nothing was answered.
    pub(super) fn end(&mut self) -> Option<[Estimated; 2]> {
        let answers = std::mem::take(&mut self.answers);
        let forward = answers
            .iter()
            .map(|(delays, best)| (delays.forward, best[0]));
        let backward = answers
            .iter()
            .map(|(delays, best)| (delays.backward, best[1]));
        Some([means(forward)?, means(backward)?])
    }
}

/// The means of bounds, and of estimates that are brought within them.
fn means(all: impl Iterator<Item = (Bounds, i64)>) -> Option<Estimated> {
    let (mut count, mut sums) = (0_i128, [0_i128; 3]);
    for (bounds, best) in all {
        let Bounds { lower, upper } = bounds;
        let values = [lower, upper, best.clamp(lower, upper)];
        count += 1;
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += i128::from(value);
        }
    }
    let mean = |sum: i128| i64::try_from(sum.checked_div(count)?).ok();
    let [lower, upper, best] = sums.map(mean);
    Some(Estimated {
        bounds: Bounds {
            lower: lower?,
            upper: upper?,
        },
        best: best?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::active::{
        offset::{Claims, Known},
        report::{At, Seen, Sources},
    };

    const KERNEL: Sources = Sources {
        sent: At::Kernel,
        reflector_received: At::Kernel,
        reflector_sent: At::Kernel,
        received: At::Kernel,
    };

    /// A probe of a train and window, with these delays, over an offset that lies within 100 ns.
    fn answered(train: u32, window: u32, [forward, backward]: [i64; 2]) -> (Answered, Stamps) {
        let stamps = Stamps {
            sent: 0,
            reflector_received: forward,
            reflector_sent: forward + 10,
            received: forward + 10 + backward,
        };
        let bounds = |of: i64| Bounds {
            lower: of - 100,
            upper: of + 100,
        };
        let answered = Answered {
            probe: 0,
            train,
            stamps: Ok(stamps),
            sources: KERNEL,
            waited: None,
            window,
            offset: Some(Known::new(bounds(0), Claims::default())),
            delays: Some(Delays {
                forward: bounds(forward),
                backward: bounds(backward),
            }),
            seen: Seen::default(),
        };
        (answered, stamps)
    }

    fn take(train: &mut Train, of: &(Answered, Stamps)) {
        train.take(&of.0, &of.1);
    }

    #[test]
    fn ways_are_means_of_the_train() {
        let mut train = Train::default();
        assert_eq!(train.end(), None);
        take(&mut train, &answered(0, 0, [1_000, 3_000]));
        take(&mut train, &answered(0, 0, [3_000, 3_000]));
        let [forward, backward] = train.end().expect("answers");
        let bounds = |lower, upper| Bounds { lower, upper };
        assert_eq!(
            (forward.bounds, forward.best),
            (bounds(1_900, 2_100), 2_000)
        );
        assert_eq!(
            (backward.bounds, backward.best),
            (bounds(2_900, 3_100), 3_000)
        );
        assert_eq!(train.end(), None, "the next train has no answer yet");
    }

    #[test]
    fn an_estimate_is_brought_within_its_bounds() {
        let bounds = Bounds {
            lower: 10,
            upper: 20,
        };
        let means = means([(bounds, 0), (bounds, 40)].into_iter()).expect("two");
        assert_eq!((means.bounds, means.best), (bounds, 15));
    }

    #[test]
    fn jitter_has_no_difference_between_trains_or_windows() {
        let mut train = Train::default();
        take(&mut train, &answered(0, 0, [100, 0]));
        assert_eq!(train.jitter(), None);
        take(&mut train, &answered(0, 0, [116, 0]));
        assert_eq!(train.jitter(), Some(1.0));
        take(&mut train, &answered(1, 0, [900_000, 0]));
        take(&mut train, &answered(1, 1, [1_900_000, 0]));
        assert_eq!(train.jitter(), Some(1.0));
    }

    #[test]
    fn times_of_different_clocks_are_not_subtracted() {
        use At::{Hardware as H, Kernel as K, Peer as P, User as U};
        let sources = |four: [At; 4]| Sources {
            sent: four[0],
            reflector_received: four[1],
            reflector_sent: four[2],
            received: four[3],
        };
        for (four, expected) in [
            ([K, K, K, K], true),
            ([K, P, P, K], true),
            ([H, K, K, H], true),
            ([H, K, K, K], false),
            ([K, H, K, K], false),
            ([U, K, K, K], false),
            ([K, K, U, K], false),
            ([K, K, K, U], false),
        ] {
            assert_eq!(sources(four).is_whole(), expected, "{four:?}");
        }
    }
}
