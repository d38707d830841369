//! The tables: what was measured, and what follows from it for large clusters.

use std::fmt::Write as _;

use lpm_testbed::machine;

use super::{
    listeners::Listeners,
    memory::{Memory, PEERS, PODS, SETS},
    meter::Reading,
    server::{self, Cost},
};

/// Pods that are replaced per node and hour: an assumption, to be scaled.
const REPLACED: f64 = 6.0;

/// A kubelet reports its node this often when nothing changes, seconds
/// (`nodeStatusReportFrequency`).
const REPORTS: f64 = 300.0;

/// With scope `node` nodes are listed again after six to nine hours, seconds on average.
const LISTED: f64 = 7.5 * 3600.0;

/// Watches of one agent, by scope.
const WATCHES: [f64; 2] = [6.0, 3.0];

/// What one object of a kind, or one change, costs one agent.
#[derive(Clone, Copy, Debug, Default)]
struct Each {
    node: f64,
    service: f64,
    slice: f64,
    set: f64,
    pod: f64,
    /// A `CSINode`, metadata only.
    arrival: f64,
}

/// What changes cost one agent: events and bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    events: f64,
    bytes: f64,
}

/// Events and bytes of one change, without what the server's own parts are sent.
fn change(with: &Reading, without: &Reading) -> Change {
    let mut change = Change::default();
    for (resource, sent) in with {
        let others = without.get(resource).copied().unwrap_or_default();
        change.events += sent.events - others.events;
        change.bytes += sent.event_bytes - others.event_bytes;
    }
    change
}

fn listed(with: &Reading, resource: &str) -> f64 {
    with.get(resource).map_or(0.0, |sent| sent.listed)
}

/// What an agent of each scope costs in a cluster.
struct Model {
    each: Each,
    pod_here: [Change; 2],
    pod_there: [Change; 2],
    report: [Change; 2],
}

impl Model {
    fn new([nobody, cluster, node]: [&Cost; 3]) -> Self {
        let (nodes, pods) = (f64::from(server::NODES), f64::from(server::PODS));
        let start = &cluster.start;
        let sets = nodes * f64::from(server::SETS);
        let of = |costs: fn(&Cost) -> &Reading| {
            [cluster, node].map(|scope| change(costs(scope), costs(nobody)))
        };
        Self {
            each: Each {
                node: listed(start, "nodes") / nodes,
                service: listed(start, "services") / nodes,
                slice: listed(start, "endpointslices") / nodes,
                set: listed(start, "replicasets") / sets,
                pod: listed(start, "pods") / (nodes * pods),
                arrival: listed(&node.start, "csinodes") / nodes,
            },
            pod_here: of(|cost| &cost.pod_here),
            pod_there: of(|cost| &cost.pod_there),
            report: of(|cost| &cost.node),
        }
    }

    /// Objects and bytes of an agent's lists.
    fn lists(&self, nodes: f64) -> [(f64, f64); 2] {
        let (each, pods, sets) = (self.each, f64::from(PODS), f64::from(SETS));
        let cluster = (
            nodes * (3.0 + sets + pods),
            nodes * (each.node + each.service + each.slice + sets * each.set + pods * each.pod),
        );
        let node = (
            3.0 * nodes + pods,
            nodes * (each.node + each.service + each.arrival) + pods * each.pod,
        );
        [cluster, node]
    }

    /// Events and bytes that an agent is sent per second.
    fn stream(&self, nodes: f64) -> [Change; 2] {
        let replaced = REPLACED / 3600.0;
        [0, 1].map(|scope| {
            let sum = |of: fn(&Change) -> f64| {
                let (here, there) = (of(&self.pod_here[scope]), of(&self.pod_there[scope]));
                let report = of(&self.report[scope]);
                replaced * (here + (nodes - 1.0) * there) + nodes * report / REPORTS
            };
            let listed = [0.0, nodes * self.each.node / LISTED];
            Change {
                events: sum(|change| change.events),
                bytes: sum(|change| change.bytes) + listed[scope],
            }
        })
    }
}

pub(crate) fn text(
    nodes: &[u32],
    costs: [&Cost; 3],
    listeners: &Listeners,
    memory: &Memory,
) -> String {
    let model = Model::new(costs);
    let mut text = format!(
        "# Scopes of names\n\nBy `cargo xtask bench scopes`. {}\n\n",
        machine()
    );
    text += &measured(&model, listeners);
    text += &extrapolated(nodes, &model, memory);
    text += &beside(nodes, listeners);
    text
}

