//! What an agent serves while real packets pass: metrics, flows, samples.

use std::{fs, net::SocketAddr};

use lpm_testbed::{
    testbed::{Pair, PairConfig},
    traffic::{Background, Limit, PORT, RequestConfig, RequestReport, Server, requests},
};
use nix::sys::signal::Signal;
use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::{
    Histogram, MetricFamily,
};
use prost::Message as _;
use serde_json::Value;

use crate::support::lpm::{
    self, Agent, Lpm, eventually, kernel_is_usable, lpm as command, succeeds, value,
};

/// The pod is in namespace `shop`, the remote machine in `db`.
const NAMES: &str = "- {cidr: 198.18.1.0/24, namespace: shop, pod: web-0, workload: web}
- {cidr: 198.18.2.0/24, namespace: db, service: pg}
";

const RTT: &str = "namespace=\"shop\",peer_namespace=\"db\",peer_kind=\"service\"";

/// A pod, its node, a server, and an agent that watches the pod.
struct Site {
    agent: Agent,
    pair: Pair,
    _server: Server,
    directory: tempfile::TempDir,
}

impl Site {
    fn new(window: &str) -> Self {
        Self::with(&format!("window: {window}\nrows: 16\n"))
    }

    /// With these keys in the configuration.
    fn with(keys: &str) -> Self {
        let pair = Pair::new(&PairConfig::default()).expect("a testbed");
        let server = Server::start(&pair.server, PORT).expect("a server");
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| {
            directory
                .path()
                .join(name)
                .to_str()
                .expect("a path")
                .to_owned()
        };
        fs::write(path("names.yaml"), NAMES).expect("names");
        let config = format!("names: names.yaml\nflows: 1024\n{keys}");
        fs::write(path("lpm.yaml"), config).expect("a configuration");
        let arguments = ["-c", &path("lpm.yaml"), "-i", Pair::POD_INTERFACE];
        let agent = Agent::start(&pair.node, &arguments);
        Self {
            agent,
            pair,
            _server: server,
            directory,
        }
    }

    /// Requests from the pod over one connection: so many, or until it is stopped.
    fn requests(&self, count: Option<u64>) -> Background<RequestReport> {
        let target = SocketAddr::from((Pair::SERVER[0], PORT));
        let limit = count.map_or_else(Limit::default, Limit::count);
        let config = RequestConfig {
            limit,
            ..RequestConfig::new(target)
        };
        Background::start(&self.pair.client, move |control| requests(&config, control))
            .expect("start requests")
    }
}

/// The native histograms of a family, by the value of a label.
fn natives(body: &[u8], family: &str, label: &str) -> Vec<(String, Histogram)> {
    let mut rest = body;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let read = MetricFamily::decode_length_delimited(&mut rest).expect("a family");
        if read.name != family {
            continue;
        }
        for metric in read.metric {
            let of = metric
                .label
                .iter()
                .find(|pair| pair.name == label)
                .expect(label);
            found.push((of.value.clone(), metric.histogram.expect("a histogram")));
        }
    }
    found
}

/// All observations of a native histogram.
fn native_count(histogram: &Histogram) -> u64 {
    let (mut bucket, mut all) = (0, 0);
    for delta in &histogram.positive_delta {
        bucket += delta;
        all += bucket;
    }
    histogram.zero_count + u64::try_from(all).expect("counts are positive")
}

#[test]
fn samples_that_come_while_a_page_is_written_are_of_their_method() {
    if !kernel_is_usable() {
        return;
    }
    let site = Site::with("rows: 16\nmethods: [handshake]\n");
    let config = RequestConfig {
        connections: 4,
        requests_per_connection: Some(1),
        ..RequestConfig::new(SocketAddr::from((Pair::SERVER[0], PORT)))
    };
    let talk = Background::start(&site.pair.client, move |control| requests(&config, control));
    let talk = talk.expect("start requests");
    let mut before = 0;
    eventually("many handshakes", || {
        let text = site.agent.metrics();
        let sum = |name: &str| -> u64 {
            let lines = text.lines().filter(|line| line.starts_with(name));
            let counts = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
            counts.sum()
        };
        let ts = value(&text, "lpm_samples_total{method=\"ts\"}");
        assert_eq!(ts, Some(0.0), "it is off: {text}");
        let all = sum("lpm_samples_total");
        assert_eq!(all, sum("lpm_rtt_seconds_count"), "{text}");
        assert!(all >= before, "{text}");
        before = all;
        all > 10_000
    });
    talk.stop().expect("requests");
}

