//! Real Prometheuses on `node-a` that collect from the agents: Debian's, told where these are, and a
//! newer one, which asks the cluster's API.

use std::{fs, time::Duration};

use lpm_testbed::{
    kubernetes::{Cluster, Programs},
    testbed::NsChild,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::eventually;

/// Over how long rates are taken.
pub(crate) const WINDOW: Duration = Duration::from_secs(40);

/// The chart's `ConfigMap` of rules, and the file in it.
const CONFIG_MAP: &str = "lpm-rules";
const RULES: &str = "lpm.rules.yaml";

/// Which Prometheus, and the kind of histograms that it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Histograms {
    /// Debian's.
    Classic,
    /// Debian's, with its experimental native histograms.
    Native,
    /// A newer one, with native histograms and the discovery of Kubernetes.
    Discovered,
}

impl Histograms {
    /// Its port.
    const fn port(self) -> u16 {
        match self {
            Self::Classic => 9090,
            Self::Native => 9091,
            Self::Discovered => 9092,
        }
    }
}

/// What was collected of a series in a window.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Collected {
    /// When it was first collected from (Unix, in seconds).
    pub(crate) begin: f64,
    /// When it was last.
    pub(crate) end: f64,
    /// How many samples there were between.
    pub(crate) count: f64,
}

/// One that runs, until it is dropped.
pub(crate) struct Prometheus<'a> {
    cluster: &'a Cluster,
    pub(crate) histograms: Histograms,
    url: String,
    process: NsChild,
    directory: tempfile::TempDir,
}

impl<'a> Prometheus<'a> {
    /// Starts it and waits until it collects from both nodes.
    pub(crate) fn start(cluster: &'a Cluster, histograms: Histograms) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("prometheus.json");
        let discovers = histograms == Histograms::Discovered;
        let config = if discovers {
            discovering(cluster)
        } else {
            told(cluster)
        };
        fs::write(&file, config.to_string()).expect("a configuration");
        fs::write(directory.path().join(RULES), rules(cluster)).expect("rules");
        let port = histograms.port();
        let node = &cluster.nodes[0].netns;
        let program = if discovers {
            "prometheus-kubernetes"
        } else {
            "prometheus"
        };
        let mut command = node.command(Programs::new().find(program).expect(program));
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.path().join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(std::process::Stdio::null())
            .stderr(fs::File::create(directory.path().join("log")).expect("a log"));
        if histograms == Histograms::Native {
            command.arg("--enable-feature=native-histograms");
        }
        let prometheus = Self {
            cluster,
            histograms,
            url: format!("http://127.0.0.1:{port}/api/v1/query"),
            process: node.spawn(&mut command).expect("prometheus"),
            directory,
        };
        eventually("both agents found and collected from", || {
            let log = || fs::read_to_string(prometheus.directory.path().join("log"));
            let ended = prometheus.process.try_wait().expect("its state");
            assert!(ended.is_none(), "prometheus: {}", log().unwrap_or_default());
            prometheus.ask("count(up == 1)") == Some(2.0)
        });
        prometheus
    }

    /// Lets it read the rules in the cluster anew.
    pub(crate) fn reload(&self) {
        fs::write(self.directory.path().join(RULES), rules(self.cluster)).expect("rules");
        self.process.signal(Signal::SIGHUP).expect("a signal");
    }

    /// The first value of a query's answer, if there is one.
    pub(crate) fn ask(&self, query: &str) -> Option<f64> {
        let answer = self.query(query)?;
        let value = answer["data"]["result"][0]["value"][1].as_str()?;
        value.parse().ok().filter(|value: &f64| !value.is_nan())
    }

    /// The same as it was at a time (Unix, in seconds).
    pub(crate) fn ask_at(&self, query: &str, time: f64) -> Option<f64> {
        let answer = self.query_at(query, Some(time))?;
        let value = answer["data"]["result"][0]["value"][1].as_str()?;
        value.parse().ok().filter(|value: &f64| !value.is_nan())
    }

