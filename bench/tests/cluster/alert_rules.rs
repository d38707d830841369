//! Which namespace is slow, and is it the network or the pods? The chart's own rules, as its
//! `ConfigMap` has them, name the namespaces and the cause of what is done to the cluster.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use lpm_testbed::{
    kubernetes::Cluster,
    testbed::{Impairment, wire::Loss},
};

use crate::{
    prometheus::Prometheus,
    thresholds,
    tools::tool,
    traffic::{Asking, serve},
    within,
};

/// What the chart is installed with: what it ships, over a shorter time.
pub(crate) const RULES: &str = "rules.configMap=true,rules.window=15s";

/// Who asks whom across the nodes, and who on one.
const ACROSS: [&str; 2] = ["orders", "payments"];
const BESIDE: [&str; 2] = ["blog", "pages"];

/// How long the rules may take: a pod's start, the window, and some.
const PATIENCE: Duration = Duration::from_mins(2);

/// For how long they must say the same, and for how long nothing while all is well.
const HOLDS: Duration = Duration::from_secs(8);
const SILENT: Duration = Duration::from_secs(16);

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
    thresholds::fit_the_machine(cluster, prometheus, &[ACROSS, BESIDE].concat());
    must_say(prometheus, "healthy", &[]);

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

/// Waits until that is what the rules say, time after time, and both ends across the wire are
/// measured. The nodes themselves talk across the wire, too, and an API server may well take long to
/// answer: what is said of them is not looked at.
fn must_say(prometheus: &Prometheus, what: &str, expected: &[[&str; 3]]) {
    let expected: Slow = expected
        .iter()
        .map(|words| words.map(str::to_owned))
        .collect();
    let [one, other] = ACROSS;
    let known = format!("count(lpm:network_seconds:mean{{namespace=~\"{one}|{other}\"}})");
    let (mut last, mut since) = (None, None);
    let holds = if expected.is_empty() { SILENT } else { HOLDS };
    within(PATIENCE, &format!("{what}: {expected:?}"), || {
        let measured = prometheus.ask(&known).is_some_and(|count| count >= 2.0);
        let now = slow(prometheus);
        if now != last {
            println!("{what}: the rules say {now:?}");
            last.clone_from(&now);
        }
        if measured && now.as_ref() == Some(&expected) {
            since.get_or_insert_with(Instant::now).elapsed() >= holds
        } else {
            since = None;
            false
        }
    });
}

/// Which pods are slow with whom, and why, in the words of the rules.
fn slow(prometheus: &Prometheus) -> Option<Slow> {
    let answer = prometheus.query("lpm:slow:ratio")?;
    let results = answer["data"]["result"].as_array()?;
    let of = |result: &serde_json::Value| {
        ["namespace", "peer_namespace", "cause"].map(|label| {
            let label = result["metric"][label].as_str();
            label.unwrap_or_default().to_owned()
        })
    };
    let all = results.iter().map(of);
    Some(all.filter(|[namespace, ..]| namespace != "host").collect())
}
