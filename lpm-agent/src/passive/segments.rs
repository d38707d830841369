//! Segments: the parts of a flow's round trip between the places that see it.
//!
//! A flow of a pod may be seen at the pod's veth, at the overlay's device, and in the tunnel's
//! packets at the network card. Beyond each of them lies a remote leg. The difference of two such
//! legs' minima in a window is the time between the two places: the node's forwarding, the overlay.
//! Before the first place lies its local leg, and beyond the last its remote leg. So a flow's
//! segments add up to its whole round trip.
//!
//! The views are matched by addresses and ports alone, because interface, VLAN and VNI differ from
//! one to the next. Two overlay networks with the same addresses have flows that only these would
//! tell apart. Their views cannot be told apart either, so such flows are left out and counted.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::Ordering,
    time::Duration,
};

use lpm_common::layout::{FlowCold, UNIT_NS, Vantage};

use super::Counts;

/// An end of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// The local end itself.
    Local,
    /// A vantage on the way.
    At(Vantage),
    /// The remote end itself.
    Remote,
}

impl Place {
    /// The value of the labels `from` and `to`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::At(vantage) => vantage.as_str(),
            Self::Remote => "remote",
        }
    }
}

/// Number of places on the way from the local end to the remote one, in this order.
const PLACES: usize = 4;

/// The place of a vantage on the way. A pod is seen as `pod` or as `node`.
fn order(vantage: Vantage) -> usize {
    match vantage {
        Vantage::Pod | Vantage::Node => 0,
        Vantage::Bridge => 1,
        Vantage::Overlay => 2,
        Vantage::Nic => 3,
    }
}

/// The addresses and ports that all views of a flow share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ends {
    local: [u32; 4],
    remote: [u32; 4],
    ports: [u16; 2],
}

impl Ends {
    fn of(cold: &FlowCold) -> Self {
        let words = |of: &[_; 4]| -> [u32; 4] {
            let of: &[std::sync::atomic::AtomicU32; 4] = of;
            std::array::from_fn(|word| of[word].load(Ordering::Relaxed))
        };
        Self {
            local: words(&cold.local),
            remote: words(&cold.remote),
            ports: [&cold.local_port, &cold.remote_port].map(|port| port.load(Ordering::Relaxed)),
        }
    }
}

/// A flow at one vantage in one window. Times are in units of [`UNIT_NS`]; `u32::MAX`: not
/// measured.
#[derive(Clone, Copy, Debug)]
struct View {
    vantage: Vantage,
    remote: u32,
    local: u32,
}

/// A flow at all its vantages.
#[derive(Clone, Copy, Debug, Default)]
struct Views {
    at: [Option<View>; PLACES],
    /// True: these are two flows, or one twice.
    ambiguous: bool,
}

/// The segments of all flows, summed up window by window.
#[derive(Debug, Default)]
pub struct Segments {
    window: HashMap<Ends, Views>,
    times: BTreeMap<(Place, Place), Counts>,
    negative: BTreeMap<(Place, Place), u64>,
    ambiguous: u64,
}

impl Segments {
    /// Adds a flow that had packets in this window, with the minima of its remote and local leg.
    pub(super) fn see(&mut self, cold: &FlowCold, [remote, local]: [u32; 2]) {
        let Some(vantage) = Vantage::from_raw(cold.vantage()) else {
            return;
        };
        let views = self.window.entry(Ends::of(cold)).or_default();
        let view = View {
            vantage,
            remote,
            local,
        };
        views.ambiguous |= views.at[order(vantage)].replace(view).is_some();
    }

    /// Ends the window, and adds the differences.
    pub(super) fn end_window(&mut self) {
        for (_, views) in std::mem::take(&mut self.window) {
            if views.ambiguous {
                self.ambiguous += 1;
            } else {
                self.measure(&views);
            }
        }
    }

    fn measure(&mut self, views: &Views) {
        let measured = |view: &&View| view.remote != u32::MAX;
        let way: Vec<&View> = views.at.iter().flatten().filter(measured).collect();
        let [first, .., last] = way[..] else { return };
        if first.local != u32::MAX {
            self.observe(Place::Local, Place::At(first.vantage), first.local);
        }
        for pair in way.windows(2) {
            let (from, to) = (Place::At(pair[0].vantage), Place::At(pair[1].vantage));
            match pair[0].remote.checked_sub(pair[1].remote) {
                Some(between) => self.observe(from, to, between),
                None => *self.negative.entry((from, to)).or_default() += 1,
            }
        }
        self.observe(Place::At(last.vantage), Place::Remote, last.remote);
    }