    /// A query's answer, as the API gives it.
    pub(crate) fn query(&self, query: &str) -> Option<Value> {
        self.query_at(query, None)
    }

    fn query_at(&self, query: &str, time: Option<f64>) -> Option<Value> {
        let ask = || {
            let request = ureq::get(&self.url).query("query", query);
            let request = match time {
                Some(time) => request.query("time", format!("{time:.3}")),
                None => request,
            };
            request.call().ok()?.body_mut().read_to_string().ok()
        };
        let node = &self.cluster.nodes[0].netns;
        serde_json::from_str(&node.run_in(ask).ok()??).ok()
    }

    /// A query: how many samples there were.
    pub(crate) fn count(&self, series: &str) -> String {
        match self.histograms {
            Histograms::Classic => format!("sum(lpm_rtt_seconds_count{{{series}}})"),
            Histograms::Native | Histograms::Discovered => {
                format!("histogram_count(sum(lpm_rtt_seconds{{{series}}}))")
            }
        }
    }

    /// A query: the mean over the window.
    pub(crate) fn mean(&self, series: &str) -> String {
        let window = format!("[{}s]", WINDOW.as_secs());
        match self.histograms {
            Histograms::Classic => format!(
                "sum(rate(lpm_rtt_seconds_sum{{{series}}}{window})) / \
                 sum(rate(lpm_rtt_seconds_count{{{series}}}{window}))"
            ),
            Histograms::Native | Histograms::Discovered => {
                let rate = format!("sum(rate(lpm_rtt_seconds{{{series}}}{window}))");
                format!("histogram_sum({rate}) / histogram_count({rate})")
            }
        }
    }

    /// A query: a quantile over the window.
    pub(crate) fn quantile(&self, series: &str, quantile: f64) -> String {
        let window = format!("[{}s]", WINDOW.as_secs());
        let rate = match self.histograms {
            Histograms::Classic => {
                format!("sum by (le) (rate(lpm_rtt_seconds_bucket{{{series}}}{window}))")
            }
            Histograms::Native | Histograms::Discovered => {
                format!("sum(rate(lpm_rtt_seconds{{{series}}}{window}))")
            }
        };
        format!("histogram_quantile({quantile}, {rate})")
    }

    /// The bounds of the bucket that holds a time.
    pub(crate) fn bucket(&self, series: &str, time: f64) -> (f64, f64) {
        match self.histograms {
            Histograms::Classic => self.classic_bucket(series, time),
            Histograms::Native | Histograms::Discovered => native_bucket(time),
        }
    }

    /// When it collected a series in the window that ended at `time`, first and last, and how many
    /// samples came between.
    pub(crate) fn collected(&self, series: &str, time: f64) -> Collected {
        let window = WINDOW.as_secs();
        let name = match self.histograms {
            Histograms::Classic => "lpm_rtt_seconds_count",
            Histograms::Native | Histograms::Discovered => "lpm_rtt_seconds",
        };
        let query = format!("{name}{{{series}}}[{window}s]");
        let answer = self.query_at(&query, Some(time)).expect("an answer");
        let found = answer["data"]["result"].as_array().expect("results");
        let time = |point: &Value| point[0].as_f64().expect("a time");
        let count = |point: &Value| {
            let count = point[1].as_str().or(point[1]["count"].as_str());
            let count = count.and_then(|count| count.parse::<f64>().ok());
            count.expect("a count")
        };
        // One agent has them all, so they are collected together.
        let mut all = Collected::default();
        for one in found {
            let points = one["values"].as_array().or(one["histograms"].as_array());
            let points = points.expect("collections");
            let (first, last) = (&points[0], &points[points.len() - 1]);
            all.begin = time(first);
            all.end = time(last);
            all.count += count(last) - count(first);
        }
        all
    }

