//! Real Prometheuses read the metrics: Debian's 2.42, and a newer one; classic histograms as text,
//! native ones as protobuf.

mod formats;
mod queries;
mod site;

use std::{fs, path::Path, process::Command};

use site::Site;

use crate::support::{
    lpm::{Lpm, eventually, kernel_is_usable},
    prom::{self, tool},
};

/// The switch of Prometheus 2.40 to 3.8.
const NATIVE: &str = "--enable-feature=native-histograms";

/// Starts a Prometheus with this configuration beside the site's agent; gives it with its address.
fn start(
    prometheus: Command,
    site: &Site,
    directory: &Path,
    (config, arguments): (&str, &[&str]),
) -> (Lpm, String) {
    let config = format!("global: {{scrape_interval: 1s}}\n{config}");
    prom::start(&site.pair.server, prometheus, directory, &config, arguments)
}

/// Starts one that scrapes the site's agent, with these keys in its job.
fn scrape(
    prometheus: Command,
    site: &Site,
    directory: &Path,
    (keys, arguments): (&str, &[&str]),
) -> (Lpm, String) {
    let target = site.target();
    let config = format!(
        "scrape_configs:\n- job_name: lpm\n{keys}  static_configs: [{{targets: [\"{target}\"]}}]\n"
    );
    start(prometheus, site, directory, (&config, arguments))
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
    let site = Site::new();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("metrics");
    fs::write(&file, site.agent.metrics()).expect("write");
    let input = fs::File::open(&file).expect("open");
    let checked = promtool.args(["check", "metrics"]).stdin(input).output();
    let checked = checked.expect("promtool");
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success() && said.is_empty(), "{said}");
}

const CLASSIC_MEDIAN: &str =
    "histogram_quantile(0.5, rate(lpm_rtt_seconds_bucket{leg=\"remote\"}[10s]))";
const NATIVE_MEDIAN: &str = "histogram_quantile(0.5, rate(lpm_rtt_seconds{leg=\"remote\"}[10s]))";
const CLASSIC_SERIES: &str = "count(lpm_rtt_seconds_bucket{leg=\"remote\"})";
const NATIVE_SERIES: &str = "count(lpm_rtt_seconds{leg=\"remote\"})";

/// Which histograms a Prometheus has, with these keys in its job and these arguments.
fn reads(prometheus: Command, (keys, arguments): (&str, &[&str]), (classic, native): (bool, bool)) {
    let site = Site::new();
    let directory = tempfile::tempdir().expect("a directory");
    let (_prometheus, address) = scrape(prometheus, &site, directory.path(), (keys, arguments));
    for (there, median, series) in [
        (classic, CLASSIC_MEDIAN, CLASSIC_SERIES),
        (native, NATIVE_MEDIAN, NATIVE_SERIES),
    ] {
        if there {
            eventually(median, || {
                ask(&address, median).is_some_and(|median| median < 0.1)
            });
        }
        eventually(series, || ask(&address, series).is_some() == there);
    }
}

#[test]
fn prometheus_reads_classic_histograms() {
    if let (true, Some(prometheus)) = (kernel_is_usable(), tool("prometheus")) {
        reads(prometheus, ("", &[]), (true, false));
    }
}

/// Those of the classic ones are gone then: dashboards that ask for `_bucket` are empty.
#[test]
fn prometheus_reads_native_histograms() {
    if let (true, Some(prometheus)) = (kernel_is_usable(), tool("prometheus")) {
        reads(prometheus, ("", &[NATIVE]), (false, true));
    }
}

#[test]
fn a_newer_one_reads_native_histograms_where_its_job_says_so() {
    let kinds = [
        ("", (true, false)),
        ("  scrape_native_histograms: true\n", (false, true)),
        (
            "  scrape_native_histograms: true\n  always_scrape_classic_histograms: true\n",
            (true, true),
        ),
    ];
    for (keys, found) in kinds {
        if let (true, Some(prometheus)) = (kernel_is_usable(), prom::newer()) {
            reads(prometheus, (keys, &[]), found);
        }
    }
    // Its feature flag does nothing any more.
    if let (true, Some(prometheus)) = (kernel_is_usable(), prom::newer()) {
        reads(prometheus, ("", &[NATIVE]), (true, false));
    }
}

/// A job for newer ones does not do for Debian's.
#[test]
fn an_older_one_refuses_the_key_for_native_histograms() {
    let Some(mut promtool) = tool("promtool") else {
        return;
    };
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("prometheus.yml");
    let job = "scrape_configs:\n- job_name: lpm\n  scrape_native_histograms: true\n";
    fs::write(&file, job).expect("write");
    let checked = promtool.args(["check", "config"]).arg(&file).output();
    let checked = checked.expect("promtool");
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(!checked.status.success(), "{said}");
    assert!(
        said.contains("scrape_native_histograms not found"),
        "{said}"
    );
}

/// The configuration without discovery in `deploy/README.md`.
#[test]
fn nodes_can_be_listed() {
    let (true, Some(prometheus)) = (kernel_is_usable(), tool("prometheus")) else {
        return;
    };
    let readme = include_str!("../../../../deploy/README.md");
    let mut blocks = readme.split("```yaml\n").skip(1);
    let config = blocks.find_map(|block| {
        let config = block.split_once("```").expect("it ends").0;
        config.contains("static_configs").then_some(config)
    });
    let config = config.expect("a static configuration");
    let site = Site::new();
    let written = "10.0.0.11:9477";
    assert!(config.contains(written), "{config}");
    let config = config.replace(written, site.target());
    let directory = tempfile::tempdir().expect("a directory");
    let (_prometheus, address) = start(prometheus, &site, directory.path(), (&config, &[]));
    // The namespace is the measured pod's.
    let found = "lpm_rtt_seconds_count{node=\"worker-1\",namespace=\"shop\"}";
    eventually(found, || ask(&address, found).is_some());
}
