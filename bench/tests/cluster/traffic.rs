//! Deployments that talk: across the nodes and on one, to a pod and to a Service.

use lpm_bench::kubernetes::{Cluster, cluster::TESTBED};

/// The namespace of the servers.
const SERVERS: &str = "shop";

/// Who asks across the nodes, and who asks on its own node; each asks a pod and a Service.
const CLIENTS: [(&str, &str); 2] = [("media", "web-b"), ("reports", "web-a")];

/// The series of what `media`'s pods on `node-a` see beyond their own interfaces.
pub(crate) fn across(peer_kind: &str) -> String {
    series("media", peer_kind)
}

/// The same of `reports`, whose peers are on their own node.
pub(crate) fn beside(peer_kind: &str) -> String {
    series("reports", peer_kind)
}

fn series(namespace: &str, peer_kind: &str) -> String {
    format!(
        "namespace=\"{namespace}\",peer_namespace=\"{SERVERS}\",peer_kind=\"{peer_kind}\",\
         leg=\"remote\",echo=\"prompt\""
    )
}

/// Starts servers on both nodes and clients on `node-a`, and waits until all are ready.
pub(crate) fn start(cluster: &Cluster) {
    for namespace in [SERVERS, CLIENTS[0].0, CLIENTS[1].0] {
        let manifest =
            format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n");
        cluster.apply(&manifest).expect("a namespace");
    }
    for (name, node) in [("web-a", "node-a"), ("web-b", "node-b")] {
        let command = "[/lpm-testbed, traffic, serve]";
        let probe = "readinessProbe: {tcpSocket: {port: 5301}, periodSeconds: 1}";
        deploy(cluster, SERVERS, name, node, command, probe);
        let service = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {SERVERS}}}\n\
             spec: {{selector: {{app: {name}}}, ports: [{{port: 5301}}]}}\n"
        );
        cluster.apply(&service).expect("a service");
    }
    for (client, server) in CLIENTS {
        cluster
            .wait_ready("deployments", SERVERS, server)
            .expect("a server");
        let pods = format!("/api/v1/namespaces/{SERVERS}/pods?labelSelector=app%3D{server}");
        let pods = cluster.api.get(&pods).expect("the server's pod");
        let service = format!("/api/v1/namespaces/{SERVERS}/services/{server}");
        let service = cluster.api.get(&service).expect("the service");
        for (name, address) in [
            ("direct", &pods["items"][0]["status"]["podIP"]),
            ("service", &service["spec"]["clusterIP"]),
        ] {
            let address = address.as_str().expect("an address");
            // Long requests: the server acknowledges two full segments at once.
            let command = format!(
                "[/lpm-testbed, traffic, requests, --connections=2, --period=20ms, \
                 --request=8000, \"{address}:5301\"]"
            );
            deploy(cluster, client, name, "node-a", &command, "");
        }
    }
    for (client, _) in CLIENTS {
        for name in ["direct", "service"] {
            cluster
                .wait_ready("deployments", client, name)
                .expect("a client");
        }
    }
}

fn deploy(cluster: &Cluster, namespace: &str, name: &str, node: &str, command: &str, probe: &str) {
    let manifest = format!(
        r"apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      nodeSelector: {{kubernetes.io/hostname: {node}}}
      terminationGracePeriodSeconds: 0
      dnsPolicy: Default
      containers:
      - name: main
        image: {TESTBED}
        imagePullPolicy: Never
        command: {command}
        {probe}
"
    );
    cluster.apply(&manifest).expect("a deployment");
}
