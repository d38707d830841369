//! What an agent keeps of its rights, who can talk to it, and what each right that is missing says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    net::TcpListener,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::Command,
};

use lpm_agent::kernel::{Direction::Ingress, attach::Mode};
use lpm_testbed::testbed::{Bpffs, Netns};
use nix::sys::signal::Signal;
use procfs::process::{FDTarget, Process};
use serde_json::Value;

use crate::support::{
    kernel::{
        LIMIT, eventually, filters, kernel_is_usable, modes, node_with_pod, path_of, tcx_chain,
    },
    lpm::Agent,
};

/// `linux/capability.h`.
const DAC_READ_SEARCH: u64 = 1 << 2;
const NET_ADMIN: u64 = 1 << 12;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

/// What measuring takes.
const MEASURING: u64 = NET_ADMIN | PERFMON | BPF;

/// The status of each thread of a process: its name, and values by key.
fn threads(pid: u32) -> Vec<BTreeMap<String, String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    tasks
        .map(|task| {
            let path = task.expect("a thread").path().join("status");
            let status = fs::read_to_string(path).expect("its status");
            let lines = status.lines().filter_map(|line| line.split_once(':'));
            lines
                .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
                .collect()
        })
        .collect()
}

/// Holds that each thread has these capabilities, in no set more, and can get no other.
fn each_has(pid: u32, wanted: u64) {
    let threads = threads(pid);
    let names: BTreeSet<&str> = threads.iter().map(|one| one["Name"].as_str()).collect();
    for name in [
        "lpm",
        "lpm-async",
        "lpm-hotplug",
        "lpm-housekeep",
        "lpm-samples",
    ] {
        assert!(names.contains(name), "no {name} among {names:?}");
    }
    for thread in &threads {
        let set = |key: &str| u64::from_str_radix(&thread[key], 16).expect(key);
        assert_eq!(set("CapEff"), wanted, "{thread:?}");
        assert_eq!(set("CapPrm"), wanted, "{thread:?}");
        assert_eq!(set("CapBnd") & !wanted, 0, "{thread:?}");
        assert_eq!((set("CapInh"), set("CapAmb")), (0, 0), "{thread:?}");
        assert_eq!(thread["NoNewPrivs"], "1", "{thread:?}");
        assert_eq!(thread["Seccomp"], "2", "{thread:?}");
    }
}

/// A configuration file in a directory of its own.
fn configured(text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("lpm.yaml");
    fs::write(&file, text).expect("write");
    let path = file.display().to_string();
    (directory, path)
}

/// Programs on the ingress of an interface.
fn hooks(node: &Netns, interface: &str, mode: Mode) -> usize {
    match mode {
        Mode::Netlink => filters(node, interface, Ingress).len(),
        _ => tcx_chain(node, interface, Ingress).len(),
    }
}

#[test]
fn each_thread_keeps_three_capabilities_and_the_agent_works() {
    if !kernel_is_usable() {
        return;
    }
    for &mode in modes() {
        let (node, pod) = node_with_pod("va");
        let bpffs = Bpffs::mount("mode=0700").expect("a BPF file system");
        let pins = bpffs.path().join("lpm");
        let (_directory, file) = configured(&format!(
            "pins: {{enabled: true, path: {}}}\n",
            pins.display()
        ));
        let start = || Agent::start(&node, &["-c", &file, "--attach", mode.as_str()]);
        let agent = start();
        agent
            .lpm
            .wait_for("keeps CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON");
        each_has(agent.lpm.child.id(), MEASURING);
        // Hotplug.
        let name = pod.name();
        node.ip(&format!("link add vb type veth peer name vb netns {name}"))
            .expect("veth");
        node.ip("link set vb up").expect("up");
        pod.ip("link set vb up").expect("up");
        eventually("the new interface is watched", || {
            hooks(&node, "vb", mode) == 1
        });
        // A file that an editor replaced, and what it says.
        let text = fs::read_to_string(&file).expect("read");
        let other = format!("{file}.new");
        fs::write(&other, text + "interfaces: [{name: vb, vantage: none}]\n").expect("write");
        fs::rename(&other, &file).expect("replace");
        agent.lpm.wait_for("names and rules are applied");
        eventually("it is not watched any more", || {
            hooks(&node, "vb", mode) == 0
        });
        // The metrics read maps, interfaces, the process, and the programs' times.
        assert!(agent.metrics().contains("lpm_packets_total"));
        each_has(agent.lpm.child.id(), MEASURING);
        agent.stop();
        assert_eq!(hooks(&node, "va", mode), 1, "it is pinned");
        // The next one takes over with as little.
        let next = start();
        next.lpm.wait_for("took over from the last agent");
        assert_eq!(hooks(&node, "va", mode), 1);
        next.stop();
    }
}

#[test]
fn more_is_kept_where_it_is_asked_for() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let (_directory, file) = configured("privileges: process_names\n");
    let agent = Agent::start(&node, &["-c", &file]);
    each_has(
        agent.lpm.child.id(),
        MEASURING | SYS_PTRACE | DAC_READ_SEARCH,
    );
    agent.stop();
    let (_directory, file) = configured("privileges: all\n");
    let agent = Agent::start(&node, &["-c", &file]);
    for thread in threads(agent.lpm.child.id()) {
        let held = u64::from_str_radix(&thread["CapEff"], 16).expect("a set");
        assert_ne!(held & SYS_ADMIN, 0, "{thread:?}");
        assert_eq!(thread["NoNewPrivs"], "0", "{thread:?}");
    }
    agent.stop();
}

