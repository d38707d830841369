//! Which namespace is slow, and is it the network or the pods? The rules that ship, in a real
//! Prometheus, name the namespaces and the cause of what is done to them, and nothing else.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use lpm_testbed::{
    kubernetes::Programs,
    testbed::{Flavour, Impairment, Overlay, OverlayConfig, wire::Loss},
    traffic::{Background, PORT, RequestConfig, RequestReport, Server, requests},
};

use crate::support::{
    lpm::{Agent, Lpm, eventually, kernel_is_usable},
    prom,
};

/// Which pod belongs to whom: shop calls pay across the wire, blog calls db beside it.
const PODS: [(&str, &str); 4] = [("a0", "shop"), ("b0", "pay"), ("a1", "blog"), ("a2", "db")];

/// Two nodes with an agent each, a Prometheus with the rules, and traffic.
struct Cluster {
    // What talks ends before what it talks to.
    prometheus: (Lpm, String),
    _agents: [Agent; 2],
    _beside: Vec<Background<RequestReport>>,
    _servers: Vec<Server>,
    overlay: Overlay,
    _directory: tempfile::TempDir,
}

/// What is injected is far beyond these, and what a busy machine does by itself (a pod that waits for
/// its CPU, segments sent again because an acknowledgement did) far below.
const THRESHOLDS: &str = "rules.thresholds.network=0.015,rules.thresholds.server=0.02,\
                          rules.thresholds.pod=0.5,rules.thresholds.loss=0.12";

/// The rules as the chart renders them, with rates over 10 s; or a skip.
fn rules() -> Option<String> {
    let helm = match Programs::new().find("helm") {
        Ok(helm) => helm,
        Err(error) => {
            println!("LPM-SKIP alert_rules: {error}");
            return None;
        }
    };
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/lpm");
    let mut command = Command::new(helm);
    command.args(["template", "lpm"]).arg(chart);
    command.args(["--show-only", "templates/rules.yaml"]);
    command.args(["--set", "rules.prometheusRule=true,rules.window=10s"]);
    command.args(["--set", THRESHOLDS]);
    let output = command.stdin(Stdio::null()).output().expect("helm");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    // A rule file is what a PrometheusRule has as its specification.
    let resource = String::from_utf8(output.stdout).expect("text");
    let (_, groups) = resource.split_once("\nspec:\n").expect("a specification");
    Some(groups.to_owned())
}

/// Connections of a client. One alone may be silent for long when its segments are lost again and
/// again, and what is silent has no cause.
const CONNECTIONS: usize = 10;

/// Requests whose answers are several segments, so that some echoes are prompt.
fn calls(
    overlay: &Overlay,
    (from, to): (&str, &str),
    think: Duration,
) -> Vec<Background<RequestReport>> {
    let config = RequestConfig {
        response: 4000,
        think,
        period: Duration::from_millis(50),
        ..RequestConfig::new(SocketAddr::from((overlay.pod(to).v4, PORT)))
    };
    let start = |_| {
        Background::start(&overlay.pod(from).netns, move |control| {
            requests(&config, control)
        })
        .expect("start requests")
    };
    (0..CONNECTIONS).map(start).collect()
}

fn stop(calls: Vec<Background<RequestReport>>) {
    for connection in calls {
        connection.stop().expect("it was answered");
    }
}

