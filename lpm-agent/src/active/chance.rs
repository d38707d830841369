//! Whether a group fails more often than the others by more than chance: pure, counts in, a
//! probability out.

/// How many of some things are bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// The bad ones.
    pub bad: u64,
    /// All of them.
    pub all: u64,
}

impl Share {
    /// The share of the bad ones, from 0 to 1. None: there is nothing.
    #[must_use]
    pub fn ratio(self) -> Option<f64> {
        (self.all > 0).then(|| float(self.bad) / float(self.all))
    }

    /// What is left if a part is taken away.
    #[must_use]
    pub fn without(self, part: Self) -> Self {
        Self {
            bad: self.bad.saturating_sub(part.bad),
            all: self.all.saturating_sub(part.all),
        }
    }

    /// Adds a thing.
    pub fn add(&mut self, is_bad: bool) {
        self.bad += u64::from(is_bad);
        self.all += 1;
    }

    /// The largest log-likelihood of these counts, if each thing is bad with the same probability:
    /// `b ln(b / n) + (n - b) ln((n - b) / n)`. It is at most 0.
    #[must_use]
    pub fn log_likelihood(self) -> f64 {
        let of = |part: u64| match part {
            0 => 0.0,
            part => float(part) * (float(part) / float(self.all)).ln(),
        };
        of(self.bad) + of(self.all.saturating_sub(self.bad))
    }
}

/// Tells the probability that at least as many of the group are bad, if all bad things had fallen
/// on the group and the others at random: Fisher's exact test, one-sided (the upper tail of the
/// hypergeometric distribution).
///
/// 1 where the group's share of bad things is not above that of the others. The test is exact for
/// any counts: no rate of bad things is assumed.
#[must_use]
pub fn excess(group: Share, others: Share) -> f64 {
    let product = |a: u64, b: u64| u128::from(a) * u128::from(b);
    if product(group.bad, others.all) <= product(others.bad, group.all) {
        return 1.0;
    }
    let bad = group.bad.saturating_add(others.bad);
    let all = group.all.saturating_add(others.all);
    let chance = ln_choose(group.all, group.bad) + ln_choose(others.all, others.bad);
    let mut term = (chance - ln_choose(all, bad)).exp();
    let mut sum = term;
    // Above the mean, each term is smaller than the one before.
    for hits in group.bad..bad.min(group.all) {
        let up = float(group.all - hits) * float(bad - hits);
        let down = float(hits + 1) * float(others.all + hits + 1 - bad);
        term *= up / down;
        sum += term;
        if term < sum * f64::EPSILON {
            break;
        }
    }
    sum.min(1.0)
}

/// The logarithm of the number of ways to choose `k` of `n` things.
fn ln_choose(n: u64, k: u64) -> f64 {
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n.saturating_sub(k))
}

/// Up to here the logarithm of a factorial is a sum. Above, three terms of Stirling's series are off
/// by less than 1e-12.
const SUMMED: u64 = 32;

fn ln_factorial(n: u64) -> f64 {
    if n <= SUMMED {
        return (2..=n).map(|factor| float(factor).ln()).sum();
    }
    let n = float(n);
    let series = 1.0 / (12.0 * n) - 1.0 / (360.0 * n.powi(3)) + 1.0 / (1260.0 * n.powi(5));
    n * n.ln() - n + 0.5 * (std::f64::consts::TAU * n).ln() + series
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn share(bad: u64, all: u64) -> Share {
        Share { bad, all }
    }

    /// Every way to place the bad things, counted: the definition of the test.
    fn counted(group: Share, others: Share) -> f64 {
        let all = u32::try_from(group.all + others.all).expect("few things");
        let (mut at_least, mut ways) = (0.0, 0.0);
        for placed in 0_u32..1 << all {
            if u64::from(placed.count_ones()) == group.bad + others.bad {
                let of_group = placed & ((1 << group.all) - 1);
                ways += 1.0;
                at_least += f64::from(u8::from(u64::from(of_group.count_ones()) >= group.bad));
            }
        }
        at_least / ways
    }

    #[test]
    fn known_values() {
        // Fisher's lady tasting tea: all four right have the chance 1 in 70.
        let close = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} and {b}");
        close(excess(share(4, 4), share(0, 4)), 1.0 / 70.0);
        close(excess(share(3, 4), share(1, 4)), 17.0 / 70.0);
        // 3 of 3 against none of 45: one way of C(48, 3) = 17,296.
        close(excess(share(3, 3), share(0, 45)), 1.0 / 17_296.0);
        close(excess(share(0, 10), share(0, 150)), 1.0);
        close(excess(share(1, 1), share(0, 15)), 1.0 / 16.0);
        close(excess(share(0, 0), share(1, 9)), 1.0);
        // Neither overflows nor hangs; a chance below the least number is 0.
        let day = 86_400 * 256;
        close(excess(share(0, day), share(0, day)), 1.0);
        assert!(excess(share(day, day), share(0, day)) < 1e-300);
        let chance = excess(share(900, 86_400), share(12_960, day - 86_400));
        assert!((0.0..1.0).contains(&chance), "{chance}");
    }

    #[test]
    fn logarithms_of_factorials_join() {
        let step = ln_factorial(SUMMED + 1) - ln_factorial(SUMMED);
        assert!((step - float(SUMMED + 1).ln()).abs() < 1e-10);
    }

    proptest! {
        #[test]
        fn excess_is_what_counting_says(
            (group, others) in (1_u64..6, 1_u64..8).prop_flat_map(|(a, b)| {
                ((0..=a).prop_map(move |bad| share(bad, a)), (0..=b).prop_map(move |bad| share(bad, b)))
            })
        ) {
            let is_above = group.bad * others.all > others.bad * group.all;
            let expected = if is_above { counted(group, others) } else { 1.0 };
            prop_assert!((excess(group, others) - expected).abs() < 1e-9);
        }

        #[test]
        fn more_bad_things_are_less_likely(all in 1_u64..500, bad in 0_u64..499, rest in 1_u64..2000, other in 0_u64..100) {
            let (bad, other) = (bad.min(all - 1), other.min(rest));
            let fewer = excess(share(bad, all), share(other, rest));
            let more = excess(share(bad + 1, all), share(other, rest));
            prop_assert!(more <= fewer + 1e-9 && (0.0..=1.0).contains(&more));
        }
    }
}
