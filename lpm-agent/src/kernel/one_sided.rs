//! Finds the interfaces that carry packets of one direction only.
//!
//! A CNI that redirects into the pod (`bpf_redirect_peer`: Cilium's and Calico's eBPF host routing)
//! leaves the veth's egress without packets. No flow is measured there then. So such a pod is
//! watched from the vantage `node` instead (`lpm_common::pipeline::node`). The CNI is not asked
//! whether it redirects. The flows of each interface show it, and show also when it stops: what a pod
//! sends passes its veth, and the answers pass another interface only.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use lpm_common::layout::Vantage;

/// Fewest packets for a conclusion.
const ENOUGH: u64 = 20;

/// Packets of one interface by direction, from the flows in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectionCounts {
    /// Packets of flows that were seen in both directions.
    pub both: u64,
    /// Packets of flows that were seen from the local end only, though they must have been
    /// answered.
    pub from_only: u64,
    /// Those of `from_only` whose answers were seen at another interface. So the answers went past
    /// this one.
    pub elsewhere: u64,
    /// Packets of flows that were seen towards the local end only, though they must have been
    /// answered.
    pub to_only: u64,
    /// Packets from the local end, of all flows.
    pub from_local: u64,
    /// Packets towards the local end, of all flows.
    pub to_local: u64,
    /// Packets of `to_local` that left by the interface itself after all, where it is watched as
    /// `node`.
    pub forwarded: u64,
}

/// Source of the evidence. It must also know which interfaces are watched as `node`.
pub trait Evidence: Send {
    /// Reads the packets of each interface that has flows.
    fn look(&mut self) -> BTreeMap<u32, DirectionCounts>;

    /// Prepares an interface for the vantage `node`, before its hooks are attached.
    ///
    /// # Errors
    /// The kernel's map is full, or gone. Then it is not noticed when the CNI stops redirecting.
    fn join(&mut self, ifindex: u32) -> io::Result<()>;

    /// Ends the vantage `node` of an interface: no pod lives there any more.
    ///
    /// # Errors
    /// The kernel's map is gone.
    fn part(&mut self, ifindex: u32) -> io::Result<()>;
}

/// The verdicts, interface by interface.
#[derive(Debug, Default)]
pub(crate) struct OneSidedDetector {
    verdicts: BTreeMap<u32, bool>,
    /// Interfaces past which packets are redirected: their answers were seen elsewhere.
    redirected: BTreeSet<u32>,
    /// For interfaces watched as `node`: `to_local` and `forwarded` at the last verdict.
    since: BTreeMap<u32, (u64, u64)>,
}

impl OneSidedDetector {
    /// True if the interface carries one direction only. None: nothing is known yet.
    #[cfg(test)]
    fn verdict(&self, ifindex: u32) -> Option<bool> {
        self.verdicts.get(&ifindex).copied()
    }

    /// True if packets to the interface's pod go past it. A pod can send packets that nobody
    /// answers, so its own packets are no evidence: that would let each pod attach hooks to all
    /// interfaces of the node.
    pub(crate) fn is_redirected(&self, ifindex: u32) -> bool {
        self.redirected.contains(&ifindex)
    }

    /// Takes over the last agent's verdict that packets are redirected past the interface.
    pub(crate) fn resume(&mut self, ifindex: u32) {
        self.verdicts.insert(ifindex, true);
        self.redirected.insert(ifindex);
    }

    /// Drops the verdict on an interface that is gone: the next one with its index is another.
    pub(crate) fn forget(&mut self, ifindex: u32) {
        self.verdicts.remove(&ifindex);
        self.redirected.remove(&ifindex);
        self.since.remove(&ifindex);
    }

    /// Evaluates the packets of an interface. Returns the verdict if it, or
    /// [`Self::is_redirected`], differs from before.
    pub(crate) fn evaluate(
        &mut self,
        ifindex: u32,
        vantage: Vantage,
        sides: DirectionCounts,
    ) -> Option<bool> {
        let verdict = match vantage {
            Vantage::Node => self.still_redirected(ifindex, sides)?,
            Vantage::Pod => redirected(sides)?,
            Vantage::Overlay | Vantage::Bridge | Vantage::Nic => lopsided(sides)?,
        };
        let before = self.verdicts.insert(ifindex, verdict);
        let moved = if !verdict {
            self.redirected.remove(&ifindex)
        } else if vantage == Vantage::Pod && sides.elsewhere >= ENOUGH {
            self.redirected.insert(ifindex)
        } else {
            false
        };
        (moved || before != Some(verdict)).then(|| {
            self.since.remove(&ifindex);
            verdict
        })
    }