impl Cluster {
    fn start(arguments: &[&str]) -> Option<Self> {
        if !kernel_is_usable() {
            return None;
        }
        let (prometheus, rules) = (prom::tool("prometheus")?, rules()?);
        let mut config = OverlayConfig::new(Flavour::Flannel);
        config.pods_per_node = 3;
        let overlay = Overlay::new(&config).expect("a testbed");
        let directory = tempfile::tempdir().expect("a directory");
        let entry = |(pod, namespace): (&str, &str)| {
            let address = overlay.pod(pod).v4;
            format!("- {{address: {address}, namespace: {namespace}, pod: {pod}}}\n")
        };
        let names = directory.path().join("names.yaml");
        fs::write(&names, PODS.map(entry).concat()).expect("names");
        let names = ["--names", names.to_str().expect("a path")];
        let agents = [0, 1].map(|node| Agent::start(&overlay.nodes[node], &names));
        let targets = agents
            .each_ref()
            .map(|agent| agent.url.strip_prefix("http://").expect("a URL"));
        fs::write(directory.path().join("lpm.rules.yaml"), rules).expect("rules");
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: [lpm.rules.yaml]\n\
             scrape_configs:\n- job_name: lpm\n  honor_labels: true\n  \
             static_configs: [{{targets: {targets:?}}}]\n"
        );
        let node = &overlay.nodes[0];
        let prometheus = prom::start(node, prometheus, directory.path(), &config, arguments);
        let servers = ["b0", "a2"].map(|pod| Server::start(&overlay.pod(pod).netns, PORT));
        let servers = servers.into_iter().map(|server| server.expect("a server"));
        let servers = servers.collect();
        Some(Self {
            prometheus,
            _agents: agents,
            _beside: calls(&overlay, ("a1", "a2"), Duration::ZERO),
            _servers: servers,
            overlay,
            _directory: directory,
        })
    }

    /// Who is slow with whom, and why, in the words of the rules.
    fn slow(&self) -> Option<BTreeSet<[String; 3]>> {
        let results = prom::ask(&self.prometheus.1, "lpm:slow:ratio")?;
        let label = |result: &serde_json::Value, name: &str| {
            result["metric"][name]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let labels = ["namespace", "peer_namespace", "cause"];
        Some(
            results
                .iter()
                .map(|result| labels.map(|name| label(result, name)))
                .collect(),
        )
    }

    /// What the rules go by, for whoever reads why a test failed.
    fn measured(&self) -> String {
        let query =
            "{__name__=~\"lpm:(rtt_seconds:mean|rtt_seconds_count:rate|retransmissions:rate)\"}";
        let results = prom::ask(&self.prometheus.1, query).unwrap_or_default();
        let line =
            |result: &serde_json::Value| format!("{} {}\n", result["metric"], result["value"][1]);
        results.iter().map(line).collect()
    }

    /// Waits until that is what the rules say, and both namespaces across the wire are measured.
    #[track_caller]
    fn must_say(&self, expected: &[[&str; 3]]) {
        let expected: BTreeSet<_> = expected
            .iter()
            .map(|words| words.map(str::to_owned))
            .collect();
        let mut last = None;
        let mut known = 0;
        eventually(&format!("{expected:?}"), || {
            let count = "count(lpm:network_seconds:mean{namespace=~\"shop|pay\"})";
            known = prom::ask(&self.prometheus.1, count).map_or(0, |found| found.len());
            let now = self.slow();
            if now != last {
                eprintln!("the rules say {now:?}, from\n{}", self.measured());
                last.clone_from(&now);
            }
            known > 0 && now.as_ref() == Some(&expected)
        });
    }
}

const NETWORK: [[&str; 3]; 2] = [["shop", "pay", "network"], ["pay", "shop", "network"]];

#[test]
fn the_rules_name_the_namespaces_and_the_cause() {
    let Some(cluster) = Cluster::start(&[]) else {
        return;
    };
    let across = ("a0", "b0");
    let traffic = calls(&cluster.overlay, across, Duration::ZERO);
    cluster.must_say(&[]);

    let wire = &cluster.overlay.wire;
    wire.set_both(&Impairment::delay(Duration::from_millis(20)));
    cluster.must_say(&NETWORK);

    wire.set_both(&Impairment {
        loss: Loss::Random(0.2),
        ..Impairment::default()
    });
    cluster.must_say(&[["shop", "pay", "loss"], ["pay", "shop", "loss"]]);

    wire.set_both(&Impairment::default());
    stop(traffic);
    let thoughtful = calls(&cluster.overlay, across, Duration::from_millis(30));
    cluster.must_say(&[["pay", "shop", "server"]]);

    stop(thoughtful);
    let _healed = calls(&cluster.overlay, across, Duration::ZERO);
    cluster.must_say(&[]);
}

/// The rules read either form of histograms; this is the one that Prometheus prefers.
#[test]
fn native_histograms_do_as_well() {
    let Some(cluster) = Cluster::start(&["--enable-feature=native-histograms"]) else {
        return;
    };
    let _traffic = calls(&cluster.overlay, ("a0", "b0"), Duration::ZERO);
    cluster.must_say(&[]);
    let delay = Impairment::delay(Duration::from_millis(20));
    cluster.overlay.wire.set_both(&delay);
    cluster.must_say(&NETWORK);
}
