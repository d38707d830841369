//! Where names come from, and what histograms tell apart by them.

use super::{Key, Section, tables::check_duration, wrong};
use crate::config::{Config, ConfigError};

/// Members of one namespace that histograms tell apart: fewer than fit into an id
/// ([`lpm_common::layout::NameId::MAX_MEMBER`]).
const LEVELS_MOST: u16 = 2000;

pub(super) const SECTION: Section = Section {
    keys: &[
        Key::hot("names"),
        Key::cold("node_name", |a, b| a.node_name != b.node_name),
        Key::hot("identity.external"),
        Key::hot("identity.cluster_ranges"),
        Key::cold("identity.kubernetes", |a, b| {
            a.identity.kubernetes != b.identity.kubernetes
        }),
        Key::cold("levels", |a, b| a.levels != b.levels),
        Key::cold("keep_gone", |a, b| a.keep_gone != b.keep_gone),
        Key::cold("cni_results", |a, b| a.cni_results != b.cni_results),
        Key::cold("multus_results", |a, b| {
            a.multus_results != b.multus_results
        }),
    ],
    check,
};

fn check(config: &Config) -> Result<(), ConfigError> {
    let top = config.levels.top;
    if !(1..=LEVELS_MOST).contains(&top) {
        return wrong("levels.top", top.to_string(), "give 1 to 2000");
    }
    config.identity.check()?;
    check_duration("keep_gone", config.keep_gone)
}
