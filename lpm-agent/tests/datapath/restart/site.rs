//! A pod that talks, and a BPF file system of its own for whoever watches it.

use std::{fs, net::SocketAddr, path::PathBuf, sync::atomic::Ordering};

use aya::maps::MapData;
use lpm_agent::kernel::{attach::Mode, mmap::MmapArray};
use lpm_common::layout::{FlowEntry, Traffic};
use lpm_testbed::{
    testbed::{Bpffs, Netns, Pair, PairConfig},
    traffic::{Background, Limit, PORT, RequestConfig, RequestReport, Server, requests},
};

use crate::support::lpm::{Agent, eventually};

/// The pod is in namespace `shop`, the remote machine in `db`.
const NAMES: &str = "- {cidr: 198.18.1.0/24, namespace: shop, pod: web-0}
- {cidr: 198.18.2.0/24, namespace: db, pod: pg-0}
";

/// What can be tried here.
pub(crate) fn modes() -> &'static [Mode] {
    if Mode::Auto.resolve() == Mode::Tcx {
        &[Mode::Tcx, Mode::Netlink]
    } else {
        &[Mode::Netlink]
    }
}

/// A pod, its node, a server, and a place for pins.
pub(crate) struct Site {
    pub(crate) pair: Pair,
    pub(crate) bpffs: Bpffs,
    mode: Mode,
    directory: tempfile::TempDir,
    begun: u64,
    _server: Server,
}

impl Site {
    pub(crate) fn new(mode: Mode, keep: &str) -> Self {
        let pair = Pair::new(&PairConfig {
            wire: None,
            ..PairConfig::default()
        })
        .expect("a testbed");
        let server = Server::start(&pair.server, PORT).expect("a server");
        let directory = tempfile::tempdir().expect("a directory");
        let bpffs = Bpffs::mount("mode=0700").expect("a BPF file system");
        let config = format!(
            "window: 1s\nnames: names.yaml\nflows: 1024\nrows: 16\n\
             pins: {{enabled: true, path: {}, keep: {keep}}}\n",
            bpffs.path().join("lpm").display()
        );
        fs::write(directory.path().join("lpm.yaml"), config).expect("a configuration");
        let site = Self {
            begun: segments(&pair.client),
            pair,
            bpffs,
            mode,
            directory,
            _server: server,
        };
        site.name(NAMES);
        site
    }

    /// Other names for the agents to come.
    pub(crate) fn name(&self, names: &str) {
        fs::write(self.directory.path().join("names.yaml"), names).expect("names");
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.bpffs.path().join("lpm")
    }

    /// The directories of layouts.
    pub(crate) fn layouts(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.pins()).into_iter().flatten();
        let mut found: Vec<PathBuf> = entries.map(|entry| entry.expect("list").path()).collect();
        found.sort();
        found
    }

    /// What is added to the configuration of the agents to come.
    pub(crate) fn configure(&self, more: &str) {
        let path = self.directory.path().join("lpm.yaml");
        let text = fs::read_to_string(&path).expect("the configuration");
        fs::write(path, text + more).expect("write");
    }

    /// Starts an agent over the pins.
    pub(crate) fn agent(&self, more: &[&str]) -> Agent {
        self.agent_with(more, &[])
    }

    /// Starts an agent over the pins, with these environment variables.
    pub(crate) fn agent_with(&self, more: &[&str], environment: &[(&str, &str)]) -> Agent {
        let config = self.config();
        let arguments = [&self.fixed(&config), more].concat();
        Agent::start_with(&self.pair.node, &arguments, environment)
    }

    /// Starts the agent of another build over the pins.
    #[cfg(feature = "upgrade")]
    pub(crate) fn agent_of(&self, program: &std::path::Path, more: &[&str]) -> Agent {
        let config = self.config();
        let arguments = [&self.fixed(&config), more].concat();
        Agent::start_of(program, &self.pair.node, &arguments)
    }

    fn config(&self) -> String {
        self.directory.path().join("lpm.yaml").display().to_string()
    }

    fn fixed<'a>(&'a self, config: &'a str) -> [&'a str; 6] {
        let mode = self.mode.as_str();
        ["-c", config, "-i", Pair::POD_INTERFACE, "--attach", mode]
    }

    /// Requests from the pod until they are stopped.
    pub(crate) fn talk(&self) -> Background<RequestReport> {
        let config = RequestConfig {
            limit: Limit::default(),
            ..RequestConfig::new(SocketAddr::from((Pair::SERVER[0], PORT)))
        };
        Background::start(&self.pair.client, move |control| requests(&config, control))
            .expect("start requests")
    }

    /// Segments that the pod has sent and received since the site was laid out: the truth.
    pub(crate) fn truth(&self) -> u64 {
        segments(&self.pair.client) - self.begun
    }

    /// Waits until the pod has talked for a while.
    pub(crate) fn while_it_talks(&self) {
        let begun = self.truth();
        eventually("traffic", || self.truth() > begun + 2000);
    }

    /// Packets in the pinned flow table, without an agent.
    pub(crate) fn counted(&self) -> u64 {
        let layouts = self.layouts();
        let map = MapData::from_pin(layouts[0].join("FLOWS")).expect("the flow table");
        let flows = MmapArray::<FlowEntry>::new(&map).expect("in memory");
        let entries = flows.iter();
        let entries = entries.filter(|entry| entry.fingerprint.load(Ordering::Relaxed) != 0);
        let traffic = entries.flat_map(|entry| &entry.hot);
        traffic
            .map(|way| Traffic::unpack(way.traffic.load(Ordering::Relaxed)).packets)
            .sum()
    }
}

/// TCP segments that a machine has sent and received.
fn segments(netns: &Netns) -> u64 {
    let table = netns
        .run_in(|| fs::read_to_string("/proc/thread-self/net/snmp"))
        .expect("enter")
        .expect("the kernel's counters");
    let mut lines = table.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let names = lines.next().expect("names").split(' ');
    let values = lines.next().expect("values").split(' ');
    names
        .zip(values)
        .filter(|(name, _)| ["InSegs", "OutSegs", "RetransSegs"].contains(name))
        .map(|(_, value)| value.parse::<u64>().expect("a number"))
        .sum()
}
