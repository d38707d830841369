//! Decides whether a DaemonSet wants a pod on a node, by the rules of the DaemonSet controller.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::Deserialize;

/// A DaemonSet, with what decides where its pods run. The rest of its pods' specification is not
/// read: nothing that a later version of Kubernetes writes there can make it unreadable.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DaemonSet {
    metadata: ObjectMeta,
    spec: DaemonSetSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct DaemonSetSpec {
    template: Template,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Template {
    spec: PodSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    node_name: Option<String>,
    node_selector: BTreeMap<String, String>,
    affinity: Option<Affinity>,
    tolerations: Vec<Toleration>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Affinity {
    node_affinity: Option<NodeAffinity>,
}

/// A node, with what decides whether a pod may stay on it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    metadata: ObjectMeta,
    spec: NodeSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    taints: Vec<Taint>,
}

impl DaemonSet {
    /// True if the DaemonSet is being deleted.
    #[must_use]
    pub fn is_going(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// True if the DaemonSet's pods may stay on the node. A rule that this version does not know
    /// counts as a yes: if the agent stays wrongly, the programs end by themselves.
    #[must_use]
    pub fn selects(&self, node: &Node) -> bool {
        let pod = &self.spec.template.spec;
        let fixed = pod.node_name.as_deref();
        let mut selector = pod.node_selector.iter();
        let mut taints = node.spec.taints.iter();
        fixed.is_none_or(|name| name == node.name())
            && selector.all(|(key, value)| node.label(key) == Some(value))
            && (pod.affinity.as_ref()).is_none_or(|affinity| affinity.allows(node))
            && taints.all(|taint| is_tolerated(taint, &pod.tolerations))
    }
}

impl Node {
    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    fn label(&self, key: &str) -> Option<&str> {
        Some(self.metadata.labels.as_ref()?.get(key)?)
    }
}

impl Affinity {
    fn allows(&self, node: &Node) -> bool {
        let required = self.node_affinity.as_ref().and_then(|of| {
            of.required_during_scheduling_ignored_during_execution
                .as_ref()
        });
        // The terms are alternatives. No requirement at all means yes.
        required.is_none_or(|required| {
            let mut terms = required.node_selector_terms.iter();
            terms.any(|term| allows(term, node))
        })
    }
}

/// Whether a term of a node selector holds for a node.
fn allows(term: &NodeSelectorTerm, node: &Node) -> bool {
    let of = |list: &Option<Vec<_>>| list.clone().unwrap_or_default();
    let (labels, fields) = (of(&term.match_expressions), of(&term.match_fields));
    // An empty term matches nothing, says the API.
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    let field = |key: &str| (key == "metadata.name").then_some(node.name());
    labels.iter().all(|want| holds(want, node.label(&want.key)))
        && fields.iter().all(|want| holds(want, field(&want.key)))
}

/// Whether a requirement holds for the value of its key; `None`: there is no such key.
fn holds(want: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = want.values.as_deref().unwrap_or_default();
    let among = || value.is_some_and(|value| values.iter().any(|one| one == value));
    let compare = |holds: fn(&i64, &i64) -> bool| {
        let bound = values.first().and_then(|bound| bound.parse().ok());
        let value = value.and_then(|value| value.parse().ok());
        matches!((value, bound), (Some(value), Some(bound)) if holds(&value, &bound))
    };
    match want.operator.as_str() {
        "In" => among(),
        "NotIn" => !among(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => true,
    }
}

/// Whether a pod with these tolerations may stay beside a taint.
fn is_tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    // The other effects keep pods from coming, they drive none away.
    taint.effect != "NoExecute"
        || tolerations
            .iter()
            .any(|toleration| covers(toleration, taint))
}

fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    let effect = empty(&toleration.effect) || toleration.effect.as_ref() == Some(&taint.effect);
    let key = empty(&toleration.key) || toleration.key.as_ref() == Some(&taint.key);
    let exists = toleration.operator.as_deref() == Some("Exists");
    let value = toleration.value.as_deref().unwrap_or_default();
    let same = value == taint.value.as_deref().unwrap_or_default();
    effect && key && (exists || (!empty(&toleration.key) && same))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn selects(pod: &Value, node: &Value) -> bool {
        let set = json!({"metadata": {"name": "lpm"}, "spec": {"template": {"spec": pod}}});
        let set: DaemonSet = serde_json::from_value(set).expect("a DaemonSet");
        let node: Node = serde_json::from_value(node.clone()).expect("a node");
        set.selects(&node)
    }

    fn node() -> Value {
        json!({"metadata": {"name": "n1", "labels": {"pool": "blue", "size": "8"}}})
    }

    #[test]
    fn labels_must_fit() {
        assert!(selects(&json!({}), &node()));
        assert!(selects(&json!({"nodeSelector": {"pool": "blue"}}), &node()));
        assert!(!selects(
            &json!({"nodeSelector": {"pool": "green"}}),
            &node()
        ));
        assert!(!selects(&json!({"nodeSelector": {"other": ""}}), &node()));
        assert!(selects(&json!({"nodeName": "n1"}), &node()));
        assert!(!selects(&json!({"nodeName": "n2"}), &node()));
    }

    #[test]
    fn affinity_of_every_kind() {
        let selects = |terms: Value| {
            let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
            selects(&json!({"affinity": {"nodeAffinity": required}}), &node())
        };
        let one = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        for (term, holds) in [
            (one("pool", "In", &["green", "blue"]), true),
            (one("pool", "In", &["green"]), false),
            (one("pool", "NotIn", &["green"]), true),
            (one("other", "NotIn", &["green"]), true),
            (one("pool", "Exists", &[]), true),
            (one("pool", "DoesNotExist", &[]), false),
            (one("size", "Gt", &["7"]), true),
            (one("size", "Gt", &["8"]), false),
            (one("size", "Lt", &["9"]), true),
            (one("pool", "Lt", &["9"]), false),
            (json!({}), false),
            (
                json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}),
                true,
            ),
            (
                json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}),
                false,
            ),
        ] {
            assert_eq!(selects(json!([term])), holds, "{term}");
            assert!(
                selects(json!([term, one("pool", "Exists", &[])])),
                "one of two is enough"
            );
        }
        assert!(!selects(json!([])), "no term is none");
    }

    #[test]
    fn taints_that_drive_pods_away() {
        let tainted = |effect: &str| {
            let mut node = node();
            node["spec"] = json!({"taints": [{"key": "gpu", "value": "yes", "effect": effect}]});
            node
        };
        assert!(selects(&json!({}), &tainted("NoSchedule")));
        assert!(!selects(&json!({}), &tainted("NoExecute")));
        for (toleration, covers) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "gpu", "operator": "Exists"}), true),
            (json!({"key": "gpu", "value": "yes"}), true),
            (json!({"key": "gpu", "value": "no"}), false),
            (
                json!({"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoExecute"}),
                true,
            ),
            (
                json!({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}),
                false,
            ),
            (json!({"key": "cpu", "operator": "Exists"}), false),
        ] {
            let pod = json!({"tolerations": [toleration]});
            assert_eq!(selects(&pod, &tainted("NoExecute")), covers, "{toleration}");
        }
    }

    #[test]
    fn one_that_is_being_deleted() {
        let set = |metadata: Value| -> DaemonSet {
            serde_json::from_value(json!({"metadata": metadata})).expect("a DaemonSet")
        };
        assert!(!set(json!({"name": "lpm"})).is_going());
        assert!(set(json!({"deletionTimestamp": "2024-01-01T00:00:00Z"})).is_going());
    }
}
