//! ICMP echo and DNS between a pod and a remote machine across a wire: against
//! ping's own figures, a real resolver, and tshark's reading of a capture.

mod dns;
mod icmp;
mod masquerade;
mod merged;
mod second;

use std::{collections::BTreeMap, fs, time::Duration};

use lpm_testbed::testbed::{Pair, PairConfig};
use serde_json::Value;

use crate::support::lpm::{Agent, Lpm, eventually, kernel_is_usable, lpm as command};

/// One way, on the wire.
const DELAY: Duration = Duration::from_millis(5);
/// What the wire does to a round trip, less what its clock may be off, ns.
const WIRE_NS: u64 = 2 * 5_000_000 - 5_000;

/// The pod is in namespace `shop`, the remote machine in `db`.
const NAMES: &str = "- {cidr: 198.18.1.0/24, namespace: shop, pod: web-0}
- {cidr: 'fd00:18:1::/64', namespace: shop, pod: web-0}
- {cidr: 198.18.2.0/24, namespace: db, service: names}
- {cidr: 'fd00:18:2::/64', namespace: db, service: names}
";

/// A pod, its node, a remote machine; an agent at the pod, and its samples.
struct Site {
    watch: Lpm,
    agent: Agent,
    pair: Pair,
    directory: tempfile::TempDir,
}

impl Site {
    /// None: the kernel cannot be tested here.
    fn new() -> Option<Self> {
        Self::watching("", &["-i", Pair::POD_INTERFACE])
    }

    /// Likewise, with more configuration and other arguments.
    fn watching(configuration: &str, arguments: &[&str]) -> Option<Self> {
        if !kernel_is_usable() {
            return None;
        }
        let pair = Pair::new(&PairConfig::default()).expect("a testbed");
        pair.set_delay(DELAY);
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name).display().to_string();
        fs::write(path("names.yaml"), NAMES).expect("names");
        let config = format!("names: names.yaml\nflows: 1024\nrows: 32\n{configuration}");
        fs::write(path("lpm.yaml"), config).expect("a configuration");
        let file = path("lpm.yaml");
        let arguments = [&["-c", &file], arguments].concat();
        let agent = Agent::start(&pair.node, &arguments);
        let arguments = ["watch", "--agent", &agent.url, "--format", "json"];
        let watch = Lpm::spawn(&pair.node, command().args(arguments));
        watch.wait_for("watching what the agent measures");
        Some(Self {
            watch,
            agent,
            pair,
            directory,
        })
    }

    /// So many samples of a method, by id.
    #[track_caller]
    fn samples(&self, method: &str, count: usize) -> BTreeMap<u64, Value> {
        let mut samples = BTreeMap::new();
        while samples.len() < count {
            let sample: Value = serde_json::from_str(&self.watch.line()).expect("JSON");
            if sample["method"] == method {
                let id = sample["id"].as_u64().expect("an id");
                let again = samples.insert(id, sample);
                assert_eq!(again, None, "one sample each");
            }
        }
        samples
    }

    /// Waits until a series has this value.
    #[track_caller]
    fn eventually(&self, series: &str, wanted: f64) {
        eventually(series, || self.agent.value(series) == Some(wanted));
    }
}

fn rtt(sample: &Value) -> u64 {
    sample["rtt_ns"].as_u64().expect("a time")
}