/// What was measured.
fn measured(model: &Model, listeners: &Listeners) -> String {
    let Each {
        node,
        service,
        slice,
        set,
        pod,
        arrival,
    } = model.each;
    let row = |what: &str, of: [Change; 2]| {
        let [cluster, node] = of;
        format!(
            "| {what} | {:.1} | {:.0} | {:.1} | {:.0} |\n",
            cluster.events, cluster.bytes, node.events, node.bytes
        )
    };
    let mut text = format!(
        "## Measured\n\nOne agent and a real kube-apiserver with etcd: {} nodes, {} pods on each, as the server's own \
         counters say it (`apiserver_response_sizes`, `apiserver_watch_events_total`, \
         `apiserver_watch_events_sizes`), less what it sends without the agent. Objects carry what those of \
         a managed cluster do (50 images per node, the same on all); JSON. The server compresses a list's page of more \
         than 128 KiB: here those of nodes and pods (14,068 and 7,089 bytes per object without), not the others, which \
         are shorter here than in the large clusters below.\n\n\
         Bytes in a list, per object: node {node:.0}, pod {pod:.0}, service {service:.0}, endpoint slice \
         with {} addresses {slice:.0}, replica set (metadata) {set:.0}, CSINode (metadata) {arrival:.0}.\n\n\
         | one change | cluster: events | bytes | node: events | bytes |\n|---|---|---|---|---|\n",
        server::NODES,
        server::PODS,
        server::PODS,
    );
    text += &row("pod replaced on the own node", model.pod_here);
    text += &row("pod replaced on another node", model.pod_there);
    text += &row("report of a node", model.report);
    let _ = write!(
        text,
        "\nA pod replaced is seven events of pods (made, given a node, preparing, running, ending, ended, gone), \
         and what controllers write meanwhile: three of its endpoint slice, three of its replica set.\n\n\
         To tell another agent its names costs an agent {:.1} KiB of memory and {:.0} us of a CPU per second \
         (dev build, hearer included), and {} bytes once for ten pods.\n\n",
        f64::from(u32::try_from(listeners.memory).unwrap_or(u32::MAX)) / 1024.0,
        listeners.cpu_us,
        listeners.first,
    );
    text
}

/// Large clusters.
fn extrapolated(nodes: &[u32], model: &Model, memory: &Memory) -> String {
    let mut text = format!(
        "## Extrapolated\n\nN nodes, an agent on each; p = {PODS} pods, one service, one endpoint slice and {SETS} replica \
         sets per node; r = {REPLACED} pods replaced per node and hour; every node reports each {REPORTS} s. \
         With L the bytes in a list and E the events (or bytes) of one change:\n\n\
         - lists of one agent: `cluster` N (L_node + L_service + L_slice + {SETS} L_set + p L_pod); `node` \
         N (L_node + L_service + L_csinode) + p L_pod\n\
         - events to one agent per second, either scope: r/3600 (E_here + (N - 1) E_there) + N \
         E_report/{REPORTS}; with `node` the nodes' list again every 7.5 h on average\n\
         - the API server: N times that, of all agents at once (a rollout starts a tenth of them at a time)\n\n\
         Memory is measured: the same objects, kept as names, in a process of its own; `node` with the \
         names of {PEERS} other nodes' pods. The agent's own tables and connections are not in it.\n\n\
         | nodes | scope | agent: objects listed | MB listed | events/s | kB/s | memory, MiB | server: watches | GB listed at a start of all | events/s | MB/s |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n"
    );
    for size in nodes {
        let all = f64::from(*size);
        let (lists, stream) = (model.lists(all), model.stream(all));
        let kept = memory.iter().find(|(nodes, _)| nodes == size);
        for (scope, name) in ["cluster", "node"].iter().enumerate() {
            let ((objects, bytes), stream) = (lists[scope], stream[scope]);
            let _ = writeln!(
                text,
                "| {size} | {name} | {objects:.0} | {:.1} | {:.2} | {:.1} | {} | {:.0} | {:.2} | {:.0} | {:.2} |",
                bytes / 1e6,
                stream.events,
                stream.bytes / 1e3,
                kept.map_or_else(String::new, |(_, kept)| format!("{:.0}", kept[scope])),
                WATCHES[scope] * all,
                bytes * all / 1e9,
                stream.events * all,
                stream.bytes * all / 1e6,
            );
        }
    }
    text
}

/// What the agents are to each other.
fn beside(nodes: &[u32], listeners: &Listeners) -> String {
    let most = nodes.iter().copied().max().unwrap_or_default();
    let worst = f64::from(u32::try_from(listeners.memory).unwrap_or(u32::MAX)) * f64::from(most);
    format!(
        "\nWhat remains with `node` is its start: all nodes and services are listed once. Beside it, agents listen to each other where \
         their pods talk: a node whose pods talk with those of {PEERS} others is heard by as many and hears as \
         many. One with which all {most} talk (a cluster's DNS) would take {:.0} MiB for it.\n",
        worst / f64::from(1 << 20)
    )
}