    /// The bounds of the classic bucket that holds a time.
    fn classic_bucket(&self, series: &str, time: f64) -> (f64, f64) {
        let (below, above): (Vec<f64>, Vec<f64>) = self
            .bounds(series)
            .into_iter()
            .partition(|bound| *bound < time);
        let low = below.into_iter().fold(0.0, f64::max);
        (low, above.into_iter().fold(f64::INFINITY, f64::min))
    }

    /// The bounds of the classic buckets.
    fn bounds(&self, series: &str) -> Vec<f64> {
        let query = format!("count by (le) (lpm_rtt_seconds_bucket{{{series}}})");
        let answer = self.query(&query).expect("an answer");
        let results = answer["data"]["result"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let bounds = results
            .iter()
            .filter_map(|result| result["metric"]["le"].as_str());
        bounds.filter_map(|bound| bound.parse().ok()).collect()
    }
}

/// The bounds of the native bucket (schema 3) that holds a time.
fn native_bucket(time: f64) -> (f64, f64) {
    let index = (time.log2() * 8.0).ceil();
    (((index - 1.0) / 8.0).exp2(), (index / 8.0).exp2())
}

/// Collects from the pods that the cluster's API lists, at the port that the chart names.
///
/// Debian builds its Prometheus without the discovery of Kubernetes, so the targets are looked up
/// here, by what that would look at: label and name of the port.
fn told(cluster: &Cluster) -> Value {
    let label = "app.kubernetes.io%2Fname%3Dlpm";
    let path = format!("/api/v1/pods?labelSelector={label}");
    let pods = cluster.api.get(&path).expect("the agents' pods");
    let targets = pods["items"].as_array().expect("a list").iter().map(|pod| {
        let ports = pod["spec"]["containers"][0]["ports"].as_array();
        let mut ports = ports.into_iter().flatten();
        let port = ports.find(|port| port["name"] == "metrics");
        let port = &port.expect("the chart's port")["containerPort"];
        let address = pod["status"]["podIP"].as_str().expect("an address");
        json!({
            "targets": [format!("{address}:{port}")],
            "labels": {"node": pod["spec"]["nodeName"]},
        })
    });
    config(&json!({"static_configs": targets.collect::<Vec<_>>()}))
}

/// Asks the API for the pods, as a `ServiceAccount` that may read pods and nothing else.
fn discovering(cluster: &Cluster) -> Value {
    let rights = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\n\
                  metadata: {name: collector, namespace: lpm}\n\
                  rules: [{apiGroups: [''], resources: [pods], verbs: [get, list, watch]}]\n---\n\
                  apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\n\
                  metadata: {name: collector, namespace: lpm}\n\
                  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: collector}\n\
                  subjects: [{kind: ServiceAccount, name: collector, namespace: lpm}]\n";
    cluster.apply(rights).expect("a role");
    let account = cluster.api.service_account("lpm", "collector");
    let pod = |what: &str| format!("__meta_kubernetes_pod_{what}");
    config(&json!({
        "scrape_native_histograms": true,
        "kubernetes_sd_configs": [{
            "role": "pod",
            "kubeconfig_file": account.expect("an account").kubeconfig,
            "namespaces": {"names": ["lpm"]},
        }],
        "relabel_configs": [
            {"source_labels": [pod("label_app_kubernetes_io_name"), pod("container_port_name")],
             "regex": "lpm;metrics", "action": "keep"},
            {"source_labels": [pod("node_name")], "target_label": "node"},
        ],
    }))
}

/// A configuration that collects as `job` says.
fn config(job: &Value) -> Value {
    let mut job = job.clone();
    job["job_name"] = "lpm".into();
    job["honor_labels"] = true.into();
    json!({
        "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
        "rule_files": [RULES],
        "scrape_configs": [job],
    })
}

/// The rules that the chart put into the cluster.
fn rules(cluster: &Cluster) -> String {
    let path = format!("/api/v1/namespaces/lpm/configmaps/{CONFIG_MAP}");
    let map = cluster.api.get(&path).expect("the chart's ConfigMap");
    map["data"][RULES].as_str().expect("rules").to_owned()
}