#[test]
fn metrics_in_three_formats() {
    if !kernel_is_usable() {
        return;
    }
    let site = Site::new("1s");
    site.requests(Some(500)).join().expect("requests");
    let flow_rtt = format!("lpm_flow_rtt_seconds_count{{{RTT},leg=\"remote\"}}");
    eventually("a window ends", || site.agent.value(&flow_rtt).is_some());

    // Nothing moves any more: the formats must agree.
    let text = site.agent.metrics();
    let remote = |echo| format!("{{{RTT},leg=\"remote\",echo=\"{echo}\"}}");
    let count = |echo| value(&text, &format!("lpm_rtt_seconds_count{}", remote(echo)));
    assert!(count("data").is_some(), "answers: {text}");
    let infinite =
        format!("lpm_rtt_seconds_bucket{{le=\"+Inf\",{RTT},leg=\"remote\",echo=\"data\"}}");
    assert_eq!(value(&text, &infinite), count("data"));
    let stored = value(&text, "lpm_stamps_total{result=\"stored\"}");
    let by_method =
        |method: &str| value(&text, &format!("lpm_samples_total{{method=\"{method}\"}}"));
    let timed = by_method("ts");
    assert!(stored >= timed && timed > Some(0.0), "{text}");
    // One connection: SYN to SYN-ACK, SYN-ACK to ACK.
    assert_eq!(by_method("handshake"), Some(2.0), "{text}");
    let samples = timed.map(|timed| timed + 2.0);
    let attached = "lpm_interface_attached{interface=\"vethclient\",vantage=\"pod\"}";
    assert_eq!(value(&text, attached), Some(1.0));
    assert!(value(&text, "lpm_packets_total") >= Some(1000.0), "{text}");

    let (kind, open) = site
        .agent
        .get("/metrics", "application/openmetrics-text;version=1.0.0");
    assert!(
        kind.starts_with("application/openmetrics-text; version=1.0.0"),
        "{kind}"
    );
    assert!(open.ends_with(b"# EOF\n"));

    let accept = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    let (kind, body) = site.agent.get("/metrics", accept);
    assert!(
        kind.starts_with("application/vnd.google.protobuf"),
        "{kind}"
    );
    let mut native_samples = 0;
    for (_, histogram) in natives(&body, "lpm_rtt_seconds", "echo") {
        assert_eq!(histogram.schema, 3);
        assert!((histogram.zero_threshold - 2_f64.powi(-23)).abs() < f64::EPSILON);
        assert_eq!(native_count(&histogram), histogram.sample_count);
        native_samples += histogram.sample_count;
    }
    #[expect(clippy::cast_precision_loss, reason = "few samples")]
    let native_samples = native_samples as f64;
    assert_eq!(Some(native_samples), samples);
    site.agent.stop();
}

