//! Signs of life: running agents announce themselves to one another, per network namespace.
//!
//! A netlink filter outlives its agent. So a filter of ours may be a leftover, or may belong to an
//! agent that runs right now (`lpm top` beside `lpm run`). Each agent binds an abstract Unix socket
//! whose name holds its process id and the ids of its programs. Abstract names belong to a network
//! namespace and vanish with the process, however it dies. So each listed agent is alive.
//!
//! Anybody can bind any name. So a name counts only if root or this process's user bound it, or if
//! a process can be seen to hold the programs that it names.

use std::{
    cell::LazyCell,
    collections::BTreeMap,
    fs,
    io::{self, BufRead},
    ops::Deref,
    os::{linux::net::SocketAddrExt, unix::net::SocketAddr, unix::net::UnixDatagram},
};

use super::{
    holders,
    pins::is_trusted,
    privileges,
    unix_sockets::{self, Named},
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
    Ok(proven(&names(PREFIX)?, &LazyCell::new(holders::programs)))
}

/// The agents among sockets. `held` has the programs that processes can be seen to hold, each with
/// the process id.
fn proven(sockets: &[Named], held: &impl Deref<Target = BTreeMap<u32, u32>>) -> Vec<RunningAgent> {
    let prove = |socket: &Named| {
        let mut agent = parse(&socket.name)?;
        if !is_believed(socket) {
            agent.programs.retain(|program| held.contains_key(program));
            // Another process may have bound the name, and named that one.
            agent.pid = *held.get(agent.programs.first()?)?;
        }
        Some(agent)
    };
    sockets.iter().filter_map(prove).collect()
}

/// True if the name needs no other proof. Where the kernel does not tell the owner, it is believed
/// by those who could see no proof.
fn is_believed(socket: &Named) -> bool {
    match socket.owner {
        Some(owner) => is_trusted(owner),
        None => !privileges::sees_other_processes(),
    }
}

/// The interfaces that running agents watch as `node`, with the agent's process id, in the calling
/// thread's network namespace. The key is the interface's index.
pub(crate) fn joined() -> io::Result<BTreeMap<u32, u32>> {
    let parse = |socket: &Named| {
        let (pid, ifindex) = socket.name.strip_prefix(JOINED)?.split_once('/')?;
        let (pid, ifindex) = (pid.parse().ok()?, ifindex.parse().ok()?);
        let proven = is_believed(socket) || !holders::programs_of(pid).is_empty();
        proven.then_some((ifindex, pid))
    };
    Ok(names(JOINED)?.iter().filter_map(parse).collect())
}

/// The abstract sockets of the calling thread's network namespace whose names begin so.
fn names(prefix: &str) -> io::Result<Vec<Named>> {
    let mut found = match unix_sockets::named() {
        Ok(found) => found,
        // The kernel was built without it, or a seccomp profile forbids it.
        Err(error) => {
            tracing::debug!(%error, "the kernel does not tell who owns the Unix sockets");
            listed()?
        }
    };
    found.retain(|socket| socket.name.starts_with(prefix));
    Ok(found)
}

/// The abstract sockets as `/proc` lists them, without their owners.
fn listed() -> io::Result<Vec<Named>> {
    // The file is the thread's, not the process's: another thread may be in another namespace.
    let table = fs::File::open("/proc/thread-self/net/unix")?;
    let mut found = Vec::new();
    for line in io::BufReader::new(table).lines() {
        // The name is last. An abstract one starts with '@'.
        let line = line?;
        let name = line.rsplit(' ').next();
        found.extend(
            name.and_then(|name| name.strip_prefix('@'))
                .map(|name| Named {
                    name: name.to_owned(),
                    owner: None,
                }),
        );
    }
    Ok(found)
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
    fn a_stranger_is_believed_only_what_can_be_seen() {
        let held = Box::new(BTreeMap::from([(20, 77), (21, 77)]));
        let socket = |owner| Named {
            name: name_of(1, &[19, 20]),
            owner: Some(owner),
        };
        let agent = |pid, programs: &[u32]| RunningAgent {
            pid,
            programs: programs.to_vec(),
        };
        assert_eq!(proven(&[socket(0)], &held), [agent(1, &[19, 20])]);
        assert_eq!(proven(&[socket(65_534)], &held), [agent(77, &[20])]);
        let nobody = Box::new(BTreeMap::new());
        assert_eq!(proven(&[socket(65_534)], &nobody), []);
    }

    #[test]
    fn both_lists_of_sockets_agree() {
        let _presence = announce(&[u32::MAX - 2]).expect("announce");
        let name = name_of(std::process::id(), &[u32::MAX - 2]);
        for found in [unix_sockets::named(), listed()] {
            let found = found.expect("a list");
            assert!(found.iter().any(|socket| socket.name == name), "{found:?}");
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
