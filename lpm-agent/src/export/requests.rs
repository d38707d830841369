//! The metric of requests over TCP and their whole answers.

use std::fmt;

use lpm_common::layout::Method;

use super::{families::Families, labels::label_set};
use crate::passive::Model;

/// Writes the metric, if anything was measured: the method is off unless it is asked for. Returns
/// the number of samples, for `lpm_samples_total`.
pub(super) fn encode(model: &Model, out: &mut Families<'_>) -> Result<(Method, u64), fmt::Error> {
    let requests = model.requests();
    let times = requests
        .by_labels
        .into_iter()
        .map(|((labels, leg), counts)| {
            let mut set = label_set(&labels);
            set.push(("leg", leg.as_str().to_owned()));
            (set, counts)
        });
    out.histograms(
        "request",
        "Time from the first byte of a TCP request to the last byte of its answer; leg is remote \
         if the local end sends the request",
        times,
    )?;
    Ok((Method::Request, requests.samples))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lpm_common::layout::{Family, Leg, NameId, NameValue, PairKey, PeerKind, Vantage};

    use crate::{
        export::{metrics::tests::metrics_of, negotiate::Format},
        passive::model::tests::{model, observe, tables},
    };

    fn page(pairs: &[PairKey]) -> String {
        let tables = tables(pairs);
        if !pairs.is_empty() {
            observe(&tables, 1, Leg::Local, 0, 86_000_000);
        }
        let metrics = metrics_of(&Arc::new(model(tables)));
        String::from_utf8(metrics.encode(Format::Text).expect("metrics")).expect("text")
    }

    #[test]
    fn requests_have_a_metric_of_their_own() {
        let pod = |namespace| NameValue::new(NameId::new(namespace, 0), PeerKind::Pod);
        let pair = PairKey::new(Vantage::Pod as u8, pod(1), pod(2)).with(Family::Request);
        let text = page(&[pair]);
        for wanted in [
            "lpm_request_seconds_count{namespace=\"a\",peer_namespace=\"b\",peer_kind=\"pod\",leg=\"remote\"} 1",
            "lpm_request_seconds_sum{namespace=\"a\",peer_namespace=\"b\",peer_kind=\"pod\",leg=\"local\"} 0.086",
            "lpm_samples_total{method=\"request\"} 2",
        ] {
            assert!(
                text.lines().any(|line| line == wanted),
                "{wanted} in {text}"
            );
        }
    }

    #[test]
    fn what_is_off_is_not_shown_as_nothing() {
        let text = page(&[]);
        for shown in ["lpm_request", "\"request\""] {
            assert!(!text.contains(shown), "{text}");
        }
    }
}
