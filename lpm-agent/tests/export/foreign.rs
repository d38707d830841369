//! Agents that run other systems' configuration files as they stand: L2S-M LPM's on three nodes,
//! read by its queries, and LLAMA's.

use std::{fs, time::Duration};

use lpm_testbed::testbed::{
    DelayLine, Direction, Impairment, Netns, Pair, PairConfig, WireEnd, wait_reachable,
};
use nix::sys::signal::Signal;

use crate::support::{
    lpm::{Agent, Lpm, eventually, kernel_is_usable, lpm, value},
    prom,
};

/// A running agent inside a namespace, with its HTTP server there.
struct Inside<'a> {
    netns: &'a Netns,
    lpm: Lpm,
    _directory: tempfile::TempDir,
}

impl<'a> Inside<'a> {
    /// Starts one with this configuration file.
    fn start(netns: &'a Netns, file: &str, text: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(file);
        fs::write(&path, text).expect("write");
        let socket = directory.path().join("lpm.sock");
        let mut command = netns.command(lpm().get_program());
        command.args(["run", "-c"]).arg(&path);
        command.arg("--socket").arg(&socket);
        let lpm = Lpm::spawn(netns, &mut command);
        lpm.wait_for("metrics at ");
        Self {
            netns,
            lpm,
            _directory: directory,
        }
    }

    /// What a path answers, asked in the namespace. None: not with a status of success.
    fn get(&self, at: &str) -> Option<String> {
        let got = self.netns.run_in(|| {
            let mut response = ureq::get(format!("http://{at}")).call().ok()?;
            response.body_mut().read_to_string().ok()
        });
        got.expect("run")
    }
}

/// Three nodes at a switch: `A` 2 ms away from it, `B` 4 ms, `C` not at all.
struct Nodes {
    switch: Netns,
    each: [Netns; 3],
    _wires: [DelayLine; 2],
}

const NAMES: [&str; 3] = ["NodeA", "NodeB", "NodeC"];
const ADDRESSES: [&str; 3] = ["198.18.7.2", "198.18.7.4", "198.18.7.6"];
/// Milliseconds from each node to the switch.
const AWAY: [u32; 3] = [2, 4, 0];

impl Nodes {
    fn new() -> Self {
        let switch = Netns::new("switch").expect("a namespace");
        let nodes = NAMES.map(|name| Netns::new(&name.to_lowercase()).expect("a namespace"));
        switch
            .ip_batch("link add br0 type bridge\naddr add 198.18.7.1/24 dev br0\nlink set br0 up")
            .expect("a switch");
        let wire = |node: usize| {
            let first = WireEnd {
                netns: &nodes[node],
                interface: "net1",
            };
            let port = format!("port{node}");
            let second = WireEnd {
                netns: &switch,
                interface: &port,
            };
            let wire = DelayLine::between(first, second, 1500).expect("a wire");
            let delay = Duration::from_millis(AWAY[node].into());
            wire.set_both(&Impairment::delay(delay));
            wire
        };
        let wires = [wire(0), wire(1)];
        switch
            .veth("port2", &nodes[2], "net1", 1500)
            .expect("a wire");
        for (at, (node, address)) in nodes.iter().zip(ADDRESSES).enumerate() {
            node.ip_batch(&format!(
                "addr add {address}/24 dev net1\nlink set net1 up\nlink set lo up"
            ))
            .expect("an address");
            switch
                .ip_batch(&format!(
                    "link set port{at} master br0\nlink set port{at} up"
                ))
                .expect("a port");
        }
        for address in ADDRESSES {
            wait_reachable(&switch, address.parse().expect("an address")).expect("reachable");
        }
        Self {
            switch,
            each: nodes,
            _wires: wires,
        }
    }

    /// The file of a node, with the comma of the documented example.
    fn file(own: usize) -> String {
        let others = (0..NAMES.len()).filter(|other| *other != own);
        let neighbours = others.map(|other| {
            format!(
                "    {{\n      \"name\": \"{}\",\n      \"ip\": \"{}\",\n      \"rttInterval\": 1,\n      \
                 \"jitterInterval\": 1,\n      \"throughputInterval\": 20,\n    }}",
                NAMES[other], ADDRESSES[other]
            )
        });
        let neighbours: Vec<_> = neighbours.collect();
        format!(
            "{{\n  \"Nodename\": \"{}\",\n  \"spreadFactor\": 0.2,\n  \"probeInterface\": \"net1\",\n  \
             \"ipAddress\": \"{}/24\",\n  \"MetricsNeighbourNodes\": [\n{}\n  ]\n}}\n",
            NAMES[own],
            ADDRESSES[own],
            neighbours.join(",\n")
        )
    }
}

