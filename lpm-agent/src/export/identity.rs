//! Metrics of the sources of names.

use std::{fmt, sync::Arc};

use super::{collect::Collect, families::Families};
use crate::{identity::status::Status, passive::Model};

/// Metrics of the state of each source of names, and of round trips that got a name too late. There
/// are none if Kubernetes is not asked.
pub(super) struct Identity(pub(super) Arc<Model>);

impl Collect for Identity {
    fn collect(&self, out: &mut Families<'_>) -> fmt::Result {
        let (status, late) = (self.0.registry().status(), self.0.late());
        let kinds = status.kinds();
        let label = |kind: &str| vec![("kind", kind.to_owned())];
        let objects = kinds.iter().filter(|(_, kind)| kind.synced);
        out.gauges(
            "identity_objects",
            "Kubernetes objects that names are made from; a kind appears once all its objects are \
             known",
            objects.map(|(kind, known)| (label(kind.as_str()), known.objects as u64)),
        )?;
        out.gauges(
            "identity_synced",
            "1 for each kind of Kubernetes object once all its objects have been seen",
            (kinds.iter()).map(|(kind, known)| (label(kind.as_str()), u64::from(known.synced))),
        )?;
        let scope = status.scope().map(|scope| {
            let said = |scope: &str| scope.to_owned();
            let labels = vec![
                ("configured", said(scope.wanted)),
                ("scope", said(scope.now)),
            ];
            (labels, 1_u64)
        });
        out.gauges(
            "identity_scope",
            "1 for the scope of followed pods, as configured and as in effect: scope node becomes \
             cluster on a network where an address does not show the node",
            scope,
        )?;
        claims(status, out)?;
        peers(status, out)?;
        let errors = status.errors().into_iter().map(|((kind, reason), count)| {
            let mut labels = label(kind.as_str());
            labels.push(("reason", reason.to_owned()));
            (labels, count)
        });
        out.counters(
            "identity_errors",
            "Requests to the Kubernetes API that failed or were broken off",
            None,
            errors,
        )?;
        out.counters(
            "identity_late_samples",
            "Round trips counted under the name of an address's former owner before the agent learnt \
             of the change. They are of connections that began after the former owner's end or, if \
             that is not known (deleted at once, lost node), after the next owner's start",
            None,
            (!kinds.is_empty()).then_some((Vec::new(), late)),
        )?;
        let lag = status.lag().map(|lag| (label("pods"), lag.as_secs_f64()));
        out.gauges(
            "identity_lag_seconds",
            "How long the last change of a pod took to reach the agent (up to 1 s too long), or for \
             how long no change could reach it",
            lag,
        )
    }
}

/// Writes how many addresses pods' annotations claim. Writes nothing before Kubernetes has answered.
fn claims(status: &Status, out: &mut Families<'_>) -> fmt::Result {
    let Some(claims) = status.claims() else {
        return Ok(());
    };
    let outranked = status.outranked();
    let named = claims.counted.saturating_sub(claims.contested + outranked);
    out.gauges(
        "identity_claims",
        "Addresses in further networks that pods' annotations name, and that name their pods",
        [(Vec::new(), named as u64)],
    )?;
    let refused = claims.refused.all();
    let refused = refused.map(|(reason, count)| (reason.as_str(), u64::from(count)));
    let others = [
        ("contested", claims.contested as u64),
        ("outranked", outranked as u64),
    ];
    out.gauges(
        "identity_claims_refused",
        "Addresses in pods' annotations that do not name their pods: identity.kubernetes.networks \
         does not permit them, there are too many, the pod has no node, Multus does not report them, \
         their network's name is too long, they cannot be read, another pod claims them too \
         (contested), or another source names them (outranked)",
        refused
            .chain(others)
            .map(|(reason, count)| (vec![("reason", reason.to_owned())], count)),
    )
}

/// Writes the connections to the agents of other nodes. Writes nothing if those agents are not
/// asked.
fn peers(status: &Status, out: &mut Families<'_>) -> fmt::Result {
    let Some(agents) = status.peers() else {
        return Ok(());
    };
    let counts = [("answering", agents.answering), ("silent", agents.silent)];
    out.gauges(
        "identity_peers",
        "Agents of other nodes that this agent asks for names, by whether they answer",
        counts.map(|(state, count)| (vec![("state", state.to_owned())], count as u64)),
    )?;
    out.gauges(
        "identity_peers_in_place",
        "Agents of other nodes that do not answer and are replaced by the API server meanwhile; \
         the pods of further silent agents are unknown",
        [(Vec::new(), agents.in_place as u64)],
    )?;
    let names = (vec![("kind", "pods".to_owned())], agents.names as u64);
    out.gauges(
        "identity_peer_names",
        "Names known from the agents of other nodes",
        [names],
    )?;
    out.counters(
        "identity_peer_names_refused",
        "Names from the agents of other nodes that were refused, because a node or all nodes together \
         have too many or too long ones",
        None,
        [(Vec::new(), agents.refused)],
    )?;
    let errors = agents.errors.into_iter();
    out.counters(
        "identity_peer_errors",
        "Connections to agents of other nodes that failed or broke off",
        None,
        errors.map(|(reason, count)| (vec![("reason", reason.to_owned())], count)),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::{
        export::{metrics::tests::metrics_of, negotiate::Format},
        passive::model::tests::{model, tables},
    };

    #[test]
    fn without_kubernetes_there_is_no_series() {
        let model = Arc::new(model(tables(&[])));
        let metrics = metrics_of(&model);
        let text = metrics.encode(Format::Text).expect("metrics");
        assert!(!String::from_utf8_lossy(&text).contains("lpm_identity"));
    }
}
