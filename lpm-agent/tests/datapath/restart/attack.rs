//! Restarts, crashes, upgrades and downgrades under attack: what was measured before is there
//! afterwards, and what passes meanwhile is counted.
//!
//! The attack: HTTP clients of each hostile kind, a pod that opens connections and acknowledges no
//! answer, and a tenant who changes large annotations that claim others' addresses.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use lpm_agent::kernel::attach::Mode;
use lpm_testbed::{kubernetes::ApiServer, testbed::Pair};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{
    LONG, PACKETS, programs, samples_in,
    site::{Site, modes},
};
use crate::{
    support::{
        clients::{Clients, Ended, Kind},
        lpm::{Agent, eventually, kernel_is_usable, value},
    },
    tables::{Pod, Talk},
};

/// The node's end of the attacking pod's veth, and the attacker's address.
pub(super) const MALLORY: &str = "vethmallory";
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 9, 2);

/// Hostile HTTP clients of each kind.
const EACH: usize = 100;

const KINDS: &[Kind] = &[
    Kind::SlowReader,
    Kind::SlowWriter,
    Kind::Silent,
    Kind::Pipelining,
    Kind::Watcher,
];

/// Pause of the flood after 25 connections: more would take a CPU.
const PACE: Duration = Duration::from_millis(10);

/// Pods whose annotations change, and the addresses that each claims.
const TENANTS: u32 = 4;
const CLAIMED: u32 = 5000;

/// Segments that two counts may differ by when they are not of the same moment.
const IN_FLIGHT: u64 = 64;

/// The fewest programs that were seen on the hooks while a piece of work was done.
pub(super) fn fewest<T>(site: &Site, mode: Mode, work: impl FnOnce() -> T) -> (usize, T) {
    let (done, fewest) = (AtomicBool::new(false), AtomicUsize::new(usize::MAX));
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                fewest.fetch_min(programs(site, mode), Ordering::Relaxed);
            }
        });
        let _ended = Ended(&done);
        work()
    });
    (fewest.into_inner(), result)
}

/// Answered SYNs that nobody acknowledges, from one port after the other, some 2,500 a second.
pub(super) fn flood(mallory: &Pod, stop: &AtomicBool) {
    for port in (1024..65_000).cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        Talk::half_open(mallory, port);
        if port % 25 == 0 {
            thread::sleep(PACE);
        }
    }
}

fn annotations(round: u32) -> Value {
    let first = 0x0a00_0000 + round * CLAIMED;
    let more = (first..first + CLAIMED).map(|bits| Ipv4Addr::from_bits(bits).to_string());
    let victims = [Pair::SERVER[0].to_string(), Pair::CLIENT[0].to_string()];
    let claimed: Vec<String> = victims.into_iter().chain(more).collect();
    let networks = json!([{"name": "blue", "ips": claimed}]).to_string();
    json!({"k8s.v1.cni.cncf.io/network-status": networks, "l2sm/networks": networks})
}

fn tenants(api: &ApiServer) {
    let evil = json!({"metadata": {"name": "evil"}});
    api.create("/api/v1/namespaces", &evil).expect("evil");
    for number in 0..TENANTS {
        let pod = json!({
            "metadata": {"name": format!("m-{number}"), "annotations": annotations(0)},
            "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "none"}]},
        });
        api.create("/api/v1/namespaces/evil/pods", &pod)
            .expect("a pod");
    }
}

fn churn(api: &ApiServer, stop: &AtomicBool) {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let change = json!({"metadata": {"annotations": annotations(round % 100)}});
        let pod = format!("/api/v1/namespaces/evil/pods/m-{}", round % TENANTS);
        api.patch(&pod, &change).expect("annotations");
    }
}

/// An agent under attack by HTTP, and its hostile clients.
pub(super) struct Attacked {
    pub(super) agent: Agent,
    clients: Clients,
}

/// What an agent has counted of the victim's one connection, and of its pair of namespaces.
#[derive(Clone, Copy, Debug)]
struct Counted {
    packets: u64,
    samples: f64,
}

impl Attacked {
    pub(super) fn start(site: &Site, more: &[&str]) -> Self {
        let agent = site.agent(&[&["-i", MALLORY][..], more].concat());
        let to: SocketAddr = agent.url.replace("http://", "").parse().expect("a port");
        let from = (2..27).map(|n| Ipv4Addr::new(127, 0, 0, n)).collect();
        let clients = Clients::start(None, KINDS, EACH, from, to);
        Self { agent, clients }
    }

