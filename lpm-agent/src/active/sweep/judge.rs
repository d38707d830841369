//! Which paths of a sweep are bad: pure, counts and delays in, a verdict out.
//!
//! A path is held against the other paths, never against a fixed rate. What hits all alike, such as
//! a lossy link that all share, makes no path bad.

use crate::active::{
    chance::{self, Share},
    statistics::Distribution,
};

/// The probability that a sweep over equally good paths calls any of them bad. Loss and delay have
/// half of it each.
pub const ERROR_RATE: f64 = 0.001;

/// A delay is slow if it exceeds the others' median by more than a quarter of it and this many
/// nanoseconds.
pub const SLOWER: i64 = 100_000;

/// What became of the probes of a path.
#[derive(Clone, Debug, Default)]
pub struct Path {
    /// Probes that were lost or refused, among all of which the fate is known.
    pub lost: Share,
    /// Round trips of the answered probes, in nanoseconds. They are of one class of stamps over all
    /// paths.
    pub round_trips: Distribution,
}

/// Why a path is bad. Each is the probability that a good path looks as bad, or worse.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Grounds {
    /// It loses more than the others.
    pub loss: Option<f64>,
    /// It is slower than the others.
    pub delay: Option<f64>,
}

impl Grounds {
    /// Whether the path is bad.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        self.loss.is_some() || self.delay.is_some()
    }
}

/// Judges all paths of a sweep. The result has the order of the paths.
///
/// The likeliest bad path is tested first, by [`chance::excess`] against all that are not yet bad.
/// Its chance must be below half of [`ERROR_RATE`] divided by the number of paths (Bonferroni). Then
/// the next one is tested, without the bad ones (step-down). A path is slow only if its median is,
/// too.
#[must_use]
pub fn judge(paths: &[Path]) -> Vec<Grounds> {
    let loss = step_down(paths.len(), |at, is_other| {
        let others = paths
            .iter()
            .zip(is_other)
            .filter(|(_, is_other)| **is_other);
        let others = sum(others.map(|(path, _)| path.lost));
        chance::excess(paths.get(at)?.lost, others).into()
    });
    let delay = step_down(paths.len(), |at, is_other| {
        let path = paths.get(at)?;
        let others = paths
            .iter()
            .zip(is_other)
            .filter(|(_, is_other)| **is_other);
        let others: Vec<&Path> = others.map(|(path, _)| path).collect();
        let limit = limit(&others)?;
        if path.round_trips.percentile(50)? <= limit {
            return None;
        }
        let slow = |path: &Path| Share {
            bad: path.round_trips.above(limit) as u64,
            all: path.round_trips.count() as u64,
        };
        chance::excess(slow(path), sum(others.into_iter().map(slow))).into()
    });
    let both = loss.into_iter().zip(delay);
    both.map(|(loss, delay)| Grounds { loss, delay }).collect()
}

/// The delay above which a probe is slow: by the median of the medians of these paths. None: nothing
/// was answered on any.
fn limit(others: &[&Path]) -> Option<i64> {
    let medians = others
        .iter()
        .filter_map(|path| path.round_trips.percentile(50));
    let usual = medians.collect::<Distribution>().percentile(50)?;
    usual.checked_add(usual / 4)?.checked_add(SLOWER)
}

fn sum(shares: impl Iterator<Item = Share>) -> Share {
    shares.fold(Share::default(), |sum, one| Share {
        bad: sum.bad + one.bad,
        all: sum.all + one.all,
    })
}

/// Names the worst of some paths as long as its chance is below the limit. `chance` gets a path, and
/// which paths it is held against.
fn step_down(
    paths: usize,
    mut chance: impl FnMut(usize, &[bool]) -> Option<f64>,
) -> Vec<Option<f64>> {
    let mut bad = vec![None; paths];
    let count = u32::try_from(paths).map_or(f64::INFINITY, f64::from);
    let limit = ERROR_RATE / 2.0 / count;
    loop {
        let mut is_other: Vec<bool> = bad.iter().map(Option::is_none).collect();
        let mut worst: Option<(usize, f64)> = None;
        for at in 0..paths {
            if !std::mem::replace(&mut is_other[at], false) {
                continue;
            }
            let found = chance(at, &is_other);
            is_other[at] = true;
            if let Some(found) = found.filter(|found| *found < limit)
                && worst.is_none_or(|(_, least)| found < least)
            {
                worst = Some((at, found));
            }
        }
        let Some((at, found)) = worst else {
            return bad;
        };
        bad[at] = Some(found);
    }
}

#[cfg(test)]
mod tests;
