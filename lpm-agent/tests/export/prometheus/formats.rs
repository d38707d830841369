//! All formats make the same series.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use super::{ask, kernel_is_usable, scrape, site::Site, start};
use crate::support::{
    lpm::eventually,
    prom::{self, tool},
};

/// The jobs of a newer Prometheus, one for each format.
fn jobs(site: &Site) -> String {
    let protocols = [
        ("proto", "PrometheusProto"),
        ("open", "OpenMetricsText1.0.0"),
        ("text", "PrometheusText0.0.4"),
    ];
    let job = |(name, protocol)| {
        let target = site.target();
        format!(
            "- job_name: {name}\n  scrape_protocols: [{protocol}]\n  static_configs: [{{targets: [\"{target}\"], labels: {{instance: x}}}}]\n"
        )
    };
    let jobs: String = protocols.map(job).into_iter().collect();
    format!("scrape_configs:\n{jobs}")
}

/// The series that a job has now, without the times of creation, which only OpenMetrics has as
/// series.
fn series(address: &str, job: &str) -> BTreeSet<String> {
    let query =
        format!("{{job=\"{job}\",__name__=~\"(lpm|process)_.+\",__name__!~\".+_created\"}}");
    let results = prom::ask(address, &query).unwrap_or_default();
    let names = results.into_iter().map(|mut result| {
        let labels = result["metric"].as_object_mut().expect("labels");
        labels.remove("job");
        labels.remove("instance");
        result["metric"].to_string()
    });
    names.collect()
}

/// Debian's takes bounds as they stand in the text, the newer one makes them of protobuf.
#[test]
fn a_change_of_format_makes_no_series() {
    let (true, Some(old), Some(new)) = (kernel_is_usable(), tool("prometheus"), prom::newer())
    else {
        return;
    };
    let mut site = Site::new();
    let directories = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    let (_old, old) = scrape(old, &site, directories[0].path(), ("", &[]));
    let (_new, new) = start(new, &site, directories[1].path(), (&jobs(&site), &[]));
    site.be_quiet();
    let begun = Instant::now();
    let proto = loop {
        let proto = series(&new, "proto");
        let others = [(&new, "open"), (&new, "text"), (&old, "lpm")];
        let others = others.map(|(address, job)| series(address, job));
        let buckets = proto.iter().filter(|name| name.contains("\"le\"")).count();
        if buckets >= 26 && others.iter().all(|other| *other == proto) {
            break proto;
        }
        let differ = others.map(|other| -> Vec<String> {
            proto
                .symmetric_difference(&other)
                .take(5)
                .cloned()
                .collect()
        });
        let waited = begun.elapsed() > Duration::from_mins(1);
        assert!(!waited, "open, text and 2.42 differ by {differ:?}");
        thread::sleep(Duration::from_millis(100));
    };
    let bounds: BTreeSet<_> = proto
        .iter()
        .filter_map(|name| Some(name.split_once("\"le\":\"")?.1.split_once('"')?.0))
        .collect();
    assert_eq!(bounds.len(), 26, "{bounds:?}");
    assert!(bounds.contains("6.103515625e-05"), "{bounds:?}");
}

/// A collector that asks for it begins a counter at zero, when it began. Else times of creation are
/// series of their own, from OpenMetrics only.
#[test]
fn created_times_are_told_in_both_formats_that_have_them() {
    if !kernel_is_usable() {
        return;
    }
    let site = Site::new();
    let zero = "--enable-feature=created-timestamp-zero-ingestion";
    for (arguments, zeros) in [(&[zero][..], true), (&[][..], false)] {
        let Some(prometheus) = prom::newer() else {
            return;
        };
        let directory = tempfile::tempdir().expect("a directory");
        let config = jobs(&site);
        let config = (&*config, arguments);
        let (_prometheus, address) = start(prometheus, &site, directory.path(), config);
        for (job, tells) in [("proto", true), ("open", true), ("text", false)] {
            let packets = format!("lpm_packets_total{{job=\"{job}\"}}");
            eventually(&packets, || ask(&address, &packets) > Some(0.0));
            let least = format!("min_over_time({packets}[1h])");
            let least = ask(&address, &least).expect("packets");
            assert_eq!(least <= 0.0, zeros && tells, "{job}: {least}");
            let created = format!("count({{job=\"{job}\",__name__=~\".+_created\"}})");
            let created = ask(&address, &created).is_some();
            assert_eq!(created, !zeros && job == "open", "{job}");
        }
    }
}
