//! Finds the tick of a capture's clock: a round trip that is too short for it is not one of 0 ns.

/// Smallest tick that is called coarse, nanoseconds. Round trips within a cluster are shorter.
pub const COARSE_NS: u64 = 100_000;
/// Changes of the time that are needed to find the tick.
const ENOUGH: u32 = 5;

/// The largest step of which all times are multiples, counted from the first time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    last_ns: Option<u64>,
    divisor_ns: u64,
    changes: u32,
}

impl Tick {
    /// Records a time, nanoseconds.
    pub fn note(&mut self, now_ns: u64) {
        let Some(last_ns) = self.last_ns else {
            self.last_ns = Some(now_ns);
            return;
        };
        if self.divisor_ns != 0 && self.divisor_ns < COARSE_NS || last_ns == now_ns {
            return;
        }
        self.divisor_ns = divisor(now_ns.abs_diff(last_ns), self.divisor_ns);
        self.changes = self.changes.saturating_add(1);
        self.last_ns = Some(now_ns);
    }

    /// The tick in nanoseconds, if it is coarse. None: it is fine, or not known.
    #[must_use]
    pub fn coarse_ns(&self) -> Option<u64> {
        (self.changes >= ENOUGH && self.divisor_ns >= COARSE_NS).then_some(self.divisor_ns)
    }
}

/// The greatest common divisor (Euclid).
fn divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(times: impl IntoIterator<Item = u64>) -> Option<u64> {
        let mut tick = Tick::default();
        for time in times {
            tick.note(1_767_322_400_000_000_000 + time);
        }
        tick.coarse_ns()
    }

    #[test]
    fn clocks_that_tick_seldom_are_told() {
        const MS: u64 = 1_000_000;
        // A jiffy of 10 ms; then one of 4 ms, out of order, and not starting at a multiple.
        assert_eq!(ticks((0..20).map(|i| i * 10 * MS)), Some(10 * MS));
        let odd = [0, 3, 1, 7, 5, 6, 20, 19, 30].map(|i| 123 + i * 4 * MS);
        assert_eq!(ticks(odd), Some(4 * MS));
        // Equal times show nothing.
        assert_eq!(ticks((0..20).map(|i| i / 10 * 10 * MS)), None);
        assert_eq!(ticks((0..20).map(|i| i * 10 * MS + i % 2 * 1000)), None);
        assert_eq!(ticks((0..20).map(|i| i * 99_999)), None);
    }
}
