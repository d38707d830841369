//! The labels that the histograms of all methods share.

use super::sink::LabelSet;
use crate::passive::Labels;

/// Makes the labels of the two ends of a flow.
pub(super) fn label_set(labels: &Labels) -> LabelSet {
    vec![
        ("namespace", labels.namespace.to_string()),
        ("peer_namespace", labels.peer_namespace.to_string()),
        ("peer_kind", labels.peer_kind.as_str().to_owned()),
    ]
}