    fn still_redirected(&mut self, ifindex: u32, sides: DirectionCounts) -> Option<bool> {
        let since = self
            .since
            .entry(ifindex)
            .or_insert((sides.to_local, sides.forwarded));
        let (Some(to_local), Some(forwarded)) = (
            sides.to_local.checked_sub(since.0),
            sides.forwarded.checked_sub(since.1),
        ) else {
            // Flows have left the table meanwhile.
            *since = (sides.to_local, sides.forwarded);
            return None;
        };
        if to_local < ENOUGH {
            return None;
        }
        *since = (sides.to_local, sides.forwarded);
        Some(forwarded < to_local / 20 * 19)
    }
}

/// The verdict on a pod's veth. A tenth of the packets in flows without a way back is enough,
/// because the vantage `node` measures the other flows too. Health checks from the node itself pass
/// the veth both ways, whatever the CNI does.
fn redirected(sides: DirectionCounts) -> Option<bool> {
    if sides.from_only >= ENOUGH && sides.from_only >= sides.both / 10 {
        return Some(true);
    }
    (sides.both >= ENOUGH).then_some(false)
}

/// The verdict on any other interface. There it is only reported, if it holds for most packets.
fn lopsided(sides: DirectionCounts) -> Option<bool> {
    let lone = sides.from_only + sides.to_only;
    (lone.max(sides.both) >= ENOUGH).then_some(lone > sides.both)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sides(both: u64, from_only: u64) -> DirectionCounts {
        DirectionCounts {
            both,
            from_only,
            ..DirectionCounts::default()
        }
    }

    fn joined(to_local: u64, forwarded: u64) -> DirectionCounts {
        DirectionCounts {
            to_local,
            forwarded,
            ..DirectionCounts::default()
        }
    }

    #[test]
    fn a_pod_past_whose_veth_packets_are_redirected() {
        let mut judge = OneSidedDetector::default();
        let mut pod = |both, from_only| judge.evaluate(7, Vantage::Pod, sides(both, from_only));
        assert_eq!(pod(0, 19), None, "too few");
        assert_eq!(pod(30, 0), Some(false), "as was taken for granted");
        assert_eq!(pod(1000, 40), None, "a few that never came back");
        assert_eq!(pod(200, 40), Some(true), "and the node's own checks");
        assert_eq!(pod(200, 60), None, "known already");
    }

    #[test]
    fn packets_that_nobody_answers_mark_their_own_veth_only() {
        let mut judge = OneSidedDetector::default();
        let lone = sides(0, 450);
        assert_eq!(judge.evaluate(7, Vantage::Pod, lone), Some(true));
        assert!(!judge.is_redirected(7));
        let seen = |elsewhere| DirectionCounts { elsewhere, ..lone };
        assert_eq!(judge.evaluate(7, Vantage::Pod, seen(19)), None, "too few");
        assert_eq!(judge.evaluate(7, Vantage::Pod, seen(20)), Some(true));
        assert!(judge.is_redirected(7));
        assert_eq!(judge.evaluate(7, Vantage::Pod, seen(30)), None, "known");
        assert_eq!(judge.evaluate(7, Vantage::Pod, sides(900, 0)), Some(false));
        assert!(!judge.is_redirected(7));
    }

    #[test]
    fn a_cni_that_stops_redirecting() {
        let mut judge = OneSidedDetector::default();
        judge.evaluate(7, Vantage::Pod, sides(0, 100));
        assert_eq!(judge.verdict(7), Some(true));
        let mut node = |to, forwarded| judge.evaluate(7, Vantage::Node, joined(to, forwarded));
        assert_eq!(node(0, 0), None, "the first look");
        assert_eq!(node(500, 0), None, "redirected");
        assert_eq!(node(800, 150), None, "half of them");
        assert_eq!(node(300, 150), None, "flows have left the table");
        assert_eq!(node(310, 160), None, "too few");
        assert_eq!(node(700, 548), Some(false), "all but two");
    }

    #[test]
    fn another_interface_is_only_told_of() {
        let mut judge = OneSidedDetector::default();
        assert_eq!(judge.evaluate(3, Vantage::Nic, sides(100, 90)), Some(false));
        assert_eq!(judge.evaluate(3, Vantage::Nic, sides(100, 120)), Some(true));
        judge.forget(3);
        assert_eq!(judge.verdict(3), None);
    }
}
