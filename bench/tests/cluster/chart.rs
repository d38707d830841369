//! The chart: installed, looked at, restarted, removed.

use std::path::{Path, PathBuf};

use aya::programs::{SchedClassifier, TcAttachType};
use lpm_bench::kubernetes::Cluster;

use crate::{eventually, prometheus::Prometheus, truth};

/// The release, its namespace, and the name of its objects.
const NAME: &str = "lpm";

/// The agent's image, or a skip that says how it is made.
pub(crate) fn image() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| root.join("target"), |target| root.join(target));
    let image = target.join("image/lpm.tar");
    let images = [target.join("image/test.tar"), image.clone()];
    if let Some(found) = images.into_iter().find(|image| image.is_file()) {
        return Some(found);
    }
    println!(
        "LPM-SKIP cluster: no {}; `cargo xtask image` makes it",
        image.display()
    );
    None
}

/// Runs helm or kubectl and returns what it printed.
fn tool(cluster: &Cluster, words: &[&str]) -> String {
    let mut command = cluster.tool(words[0]).expect("a program");
    let output = command.args(&words[1..]).output().expect("it starts");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {stderr}{stdout}");
    stdout
}

/// Installs the chart with its defaults, pins on, and waits until the agents are ready.
pub(crate) fn install(cluster: &Cluster, preset: &str) {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/lpm");
    let preset = format!("preset={preset}");
    tool(
        cluster,
        &[
            "helm",
            "install",
            NAME,
            chart,
            "--namespace",
            NAME,
            "--create-namespace",
            "--set",
            &preset,
            "--set",
            "image.pullPolicy=Never,pins.enabled=true,test.enabled=false",
        ],
    );
    if let Err(error) = cluster.wait_ready("daemonsets", NAME, NAME) {
        let logs = [
            "kubectl",
            "logs",
            "--namespace",
            NAME,
            "--selector",
            "app.kubernetes.io/name=lpm",
        ];
        panic!("{error}\n{}", tool(cluster, &logs));
    }
}

/// The agents that run have three capabilities and no more.
pub(crate) fn has_least_capabilities(cluster: &Cluster) {
    let pods = cluster
        .api
        .get(&format!("/api/v1/namespaces/{NAME}/pods"))
        .expect("pods");
    let pods = pods["items"].as_array().expect("a list");
    assert_eq!(pods.len(), 2, "one agent per node");
    for pod in pods {
        let context = &pod["spec"]["containers"][0]["securityContext"];
        let wanted = serde_json::json!(["BPF", "NET_ADMIN", "PERFMON"]);
        assert_eq!(context["capabilities"]["add"], wanted);
        assert_eq!(context["privileged"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
    }
}

/// While the agents are replaced, measuring goes on: as many samples as the wire saw round trips.
pub(crate) fn restart_loses_nothing(cluster: &Cluster, prometheus: &Prometheus) {
    let all = "namespace=\"media\",peer_namespace=\"shop\",leg=\"remote\"";
    let count = |series: &str| {
        prometheus
            .ask(&prometheus.count(series))
            .unwrap_or_default()
    };
    let settled = |what: &str| {
        let mut last = -1.0;
        eventually(what, || {
            let now = count(all);
            let settled = (now - last).abs() < 0.5;
            last = now;
            std::thread::sleep(std::time::Duration::from_secs(5));
            settled
        });
        last
    };
    // Counted from standstill to standstill, so that the two counts are of the same packets.
    let scale = |replicas: u8| {
        let replicas = format!("--replicas={replicas}");
        tool(
            cluster,
            &[
                "kubectl",
                "scale",
                "deployment",
                "direct",
                "service",
                &replicas,
                "--namespace",
                "media",
            ],
        );
    };
    scale(0);
    let before = settled("no traffic any more");
    drop(cluster.wire.take_records());
    scale(1);
    for name in ["direct", "service"] {
        cluster
            .wait_ready("deployments", "media", name)
            .expect("the clients again");
    }
    tool(
        cluster,
        &[
            "kubectl",
            "rollout",
            "restart",
            "daemonset",
            NAME,
            "--namespace",
            NAME,
        ],
    );
    cluster
        .wait_ready("daemonsets", NAME, NAME)
        .expect("the new agents");
    scale(0);
    let after = settled("no traffic any more, again");
    let trips = truth::round_trips(&cluster.wire.take_records());
    #[expect(clippy::cast_precision_loss, reason = "a number of packets")]
    let share = (after - before) / trips.len() as f64;
    println!(
        "restart: {} round trips, {} samples",
        trips.len(),
        after - before
    );
    // Three slots skip some stamps at this delay. A restart without pins takes half of the time.
    assert!(
        (0.85..1.05).contains(&share),
        "{} round trips, {} samples",
        trips.len(),
        after - before
    );
    scale(1);
}

/// After `helm uninstall` there is no object, no pin, no program and no qdisc.
pub(crate) fn uninstall_leaves_nothing(cluster: &Cluster) {
    assert!(programs(cluster) > 0, "there are programs to remove");
    tool(
        cluster,
        &["helm", "uninstall", NAME, "--namespace", NAME, "--wait"],
    );
    eventually("no program on any interface", || programs(cluster) == 0);
    for node in &cluster.nodes {
        // The kernel's own files, maps.debug and progs.debug, are in there too.
        eventually("no pin", || !node.bpffs.join(NAME).exists());
        let qdiscs = node.netns.output("tc", &["qdisc", "show"]).expect("tc");
        assert!(!qdiscs.contains("clsact"), "{qdiscs}");
    }
    let selector = "app.kubernetes.io/name=lpm";
    let kinds =
        "all,configmaps,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings";
    eventually("no object", || {
        let words = [
            "kubectl",
            "get",
            kinds,
            "--all-namespaces",
            "--selector",
            selector,
            "--output=name",
        ];
        tool(cluster, &words).trim().is_empty()
    });
}

/// How many programs are attached to the interfaces of both nodes.
fn programs(cluster: &Cluster) -> usize {
    let on_node = |netns: &lpm_bench::testbed::Netns| {
        netns.run_in(|| {
            let interfaces = nix::net::if_::if_nameindex().expect("interfaces");
            let mut count = 0;
            for interface in &interfaces {
                let name = interface.name().to_string_lossy().into_owned();
                for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
                    // An interface may go while we look.
                    let found = SchedClassifier::query_tcx(&name, hook);
                    count += found.map_or(0, |(_, programs)| programs.len());
                }
            }
            count
        })
    };
    let nodes = cluster.nodes.iter();
    nodes
        .map(|node| on_node(&node.netns).expect("the namespace"))
        .sum()
}