#[test]
fn flows_as_the_contract_has_them() {
    if !kernel_is_usable() {
        return;
    }
    let site = Site::new("10s");
    let traffic = site.requests(None);
    let done = |flow: &Value| {
        flow["active"] == true
            && flow["rtt_ns"]["remote"]["smoothed"].is_u64()
            && flow["packets"]["to_local"].as_u64() > Some(100)
    };
    let mut flows = Vec::new();
    eventually("a flow", || {
        flows = site.agent.list("flows?processes=true");
        flows.iter().any(done)
    });
    let flow = flows.iter().find(|flow| done(flow)).expect("a flow");
    assert_eq!(flow["interface"], Pair::POD_INTERFACE);
    assert_eq!(flow["vantage"], "pod");
    assert_eq!(flow["local"]["address"], "198.18.1.2");
    assert_eq!(flow["local"]["name"]["namespace"], "shop");
    assert_eq!(flow["local"]["name"]["workload"], "web");
    assert_eq!(flow["remote"]["address"], "198.18.2.2");
    assert_eq!(flow["remote"]["port"], PORT);
    assert_eq!(flow["remote"]["name"]["kind"], "service");
    assert_eq!(flow["opened"], true);
    let remote = &flow["rtt_ns"]["remote"];
    assert!(
        remote["min"].as_u64() <= remote["last"].as_u64(),
        "{remote}"
    );
    let time =
        |key: &str| humantime::parse_rfc3339(flow[key].as_str().expect(key)).expect("RFC 3339");
    assert!(time("first_seen") <= time("last_seen"));

    let latency = site.agent.list("latency");
    assert!(
        latency
            .iter()
            .any(|row| row["namespace"] == "shop" && row["p50_ns"].is_u64())
    );
    let links = site.agent.list("links");
    assert_eq!(links[0]["interface"], Pair::POD_INTERFACE);

    let table = succeeds(command().args(["top", "--agent", &site.agent.url, "--once"]));
    assert!(
        table.contains("198.18.2.2:5301") && table.contains("shop/web-0"),
        "{table}"
    );
    traffic.stop().expect("requests");
    eventually("the flow is closed", || site.agent.list("flows").is_empty());
    assert!(
        site.agent
            .list("flows?all=true")
            .iter()
            .any(|flow| flow["closed"] == true)
    );
}

#[test]
fn local_processes_are_named() {
    if !kernel_is_usable() {
        return;
    }
    // Otherwise the agent gives up the sight of other users' processes.
    let site = Site::with("window: 10s\nrows: 16\nprivileges: process_names\n");
    let connect = format!("exec 3<>/dev/tcp/{}/{PORT}; read -r _ <&3", Pair::SERVER[0]);
    let client = &site.pair.client;
    let mut shell = client.command("bash");
    let shell = client
        .spawn(shell.args(["-c", &connect]))
        .expect("start a shell");
    let holder = |flow: &Value| {
        let holder = &flow["local"]["holder"];
        holder["process"] == "bash"
            && holder["pid"] == shell.id()
            && holder["netns"] == client.name()
    };
    eventually("the shell holds the flow", || {
        site.agent.list("flows?processes=true").iter().any(holder)
    });
    site.agent.stop();
}

#[test]
fn samples_from_an_agent_are_those_of_the_contract() {
    if !kernel_is_usable() {
        return;
    }
    let site = Site::new("10s");
    let arguments = [
        "watch",
        "--agent",
        &site.agent.url,
        "--format",
        "json",
        "--count",
        "50",
    ];
    let watch = Lpm::spawn(&site.pair.node, command().args(arguments));
    watch.wait_for("watching what the agent measures");
    let traffic = site.requests(None);
    for _ in 0..50 {
        let sample: Value = serde_json::from_str(&watch.line()).expect("JSON");
        assert_eq!(sample["schema"], 1);
        assert_eq!(sample["interface"], Pair::POD_INTERFACE);
        assert!(sample["rtt_ns"].as_u64() > Some(0), "{sample}");
        let remote = sample["leg"] == "remote";
        let (src, dst) = if remote {
            ("src", "dst")
        } else {
            ("dst", "src")
        };
        assert_eq!(sample[src], "198.18.1.2", "{sample}");
        assert_eq!(sample[dst], "198.18.2.2", "{sample}");
    }
    assert!(watch.child.wait(lpm::LIMIT).expect("it ends").success());
    eventually("a summary", || {
        watch.said().contains("50 samples, 0 missed")
    });
    traffic.stop().expect("requests");
    site.agent.stop();
}

