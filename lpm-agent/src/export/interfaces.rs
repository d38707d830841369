//! Metrics of interfaces: which are watched, and which should be and are not.

use std::fmt;

use lpm_common::layout::Vantage;

use super::families::{Families, LabelSet};
use crate::passive::Model;

/// Writes the metrics of interfaces.
pub(super) fn encode(model: &Model, out: &mut Families<'_>) -> fmt::Result {
    let (links, blind) = (model.links(), model.blind());
    let seeing = links.iter().filter(|(index, _)| !blind.contains_key(index));
    let seeing = seeing.map(|(_, link)| (labels(&link.name, link.vantage), 1_i64));
    let not = blind.values();
    let not = not.map(|link| (labels(&link.name, link.vantage), 0));
    out.gauges(
        "interface_attached",
        "1 for each interface that is watched, 0 for one that should be but is not: \
         lpm_interface_blind shows why",
        seeing.chain(not),
    )?;
    let reasons = blind.values().map(|link| {
        let mut labels = labels(&link.name, link.vantage);
        labels.push(("reason", link.reason.as_str().to_owned()));
        (labels, 1_i64)
    });
    out.gauges(
        "interface_blind",
        "1 for each interface that should be measured but is not, or not all the time; the agent's \
         log names the cause",
        reasons,
    )?;
    let known = model.one_sided();
    let one_sided = links.into_iter().filter_map(|(index, link)| {
        let labels = vec![("interface", link.name)];
        Some((labels, i64::from(*known.get(&index)?)))
    });
    out.gauges(
        "interface_one_sided",
        "1 for each interface that carries packets of one direction only; for a pod's interface, \
         the CNI redirects packets past it",
        one_sided,
    )
}

fn labels(name: &str, vantage: Vantage) -> LabelSet {
    vec![
        ("interface", name.to_owned()),
        ("vantage", vantage.as_str().to_owned()),
    ]
}
