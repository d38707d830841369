//! Deployments that talk: across the nodes and on one, to a pod and to a Service.

use std::net::IpAddr;

use lpm_testbed::kubernetes::{Cluster, cluster::TESTBED};

/// The namespace of the servers.
const SERVERS: &str = "shop";

/// Who asks across the nodes, and who asks on its own node; each asks a pod and a Service.
const CLIENTS: [(&str, &str); 2] = [("media", "web-b"), ("reports", "web-a")];

/// The series of what `media`'s pods on `node-a` see beyond their own interfaces.
pub(crate) fn across(peer_kind: &str) -> String {
    series("media", peer_kind)
}

/// The address of the pod of `media` that asks a pod, or a Service.
pub(crate) fn client(cluster: &Cluster, peer_kind: &str) -> IpAddr {
    let name = if peer_kind == "pod" {
        "direct"
    } else {
        "service"
    };
    address(cluster, CLIENTS[0].0, name)
}

/// The same of `reports`, whose peers are on their own node.
pub(crate) fn beside(peer_kind: &str) -> String {
    series("reports", peer_kind)
}

fn series(namespace: &str, peer_kind: &str) -> String {
    format!(
        "namespace=\"{namespace}\",peer_namespace=\"{SERVERS}\",peer_kind=\"{peer_kind}\",\
         leg=\"remote\""
    )
}

/// Starts servers on both nodes and clients on `node-a`, and waits until all are ready.
pub(crate) fn start(cluster: &Cluster) {
    for (client, server) in CLIENTS {
        let node = if server == "web-a" {
            "node-a"
        } else {
            "node-b"
        };
        let pod = serve_as(cluster, SERVERS, server, node);
        let service = service(cluster, SERVERS, server);
        for (name, target) in [("direct", pod), ("service", service)] {
            let asking = Asking {
                namespace: client,
                name,
                node: "node-a",
                target,
                // Long requests: the server acknowledges two full segments at once.
                arguments: "--connections=2, --period=20ms, --request=8000".to_owned(),
            };
            asking.start(cluster);
        }
    }
}

/// A Deployment of one pod that asks.
pub(crate) struct Asking {
    /// Its namespace.
    pub(crate) namespace: &'static str,
    /// Its name.
    pub(crate) name: &'static str,
    /// Its node.
    pub(crate) node: &'static str,
    /// Address and port of the server.
    pub(crate) target: String,
    /// What `lpm-testbed traffic requests` gets, with commas between.
    pub(crate) arguments: String,
}

impl Asking {
    /// Starts it, or changes it, and waits until it asks.
    pub(crate) fn start(&self, cluster: &Cluster) {
        let Self {
            namespace,
            name,
            node,
            target,
            arguments,
        } = self;
        let command = format!("[/lpm-testbed, traffic, requests, {arguments}, \"{target}\"]");
        deploy(cluster, namespace, name, node, &command, "");
        cluster
            .wait_ready("deployments", namespace, name)
            .expect("a client");
    }
}

/// A server in a namespace of its own; its address and port.
pub(crate) fn serve(cluster: &Cluster, namespace: &str, node: &str) -> String {
    serve_as(cluster, namespace, "server", node)
}

fn serve_as(cluster: &Cluster, namespace: &str, name: &str, node: &str) -> String {
    let command = "[/lpm-testbed, traffic, serve]";
    let probe = "readinessProbe: {tcpSocket: {port: 5301}, periodSeconds: 1}";
    deploy(cluster, namespace, name, node, command, probe);
    cluster
        .wait_ready("deployments", namespace, name)
        .expect("a server");
    format!("{}:5301", address(cluster, namespace, name))
}

/// The address of a Deployment's pod.
fn address(cluster: &Cluster, namespace: &str, name: &str) -> IpAddr {
    let pods = format!("/api/v1/namespaces/{namespace}/pods?labelSelector=app%3D{name}");
    let pods = cluster.api.get(&pods).expect("its pod");
    let address = pods["items"][0]["status"]["podIP"].as_str();
    let address = address.and_then(|address| address.parse().ok());
    address.expect("an address")
}

/// A Service for the pods of this name; its address and port.
pub(crate) fn service(cluster: &Cluster, namespace: &str, name: &str) -> String {
    let manifest = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{selector: {{app: {name}}}, ports: [{{port: 5301}}]}}\n"
    );
    cluster.apply(&manifest).expect("a service");
    let path = format!("/api/v1/namespaces/{namespace}/services/{name}");
    let service = cluster.api.get(&path).expect("the service");
    let address = service["spec"]["clusterIP"].as_str();
    format!("{}:5301", address.expect("an address"))
}

fn deploy(cluster: &Cluster, namespace: &str, name: &str, node: &str, command: &str, probe: &str) {
    let manifest = format!(
        r"apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  strategy: {{type: Recreate}}
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
