//! Metrics of interfaces: which are watched, and which should be and are not.

use std::{fmt, sync::Arc};

use lpm_common::layout::Vantage;

use super::{collect::Collect, families::Families, sink::LabelSet};
use crate::passive::Model;

/// The metrics of watched interfaces.
pub(super) struct Interfaces(pub(super) Arc<Model>);

impl Collect for Interfaces {
    fn collect(&self, out: &mut Families<'_>) -> fmt::Result {
        let model = &self.0;
        let (links, blind) = (model.links(), model.blind());
        let seeing = links.iter().filter(|(index, _)| !blind.contains_key(index));
        let seeing = seeing.map(|(_, link)| (labels(&link.name, link.vantage), 1_u64));
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
            (labels, 1_u64)
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
            Some((labels, u64::from(*known.get(&index)?)))
        });
        out.gauges(
            "interface_one_sided",
            "1 for each interface that carries packets of one direction only; for a pod's interface, \
             the CNI may redirect packets past it",
            one_sided,
        )
    }
}

fn labels(name: &str, vantage: Vantage) -> LabelSet {
    vec![
        ("interface", name.to_owned()),
        ("vantage", vantage.as_str().to_owned()),
    ]
}
