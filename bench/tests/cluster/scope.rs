//! Whose pods an agent follows: everybody's, or its own node's, when the agents tell each other the
//! rest.

use lpm_testbed::kubernetes::Cluster;

use crate::{
    chart, eventually,
    metrics::{Scrape, get},
    tools::tool,
};

/// Both agents say that this is configured, and that this is what they do.
pub(crate) fn is(cluster: &Cluster, configured: &str, scope: &str) {
    let line = format!("lpm_identity_scope{{configured=\"{configured}\",scope=\"{scope}\"}} 1");
    on_both(cluster, &line);
}

/// Each agent hears names from the other.
pub(crate) fn names_are_told(cluster: &Cluster) {
    on_both(cluster, "lpm_identity_peers{state=\"answering\"} 1");
}

/// The API server has refused no agent anything.
pub(crate) fn nothing_was_refused(cluster: &Cluster) {
    for node in &cluster.nodes {
        let metrics = get(node, "/metrics").expect("metrics");
        let is_error = |line: &&str| {
            (line.starts_with("lpm_identity_errors_total")
                || line.starts_with("lpm_identity_peer_errors_total"))
                && !line.ends_with(" 0")
        };
        let errors: Vec<_> = metrics.lines().filter(is_error).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", node.name);
    }
}

/// On a flat network an address does not tell its node: scope `node` becomes `cluster` there, says
/// so, and names are as ever.
pub(crate) fn falls_back(cluster: &Cluster) {
    chart::upgrade(cluster, "scope=node");
    is(cluster, "node", "cluster");
    let said = tool(
        cluster,
        &[
            "kubectl",
            "exec",
            "--namespace",
            "lpm",
            "daemonset/lpm",
            "--",
            "/lpm",
            "check",
            "--config",
            "/etc/lpm/lpm.yaml",
        ],
    );
    assert!(said.contains("scope node becomes cluster"), "{said}");
    let count = || {
        let scrapes = cluster.nodes.each_ref().map(Scrape::of);
        let [one, other] = scrapes;
        Some([
            one?.count("media", "shop", "remote"),
            other?.count("shop", "media", "remote"),
        ])
    };
    let before = count().expect("both agents");
    eventually("names at both ends", || {
        count().is_some_and(|now| now[0] > before[0] + 100 && now[1] > before[1] + 100)
    });
}

fn on_both(cluster: &Cluster, line: &str) {
    for node in &cluster.nodes {
        eventually(&format!("{}: {line}", node.name), || {
            get(node, "/metrics").is_some_and(|metrics| metrics.lines().any(|one| one == line))
        });
    }
}