    /// What a path answers: a connection may be displaced by the hostile ones, and is tried again.
    fn ask(&self, path: &str) -> String {
        let mut text = None;
        eventually(path, || {
            let request = ureq::get(format!("{}{path}", self.agent.url));
            let answer = request.header("Cache-Control", "no-cache").call();
            text = answer.ok().and_then(|mut answer| {
                let body = answer.body_mut().with_config().limit(64 << 20);
                body.read_to_string().ok()
            });
            text.is_some()
        });
        text.expect("it was there")
    }

    fn counted(&self) -> Counted {
        let page: Value = serde_json::from_str(&self.ask("/api/v1/flows?all=true")).expect("JSON");
        let client = Pair::CLIENT[0].to_string();
        let flows = page["items"].as_array().expect("flows");
        let packets = flows
            .iter()
            .filter(|flow| flow["local"]["address"] == client.as_str())
            .flat_map(|flow| ["from_local", "to_local"].map(|way| &flow["packets"][way]))
            .map(|packets| packets.as_u64().expect("a number"));
        let metrics = self.ask("/metrics");
        assert!(!metrics.contains("namespace=\"evil\""), "{metrics}");
        Counted {
            packets: packets.sum(),
            samples: samples_in(&metrics),
        }
    }

    /// Each segment that the victim has sent or received is counted.
    fn has_all(&self, site: &Site) {
        let before = site.truth();
        let counted = self.counted().packets;
        let after = site.truth();
        assert!(
            (before.saturating_sub(IN_FLIGHT)..=after + IN_FLIGHT).contains(&counted),
            "{counted} packets, of {before} to {after}"
        );
    }

    /// The counters of this agent never go back, and go on.
    pub(super) fn grows(&self) {
        let mut last = (0.0, 0.0);
        for _ in 0..3 {
            let before = last;
            eventually("it measures", || {
                let page = self.ask("/metrics");
                let now = (samples_in(&page), value(&page, PACKETS).unwrap_or(0.0));
                assert!(now.0 >= last.0 && now.1 >= last.1, "{now:?} after {last:?}");
                last = now;
                now.0 > before.0 && now.1 > before.1
            });
        }
    }
}

/// Ends agents in good order and kills them. Each next one has all that those before it counted,
/// and what passed without an agent.
fn restarts(site: &Site) {
    let mut now = Attacked::start(site, &[]);
    let talk = site.talk();
    site.while_it_talks();
    let mut seen = now.counted();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        now.agent.lpm.end(signal);
        drop(now.clients);
        site.while_it_talks();
        now = Attacked::start(site, &[]);
        let took_over = "took over from the last agent on 2 interfaces";
        now.agent.lpm.wait_for(took_over);
        let next = now.counted();
        println!("{signal}: {seen:?}, then {next:?}");
        assert!(next.packets >= seen.packets + 2000, "{seen:?}, {next:?}");
        assert!(next.samples > seen.samples, "{seen:?}, then {next:?}");
        now.has_all(site);
        seen = next;
    }
    talk.stop().expect("requests");
    let page = now.ask("/metrics");
    let evicted = value(&page, "lpm_flow_events_total{event=\"evicted_share\"}").unwrap_or(0.0)
        + value(&page, "lpm_flow_events_total{event=\"evicted_half_open\"}").unwrap_or(0.0);
    assert!(evicted > 0.0, "the flood has filled its share");
    now.agent.stop();
}

/// Replaces the agent by one of another layout of the maps, and that by one of the first layout. No
/// hook is without a program.
fn layouts(site: &Site, mode: Mode) {
    let talk = site.talk();
    for layout in [&["--layout-version", "4000000001"][..], &[]] {
        let (fewest, now) = fewest(site, mode, || {
            let now = Attacked::start(site, layout);
            now.grows();
            now
        });
        assert!(fewest >= 2, "{mode:?}: a hook was without a program");
        assert_eq!(site.layouts().len(), 1, "one layout is left");
        now.agent.stop();
    }
    talk.stop().expect("requests");
}

#[test]
fn nothing_that_was_measured_is_lost_under_attack() {
    if !kernel_is_usable() {
        return;
    }
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    tenants(&api);
    for &mode in modes() {
        let site = Site::new(mode, LONG);
        site.configure(&format!(
            "node_name: n1\nidentity:\n  kubernetes: {{kubeconfig: {}, networks: [{{cidr: \
             198.18.0.0/15}}, {{cidr: 10.0.0.0/8}}]}}\n",
            api.kubeconfig().display()
        ));
        let mallory = Pod::new(&site.pair.node, MALLORY, "mallory", ADDRESS);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _ended = Ended(&stop);
            scope.spawn(|| flood(&mallory, &stop));
            scope.spawn(|| churn(&api, &stop));
            restarts(&site);
            layouts(&site, mode);
        });
    }
}
