//! kubectl and helm, and programs that run in pods.

use std::process::Stdio;

use lpm_testbed::kubernetes::{Cluster, cluster::TESTBED};
use serde_json::Value;

use crate::eventually;

/// Runs helm or kubectl and returns what it printed.
pub(crate) fn tool(cluster: &Cluster, words: &[&str]) -> String {
    let mut command = cluster.tool(words[0]).expect("a program");
    let output = command.args(&words[1..]).output().expect("it starts");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {stderr}{stdout}");
    stdout
}

/// A pod that talks when it is told to, on `node`; `extra` goes into its specification.
pub(crate) fn pod(cluster: &Cluster, namespace: &str, name: &str, node: &str, extra: &str) {
    let manifest = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n---\n\
         apiVersion: v1\nkind: Pod\n\
         metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}\n\
         spec:\n  nodeName: {node}\n  terminationGracePeriodSeconds: 0\n  dnsPolicy: Default\n\
         \x20 containers: [{{name: main, image: \"{TESTBED}\", imagePullPolicy: Never, \
         command: [/lpm-testbed, traffic, serve]}}]\n{extra}"
    );
    // A new namespace has no account for its pods at once.
    eventually(&format!("the pod {name} taken"), || {
        cluster.apply(&manifest).is_ok()
    });
}

/// A running pod's address, once it is ready.
pub(crate) fn address(cluster: &Cluster, namespace: &str, name: &str) -> String {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    let ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|one| one["type"] == "Ready" && one["status"] == "True")
    };
    let pod = cluster.wait("a pod ready", &path, ready).expect("a pod");
    let address = pod["status"]["podIP"].as_str();
    address.expect("an address").to_owned()
}

/// Lets a pod ask by `lpm-testbed traffic requests` until that ends by itself; its report.
pub(crate) fn ask(cluster: &Cluster, who: [&str; 2], arguments: &[&str]) -> Value {
    let [namespace, pod] = who;
    let mut command = cluster.tool("kubectl").expect("kubectl");
    command
        .args(["exec", "--namespace", namespace, pod, "--"])
        .args(["/lpm-testbed", "traffic", "requests"])
        .args(arguments)
        .stdin(Stdio::null());
    let output = command.output().expect("kubectl");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{who:?} {arguments:?}: {}{said}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_str(&said).expect("a report")
}