    fn observe(&mut self, from: Place, to: Place, units: u32) {
        let time = Duration::from_nanos(u64::from(units) * UNIT_NS);
        self.negative.entry((from, to)).or_default();
        self.times.entry((from, to)).or_default().observe(time);
    }

    /// Times between two places, there and back, one observation per flow and window.
    pub fn times(&self) -> impl Iterator<Item = (Place, Place, &Counts)> {
        let times = self.times.iter();
        times.map(|((from, to), counts)| (*from, *to, counts))
    }

    /// How often the nearer place's remote leg was the shorter one. Then the two minima are of
    /// different packets, and nothing can be concluded.
    pub fn negative(&self) -> impl Iterator<Item = (Place, Place, u64)> {
        let between = |(from, to): &(Place, Place)| *from != Place::Local && *to != Place::Remote;
        let negative = self.negative.iter().filter(move |(ends, _)| between(ends));
        negative.map(|((from, to), count)| (*from, *to, *count))
    }

    /// Number of flows, per window, whose views could not be told apart.
    #[must_use]
    pub fn ambiguous(&self) -> u64 {
        self.ambiguous
    }
}

#[cfg(test)]
mod tests {
    use super::{super::flow::tests::fill, *};
    use lpm_common::layout::FlowEntry;

    const NOT: u32 = u32::MAX;

    fn entry(last: u8, vantage: Vantage) -> FlowEntry {
        let entry = FlowEntry::default();
        fill(&entry, 1, last);
        entry.cold.birth.store(vantage as u8, Ordering::Relaxed);
        entry
    }

    fn see(segments: &mut Segments, last: u8, vantage: Vantage, minima: [u32; 2]) {
        segments.see(&entry(last, vantage).cold, minima);
    }

    fn times(segments: &Segments) -> Vec<(&'static str, &'static str, u64, f64)> {
        let time = |(from, to, counts): (Place, Place, &Counts)| {
            (
                from.as_str(),
                to.as_str(),
                counts.count(),
                counts.sum_seconds(),
            )
        };
        segments.times().map(time).collect()
    }

    #[test]
    fn segments_add_up_to_the_round_trip() {
        let mut segments = Segments::default();
        // The views come in any order, and each flow counts by itself.
        see(&mut segments, 1, Vantage::Nic, [1_000_000, NOT]);
        see(&mut segments, 1, Vantage::Pod, [1_500_000, 31_250]);
        see(&mut segments, 1, Vantage::Overlay, [1_250_000, 80_000]);
        see(&mut segments, 2, Vantage::Nic, [5_000, 7_000]);
        segments.end_window();
        segments.end_window();
        let expected = [
            ("local", "pod", 1, 0.002),
            ("pod", "overlay", 1, 0.016),
            ("overlay", "nic", 1, 0.016),
            ("nic", "remote", 1, 0.064),
        ];
        assert_eq!(times(&segments), expected);
        assert!(segments.negative().all(|(.., count)| count == 0));
    }

    #[test]
    fn what_was_not_measured_is_no_place_on_the_way() {
        let mut segments = Segments::default();
        see(&mut segments, 1, Vantage::Node, [500, NOT]);
        see(&mut segments, 1, Vantage::Overlay, [NOT, NOT]);
        see(&mut segments, 1, Vantage::Nic, [400, NOT]);
        see(&mut segments, 2, Vantage::Pod, [500, 600]);
        see(&mut segments, 2, Vantage::Overlay, [NOT, 100]);
        segments.end_window();
        let found: Vec<_> = times(&segments)
            .into_iter()
            .map(|(from, to, ..)| (from, to))
            .collect();
        assert_eq!(found, [("nic", "remote"), ("node", "nic")]);
    }

    #[test]
    fn negative_ones_are_counted_apart() {
        let mut segments = Segments::default();
        see(&mut segments, 1, Vantage::Pod, [400, NOT]);
        see(&mut segments, 1, Vantage::Overlay, [500, NOT]);
        segments.end_window();
        let negative: Vec<_> = segments.negative().collect();
        let (pod, overlay) = (Place::At(Vantage::Pod), Place::At(Vantage::Overlay));
        assert_eq!(negative, [(pod, overlay, 1)]);
        assert_eq!(times(&segments), [("overlay", "remote", 1, 0.000_032)]);
    }

    #[test]
    fn flows_that_share_addresses_are_left_out() {
        let mut segments = Segments::default();
        see(&mut segments, 1, Vantage::Pod, [400, NOT]);
        see(&mut segments, 1, Vantage::Nic, [300, NOT]);
        // A flow in another overlay network is not measured, and yet could be seen at this one's
        // veth.
        see(&mut segments, 1, Vantage::Pod, [NOT, NOT]);
        segments.end_window();
        assert_eq!((times(&segments), segments.ambiguous()), (vec![], 1));
    }
}
