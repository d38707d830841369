//! L2S-M LPM's series: one metric for each pair of nodes, named by a hash of both names.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{collect::Collect, families::Families, sink::LabelSet};
use crate::{
    active::agent::figures::{Figures, SessionFigures},
    fnv::fnv1_32,
};

/// L2S-M LPM's series, of the agent's own probes.
pub(super) struct L2sm(pub(super) Arc<Figures>);

/// Series of one metric: only where two pairs have one hash they are several.
type ByName = BTreeMap<String, Vec<(LabelSet, f64)>>;

impl Collect for L2sm {
    fn prefix(&self) -> &'static str {
        "net"
    }

    fn collect(&self, out: &mut Families<'_>) -> fmt::Result {
        let (mut round_trips, mut jitters) = (ByName::new(), ByName::new());
        for (target, figures) in self.targets() {
            // What failed last has no value. There it was 0.
            let Some(round_trip) = figures.last_round_trip else {
                continue;
            };
            let node = self.0.node.to_string();
            let pair = format!("{:04x}", fnv1_32(&[&node, &target]));
            let labels: LabelSet = vec![("source_node", node), ("target_node", target)];
            let add = |to: &mut ByName, name: &str, nanoseconds: f64| {
                let series = to.entry(format!("{name}_{pair}")).or_default();
                series.push((labels.clone(), nanoseconds / 1e6));
            };
            add(&mut round_trips, "rtt_ms", round_trip);
            if let Some(jitter) = figures.jitter {
                add(&mut jitters, "jitter_ms", jitter);
            }
        }
        for (name, series) in round_trips {
            let help =
                "Mean round trip of the last train of probes, in milliseconds (L2S-M LPM's name)";
            out.gauges(&name, help, series)?;
        }
        for (name, series) in jitters {
            let help = "Interarrival jitter of the forward way, in milliseconds (L2S-M LPM's name)";
            out.gauges(&name, help, series)?;
        }
        Ok(())
    }
}

impl L2sm {
    /// Each target by name, with the figures of its first class: these names have no class.
    fn targets(&self) -> BTreeMap<String, SessionFigures> {
        let mut targets = BTreeMap::new();
        for session in self.0.sessions() {
            let figures = || session.figures().clone();
            targets
                .entry(session.target.to_string())
                .or_insert_with(figures);
        }
        targets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{Metrics, collect::Collectors, negotiate::Format};

    fn page(figures: &Arc<Figures>) -> String {
        let sources = Collectors::default().and_l2sm_series(figures);
        let page = Metrics::new(sources).encode(Format::Text).expect("metrics");
        String::from_utf8(page).expect("text")
    }

    #[test]
    fn names_and_values_are_those_of_l2sm() {
        let figures = Arc::new(Figures::new("NodeA".into()));
        let shown = figures.show([("NodeB".into(), 0), ("NodeB".into(), 46)].into_iter());
        assert_eq!(page(&figures), "", "never measured is not 0");
        shown[1].figures().last_round_trip = Some(9e6);
        assert_eq!(page(&figures), "", "another class is not taken for it");
        shown[0].figures().last_round_trip = Some(2_500_000.0);
        let text = page(&figures);
        assert!(
            text.contains("# TYPE net_rtt_ms_6b64af74 gauge\n"),
            "{text}"
        );
        let series = "net_rtt_ms_6b64af74{source_node=\"NodeA\",target_node=\"NodeB\"} 2.5\n";
        assert!(text.contains(series), "{text}");
        assert!(!text.contains("jitter"), "{text}");
        shown[0].figures().jitter = Some(125_000.0);
        let series = "net_jitter_ms_6b64af74{source_node=\"NodeA\",target_node=\"NodeB\"} 0.125\n";
        assert!(page(&figures).contains(series), "{}", page(&figures));
        // The last train failed.
        shown[0].figures().last_round_trip = None;
        assert!(!page(&figures).contains("net_"), "{}", page(&figures));
    }

    /// Two names with one hash are two series of one metric.
    #[test]
    fn pairs_of_one_hash_share_a_metric() {
        let figures = Arc::new(Figures::new("n".into()));
        let mut seen = BTreeMap::new();
        // A birthday's worth of names.
        let twins = (0..400_000_u32).find_map(|number| {
            let name = format!("t{number}");
            let before = seen.insert(fnv1_32(&["n", &name]), name.clone())?;
            Some([before, name])
        });
        let twins = twins.expect("two names with one hash");
        let wanted = twins.iter().map(|name| (Arc::from(name.as_str()), 0));
        for shown in figures.show(wanted) {
            shown.figures().last_round_trip = Some(1e6);
        }
        let text = page(&figures);
        assert_eq!(text.matches("# TYPE net_rtt_ms_").count(), 1, "{text}");
        assert_eq!(text.matches("target_node=").count(), 2, "{text}");
    }
}
