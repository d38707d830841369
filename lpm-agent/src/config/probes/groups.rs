//! The tags by which targets are put together.

use super::super::ConfigError;

/// Most tags by which targets are put together.
const MOST: usize = 4;

/// What is wrong with `probes.groups`.
pub(super) fn check(groups: &[String]) -> Result<(), ConfigError> {
    let wrong = |value: String, remedy| {
        Err(ConfigError::Value {
            key: "probes.groups",
            value,
            remedy,
        })
    };
    if groups.len() > MOST {
        return wrong(format!("{} tags", groups.len()), "give at most 4 tags");
    }
    for (at, group) in groups.iter().enumerate() {
        if group.is_empty() || groups[..at].contains(group) {
            let remedy = "give names of tags of `probes.targets`, each once";
            return wrong(format!("{group:?}"), remedy);
        }
    }
    Ok(())
}