/// Milliseconds that a busy machine may add to what a wire takes.
const LATE: f64 = 50.0;

/// Each node runs its own file of L2S-M LPM. L2S-M LPM's own query, at a real Prometheus that scrapes
/// port 8090 of each node, gives round trip and jitter of each pair, as the wires have them.
#[test]
fn files_of_l2sm_run_unchanged_and_its_queries_have_values() {
    if !kernel_is_usable() {
        return;
    }
    let Some(prometheus) = prom::tool("prometheus") else {
        return;
    };
    let net = Nodes::new();
    let agents: Vec<_> = (net.each.iter().enumerate())
        .map(|(own, node)| Inside::start(node, "config.json", &Nodes::file(own)))
        .collect();
    for agent in &agents {
        agent.lpm.wait_for("the agent keeps no capability");
        agent
            .lpm
            .wait_for("the configuration is L2S-M LPM's configuration");
        agent.lpm.wait_for("is not measured yet");
    }
    net.switch.ip("link set lo up").expect("loopback");
    let directory = tempfile::tempdir().expect("a directory");
    let targets = ADDRESSES
        .map(|address| format!("\"{address}:8090\""))
        .join(", ");
    let config = format!(
        "global: {{scrape_interval: 5s}}\nscrape_configs:\n- job_name: lpm\n  static_configs: [{{targets: [{targets}]}}]\n"
    );
    let prometheus = net.switch.command(prometheus.get_program());
    let (_prometheus, address) =
        prom::start(&net.switch, prometheus, directory.path(), &config, &[]);
    // As its exporter asks.
    let query = "{__name__=~\"net_.*\"}";
    let mut found = Vec::new();
    eventually("all pairs have both figures", || {
        let asked = net.switch.run_in(|| prom::ask(&address, query));
        found = asked.expect("run").unwrap_or_default();
        found.len() == 12
    });
    for (source, name) in NAMES.iter().enumerate() {
        for (target, other) in NAMES.iter().enumerate().filter(|(at, _)| *at != source) {
            let of = |figure: &str| {
                let is = |metric: &serde_json::Value| {
                    let called = metric["__name__"].as_str().expect("a name");
                    // Its exporter takes the name apart like this.
                    let parts: Vec<_> = called.split('_').collect();
                    parts[..3].join("_") == figure
                        && parts[3].len() == 8
                        && metric["source_node"] == **name
                        && metric["target_node"] == **other
                };
                let one = found.iter().find(|one| is(&one["metric"]));
                prom::value(one.expect("a series")).expect("a number")
            };
            let (round_trip, jitter) = (of("net_rtt_ms"), of("net_jitter_ms"));
            let wires = f64::from(2 * (AWAY[source] + AWAY[target]));
            println!("{name} to {other}: {round_trip} ms, {jitter} ms; the wires' {wires} ms");
            // The wires' threads are late on a busy machine.
            assert!(
                round_trip >= wires && round_trip < wires + LATE,
                "{round_trip}"
            );
            assert!((0.0..LATE).contains(&jitter), "{jitter}");
        }
    }
    let a_to_b = "net_rtt_ms_6b64af74{source_node=\"NodeA\",target_node=\"NodeB\"}";
    let page = agents[0].get("127.0.0.1:8090/metrics").expect("metrics");
    assert!(value(&page, a_to_b).is_some(), "{page}");
    assert!(
        page.contains("lpm_probe_rtt_seconds_count{source_node=\"NodeA\",target_node=\"NodeC\"")
    );
    assert!(
        !page.contains("lpm_flows"),
        "it measures no packet of others: {page}"
    );
    assert_eq!(agents[0].get("127.0.0.1:8090/api/v1/probes"), None);
    assert!(agents[0].get("127.0.0.1:9477/api/v1/probes").is_some());
    assert_eq!(agents[0].get("127.0.0.1:9477/api/v1/flows"), None);
    // Who is no neighbour gets no answer.
    let mut stranger = net.switch.command(lpm().get_program());
    stranger.args(["probe", "-c", "1", "-W", "0.3", "198.18.7.2:8620"]);
    let stranger = stranger.output().expect("a probe");
    assert_eq!(stranger.status.code(), Some(1), "{stranger:?}");
}

