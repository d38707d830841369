//! Decides whether a DaemonSet wants a pod on a node, by the rules of the DaemonSet controller.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A DaemonSet, reduced to the fields that the decision needs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DaemonSet {
    pub(super) metadata: Metadata,
    spec: DaemonSetSpec,
}

/// The metadata fields that a DaemonSet and a node share.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) deletion_timestamp: Option<String>,
    pub(super) owner_references: Vec<Owner>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Owner {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) controller: bool,
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

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NodeAffinity {
    required_during_scheduling_ignored_during_execution: Option<NodeSelector>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NodeSelector {
    node_selector_terms: Vec<Term>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Term {
    match_expressions: Vec<Requirement>,
    match_fields: Vec<Requirement>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Requirement {
    key: String,
    operator: String,
    values: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Toleration {
    key: Option<String>,
    operator: Option<String>,
    value: Option<String>,
    effect: Option<String>,
}

/// A node, reduced to the fields that the decision needs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    metadata: Metadata,
    spec: NodeSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    taints: Vec<Taint>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Taint {
    key: String,
    value: Option<String>,
    effect: String,
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
        let labels = &node.metadata.labels;
        let fixed = pod.node_name.as_ref();
        let selected = pod
            .node_selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value));
        fixed.is_none_or(|name| *name == node.metadata.name)
            && selected
            && pod
                .affinity
                .as_ref()
                .is_none_or(|affinity| affinity.allows(node))
            && node
                .spec
                .taints
                .iter()
                .all(|taint| taint.is_tolerated(&pod.tolerations))
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
            required
                .node_selector_terms
                .iter()
                .any(|term| term.allows(node))
        })
    }
}

impl Term {
    fn allows(&self, node: &Node) -> bool {
        // An empty term matches nothing, says the API.
        if self.match_expressions.is_empty() && self.match_fields.is_empty() {
            return false;
        }
        let labels = &node.metadata.labels;
        let name = |key: &str| (key == "metadata.name").then_some(node.metadata.name.as_str());
        self.match_expressions
            .iter()
            .all(|want| want.holds(labels.get(&want.key).map(String::as_str)))
            && self
                .match_fields
                .iter()
                .all(|want| want.holds(name(&want.key)))
    }
}

impl Requirement {
    fn holds(&self, value: Option<&str>) -> bool {
        let among = || value.is_some_and(|value| self.values.iter().any(|one| one == value));
        let compare = |holds: fn(&i64, &i64) -> bool| {
            let bound = self.values.first().and_then(|bound| bound.parse().ok());
            let value = value.and_then(|value| value.parse().ok());
            matches!((value, bound), (Some(value), Some(bound)) if holds(&value, &bound))
        };
        match self.operator.as_str() {
            "In" => among(),
            "NotIn" => !among(),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => compare(i64::gt),
            "Lt" => compare(i64::lt),
            _ => true,
        }
    }
}

impl Taint {
    fn is_tolerated(&self, tolerations: &[Toleration]) -> bool {
        // The other effects keep new pods away, and drive no pod out.
        self.effect != "NoExecute" || tolerations.iter().any(|toleration| toleration.covers(self))
    }
}

impl Toleration {
    fn covers(&self, taint: &Taint) -> bool {
        let empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
        let effect = empty(&self.effect) || self.effect.as_ref() == Some(&taint.effect);
        let key = empty(&self.key) || self.key.as_ref() == Some(&taint.key);
        let exists = self.operator.as_deref() == Some("Exists");
        let value = self.value.as_deref().unwrap_or_default();
        let same = value == taint.value.as_deref().unwrap_or_default();
        effect && key && (exists || (!empty(&self.key) && same))
    }
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
