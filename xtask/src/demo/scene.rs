//! What the demo shows: nodes, pods, their names and the traffic between them.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::children::{Child, wait_until};
use crate::paths;

/// Port that the pods' servers listen on.
const PORT: u16 = 5301;

/// Time that the testbed and the servers may take to start.
const PATIENCE: Duration = Duration::from_mins(1);

/// Each pod's place in the testbed, its Kubernetes namespace, name and workload.
const PODS: [(&str, &str, &str, &str); 6] = [
    ("a0", "shop", "web-0", "web"),
    ("a1", "shop", "cart-0", "cart"),
    ("a2", "media", "player-0", "player"),
    ("a3", "reports", "dashboard-0", "dashboard"),
    ("b2", "media", "store-0", "store"),
    ("b3", "reports", "database-0", "database"),
];

/// What `lpm-testbed overlay` says of itself.
#[derive(Debug, Deserialize)]
pub(super) struct Layout {
    nodes: [String; 2],
    pods: Vec<Pod>,
}

#[derive(Debug, Deserialize)]
struct Pod {
    name: String,
    namespace: String,
    v4: String,
    v6: String,
}

impl Layout {
    /// Starts the testbed; it lasts as long as the returned process.
    pub(super) fn start(delay: &str, logs: &Path) -> Result<(Child, Self)> {
        let mut command = testbed();
        command.args(["overlay", "--flavour=l2sm", "--pods=4", "--delay", delay]);
        // The bulk transfer may fill neither this machine nor the wire's queue.
        command.args(["--rate=60000000", "--queue=64"]);
        let mut child = Child::start(&mut command, "testbed", logs)?;
        let mut layout = None;
        wait_until(PATIENCE, "the testbed", || {
            child.check()?;
            let printed = child.printed();
            let line = printed
                .lines()
                .find(|line| line.starts_with('{') && line.ends_with('}'));
            layout = line.map(ToOwned::to_owned);
            Ok(layout.is_some())
        })?;
        let line = layout.context("the testbed printed no layout")?;
        let layout = serde_json::from_str(&line)
            .with_context(|| format!("the testbed's layout is not as expected: {line}"))?;
        Ok((child, layout))
    }

    /// The names of the nodes' network namespaces.
    pub(super) fn nodes(&self) -> &[String; 2] {
        &self.nodes
    }

    /// Text of the names file for the agents.
    pub(super) fn names(&self) -> String {
        let mut text = String::from("# Who is who in the demo.\n");
        for (place, namespace, pod, workload) in PODS {
            let Some(found) = self.pods.iter().find(|pod| pod.name == place) else {
                continue;
            };
            let node = if place.starts_with('a') {
                "node-a"
            } else {
                "node-b"
            };
            for address in [&found.v4, &found.v6] {
                let entry = format!(
                    "- {{address: \"{address}\", namespace: {namespace}, pod: {pod}, \
                     workload: {workload}, node: {node}}}\n"
                );
                text.push_str(&entry);
            }
        }
        text
    }

    fn pod(&self, place: &str) -> Result<&Pod> {
        let pod = self.pods.iter().find(|pod| pod.name == place);
        pod.with_context(|| format!("the testbed has no pod {place}"))
    }

    /// Makes the command `lpm-testbed traffic ...` in a pod.
    fn traffic(&self, place: &str) -> Result<Command> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.pod(place)?.namespace]);
        command.arg(paths::dev_binary("lpm-testbed")).arg("traffic");
        Ok(command)
    }

    fn target(&self, place: &str, v6: bool) -> Result<String> {
        let Pod { v4, v6: long, .. } = self.pod(place)?;
        Ok(if v6 {
            format!("[{long}]:{PORT}")
        } else {
            format!("{v4}:{PORT}")
        })
    }
}

/// Servers in all pods and the clients that make the three namespaces differ.
pub(super) struct Traffic {
    // Clients end before the servers they talk to.
    _clients: Vec<Child>,
    _servers: Vec<Child>,
}

impl Traffic {
    /// Description of the traffic, for people.
    pub(super) const DESCRIPTION: &str = "shop: requests on one node; media: a bulk transfer across the wire; \
         reports: requests across the wire to a server that thinks for 30 ms";

    /// Starts the traffic. Returns once the servers listen and the clients run.
    pub(super) fn start(layout: &Layout, logs: &Path) -> Result<Self> {
        let mut servers = Vec::new();
        for (place, ..) in PODS {
            let mut command = layout.traffic(place)?;
            command.args(["serve", "--port", &PORT.to_string()]);
            servers.push(Child::start(
                &mut command,
                &format!("server-{place}"),
                logs,
            )?);
        }
        wait_until(PATIENCE, "the servers", || {
            servers.iter_mut().try_for_each(Child::check)?;
            Ok(servers.iter().all(|server| listens(server.id())))
        })?;
        let mut clients = Vec::new();
        let mut client = |from: &str, kind: &str, to: &str, v6: bool, args: &[&str]| {
            let mut command = layout.traffic(from)?;
            command.arg(kind).args(args).arg(layout.target(to, v6)?);
            let name = format!("{kind}-{from}-{to}{}", if v6 { "-v6" } else { "" });
            clients.push(Child::start(&mut command, &name, logs)?);
            anyhow::Ok(())
        };
        // Answers of several full segments: their ACKs come at once, so that the network's share
        // shows beside the servers' thinking.
        let shopping = ["--connections=2", "--period=20ms", "--response=8000"];
        client("a0", "requests", "a1", false, &shopping)?;
        client("a0", "requests", "a1", true, &shopping)?;
        client("a2", "bulk", "b2", false, &[])?;
        // A short request is acknowledged with its answer, after the thinking; a long one at once.
        let short = ["--think=30ms", "--period=50ms", "--connections=2"];
        client("a3", "requests", "b3", false, &short)?;
        let long = ["--think=30ms", "--period=50ms", "--request=8000"];
        client("a3", "requests", "b3", true, &long)?;
        Ok(Self {
            _clients: clients,
            _servers: servers,
        })
    }
}

fn testbed() -> Command {
    Command::new(paths::dev_binary("lpm-testbed"))
}

/// Whether something in the network namespace of process `id` listens on [`PORT`].
fn listens(id: u32) -> bool {
    let local = format!(":{PORT:04X} ");
    ["tcp", "tcp6"].iter().any(|table| {
        let table = fs::read_to_string(format!("/proc/{id}/net/{table}")).unwrap_or_default();
        // Local address, remote address, state: 0A is LISTEN.
        table.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (address, state) = (words.next().unwrap_or_default(), words.nth(1));
            format!("{address} ").ends_with(&local) && state == Some("0A")
        })
    })
}