/// The process that the agent shows for the pod's end of its only connection. It belongs to
/// `nobody`.
fn process_shown(node: &Netns, pod: &Netns, privileges: &str) -> Value {
    let (_directory, file) = configured(&format!("privileges: {privileges}\n"));
    let agent = Agent::start(node, &["-c", &file]);
    let listen = || TcpListener::bind("198.18.9.1:0");
    let listener = node.run_in(listen).expect("enter").expect("bind");
    let port = listener.local_addr().expect("an address").port();
    let script = format!("exec 3<>/dev/tcp/198.18.9.1/{port}; printf x >&3; read -r -n1 <&3");
    let mut client = Command::new("nsenter");
    client
        .arg(format!("--net={}", path_of(pod)))
        .args([
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ])
        .args(["bash", "-c", &script]);
    let client = pod.spawn(&mut client).expect("start a client");
    listener.set_nonblocking(true).expect("a listener");
    let mut accepted = None;
    eventually("the client connects", || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let (mut stream, _) = accepted.expect("a connection");
    stream.set_nonblocking(false).expect("a stream");
    let mut byte = [0];
    stream.read_exact(&mut byte).expect("a byte");
    let mut shown = Value::Null;
    eventually("the flow is listed", || {
        let flows = agent.list("flows?all=true&processes=true");
        let mut ends = flows.into_iter().map(|flow| flow["local"].clone());
        let end = ends.find(|end| end["address"] == "198.18.9.2");
        let there = end.is_some();
        shown = end.map_or(Value::Null, |end| end["holder"]["process"].clone());
        there
    });
    drop(stream);
    client.wait(LIMIT).expect("the client ends");
    agent.stop();
    shown
}

#[test]
fn processes_of_other_users_are_shown_where_it_is_asked_for() {
    if !kernel_is_usable() {
        return;
    }
    let (node, pod) = node_with_pod("va");
    assert_eq!(process_shown(&node, &pod, "process_names"), "bash");
    assert_eq!(process_shown(&node, &pod, "least"), Value::Null);
}

#[test]
fn a_file_of_another_user_stays_readable() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let (directory, file) = configured("window: 7s\n");
    for (path, mode) in [(Path::new(&file), 0o600), (directory.path(), 0o700)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
        chown(path, Some(65_534), Some(65_534)).expect("chown");
    }
    let agent = Agent::start(&node, &["-c", &file]);
    agent
        .lpm
        .wait_for("only CAP_DAC_READ_SEARCH lets the agent read this file");
    each_has(agent.lpm.child.id(), MEASURING | DAC_READ_SEARCH);
    fs::write(&file, "window: 8s\n").expect("write");
    agent.lpm.wait_for("restart the agent to apply window");
    agent.stop();
}

/// All sockets of an agent: where it can be talked to, and how.
#[test]
fn it_listens_where_it_is_told_and_nowhere_else() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let agent = Agent::start(&node, &[]);
    let pid = i32::try_from(agent.lpm.child.id()).expect("a pid");
    let process = Process::new(pid).expect("the agent");
    let sockets: BTreeSet<u64> = process
        .fd()
        .expect("descriptors")
        .filter_map(|fd| match fd.ok()?.target {
            FDTarget::Socket(inode) => Some(inode),
            _ => None,
        })
        .collect();
    // Its sockets lie in two namespaces: it serves in this one and watches the other.
    let mut served = Vec::new();
    let its = |inode: &u64| sockets.contains(inode);
    let here = Process::myself().expect("this process");
    for table in [here.tcp(), here.tcp6()] {
        let table = table.expect("a table").into_iter();
        served.extend(
            table
                .filter(|entry| its(&entry.inode))
                .filter(|entry| entry.state == procfs::net::TcpState::Listen)
                .map(|entry| entry.local_address.to_string()),
        );
    }
    let url = format!("http://{}", served.join(" "));
    assert_eq!(url, agent.url, "one address, the one that it was given");
    for table in [here.udp(), here.udp6()] {
        let table = table.expect("a table");
        let bound: Vec<_> = table.iter().filter(|entry| its(&entry.inode)).collect();
        assert!(bound.is_empty(), "{bound:?}");
    }
    let table = |name: &str| {
        let read = || fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        let inside = node.run_in(read).expect("enter");
        inside.and_then(|inside| Ok(read()? + &inside))
    };
    // The inode is the seventh column of Unix sockets, and the last of those of packets.
    let unix = table("unix").expect("a table");
    let names: Vec<&str> = unix
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|line| {
            line.get(6)
                .and_then(|inode| inode.parse().ok())
                .is_some_and(|inode| its(&inode))
        })
        .filter_map(|line| line.get(7).copied())
        .collect();
    assert!(
        names.iter().any(|name| name.starts_with("@lpm-agent"))
            && names
                .iter()
                .all(|name| name.starts_with("@lpm-agent") || Path::new(name) == agent.socket),
        "signs of life, and the socket for this machine: {names:?}"
    );
    for name in ["packet", "raw", "raw6"] {
        // A kernel without such sockets has no such table.
        let table = table(name).unwrap_or_default();
        let inodes = table.lines().flat_map(str::split_whitespace);
        let open = inodes.filter_map(|word| word.parse().ok()).filter(its);
        assert_eq!(open.count(), 0, "{name}: {table}");
    }
    agent.lpm.end(Signal::SIGTERM);
}
