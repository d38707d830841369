//! Metrics of round trips: the times of TCP, and how many samples each method has.
//!
//! The metrics of ICMP echo, DNS and requests are written here too. The family `lpm_samples` counts
//! the samples of all methods, and must agree with their histograms on the same page.

use std::{fmt, sync::Arc};

use lpm_common::{
    counter::{COUNTERS, Counter},
    layout::Method,
};

use super::{
    collect::Collect, families::Families, labels::label_set, levels, methods::OfTcp, queries,
    requests,
};
use crate::passive::Model;

/// The metrics of round trips.
pub(super) struct RoundTrips {
    model: Arc<Model>,
    of_tcp: OfTcp,
}

impl Collect for RoundTrips {
    fn collect(&self, out: &mut Families<'_>) -> fmt::Result {
        let found = self.model.rtt();
        // The counters are read after the rows. The counters of flows (`sweep`) are read before the
        // flows.
        let counters = self.model.counters().map_err(|_| fmt::Error)?;
        let rtt = found
            .by_labels
            .into_iter()
            .map(|((labels, leg, echo), counts)| {
                let mut set = label_set(&labels);
                set.push(("leg", leg.as_str().to_owned()));
                set.push(("echo", echo.as_str().to_owned()));
                (set, counts)
            });
        out.histograms(
            "rtt",
            "TCP round-trip times, by how long the far end may have held the echo back",
            rtt,
        )?;
        levels::encode(found.levelled, out)?;
        levels::encode_places(found.places, out)?;
        let flow_rtt = self
            .model
            .flow_rtt()
            .into_iter()
            .map(|((labels, leg), counts)| {
                let mut set = label_set(&labels);
                set.push(("leg", leg.as_str().to_owned()));
                (set, counts)
            });
        out.histograms(
            "flow_rtt",
            "Smallest round-trip time of each flow in a window (10 s), one observation per flow \
             and window",
            flow_rtt,
        )?;
        self.samples(out, &counters, found.samples)
    }
}

impl RoundTrips {
    pub(super) fn new(model: Arc<Model>) -> Self {
        Self {
            model,
            of_tcp: OfTcp::default(),
        }
    }

    /// Writes the samples by method. `all` is the number of samples in the histograms of TCP.
    fn samples(&self, out: &mut Families<'_>, counters: &[u64; COUNTERS], all: u64) -> fmt::Result {
        let of = |counter: Counter| counters[counter as usize];
        let (seq, handshake) = (of(Counter::SampledSeq), of(Counter::SampledHandshake));
        let of_tcp = self.of_tcp.page(all, seq, handshake);
        let [icmp, dns] = queries::encode(&self.model, out)?;
        let by_method = [
            (Method::Ts, of_tcp.ts),
            (Method::Seq, of_tcp.seq),
            (Method::Handshake, of_tcp.handshake),
            icmp,
            dns,
            requests::encode(&self.model, out)?,
        ];
        out.counters(
            "samples",
            "Round trips measured, at all vantages",
            None,
            by_method
                .into_iter()
                // A method that is off measures nothing, which is not 0.
                .filter(|(method, count)| *method == Method::Ts || *count > 0)
                .map(|(method, count)| (vec![("method", method.as_str().to_owned())], count)),
        )?;
        let retransmitted = self.model.retransmitted().into_iter();
        out.counters(
            "retransmissions",
            "TCP segments that were sent again or had been missing, at least in part; `leg` is the \
             leg that the sender's packets measure",
            None,
            retransmitted.map(|((labels, leg), count)| {
                let mut set = label_set(&labels);
                set.push(("leg", leg.as_str().to_owned()));
                (set, count)
            }),
        )
    }
}
