//! Totals of each flow, for the summary.

use std::{collections::HashMap, net::IpAddr};

use lpm_common::layout::{Leg, Method, Sample, Traffic};

use super::{interfaces, sparse_histogram::ByClass};
use crate::passive::{Flow, flow::plain_address};

/// Most flows that are kept, some 500 bytes each. Further ones are only counted.
const MOST: usize = 100_000;

/// Identifies a flow at one interface, whatever became of its entry or of the interface's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId {
    /// Index of the interface in [`super::Interfaces::all`].
    pub place: usize,
    /// VLAN ids as in [`lpm_common::layout::FlowCold::segment`].
    pub segment: u32,
    /// VNI of the outer one of two tunnels; 0: none.
    pub outer_vni: u32,
    /// Address and port of the local end. Port 0: all queries (DNS, ping) of that address.
    pub local: (IpAddr, u16),
    /// Address and port of the remote end.
    pub remote: (IpAddr, u16),
}

impl FlowId {
    fn of_sample(sample: &Sample) -> Option<Self> {
        let src = (plain_address(sample.src), sample.sport);
        let dst = (plain_address(sample.dst), sample.dport);
        let (local, remote) = if sample.leg == Leg::Remote as u8 {
            (src, dst)
        } else {
            (dst, src)
        };
        // A resolver's client sends each query from another port.
        let local = if sample.method == Method::Dns as u8 {
            (local.0, 0)
        } else {
            local
        };
        Some(Self {
            place: interfaces::index(sample.ifindex)?,
            segment: sample.segment,
            outer_vni: sample.outer_vni,
            local,
            remote,
        })
    }

    fn of_flow(flow: &Flow) -> Option<Self> {
        Some(Self {
            place: interfaces::index(flow.ifindex)?,
            segment: flow.segment,
            outer_vni: flow.outer_vni,
            local: (flow.local, flow.local_port),
            remote: (flow.remote, flow.remote_port),
        })
    }
}

/// Totals of a flow.
#[derive(Clone, Debug, Default)]
pub struct FlowTotals {
    /// Traffic from the local end, and to it, as captured: a host's captures hold merged segments.
    pub traffic: [Traffic; 2],
    /// Number of connections, or of parts of one between which the flow was forgotten.
    pub parts: u64,
    /// True: the SYN of a connection was seen.
    pub opened: bool,
    /// True: the last connection was closed, by a FIN from both ends or by an RST.
    pub closed: bool,
    /// Round trips of the flow.
    pub times: ByClass,
}

/// Totals of all flows.
#[derive(Debug, Default)]
pub struct Flows {
    totals: HashMap<FlowId, FlowTotals>,
    /// Number of parts of flows beyond those that are kept.
    pub left_out: u64,
}

impl Flows {
    /// Counts a sample.
    pub fn sample(&mut self, sample: &Sample) {
        if let Some(totals) = FlowId::of_sample(sample).and_then(|id| self.totals(id)) {
            totals.times.observe(sample);
        }
    }

    /// Adds the counts of an entry that ends.
    pub fn ended(&mut self, flow: &Flow) {
        let Some(id) = FlowId::of_flow(flow) else {
            return;
        };
        let Some(totals) = self.totals(id) else {
            self.left_out += 1;
            return;
        };
        totals.parts += 1;
        totals.opened |= flow.opened;
        totals.closed = flow.closed;
        for (sum, word) in totals.traffic.iter_mut().zip(flow.traffic) {
            *sum += Traffic::unpack(word);
        }
    }

    /// Takes the counts of an entry so far; see [`Traffic`]: its words wrap. One packet without a
    /// byte is left in each word that is not empty. The result is to be written back.
    pub fn carry(&mut self, flow: &Flow) -> Option<[u64; 2]> {
        const ONE: Traffic = Traffic {
            packets: 1,
            bytes: 0,
        };
        let totals = self.totals(FlowId::of_flow(flow)?)?;
        let mut left = [0; 2];
        for ((sum, word), left) in totals.traffic.iter_mut().zip(flow.traffic).zip(&mut left) {
            if word != 0 {
                *left = ONE.pack();
                *sum += Traffic::unpack(word.wrapping_sub(*left));
            }
        }
        Some(left)
    }

    fn totals(&mut self, id: FlowId) -> Option<&mut FlowTotals> {
        if self.totals.len() >= MOST && !self.totals.contains_key(&id) {
            return None;
        }
        Some(self.totals.entry(id).or_default())
    }

    /// The flows, with the most samples first.
    #[must_use]
    pub fn sorted(&self) -> Vec<(&FlowId, &FlowTotals)> {
        let mut all: Vec<_> = self.totals.iter().collect();
        all.sort_by(|(id, totals), (other, others)| {
            let counts = others.times.count().cmp(&totals.times.count());
            counts.then_with(|| id.cmp(other))
        });
        all
    }
}
