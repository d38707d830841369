//! A node with many pods, each in a network namespace, that talk to two servers.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use lpm_testbed::{
    testbed::Netns,
    traffic::{Background, PORT, RequestConfig, RequestReport, Server, requests},
};

/// Pods of one namespace.
const PER_NAMESPACE: u16 = 25;

/// Pods of one workload.
const PER_WORKLOAD: u16 = 5;

/// Services that are talked to, each of a namespace of its own.
const SERVERS: u16 = 2;

/// The node, its pods and their connections; all gone when it is dropped.
#[derive(Debug)]
pub(super) struct Topology {
    // Connections end before the namespaces go.
    _traffic: Vec<Background<RequestReport>>,
    _server: Server,
    _pods: Vec<Netns>,
    _far: Netns,
    pub(super) node: Netns,
    files: TempDir,
}

/// The pod's address; no two bytes that are 0 or 255.
fn address(pod: u16) -> Ipv4Addr {
    let [_, low] = (pod % 200 + 10).to_be_bytes();
    let [_, high] = (pod / 200 + 10).to_be_bytes();
    Ipv4Addr::new(198, 18, high, low)
}

fn server(number: u16) -> Ipv4Addr {
    let [_, low] = (10 + number).to_be_bytes();
    Ipv4Addr::new(198, 19, 0, low)
}

/// The pods' gateway.
const GATEWAY: &str = "198.19.255.1";

impl Topology {
    pub(super) fn new(pods: u16, rate: u32) -> Result<Self> {
        let (node, far) = (Netns::new("node")?, Netns::new("far")?);
        node.sysctl("net.ipv4.ip_forward", "1")?;
        node.veth("wire", &far, "eth0", 1500)?;
        node.ip_batch("addr add 198.19.0.1/24 dev wire\nlink set wire up")?;
        far.ip_batch("link set eth0 up")?;
        for number in 0..SERVERS {
            far.ip(&format!("addr add {}/24 dev eth0", server(number)))?;
        }
        far.ip("route add default via 198.19.0.1")?;
        let serves = Server::start(&far, PORT)?;
        let files = tempfile::tempdir().context("make a directory")?;
        fs::create_dir(files.path().join("cni")).context("make a directory")?;
        let mut all = Vec::new();
        for pod in 0..pods {
            all.push(place(&node, pod)?);
            result(&files.path().join("cni"), pod)?;
        }
        fs::write(files.path().join("names.yaml"), names(pods)).context("write the names")?;
        let period = Duration::from_secs_f64(f64::from(pods) / f64::from(rate.max(1)));
        let mut traffic = Vec::new();
        for (number, pod) in (0_u16..).zip(&all) {
            let config = RequestConfig {
                period,
                jitter: 0.3,
                seed: u64::from(number) + 1,
                ..RequestConfig::new(SocketAddr::from((server(number % SERVERS), PORT)))
            };
            let client = move |control: &_| requests(&config, control);
            traffic.push(Background::start(pod, client)?);
        }
        Ok(Self {
            _traffic: traffic,
            _server: serves,
            _pods: all,
            _far: far,
            node,
            files,
        })
    }

    /// The configuration with these `levels`, in a file.
    pub(super) fn configuration(&self, levels: &str) -> Result<std::path::PathBuf> {
        let path = |name: &str| self.files.path().join(name);
        let text = format!(
            "names: names.yaml\ncni_results: {}\nlevels: {levels}\nrows: 1024\n\
             interfaces: [{{name: wire, vantage: none}}]\n",
            path("cni").display()
        );
        let file = path("lpm.yaml");
        fs::write(&file, text).context("write the configuration")?;
        Ok(file)
    }
}

/// Makes a pod, as a CNI without a bridge does: a veth, and a host route to it.
fn place(node: &Netns, pod: u16) -> Result<Netns> {
    let netns = Netns::new("pod")?;
    let (interface, address) = (format!("lpm{pod}"), address(pod));
    node.veth(&interface, &netns, "eth0", 1500)?;
    node.ip_batch(&format!(
        "addr add {GATEWAY}/32 dev {interface}\nlink set {interface} up\n\
         route add {address}/32 dev {interface}"
    ))?;
    netns.ip_batch(&format!(
        "addr add {address}/32 dev eth0\nlink set eth0 up\n\
         route add {GATEWAY}/32 dev eth0\nroute add default via {GATEWAY}"
    ))?;
    Ok(netns)
}

fn who(pod: u16) -> (String, String) {
    (
        format!("namespace-{}", pod / PER_NAMESPACE),
        format!("workload-{}-{pod:05}", pod / PER_WORKLOAD),
    )
}

fn names(pods: u16) -> String {
    let pods = (0..pods).map(|pod| {
        let (namespace, name) = who(pod);
        let workload = pod / PER_WORKLOAD;
        format!(
            "- {{address: {}, namespace: {namespace}, pod: {name}, workload: workload-{workload}}}\n",
            address(pod)
        )
    });
    let servers = (0..SERVERS).map(|number| {
        let address = IpAddr::from(server(number));
        format!(
            "- {{address: {address}, namespace: backend-{number}, service: service-{number}}}\n"
        )
    });
    pods.chain(servers).collect()
}

/// What libcni writes when it made an interface for a pod.
fn result(directory: &Path, pod: u16) -> Result<()> {
    let (namespace, name) = who(pod);
    let text = serde_json::json!({
        "kind": "cniCacheV1", "containerId": name, "ifName": "eth0", "networkName": "pods",
        "cniArgs": [["K8S_POD_NAMESPACE", namespace], ["K8S_POD_NAME", name]],
        "result": {
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": format!("lpm{pod}")},
                {"name": "eth0", "sandbox": "/var/run/netns/a"},
            ],
            "ips": [{"address": format!("{}/32", address(pod))}],
        },
    });
    fs::write(directory.join(&name), text.to_string()).context("write a CNI result")
}
