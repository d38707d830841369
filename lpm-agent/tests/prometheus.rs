//! A real Prometheus reads the metrics: classic histograms as text, native ones as protobuf.

mod lpm;
mod prom;

use std::{fs, net::SocketAddr, path::Path, process::Command};

use lpm::{Agent, Lpm, eventually, kernel_is_usable};
use lpm_bench::{
    testbed::{Pair, PairConfig},
    traffic::{Background, PORT, RequestConfig, Server, requests},
};
use prom::tool;

/// An agent that has measured something, and the testbed it lives in.
fn site() -> (
    Pair,
    Server,
    Background<lpm_bench::traffic::RequestReport>,
    Agent,
) {
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let server = Server::start(&pair.server, PORT).expect("a server");
    let agent = Agent::start(&pair.node, &["-i", Pair::POD_INTERFACE]);
    let config = RequestConfig::new(SocketAddr::from((Pair::SERVER[0], PORT)));
    let traffic = Background::start(&pair.client, move |control| requests(&config, control))
        .expect("start requests");
    eventually("something is measured", || {
        agent.metrics().contains("lpm_rtt_seconds_count")
    });
    (pair, server, traffic, agent)
}

/// Starts a Prometheus that scrapes the agent; gives it with its address.
fn scrape(
    prometheus: Command,
    (pair, agent): (&Pair, &Agent),
    directory: &Path,
    arguments: &[&str],
) -> (Lpm, String) {
    let target = agent.url.strip_prefix("http://").expect("a URL");
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: lpm\n  static_configs: [{{targets: [\"{target}\"]}}]\n"
    );
    prom::start(&pair.server, prometheus, directory, &config, arguments)
}

/// The first value that a query gives; `None`: it gives none, or Prometheus is not ready.
fn ask(address: &str, query: &str) -> Option<f64> {
    let results = prom::ask(address, query)?;
    let values = results.iter().filter_map(prom::value);
    values.into_iter().find(|value: &f64| !value.is_nan())
}

#[test]
fn promtool_has_nothing_to_say() {
    let (true, Some(mut promtool)) = (kernel_is_usable(), tool("promtool")) else {
        return;
    };
    let (_pair, _server, _traffic, agent) = site();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("metrics");
    fs::write(&file, agent.metrics()).expect("write");
    let input = fs::File::open(&file).expect("open");
    let checked = promtool.args(["check", "metrics"]).stdin(input).output();
    let checked = checked.expect("promtool");
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success() && said.is_empty(), "{said}");
}

#[test]
fn prometheus_reads_classic_histograms() {
    let (true, Some(prometheus)) = (kernel_is_usable(), tool("prometheus")) else {
        return;
    };
    let (pair, _server, _traffic, agent) = site();
    let directory = tempfile::tempdir().expect("a directory");
    let (_prometheus, address) = scrape(prometheus, (&pair, &agent), directory.path(), &[]);
    let median = "histogram_quantile(0.5, rate(lpm_rtt_seconds_bucket{leg=\"remote\"}[10s]))";
    eventually("a median", || {
        ask(&address, median).is_some_and(|median| median < 0.1)
    });
    assert_eq!(
        ask(&address, "count(lpm_rtt_seconds{leg=\"remote\"})"),
        None,
        "no native ones"
    );
}

#[test]
fn prometheus_reads_native_histograms() {
    let (true, Some(prometheus)) = (kernel_is_usable(), tool("prometheus")) else {
        return;
    };
    let (pair, _server, _traffic, agent) = site();
    let directory = tempfile::tempdir().expect("a directory");
    let native = ["--enable-feature=native-histograms"];
    let (_prometheus, address) = scrape(prometheus, (&pair, &agent), directory.path(), &native);
    let median = "histogram_quantile(0.5, rate(lpm_rtt_seconds{leg=\"remote\"}[10s]))";
    eventually("a median", || {
        ask(&address, median).is_some_and(|median| median < 0.1)
    });
    let classic = "count(lpm_rtt_seconds_bucket{leg=\"remote\"})";
    assert_eq!(ask(&address, classic), None, "no classic ones");
}
