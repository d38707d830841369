//! Labels of pods that the configuration asks for, and their names in metrics.

use std::{collections::BTreeSet, sync::Arc};

use super::Name;

/// Most labels that can be asked for. Each is a label of every series that includes them.
pub const MOST: usize = 20;

/// Longest name and longest prefix of a label (Kubernetes, "Labels and Selectors").
const LONGEST: (usize, usize) = (63, 253);

/// The labels of pods that are shown.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// Each label's name in Kubernetes, and its name in metrics.
    labels: Vec<(Arc<str>, Arc<str>)>,
}

impl Chosen {
    /// Makes the set of these labels. Their names in metrics begin with `label_`. Characters that
    /// Prometheus does not accept become `_`, as in kube-state-metrics. If two names would be
    /// equal, one gets the suffix `_conflict1`, the third `_conflict2`.
    #[must_use]
    pub fn new(keys: &[String]) -> Self {
        let mut taken = BTreeSet::new();
        let mut labels = Vec::new();
        for key in keys {
            let plain = in_metrics(key);
            let mut name = plain.clone();
            let mut conflicts = 0;
            while !taken.insert(name.clone()) {
                conflicts += 1;
                name = format!("{plain}_conflict{conflicts}");
            }
            labels.push((key.as_str().into(), name.into()));
        }
        Self { labels }
    }

    /// True if no label was asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The pod's labels: names in metrics and values, in the order of the configuration. Empty: the
    /// pod has none.
    pub fn of<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = (Arc<str>, Arc<str>)> + 'a {
        self.labels.iter().map(|(key, shown)| {
            let value = name.labels.get(key).cloned();
            (Arc::clone(shown), value.unwrap_or_else(|| "".into()))
        })
    }
}

/// The name of a Kubernetes label in Prometheus.
fn in_metrics(key: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("label_{}", key.chars().map(plain).collect::<String>())
}

/// The error in a list of labels, and the remedy. None: the list is valid.
#[must_use]
pub fn wrong(keys: &[String]) -> Option<(String, &'static str)> {
    if keys.len() > MOST {
        return Some((format!("{} labels", keys.len()), "give at most 20"));
    }
    let mut known = BTreeSet::new();
    keys.iter().find_map(|key| {
        if !is_key(key) {
            return Some((
                key.clone(),
                "give a label key as Kubernetes writes it, such as team or example.com/team",
            ));
        }
        (!known.insert(key)).then(|| (key.clone(), "the label is given twice: give it once"))
    })
}

/// True if Kubernetes accepts this as the name of a label.
fn is_key(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let ends = |text: &str| {
        let is_end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        is_end(text.chars().next()) && is_end(text.chars().last())
    };
    let inside = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_name = name.len() <= LONGEST.0 && ends(name) && name.chars().all(inside);
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_prefix = |prefix: &str| {
        let part = |part: &str| ends(part) && part.chars().all(lower);
        prefix.len() <= LONGEST.1 && prefix.split('.').all(part)
    };
    is_name && prefix.is_none_or(is_prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &[&str]) -> Vec<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    #[test]
    fn each_has_a_name_of_its_own() {
        let all = [
            "a.b/c-d",
            "a-b/c.d",
            "team",
            "a.b/c-d_conflict1",
            "Team",
            "a_b_c_d",
        ];
        let chosen = Chosen::new(&keys(&all));
        let shown: Vec<_> = chosen.of(&Name::default()).map(|(name, _)| name).collect();
        let shown: Vec<&str> = shown.iter().map(|name| &**name).collect();
        assert_eq!(
            shown,
            [
                "label_a_b_c_d",
                "label_a_b_c_d_conflict1",
                "label_team",
                "label_a_b_c_d_conflict1_conflict1",
                "label_Team",
                "label_a_b_c_d_conflict2",
            ]
        );
    }

    #[test]
    fn values_are_whatever_they_are() {
        let chosen = Chosen::new(&keys(&["team", "tier"]));
        let name = Name {
            labels: [
                ("team".into(), "größe 1".into()),
                ("other".into(), "x".into()),
            ]
            .into(),
            ..Name::default()
        };
        let values: Vec<_> = chosen.of(&name).map(|(_, value)| value).collect();
        assert_eq!(values, ["größe 1".into(), Arc::from("")]);
    }

    #[test]
    fn what_is_no_label_is_refused() {
        let long = "x".repeat(64);
        for bad in [
            "", "team!", "größe", "/team", "a/", "a/b/c", "A.b/c", "-a", "a-", "a..b/c", &long,
        ] {
            let (value, _) = wrong(&keys(&["app", bad])).expect(bad);
            assert_eq!(value, bad);
        }
        let good = [
            "app",
            "app.kubernetes.io/name",
            "a_b.c-d",
            "T",
            "x-1.example.com/T_1",
        ];
        assert_eq!(wrong(&keys(&good)), None);
        assert!(wrong(&keys(&["a", "b", "a"])).is_some(), "twice");
        let many: Vec<String> = (0..=MOST).map(|n| format!("l{n}")).collect();
        assert!(wrong(&many).is_some(), "too many");
        assert_eq!(wrong(&many[1..]), None);
    }
}
