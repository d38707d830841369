//! Metrics of targets together, by the tags that the configuration names: a rack, a zone.
//!
//! The counts of a group never go back, whatever becomes of its targets: each scrape adds what each
//! session has counted since the scrape before.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use super::{collect::Collect, families::Families, sink::LabelSet};
use crate::{
    active::agent::figures::{Figures, Outcome, Shown},
    identity::OVERFLOW,
    passive::Counts,
};

/// Most values of a tag that have series of their own. Further ones are counted as `overflow`.
const MOST_VALUES: usize = 32;

/// The metrics of targets by groups.
pub(super) struct ProbeGroups {
    figures: Arc<Figures>,
    state: Mutex<State>,
}

/// What is counted: probes by result, and round trips.
#[derive(Clone, Debug, Default)]
struct Counted {
    outcomes: BTreeMap<Outcome, u64>,
    round_trips: Counts,
}

/// A session, and what of it is in the groups' counts by now.
struct Seen {
    shown: Arc<Shown>,
    counted: Counted,
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    /// By tag and value.
    groups: BTreeMap<Arc<str>, BTreeMap<String, Counted>>,
}

impl ProbeGroups {
    pub(super) fn new(figures: Arc<Figures>) -> Self {
        Self {
            figures,
            state: Mutex::default(),
        }
    }
}

impl Counted {
    fn of(shown: &Shown) -> Self {
        let figures = shown.figures();
        Self {
            outcomes: figures.outcomes.clone(),
            round_trips: figures.round_trips.clone(),
        }
    }

    /// What was counted since then.
    fn since(&self, before: &Self) -> Self {
        let outcomes = self.outcomes.iter().map(|(outcome, count)| {
            let before = before.outcomes.get(outcome).copied().unwrap_or_default();
            (*outcome, count.saturating_sub(before))
        });
        Self {
            outcomes: outcomes.filter(|(_, count)| *count > 0).collect(),
            round_trips: self.round_trips.since(&before.round_trips),
        }
    }

    fn add(&mut self, other: &Self) {
        for (outcome, count) in &other.outcomes {
            *self.outcomes.entry(*outcome).or_default() += count;
        }
        self.round_trips.add(&other.round_trips);
    }
}

impl State {
    /// Takes what sessions have counted since the last time. One that is gone is taken a last time.
    fn follow(&mut self, figures: &Figures) {
        let keys = figures.groups();
        if keys.is_empty() {
            *self = Self::default();
            return;
        }
        self.groups.retain(|key, _| keys.contains(key));
        let sessions = figures.sessions();
        for shown in &sessions {
            if !self.seen.iter().any(|seen| Arc::ptr_eq(&seen.shown, shown)) {
                self.seen.push(Seen {
                    shown: Arc::clone(shown),
                    counted: Counted::default(),
                });
            }
        }
        for seen in &mut self.seen {
            let now = Counted::of(&seen.shown);
            let news = now.since(&seen.counted);
            seen.counted = now;
            let tags = seen.shown.tags();
            for key in &keys {
                let Some(value) = tags.get(&**key) else {
                    continue;
                };
                let values = self.groups.entry(Arc::clone(key)).or_default();
                let has_room = values.len() < MOST_VALUES || values.contains_key(value);
                let value = if has_room { value } else { OVERFLOW };
                values.entry(value.to_owned()).or_default().add(&news);
            }
        }
        let is_there = |seen: &Seen| sessions.iter().any(|one| Arc::ptr_eq(one, &seen.shown));
        self.seen.retain(is_there);
    }
}

