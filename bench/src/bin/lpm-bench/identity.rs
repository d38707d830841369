//! `lpm-bench identity`: what the names of many pods cost an agent.

use std::{env, fs, path::PathBuf, process::Command, time::Instant};

use anyhow::{Context as _, Result, bail};
use lpm_agent::{
    identity::{
        PrefixMap,
        kubernetes::{ClusterState, Pod, StateEvent},
        merge::{Change, Merge},
    },
    kube::Event,
};
use lpm_testbed::machine;
use serde_json::json;

use crate::rss::anonymous;

/// The names of many pods: memory, and the time that an event takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  lpm-bench identity --pods 1000,10000")]
pub(crate) struct Args {
    /// Numbers of pods
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000])]
    pods: Vec<u32>,
    /// Measure one number of pods in this process, and print a line of the table
    #[arg(long, hide = true)]
    alone: bool,
    /// Where to write the table as Markdown
    #[arg(long, default_value = "bench/results/identity.md")]
    output: PathBuf,
}

/// Pods that come, change hands and go for the time per event.
const EVENTS: u32 = 2_000;

pub(crate) fn main(args: &Args) -> Result<()> {
    if args.alone {
        return args.pods.iter().try_for_each(|pods| one(*pods));
    }
    let mut table = format!(
        "# PrefixMap\n\nBy `cargo xtask bench identity`. {}\n\nPods as the API server sends them (over 2 kB \
         of JSON each, 20 per workload, 50 workloads per namespace), parsed one by one and kept as \
         names: what Kubernetes' objects, the merged sources and the exporters' names take, without \
         the kernel's map and the connection. An event is a pod that gives its address to another.\n\n\
         | pods | memory, MiB | bytes per pod | list, s | per event, us |\n|---|---|---|---|---|\n",
        machine()
    );
    for pods in &args.pods {
        let pods = pods.to_string();
        let this = env::current_exe().context("find this program")?;
        let child = Command::new(this)
            .args(["identity", "--alone", "--pods", &pods])
            .output()
            .context("start this program again")?;
        if !child.status.success() {
            bail!("{pods} pods: {}", String::from_utf8_lossy(&child.stderr));
        }
        table += std::str::from_utf8(&child.stdout).context("read the figures")?;
    }
    print!("{table}");
    fs::write(&args.output, table).with_context(|| format!("write {}", args.output.display()))
}

/// What an agent keeps.
struct Kept {
    state: ClusterState,
    merge: Merge,
    names: PrefixMap,
}

impl Kept {
    fn take(&mut self, event: StateEvent) {
        let mut changes: Vec<Change> = Vec::new();
        self.state.take(event, &mut changes);
        for (range, name) in changes.into_iter().filter_map(|c| self.merge.apply(c)) {
            match name {
                Some(name) => self.names.insert(range, name),
                None => drop(self.names.remove(range)),
            }
        }
    }
}

fn one(pods: u32) -> Result<()> {
    let before = anonymous()?;
    let mut kept = Kept {
        state: ClusterState::new(&["team".to_owned()]),
        merge: Merge::default(),
        names: PrefixMap::default(),
    };
    let begun = Instant::now();
    kept.take(StateEvent::Pod(Event::Init));
    for number in 0..pods {
        kept.take(StateEvent::Pod(Event::InitApply(pod(number, number)?)));
    }
    kept.take(StateEvent::Pod(Event::InitDone));
    let listed = begun.elapsed();
    let bytes = anonymous()?.saturating_sub(before);
    if kept.names.len() != pods as usize {
        bail!("{} names of {pods} pods", kept.names.len());
    }
    let begun = Instant::now();
    for number in 0..EVENTS {
        let old = number % pods;
        kept.take(StateEvent::Pod(Event::Delete(pod(old, old)?)));
        kept.take(StateEvent::Pod(Event::Apply(pod(pods + number, old)?)));
    }
    let events = begun.elapsed() / (2 * EVENTS);
    println!(
        "| {pods} | {} | {} | {:.2} | {:.0} |",
        bytes >> 20,
        bytes / u64::from(pods),
        listed.as_secs_f64(),
        events.as_secs_f64() * 1e6
    );
    Ok(())
}

/// A pod with an address, as the API server writes it.
fn pod(number: u32, address: u32) -> Result<Pod> {
    let (workload, namespace) = (number / 20, number / 1_000);
    let [_, b, c, d] = address.to_be_bytes();
    let address = format!("198.{}.{c}.{d}", 18 + b);
    let set = format!("workload-{workload}-5c9d7f6b8");
    let labels = json!({"app": format!("workload-{workload}"), "team": "blue",
        "pod-template-hash": "5c9d7f6b8"});
    let written = json!({"f:status": {"f:conditions": "x".repeat(1_200)}});
    let object = json!({
        "metadata": {
            "name": format!("{set}-{number:05}"), "namespace": format!("namespace-{namespace}"),
            "uid": format!("{number:08x}-0000-4000-8000-000000000000"), "labels": labels,
            "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": number.to_string(),
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set,
                "uid": format!("{workload:08x}-0000-4000-9000-000000000000"), "controller": true}],
            "managedFields": [{"manager": "kubelet", "operation": "Update",
                "time": "2026-01-01T00:00:01Z", "fieldsV1": written}],
        },
        "spec": {"nodeName": format!("node-{}", number % 400), "containers": [
            {"name": "main", "image": "registry/image:1", "env": "y".repeat(500)}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "startTime": "2026-01-01T00:00:00Z"},
    });
    serde_json::from_str(&object.to_string()).context("read a pod")
}
