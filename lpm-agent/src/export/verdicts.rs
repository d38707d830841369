//! The metric of links' verdicts.

use std::{fmt, sync::Arc};

use super::{collect::Collect, families::Families};
use crate::active::agent::figures::Figures;

/// The verdicts on the links to the targets of probes.
pub(super) struct Verdicts(pub(super) Arc<Figures>);

impl Collect for Verdicts {
    fn collect(&self, out: &mut Families<'_>) -> fmt::Result {
        let links = self.0.links();
        let series = links.iter().map(|(target, link)| {
            let labels = vec![
                ("source_node", self.0.node.to_string()),
                ("target_node", target.to_string()),
                ("verdict", link.verdict.as_str().to_owned()),
            ];
            (labels, 1.0)
        });
        out.gauges(
            "link_verdict",
            "1 for what is wrong with the link to a target, over all classes: ok, network (probes lost \
             or slower than the link's baseline), host (kernels have the packets in time, a program \
             does not), blocked (probes silent or prohibited while others' flows live), gone (no \
             answer to ARP or ND, or not in the API any more), clock (set, off its rate, or refuted), \
             path (some of several). The other verdicts have no series, and neither has a link on \
             which nothing is known",
            series,
        )
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::SystemTime};

    use super::*;
    use crate::{
        active::{
            agent::{Answers, figures::Link},
            verdict::{Grounds, Verdict},
        },
        export::{Metrics, collect::Collectors, negotiate::Format},
    };

    fn series(figures: &Arc<Figures>) -> Vec<String> {
        let sources = Collectors::default().and_probes(figures, &Arc::<Answers>::default());
        let page = Metrics::new(sources).encode(Format::Text).expect("metrics");
        let page = String::from_utf8(page).expect("text");
        let lines = page
            .lines()
            .filter(|line| line.starts_with("lpm_link_verdict"));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn a_link_has_one_series_or_none() {
        let figures = Arc::new(Figures::new("n1".into()));
        figures.show([("n2".into(), 0), ("n3".into(), 0)].into_iter());
        assert!(series(&figures).is_empty(), "nothing is known");
        for verdict in Verdict::ALL {
            let link = Link {
                verdict,
                since: SystemTime::UNIX_EPOCH,
                grounds: Grounds::default(),
            };
            figures.set_links(BTreeMap::from([("n2".into(), link)]));
            let word = verdict.as_str();
            let expected = format!(
                "lpm_link_verdict{{source_node=\"n1\",target_node=\"n2\",verdict=\"{word}\"}} 1"
            );
            assert_eq!(series(&figures), [expected]);
        }
        figures.show(std::iter::empty());
        assert!(series(&figures).is_empty(), "it went with its target");
    }
}
