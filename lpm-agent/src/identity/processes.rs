//! Finds the local process that holds a socket, across network namespaces.
//!
//! `/proc` shows it without any privilege beyond reading other users' descriptors. One process of
//! each network namespace shows that namespace's sockets. The descriptors of all processes show who
//! holds which.

use std::{collections::HashMap, fs, net::SocketAddr, os::unix::fs::MetadataExt, path::Path};

use procfs::process::{FDTarget, Process, all_processes};
use serde::{Deserialize, Serialize};

/// Directory where `ip netns` keeps its named network namespaces.
const NAMED: &str = "/run/netns";

/// The local holder of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Name of the process. None: the process is not visible to us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Id of the process. None: the process is not visible to us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Short id of the process's container, from its cgroup. None: it is in no container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Name of the network namespace. None: `ip netns` does not name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
}

/// Local and remote end of a socket.
type Ends = (SocketAddr, SocketAddr);

/// All TCP sockets that `/proc` shows, by their two ends.
#[derive(Clone, Debug, Default)]
pub struct Sockets {
    by_ends: HashMap<Ends, Holder>,
}

impl Sockets {
    /// Reads all processes. What cannot be read (a process that ended, one of another user) is left
    /// out.
    #[must_use]
    pub fn scan() -> Self {
        let named = named_namespaces();
        let mut by_inode: HashMap<u64, (i32, String, Option<String>)> = HashMap::new();
        let mut namespaces: HashMap<u64, Process> = HashMap::new();
        for process in all_processes().into_iter().flatten().flatten() {
            let Ok(stat) = process.stat() else { continue };
            let mut container = None;
            for fd in process.fd().into_iter().flatten().flatten() {
                if let FDTarget::Socket(inode) = fd.target {
                    let container = container.get_or_insert_with(|| container_of(process.pid));
                    by_inode
                        .entry(inode)
                        .or_insert_with(|| (process.pid, stat.comm.clone(), container.clone()));
                }
            }
            if let Ok(namespace) = fs::metadata(format!("/proc/{}/ns/net", process.pid)) {
                namespaces.entry(namespace.ino()).or_insert(process);
            }
        }
        let mut by_ends = HashMap::new();
        for (namespace, process) in namespaces {
            let netns = named.get(&namespace);
            let sockets = [process.tcp(), process.tcp6()];
            for socket in sockets.into_iter().flatten().flatten() {
                let found = by_inode.get(&socket.inode);
                let holder = Holder {
                    process: found.map(|(_, name, _)| name.clone()),
                    pid: found.map(|(pid, _, _)| *pid),
                    container: found.and_then(|(_, _, container)| container.clone()),
                    netns: netns.cloned(),
                };
                let ends = (plain(socket.local_address), plain(socket.remote_address));
                by_ends.insert(ends, holder);
            }
        }
        Self { by_ends }
    }

    /// The process that holds the socket with these ends.
    #[must_use]
    pub fn holder(&self, local: SocketAddr, remote: SocketAddr) -> Option<&Holder> {
        self.by_ends.get(&(local, remote))
    }
}

/// A socket address in the form of flows: no mapped IPv4, no scope.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Names of `ip netns` namespaces by inode.
fn named_namespaces() -> HashMap<u64, String> {
    fs::read_dir(Path::new(NAMED))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let inode = fs::metadata(entry.path()).ok()?.ino();
            Some((inode, entry.file_name().into_string().ok()?))
        })
        .collect()
}

/// The container of a process: the 64 hexadecimal digits in its cgroup's path, shortened to 12 as
/// container runtimes show them.
fn container_of(pid: i32) -> Option<String> {
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    container_in(&cgroup)
}

fn container_in(cgroup: &str) -> Option<String> {
    let id = cgroup
        .split(|c: char| !c.is_ascii_hexdigit())
        .find(|part| part.len() == 64)?;
    Some(id[..12].to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn our_own_socket_is_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let stream = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let local = stream.local_addr().expect("address");
        let remote = stream.peer_addr().expect("address");
        let sockets = Sockets::scan();
        let holder = sockets.holder(local, remote).expect("the socket is there");
        assert_eq!(holder.pid, i32::try_from(std::process::id()).ok());
    }

    #[test]
    fn containers_are_found_in_cgroups() {
        let id = "0123456789abcdef".repeat(4);
        for path in [
            format!("0::/system.slice/docker-{id}.scope\n"),
            format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope\n"),
            format!("12:cpu:/docker/{id}\n"),
        ] {
            assert_eq!(
                container_in(&path).as_deref(),
                Some("0123456789ab"),
                "{path}"
            );
        }
        assert_eq!(container_in("0::/user.slice/session-1.scope\n"), None);
    }
}
