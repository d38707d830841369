//! An agent that measures, and the testbed it lives in.
//!
//! The agent may be in a control group of its own, with a memory limit.

use std::{fs, net::SocketAddr, path::PathBuf};

use lpm_testbed::{
    testbed::{Pair, PairConfig},
    traffic::{Background, PORT, RequestConfig, RequestReport, Server, requests},
};

use crate::support::lpm::{Agent, eventually};

/// The pod is in namespace `shop`, the remote machine in `db`.
const NAMES: &str = "- {cidr: 198.18.1.0/24, namespace: shop, pod: web-0, workload: web}
- {cidr: 198.18.2.0/24, namespace: db, service: pg}
";

/// What an agent may use, bytes.
pub(crate) const MEMORY: u64 = 1 << 30;

pub(crate) struct Site {
    // Dropped in this order: a group goes when nobody is in it.
    pub(crate) agent: Agent,
    group: Option<Group>,
    traffic: Option<Background<RequestReport>>,
    _server: Server,
    pub(crate) pair: Pair,
    _directory: tempfile::TempDir,
}

impl Site {
    /// Pods told apart; requests and answers of several segments, so that there are prompt echoes.
    pub(crate) fn new() -> Self {
        let pair = Pair::new(&PairConfig::default()).expect("a testbed");
        let server = Server::start(&pair.server, PORT).expect("a server");
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        fs::write(path("names.yaml"), NAMES).expect("names");
        let config = "names: names.yaml\nflows: 1024\nrows: 16\nwindow: 1s\nlevels: {pod: true}\n";
        fs::write(path("lpm.yaml"), config).expect("a configuration");
        let config = path("lpm.yaml");
        let config = config.to_str().expect("a path");
        let agent = Agent::start(&pair.node, &["-c", config, "-i", Pair::POD_INTERFACE]);
        let group = Group::make(agent.lpm.child.id());
        let config = RequestConfig {
            request: 20_000,
            response: 20_000,
            ..RequestConfig::new(SocketAddr::from((Pair::SERVER[0], PORT)))
        };
        let traffic = Background::start(&pair.client, move |control| requests(&config, control));
        eventually("something is measured", || {
            let metrics = agent.metrics();
            let prompt = "leg=\"remote\",echo=\"prompt\"} ";
            metrics.contains(prompt) && metrics.contains("lpm_flow_rtt_seconds_count")
        });
        Self {
            agent,
            group,
            traffic: Some(traffic.expect("start requests")),
            _server: server,
            pair,
            _directory: directory,
        }
    }

    /// Address and port of the agent.
    pub(crate) fn target(&self) -> &str {
        self.agent.url.strip_prefix("http://").expect("a URL")
    }

    /// Whether the agent has a memory limit of [`MEMORY`].
    pub(crate) fn has_limit(&self) -> bool {
        self.group.is_some()
    }

    /// From now on nothing is sent.
    pub(crate) fn be_quiet(&mut self) {
        if let Some(traffic) = self.traffic.take() {
            traffic.stop().expect("requests");
        }
    }
}

/// A control group with a memory limit.
struct Group(PathBuf);

impl Group {
    /// Puts a process into one; `None`: this machine lets nobody make one, which is printed as a
    /// skip.
    fn make(process: u32) -> Option<Self> {
        for (top, limit) in [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ] {
            let group = PathBuf::from(top).join(format!("lpm-test-{process}"));
            if fs::create_dir(&group).is_err() {
                continue;
            }
            let group = Self(group);
            let set = fs::write(group.0.join(limit), MEMORY.to_string())
                .and_then(|()| fs::write(group.0.join("cgroup.procs"), process.to_string()));
            if set.is_ok() {
                return Some(group);
            }
        }
        println!("LPM-SKIP cgroup: no control group with a memory limit can be made here");
        None
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The agent may take a moment to go.
        let begun = std::time::Instant::now();
        while fs::remove_dir(&self.0).is_err() && begun.elapsed().as_secs() < 10 {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
