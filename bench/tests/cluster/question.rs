//! Which namespace is slow, and is it the network or the pods? The chart's own rules, as its
//! `ConfigMap` has them, name the namespaces and the cause of what is done to the cluster.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use lpm_bench::{
    kubernetes::Cluster,
    testbed::{Impairment, wire::Loss},
};

use crate::{
    prometheus::Prometheus,
    tools::tool,
    traffic::{Asking, serve},
    within,
};

/// What the chart is installed with. What is injected is far beyond these, and what a busy machine
/// does by itself (a pod that waits for its CPU, segments sent again because an acknowledgement did)
/// far below.
pub(crate) const RULES: &str = "rules.configMap=true,rules.window=15s,\
                                rules.thresholds.network=0.025,rules.thresholds.server=0.02,\
                                rules.thresholds.pod=0.5,rules.thresholds.loss=0.05";

/// Who asks whom across the nodes, and who on one.
const ACROSS: [&str; 2] = ["orders", "payments"];
const BESIDE: [&str; 2] = ["blog", "pages"];

/// How long the rules may take: a pod's start, the window, and some.
const PATIENCE: Duration = Duration::from_mins(2);

/// Namespace, peer's namespace, cause.
type Slow = BTreeSet<[String; 3]>;

/// Injects one after the other, and asks each time.
pub(crate) fn is_answered(cluster: &Cluster, prometheus: &Prometheus) {
    let address = serve(cluster, ACROSS[1], "node-b");
    let beside = serve(cluster, BESIDE[1], "node-a");
    calls(BESIDE[0], beside, Duration::ZERO).start(cluster);
    calls(ACROSS[0], address.clone(), Duration::ZERO).start(cluster);
    let both = |cause| [[ACROSS[0], ACROSS[1], cause], [ACROSS[1], ACROSS[0], cause]];
    let wire = &cluster.wire;

    wire.set_both(&Impairment::default());
    must_say(prometheus, "healthy", &[]);
    says_nothing_of_pods(prometheus);

    wire.set_both(&Impairment::delay(Duration::from_millis(20)));
    must_say(prometheus, "network delay", &both("network"));

    wire.set_both(&Impairment {
        loss: Loss::Random(0.1),
        ..Impairment::default()
    });
    must_say(prometheus, "loss", &both("loss"));

    wire.set_both(&Impairment::default());
    calls(ACROSS[0], address.clone(), Duration::from_millis(30)).start(cluster);
    must_say(
        prometheus,
        "think time",
        &[[ACROSS[1], ACROSS[0], "server"]],
    );

    calls(ACROSS[0], address, Duration::ZERO).start(cluster);
    must_say(prometheus, "healthy again", &[]);
    for namespace in [ACROSS, BESIDE].concat() {
        tool(
            cluster,
            &["kubectl", "delete", "namespace", namespace, "--wait=false"],
        );
    }
}

/// Answers of several segments, so that some echoes are prompt. One connection alone may be silent
/// for long when its segments are lost again and again, and what is silent has no cause.
fn calls(client: &'static str, target: String, think: Duration) -> Asking {
    let arguments = format!(
        "--connections=10, --period=50ms, --response=4000, --think={}ms",
        think.as_millis()
    );
    Asking {
        namespace: client,
        name: "client",
        node: "node-a",
        target,
        arguments,
    }
}

/// Waits until that is what the rules say, and both ends across the wire are measured. The nodes
/// themselves talk across the wire, too, and may be named while something is done to it.
fn must_say(prometheus: &Prometheus, what: &str, expected: &[[&str; 3]]) {
    let expected: Slow = expected
        .iter()
        .map(|words| words.map(str::to_owned))
        .collect();
    let [one, other] = ACROSS;
    let known = format!("count(lpm:network_seconds:mean{{namespace=~\"{one}|{other}\"}})");
    let mut last = None;
    within(PATIENCE, &format!("{what}: {expected:?}"), || {
        let measured = prometheus.ask(&known).is_some_and(|count| count >= 2.0);
        let now = slow(prometheus);
        if now != last {
            println!("{what}: the rules say {now:?}");
            last.clone_from(&now);
        }
        let mut pods = now.unwrap_or_default();
        pods.retain(|[namespace, ..]| expected.is_empty() || namespace != "host");
        measured && pods == expected
    });
}

/// While all is well no pods are named, for as long as a rule looks back.
fn says_nothing_of_pods(prometheus: &Prometheus) {
    let end = Instant::now() + Duration::from_secs(15);
    while Instant::now() < end {
        let mut pods = slow(prometheus).expect("an answer");
        pods.retain(|[namespace, ..]| namespace != "host");
        assert!(pods.is_empty(), "healthy: {pods:?}");
        thread::sleep(Duration::from_secs(1));
    }
}

/// Who is slow with whom, and why, in the words of the rules.
fn slow(prometheus: &Prometheus) -> Option<Slow> {
    let answer = prometheus.query("lpm:slow:ratio")?;
    let results = answer["data"]["result"].as_array()?;
    let of = |result: &serde_json::Value| {
        ["namespace", "peer_namespace", "cause"].map(|label| {
            let label = result["metric"][label].as_str();
            label.unwrap_or_default().to_owned()
        })
    };
    Some(results.iter().map(of).collect())
}
