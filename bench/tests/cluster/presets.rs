//! What the preset makes the agents watch on the nodes: `lpm check` in their pods, which reads the
//! configuration that the chart wrote.

use lpm_testbed::kubernetes::{Cluster, Network};
use serde_json::Value;

use crate::tools::tool;

/// Each interface of both nodes is watched as it should be, and by the rule that it should be.
pub(crate) fn select(cluster: &Cluster, network: Network) {
    let path = "/api/v1/namespaces/lpm/pods?labelSelector=app.kubernetes.io%2Fname%3Dlpm";
    let pods = cluster.api.get(path).expect("the agents");
    let pods = pods["items"].as_array().expect("a list");
    assert_eq!(pods.len(), 2);
    for pod in pods {
        let name = pod["metadata"]["name"].as_str().expect("a name");
        let words = ["kubectl", "exec", "--namespace", "lpm", name, "--"];
        let check = ["/lpm", "check", "--json", "--config", "/etc/lpm/lpm.yaml"];
        let report = tool(cluster, &[&words[..], &check].concat());
        let report: Value = serde_json::from_str(&report).expect("JSON");
        assert_eq!(report["usable"], true, "{report}");
        let interfaces = report["interfaces"].as_array().expect("interfaces");
        let mut pods = 0;
        for interface in interfaces {
            let text = |key: &str| interface[key].as_str().unwrap_or_default();
            let (vantage, preset) = wanted(text("name"), network);
            assert_eq!(text("vantage"), vantage, "{interface}");
            assert_eq!(text("reason").contains("preset"), preset, "{interface}");
            pods += usize::from(vantage == "pod");
        }
        assert!(pods > 0, "there are pods: {interfaces:?}");
        println!(
            "preset: {name}: {} interfaces, {pods} of them pods'",
            interfaces.len()
        );
    }
}

/// As what an interface is watched, and whether the preset says so (else the built-in rules).
fn wanted(name: &str, network: Network) -> (&'static str, bool) {
    match (name, network) {
        ("lo", _) => ("", false),
        ("eth0", _) => ("nic", false),
        ("flannel.1", Network::Flannel) => ("overlay", true),
        ("cni0", Network::Flannel) => ("", true),
        // The azure plugin names them azv*; ptp, which stands in for it here, does not.
        (name, _) if name.starts_with("veth") => ("pod", network == Network::Flannel),
        (name, _) => panic!("{name} is not of this network"),
    }
}
