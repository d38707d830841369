//! Splits the samples of TCP by method, for `lpm_samples_total`.
//!
//! The histograms hold the samples of all methods. The kernel counts the samples of `seq` and
//! `handshake` in addition. The remaining samples of the histograms are those of `ts`, on whose
//! path nothing more is counted.
//!
//! Rows and counters cannot be read at one instant. So the counters are read last, and the kernel
//! counts before it adds to a histogram. A sample of `seq` or `handshake` in a histogram is
//! therefore among its counter, and is never taken for a sample of `ts`. Samples that are counted
//! but not yet in the histograms wait for the page that has them there. So the methods of a page
//! add up to what its rows hold, and none of them goes back.

use std::sync::{Mutex, PoisonError};

/// The numbers of the last page.
#[derive(Debug, Default)]
pub(super) struct OfTcp(Mutex<Shown>);

/// Samples by method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) ts: u64,
    pub(super) seq: u64,
    pub(super) handshake: u64,
}

impl OfTcp {
    /// The numbers of the next page. `all` is the number of samples in the rows. `seq` and
    /// `handshake` are the counters of these methods, read after the rows.
    pub(super) fn page(&self, all: u64, seq: u64, handshake: u64) -> Shown {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = &mut *last;
        let mut new = all.saturating_sub(shown.ts + shown.seq + shown.handshake);
        for (shown, counted) in [(&mut shown.seq, seq), (&mut shown.handshake, handshake)] {
            let more = counted.saturating_sub(*shown).min(new);
            *shown += more;
            new -= more;
        }
        shown.ts += new;
        *shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(ts: u64, seq: u64, handshake: u64) -> Shown {
        Shown { ts, seq, handshake }
    }

    #[test]
    fn the_rest_is_of_timestamps() {
        let of_tcp = OfTcp::default();
        assert_eq!(of_tcp.page(0, 0, 0), shown(0, 0, 0));
        assert_eq!(of_tcp.page(100, 30, 8), shown(62, 30, 8));
        assert_eq!(of_tcp.page(100, 30, 8), shown(62, 30, 8));
        assert_eq!(of_tcp.page(110, 33, 8), shown(69, 33, 8));
    }

    /// Each line holds the samples at the time when the rows were read, and those that came until
    /// the counters were.
    #[test]
    fn a_page_is_as_much_as_its_rows_whatever_comes_meanwhile() {
        let of_tcp = OfTcp::default();
        let (mut truth, mut before) = (shown(0, 0, 0), shown(0, 0, 0));
        for (rows, meanwhile) in [
            (shown(0, 5, 0), shown(0, 2, 0)),
            (shown(90, 0, 0), shown(9, 0, 4)),
            (shown(1, 0, 0), shown(0, 0, 8)),
            (shown(0, 0, 0), shown(0, 70, 3)),
            (shown(0, 1, 4), shown(0, 0, 0)),
            (shown(2, 0, 0), shown(2, 7, 7)),
        ] {
            let add = |to: &mut Shown, more: Shown| {
                to.ts += more.ts;
                to.seq += more.seq;
                to.handshake += more.handshake;
            };
            add(&mut truth, rows);
            let all = truth.ts + truth.seq + truth.handshake;
            let ts = truth.ts;
            add(&mut truth, meanwhile);
            let now = of_tcp.page(all, truth.seq, truth.handshake);
            assert_eq!(now.ts + now.seq + now.handshake, all, "{now:?}");
            let none_too_many =
                now.ts <= ts && now.seq <= truth.seq && now.handshake <= truth.handshake;
            assert!(none_too_many, "{now:?} of {truth:?}");
            let none_back =
                now.ts >= before.ts && now.seq >= before.seq && now.handshake >= before.handshake;
            assert!(none_back, "{before:?} then {now:?}");
            before = now;
        }
        let all = truth.ts + truth.seq + truth.handshake;
        let now = of_tcp.page(all, truth.seq, truth.handshake);
        assert_eq!(now, truth, "nothing is lost");
    }

    #[test]
    fn rows_that_were_read_with_a_sample_in_the_making_do_not_unsettle_it() {
        let of_tcp = OfTcp::default();
        assert_eq!(of_tcp.page(10, 9, 0), shown(1, 9, 0));
        assert_eq!(of_tcp.page(10, 10, 0), shown(1, 9, 0));
        assert_eq!(of_tcp.page(12, 11, 0), shown(1, 11, 0));
        assert_eq!(of_tcp.page(9, 12, 0), shown(1, 11, 0), "none goes back");
    }
}
