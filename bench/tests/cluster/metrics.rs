//! What an agent serves, asked on its own node.

use std::{collections::BTreeMap, time::Duration};

use lpm_testbed::kubernetes::cluster::Node;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Labels of counted round trips: namespace, peer's namespace, peer's kind, leg.
pub(crate) type Key = [String; 4];

/// An agent's answer.
#[derive(Debug)]
pub(crate) struct Scrape {
    /// Round trips that were counted, whatever the echo.
    pub(crate) counts: BTreeMap<Key, u64>,
}

/// What the agent of a node answers on its own node; `None`: there is none just now.
pub(crate) fn get(node: &Node, path: &str) -> Option<String> {
    let ask = || {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .build()
            .into();
        // What was counted until now, not the page that Prometheus got within this second.
        let request = agent.get(format!("http://127.0.0.1:9477{path}"));
        let response = request.header("Cache-Control", "no-cache").call();
        response.ok()?.body_mut().read_to_string().ok()
    };
    node.netns.run_in(ask).expect("the node's network")
}

impl Scrape {
    /// Asks the agent of a node; `None`: there is none just now.
    pub(crate) fn of(node: &Node) -> Option<Self> {
        let text = get(node, "/metrics")?;
        Some(Self {
            counts: counts(&text),
        })
    }

    /// Those of a pair of namespaces, whatever the kind.
    pub(crate) fn count(&self, namespace: &str, peer: &str, leg: &str) -> u64 {
        let of_pair = |key: &Key| key[0] == namespace && key[1] == peer && key[3] == leg;
        let counts = self.counts.iter();
        counts
            .filter(|(key, _)| of_pair(key))
            .map(|(_, count)| count)
            .sum()
    }
}

fn counts(text: &str) -> BTreeMap<Key, u64> {
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("lpm_rtt_seconds_count{") else {
            continue;
        };
        let (labels, value) = rest.rsplit_once("} ").expect("a value");
        let label = |name: &str| {
            let start = format!("{name}=\"");
            let mut pairs = labels.split("\",");
            let pair = pairs.find_map(|pair| pair.strip_prefix(&start));
            pair.expect("the label").trim_end_matches('"').to_owned()
        };
        let key = ["namespace", "peer_namespace", "peer_kind", "leg"].map(label);
        *counts.entry(key).or_default() += value.parse::<u64>().expect("a number");
    }
    counts
}