/// Once the last train has no answer there is no value any more. There it would be 0.
#[test]
fn a_target_that_is_gone_has_no_series_of_l2sm() {
    if !kernel_is_usable() {
        return;
    }
    let pair = Pair::new(&PairConfig::default()).expect("a wire");
    let start = |netns: &Netns, text: &str| {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("lpm.yaml").display().to_string();
        fs::write(&file, text).expect("write");
        let agent = Agent::start_with(netns, &["-c", &file], &[("NODE_NAME", "NodeA")]);
        (agent, directory)
    };
    let (reflector, _file) = start(
        &pair.server,
        "role: prober\nreflector: {listen: [\"[::]:8620\"], allow: [198.18.1.0/24]}\n",
    );
    let (agent, _file) = start(
        &pair.client,
        "role: prober\nexport: {l2sm_series: true}\nprobes: {interval: 200ms, timeout: 100ms, \
         targets: [{name: NodeB, address: 198.18.2.2}]}\n",
    );
    let series = "net_rtt_ms_6b64af74{source_node=\"NodeA\",target_node=\"NodeB\"}";
    eventually("a value", || agent.value(series).is_some());
    pair.wire().set(
        Direction::Forward,
        Impairment::delay(Duration::from_secs(30)),
    );
    eventually("no value", || agent.value(series).is_none());
    assert!(
        agent.metrics().contains("lpm_probe_rtt_seconds_count"),
        "what was counted stays"
    );
    pair.wire().set(Direction::Forward, Impairment::default());
    eventually("a value again", || agent.value(series).is_some());
    reflector.stop();
    agent.lpm.child.signal(Signal::SIGTERM).expect("signal");
}

/// LLAMA's file, and one of its older form, against a reflector at LLAMA's port.
#[test]
fn files_of_llama_run_unchanged() {
    if !kernel_is_usable() {
        return;
    }
    let pair = Pair::new(&PairConfig::default()).expect("a wire");
    pair.set_delay(Duration::from_millis(3));
    let _reflector = Inside::start(
        &pair.server,
        "lpm.yaml",
        "role: prober\nreflector: {listen: [\"[::]:8100\"], allow: [198.18.1.0/24]}\n",
    );
    let full = "api: {bind: '0.0.0.0:5000'}\n\
                ports: {default: {ip: 0.0.0.0, port: 0, tos: 184, timeout: 1000}}\n\
                port_groups: {default: [{port: default, count: 4}]}\n\
                rate_limits: {default: {cps: 4.0}}\n\
                tests: [{targets: default, port_group: default, rate_limit: default}]\n\
                targets:\n    default:\n        - ip: 198.18.2.2\n          port: 8100\n          tags:\n            \
                dst_hostname: host-b\n            rack: 01\n            src_hostname: host-a\n";
    let legacy = "198.18.2.2:\n    dst_hostname: host-b\n    rack: 01\n    src_hostname: host-a\n";
    for (text, at, class) in [(full, "127.0.0.1:5000", 46), (legacy, "127.0.0.1:9477", 0)] {
        let agent = Inside::start(&pair.client, "llama.yaml", text);
        let labels = format!(
            "{{source_node=\"host-a\",target_node=\"host-b\",protocol=\"stamp\",dscp=\"{class}\"}}"
        );
        let mut page = String::new();
        eventually("answers are counted", || {
            page = agent.get(&format!("{at}/metrics")).unwrap_or_default();
            let count = value(&page, &format!("lpm_probe_rtt_seconds_count{labels}"));
            count.is_some_and(|count| count >= 16.0)
        });
        let of = |part: &str| value(&page, &format!("lpm_probe_rtt_seconds_{part}{labels}"));
        let mean = of("sum").expect("a sum") / of("count").expect("a count");
        println!("mean {mean} s");
        assert!((0.006..0.006 + LATE / 1e3).contains(&mean), "{mean}");
        let probes = agent.get("127.0.0.1:9477/api/v1/probes").expect("probes");
        assert!(probes.contains("\"rack\":\"01\""), "{probes}");
    }
}
