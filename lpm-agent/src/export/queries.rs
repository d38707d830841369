//! Metrics of queries and their answers: ICMP echo and DNS.

use std::fmt;

use lpm_common::layout::Method;

use super::{
    families::{Families, LabelSet},
    metrics::label_set,
};
use crate::passive::Model;

/// Writes the metrics. Returns how many samples each method has, for `lpm_samples_total`.
pub(super) fn encode(
    model: &Model,
    out: &mut Families<'_>,
) -> Result<[(Method, u64); 2], fmt::Error> {
    // Queries that are not counted now are counted at the next scrape.
    if let Err(error) = model.count_unanswered() {
        tracing::warn!(%error, "unanswered DNS queries and ICMP echo requests cannot be counted");
    }
    Ok([
        (Method::Icmp, echoes(model, out)?),
        (Method::Dns, answers(model, out)?),
    ])
}

fn echoes(model: &Model, out: &mut Families<'_>) -> Result<u64, fmt::Error> {
    let echoes = model.echoes();
    let rtt = echoes.by_labels.into_iter().map(|((labels, leg), counts)| {
        let mut set = label_set(&labels);
        set.push(("leg", leg.as_str().to_owned()));
        (set, counts)
    });
    out.histograms(
        "icmp_rtt",
        "Round-trip times of ICMP echo, from a request to its first reply",
        rtt,
    )?;
    let unanswered = model.unanswered_echoes().into_iter();
    out.counters(
        "icmp_unanswered",
        "ICMP echo requests without a reply within 10 s",
        None,
        unanswered.map(|((labels, leg), count)| {
            let mut set = label_set(&labels);
            set.push(("leg", leg.as_str().to_owned()));
            (set, count)
        }),
    )?;
    Ok(echoes.samples)
}

fn answers(model: &Model, out: &mut Families<'_>) -> Result<u64, fmt::Error> {
    let dns = model.dns();
    let namespace = |name: &str| -> LabelSet { vec![("namespace", name.to_owned())] };
    let times = dns.by_namespace.into_iter().map(|((name, rcode), counts)| {
        let mut set = namespace(&name);
        set.push(("rcode", rcode.as_str().to_owned()));
        (set, counts)
    });
    out.histograms(
        "dns",
        "Time from a DNS query to its first answer (UDP and TCP), at the client's end",
        times,
    )?;
    out.counters(
        "dns_unanswered",
        "DNS queries over UDP without an answer within 5 s",
        None,
        dns.unanswered
            .iter()
            .map(|(name, count)| (namespace(name), *count)),
    )?;
    Ok(dns.samples)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lpm_common::layout::{Family, Leg, NameId, NameValue, PairKey, PeerKind, Rcode, Vantage};

    use crate::{
        export::{metrics::Metrics, negotiate::Format},
        passive::model::tests::{model, observe, tables},
    };

    #[test]
    fn questions_have_metrics_of_their_own() {
        let pod = |namespace| NameValue::new(NameId::new(namespace, 0), PeerKind::Pod);
        let vantage = Vantage::Pod as u8;
        let tables = tables(&[
            PairKey::new(vantage, pod(1), pod(2)).with(Family::Icmp),
            PairKey::new(vantage, pod(1), NameValue::default()).with(Family::Dns),
        ]);
        let nxdomain = Rcode::NxDomain as usize;
        observe(&tables, 2, Leg::Remote, nxdomain, 3_000_000);
        let metrics = Metrics::new(Arc::new(model(tables)), String::new(), Box::new(Vec::new));
        let text = metrics.encode(Format::Text).expect("metrics");
        let text = String::from_utf8(text).expect("text");
        for wanted in [
            "lpm_icmp_rtt_seconds_count{namespace=\"a\",peer_namespace=\"b\",peer_kind=\"pod\",leg=\"remote\"} 1",
            "lpm_icmp_unanswered_total{namespace=\"a\",peer_namespace=\"b\",peer_kind=\"pod\",leg=\"remote\"} 0",
            "lpm_dns_seconds_count{namespace=\"a\",rcode=\"NOERROR\"} 1",
            "lpm_dns_seconds_sum{namespace=\"a\",rcode=\"NXDOMAIN\"} 0.003",
            "lpm_dns_unanswered_total{namespace=\"a\"} 0",
            "lpm_samples_total{method=\"icmp\"} 1",
            "lpm_samples_total{method=\"dns\"} 2",
            "lpm_query_events_total{method=\"dns\",event=\"duplicate\"} 0",
            "lpm_map_drops_total{map=\"queries\",reason=\"full\"} 0",
        ] {
            assert!(
                text.lines().any(|line| line == wanted),
                "{wanted} in {text}"
            );
        }
        assert!(!text.contains("lpm_rtt_seconds"), "no TCP: {text}");
    }
}