impl Collect for ProbeGroups {
    fn collect(&self, out: &mut Families<'_>) -> fmt::Result {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.follow(&self.figures);
        let node = &self.figures.node;
        let groups = state.groups.iter().flat_map(|(key, values)| {
            values.iter().map(move |(value, counted)| {
                let labels: LabelSet = vec![
                    ("source_node", node.to_string()),
                    ("group", key.to_string()),
                    ("value", value.clone()),
                ];
                (labels, counted)
            })
        });
        let groups: Vec<_> = groups.collect();
        let packets = groups.iter().flat_map(|(labels, counted)| {
            counted.outcomes.iter().map(move |(outcome, count)| {
                let result = ("result", outcome.as_str().to_owned());
                let labels = labels.iter().cloned().chain([result]);
                (labels.collect::<LabelSet>(), *count)
            })
        });
        out.counters(
            "probe_group_packets",
            "Probes by result (as in lpm_probe_packets_total) to all targets whose tag `group` has \
             this value. Tags are those of probes.groups. Of more than 32 values the further ones \
             are together: overflow",
            None,
            packets,
        )?;
        let measured = groups
            .iter()
            .filter(|(_, counted)| !counted.round_trips.is_empty());
        out.coarse_histograms(
            "probe_group_rtt",
            "Round trips of probes (as in lpm_probe_rtt_seconds) to all targets whose tag `group` has \
             this value",
            measured.map(|(labels, counted)| (labels.clone(), counted.round_trips.clone())),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::export::{Metrics, collect::Collectors, negotiate::Format};

    /// A page of groups, and its figures.
    struct Page(Arc<Figures>, Metrics);

    impl Page {
        fn new(groups: &[&str]) -> Self {
            let figures = Arc::new(Figures::new("n1".into()));
            figures.group_by(groups.iter().map(|one| Arc::from(*one)).collect());
            let mut sources = Collectors::default();
            sources.register(ProbeGroups::new(Arc::clone(&figures)));
            Self(figures, Metrics::new(sources))
        }

        /// Shows targets with these racks.
        fn show(&self, targets: &[(&str, &str)]) -> Vec<Arc<Shown>> {
            let wanted = targets.iter().map(|(target, _)| (Arc::from(*target), 0));
            let shown = self.0.show(wanted);
            for (shown, (_, rack)) in shown.iter().zip(targets) {
                let tags = [("rack".to_owned(), (*rack).to_owned())];
                shown.tag(Arc::new(tags.into()));
            }
            shown
        }

        fn text(&self) -> String {
            let page = self.1.encode(Format::Text).expect("metrics");
            String::from_utf8(page).expect("text")
        }

        fn packets(&self, rack: &str, result: &str) -> Option<u64> {
            let series = format!(
                "lpm_probe_group_packets_total{{source_node=\"n1\",group=\"rack\",value=\"{rack}\",result=\"{result}\"}} "
            );
            let text = self.text();
            let value = text.lines().find_map(|line| line.strip_prefix(&series))?;
            Some(value.parse().expect("a number"))
        }
    }

    fn count(shown: &Shown, outcome: Outcome, many: u64) {
        *shown.figures().outcomes.entry(outcome).or_default() += many;
    }

    #[test]
    fn a_group_is_the_sum_of_its_targets() {
        let page = Page::new(&["rack", "zone"]);
        let shown = page.show(&[("a", "01"), ("b", "01"), ("c", "02")]);
        assert_eq!(page.text(), "", "nothing was measured");
        for (shown, lost) in shown.iter().zip([1, 2, 0]) {
            count(shown, Outcome::Answered, 10);
            shown
                .figures()
                .round_trips
                .observe(Duration::from_millis(1));
            if lost > 0 {
                count(shown, Outcome::Lost, lost);
            }
        }
        assert_eq!(page.packets("01", "ok"), Some(20));
        assert_eq!(page.packets("01", "lost"), Some(3));
        assert_eq!(page.packets("02", "ok"), Some(10));
        assert_eq!(page.packets("02", "lost"), None, "never measured is not 0");
        let rtt =
            "lpm_probe_group_rtt_seconds_count{source_node=\"n1\",group=\"rack\",value=\"01\"} 2\n";
        assert!(page.text().contains(rtt), "{}", page.text());
        assert!(!page.text().contains("zone"), "no target has this tag");
    }

    /// Whether targets go, come again or change their tags: what was counted stays where it was.
    #[test]
    fn counts_of_a_group_never_go_back() {
        let page = Page::new(&["rack"]);
        let shown = page.show(&[("a", "01"), ("b", "01")]);
        count(&shown[0], Outcome::Answered, 10);
        count(&shown[1], Outcome::Answered, 5);
        assert_eq!(page.packets("01", "ok"), Some(15));
        // What was counted after the last scrape is not lost either.
        count(&shown[1], Outcome::Answered, 1);
        page.show(&[("a", "01")]);
        assert_eq!(page.packets("01", "ok"), Some(16));
        let again = page.show(&[("a", "02"), ("b", "01")]);
        count(&again[0], Outcome::Answered, 3);
        count(&again[1], Outcome::Answered, 2);
        assert_eq!(page.packets("01", "ok"), Some(18));
        assert_eq!(page.packets("02", "ok"), Some(3));
        page.0.group_by(Vec::new());
        assert_eq!(page.text(), "");
    }

    #[test]
    fn further_values_are_counted_together() {
        let page = Page::new(&["rack"]);
        let names: Vec<_> = (0..MOST_VALUES + 8).map(|n| format!("r{n:03}")).collect();
        let targets: Vec<_> = names
            .iter()
            .map(|name| (name.as_str(), name.as_str()))
            .collect();
        for shown in page.show(&targets) {
            count(&shown, Outcome::Answered, 1);
        }
        assert_eq!(page.packets("overflow", "ok"), Some(8));
        assert_eq!(page.packets("r031", "ok"), Some(1));
        assert_eq!(page.packets("r032", "ok"), None);
    }
}
