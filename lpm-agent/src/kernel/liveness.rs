//! Signs of life: running agents announce themselves to one another, per network namespace.
//!
//! A netlink filter outlives its agent. So a filter of ours may be a leftover, or may belong to an
//! agent that runs right now (`lpm top` beside `lpm run`). Each agent binds an abstract Unix socket
//! whose name holds its process id and the ids of its programs. Abstract names belong to a network
//! namespace and vanish with the process, however it dies. So each listed agent is alive.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead},
    os::{linux::net::SocketAddrExt, unix::net::SocketAddr, unix::net::UnixDatagram},
};

/// Prefix of every agent's socket name. The number is the version of the rest of the name.
const PREFIX: &str = "lpm-agent/1/";

/// Prefix of the socket name for an interface that is watched as `node`. The number is the version
/// of the rest of the name.
const JOINED: &str = "lpm-agent-node/1/";

/// A sign of this agent. It vanishes when dropped.
#[derive(Debug)]
pub(crate) struct Liveness(#[allow(dead_code, reason = "held open, never read")] UnixDatagram);

/// An agent that runs in this network namespace.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RunningAgent {
    /// Process id of the agent, in its own PID namespace.
    pub pid: u32,
    /// Kernel ids of the agent's programs.
    pub programs: Vec<u32>,
}

/// Announces this agent in the calling thread's network namespace.
pub(crate) fn announce(programs: &[u32]) -> io::Result<Liveness> {
    let name = name_of(std::process::id(), programs);
    let address = SocketAddr::from_abstract_name(name)?;
    UnixDatagram::bind_addr(&address).map(Liveness)
}

/// Announces that an interface carries one direction only and is watched as `node`.
pub(crate) fn announce_joined(ifindex: u32) -> io::Result<Liveness> {
    let name = format!("{JOINED}{}/{ifindex}", std::process::id());
    let address = SocketAddr::from_abstract_name(name)?;
    UnixDatagram::bind_addr(&address).map(Liveness)
}

/// The agents of the calling thread's network namespace, this process's own included.
pub fn running_agents() -> io::Result<Vec<RunningAgent>> {
    Ok(names()?.iter().filter_map(|name| parse(name)).collect())
}

/// The interfaces that running agents watch as `node`, with the agent's process id, in the calling
/// thread's network namespace. The key is the interface's index.
pub(crate) fn joined() -> io::Result<BTreeMap<u32, u32>> {
    let parse = |name: &String| {
        let (pid, ifindex) = name.strip_prefix(JOINED)?.split_once('/')?;
        Some((ifindex.parse().ok()?, pid.parse().ok()?))
    };
    Ok(names()?.iter().filter_map(parse).collect())
}

/// The abstract socket names of the calling thread's network namespace.
fn names() -> io::Result<Vec<String>> {
    // The file is the thread's, not the process's: another thread may be in another namespace.
    let table = fs::File::open("/proc/thread-self/net/unix")?;
    let mut names = Vec::new();
    for line in io::BufReader::new(table).lines() {
        // The name is last. An abstract one starts with '@'. Anybody can bind any name, so a name
        // that does not parse is not ours.
        let line = line?;
        let name = line
            .rsplit(' ')
            .next()
            .and_then(|name| name.strip_prefix('@'));
        names.extend(name.map(str::to_owned));
    }
    Ok(names)
}

fn name_of(pid: u32, programs: &[u32]) -> String {
    let programs: Vec<String> = programs.iter().map(ToString::to_string).collect();
    format!("{PREFIX}{pid}/{}", programs.join("."))
}

fn parse(name: &str) -> Option<RunningAgent> {
    let (pid, programs) = name.strip_prefix(PREFIX)?.split_once('/')?;
    Some(RunningAgent {
        pid: pid.parse().ok()?,
        programs: programs
            .split('.')
            .map(|id| id.parse().ok())
            .collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let agent = parse(&name_of(4711, &[1, 20, 300]));
        assert_eq!(
            agent,
            Some(RunningAgent {
                pid: 4711,
                programs: vec![1, 20, 300]
            })
        );
        for wrong in [
            "",
            "lpm-agent/1/",
            "lpm-agent/1/x/1",
            "lpm-agent/1/1/x",
            "lpm-agent/2/1/1",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_agent_is_seen_as_long_as_it_lives() {
        // No program has these ids: other tests of this process announce themselves too.
        let programs = [u32::MAX, u32::MAX - 1];
        let seen = || {
            let agents = running_agents().expect("/proc/thread-self/net/unix");
            agents.iter().any(|agent| agent.programs == programs)
        };
        assert!(!seen());
        let presence = announce(&programs).expect("announce");
        assert!(seen());
        drop(presence);
        assert!(!seen());
    }
}
