//! The kustomize base and overlays in the cluster: the agents start, may ask for their DaemonSet, and
//! leave nothing when what was applied is deleted.

use std::{fs, path::Path, process::Command};

use lpm_testbed::kubernetes::{Cluster, Network};
use serde_json::json;

use crate::{chart, cleanup::Traces, eventually, tools::tool};

/// Where the overlays are, and the definitions that they want.
const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");

/// An overlay, and the prefix that a user's own on top of it gives names.
type Applied = (&'static str, &'static str);

/// Those for a network; together each of them.
fn of(network: Network) -> [Applied; 2] {
    match network {
        Network::Flannel => [("overlays/l2sm", ""), ("base", "acme-")],
        Network::Azure => [("overlays/aks", ""), ("base", "")],
    }
}

/// Applies one after the other, and deletes it. No agent is there before.
pub(crate) fn leave_nothing(cluster: &Cluster, network: Network) {
    define_monitors(cluster);
    for (overlay, prefix) in of(network) {
        println!("overlays: {overlay} {prefix}");
        let file = built(cluster, overlay, prefix);
        let file = file.to_str().expect("a path");
        tool(
            cluster,
            &["kubectl", "apply", "--server-side", "--filename", file],
        );
        let name = format!("{prefix}lpm");
        cluster
            .wait_ready("daemonsets", chart::NAME, &name)
            .expect(overlay);
        asked_for_itself(cluster, &name);
        let traces = Traces::of(cluster);
        for node in &cluster.nodes {
            assert!(chart::has_pins(&node.bpffs), "pins of {overlay}");
        }
        // Waits until the namespace is gone, too.
        tool(cluster, &["kubectl", "delete", "--filename", file]);
        chart::nothing_is_left(cluster);
        traces.programs_go();
    }
}

/// `PodMonitors` of Azure's managed Prometheus are the operator's, under another group.
fn define_monitors(cluster: &Cluster) {
    let file = format!("{DEPLOY}/tests/crds/podmonitors.yaml");
    let monitors = fs::read_to_string(file).expect("a definition");
    let azure = monitors.replace("monitoring.coreos.com", "azmonitoring.coreos.com");
    cluster.apply(&azure).expect("a definition");
    let wait = [
        "kubectl",
        "wait",
        "--for=condition=Established",
        "--all",
        "crd",
        "--timeout=60s",
    ];
    tool(cluster, &wait);
}

/// What kustomize builds of a user's own overlay.
fn built(cluster: &Cluster, overlay: &str, prefix: &str) -> std::path::PathBuf {
    let own = cluster.directory().join("own");
    let name = format!("{}-{prefix}", overlay.replace('/', "-"));
    let here = own.join(&name);
    fs::create_dir_all(&here).expect("a directory");
    // kustomize takes no absolute path.
    let copied = Command::new("cp")
        .args(["-r", "-T"])
        .arg(Path::new(DEPLOY).join("kustomize"))
        .arg(own.join("kustomize"))
        .status();
    assert!(copied.expect("cp").success());
    let kustomization = json!({
        "resources": [format!("../kustomize/{overlay}")], "namePrefix": prefix,
    });
    fs::write(here.join("kustomization.yaml"), kustomization.to_string()).expect("write");
    let built = tool(
        cluster,
        &["kubectl", "kustomize", here.to_str().expect("a path")],
    );
    let file = own.join(format!("{name}.yaml"));
    fs::write(&file, built).expect("write");
    file
}

/// Each agent says that it knows its DaemonSet, which it may not without the Role.
fn asked_for_itself(cluster: &Cluster, name: &str) {
    let selector = "app.kubernetes.io/name=lpm";
    let words = [
        "kubectl",
        "logs",
        "--namespace",
        chart::NAME,
        "--selector",
        selector,
        "--tail=-1",
    ];
    eventually(&format!("both agents know DaemonSet {name}"), || {
        let said = tool(cluster, &words);
        assert!(!said.contains("cannot ask about its DaemonSet"), "{said}");
        said.matches(&format!("this agent runs in a pod of DaemonSet {name}"))
            .count()
            == 2
    });
}