#[test]
fn a_watcher_that_dies_leaves_the_agent_as_it_was() {
    if !kernel_is_usable() {
        return;
    }
    let site = Site::new("10s");
    let traffic = site.requests(None);
    for _ in 0..3 {
        let arguments = ["watch", "--agent", &site.agent.url, "--format", "json"];
        let watch = Lpm::spawn(&site.pair.node, command().args(arguments));
        watch.line();
        assert!(!watch.end(Signal::SIGKILL).success());
    }
    assert!(site.agent.value("lpm_samples_total{method=\"ts\"}") > Some(0.0));
    traffic.stop().expect("requests");
    site.agent.stop();
}

#[test]
fn an_interface_that_goes_takes_no_count_along() {
    if !kernel_is_usable() {
        return;
    }
    let site = Site::new("10s");
    site.requests(Some(100)).join().expect("requests");
    let total = "lpm_packets_total";
    let before = site.agent.value(total).expect("packets");
    assert!(before >= 200.0, "{before}");
    site.pair
        .node
        .ip(&format!("link del {}", Pair::POD_INTERFACE))
        .expect("delete");
    eventually("it is gone", || {
        site.agent
            .value("lpm_interface_attached{interface=\"vethclient\",vantage=\"pod\"}")
            .is_none()
    });
    assert!(site.agent.value(total) >= Some(before));
    assert!(
        site.agent.list("flows?all=true").is_empty(),
        "its flows are forgotten"
    );
    assert!(
        site.agent.metrics().contains("lpm_rtt_seconds_count"),
        "its history is not"
    );
}

#[test]
fn other_names_are_applied_while_it_runs() {
    if !kernel_is_usable() {
        return;
    }
    let site = Site::new("10s");
    let traffic = site.requests(None);
    let counts = |namespace: &str| {
        let metrics = site.agent.metrics();
        let label = format!("lpm_rtt_seconds_count{{namespace=\"{namespace}\"");
        metrics.lines().any(|line| line.starts_with(&label))
    };
    eventually("the first name", || counts("shop"));
    let file = site.directory.path().join("names.yaml");
    // A file that does not hold changes nothing.
    fs::write(&file, "- {cidr: 198.18.1.0/24, namspace: x}\n").expect("names");
    site.agent.lpm.child.signal(Signal::SIGHUP).expect("signal");
    site.agent.lpm.wait_for("nothing is changed");
    fs::write(&file, NAMES.replace("shop", "market")).expect("names");
    site.agent.lpm.child.signal(Signal::SIGHUP).expect("signal");
    eventually("the second name", || counts("market"));
    assert!(counts("shop"), "what was measured keeps its name");
    traffic.stop().expect("requests");
    site.agent.stop();
}

/// Samples by label sets that hold these texts.
fn counted(metrics: &str, family: &str, labels: &[&str]) -> f64 {
    let family = format!("{family}_count{{");
    let lines = metrics.lines().filter(|line| line.starts_with(&family));
    lines
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// What is told apart within namespaces has all samples of the namespaces, no more and no less;
/// without rows for it they are an overflow's, and the namespaces' are what they were.
#[test]
fn round_trips_by_workload_and_service() {
    if !kernel_is_usable() {
        return;
    }
    let levels = "levels: {workload: true, service: true}\n";
    // Row 0 is the overflow row, and of two one is for whole namespaces.
    for (rows, workload, service) in [(16, "web", "pg"), (2, "overflow", "overflow")] {
        let site = Site::with(&format!("window: 1s\nrows: {rows}\n{levels}"));
        site.requests(Some(200)).join().expect("requests");
        let text = site.agent.metrics();
        let all = counted(&text, "lpm_rtt_seconds", &[RTT]);
        assert!(all > 10.0, "{text}");
        let workload = format!("workload=\"{workload}\"");
        let of_workload = counted(&text, "lpm_workload_rtt_seconds", &[RTT, &workload]);
        let service = format!("service=\"{service}\"");
        let of_service = counted(&text, "lpm_service_rtt_seconds", &[RTT, &service]);
        assert_eq!((of_workload, of_service), (all, all), "{text}");
        let full = value(&text, "lpm_map_drops_total{map=\"rows\",reason=\"full\"}");
        assert_eq!(full > Some(0.0), rows == 2, "{text}");
    }
}
