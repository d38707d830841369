//! In an agent's container: what `kubectl exec` and the capabilities there make of the commands.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::net::UnixStream,
    process::{Child, Command, Stdio},
};

use lpm_agent::kernel::{
    Direction::{Egress, Ingress},
    attach::Mode,
};
use lpm_testbed::testbed::{Bpffs, Netns};
use nix::sys::signal::Signal;

use crate::support::kernel::{
    eventually, filters, has_tcx, kernel_is_usable, modes, neighbour::Neighbour, node_with_pod,
    path_of, process::AgentProcess, tcx_chain,
};
use crate::support::lpm::{self, Agent, Lpm, fails, lpm, succeeds};

/// What the chart's container may do.
const AGENTS: &str = "+bpf,+net_admin,+perfmon";

/// `lpm` as root with these capabilities and no other.
fn with_capabilities(capabilities: &str) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set", &format!("-all,{capabilities}")])
        .args(["--inh-caps=-all", env!("CARGO_BIN_EXE_lpm")])
        .env_remove("LPM_LOG")
        .stdin(Stdio::null());
    command
}

/// `lpm watch` in an agent's container, up to its first word.
fn watching(agent: &Agent, stdin: Stdio, stdout: Stdio) -> Child {
    let mut command = lpm();
    command.arg("watch").env("LPM_AGENT", &agent.url);
    command.stdin(stdin).stdout(stdout).stderr(Stdio::piped());
    let mut child = command.spawn().expect("start lpm watch");
    let stderr = BufReader::new(child.stderr.take().expect("stderr"));
    let lines: Vec<String> = stderr.lines().map_while(Result::ok).take(2).collect();
    let said = lines.join("\n");
    assert!(said.contains(&agent.url), "{said}");
    assert!(said.contains("watching what the agent measures"), "{said}");
    child
}

/// Waits until it has ended, well.
fn ends(mut child: Child, what: &str) {
    eventually(what, || child.try_wait().expect("wait").is_some());
    let status = child.wait().expect("wait");
    assert!(status.success(), "{what}: {status}");
}

#[test]
fn the_agent_is_asked_and_nothing_is_loaded() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let agent = Agent::start(&node, &[]);
    let hooks = tcx_chain(&node, "va", Ingress);
    let top = succeeds(
        lpm()
            .args(["top", "--once", "--tab", "links", "--seconds", "0.2"])
            .env("LPM_AGENT", &agent.url),
    );
    assert!(top.contains("va"), "{top}");
    let mut child = watching(&agent, Stdio::null(), Stdio::piped());
    assert_eq!(tcx_chain(&node, "va", Ingress), hooks);
    drop(child.stdout.take());
    ends(child, "an idle watcher whose reader has gone");
    // It measures by itself only where it is told what.
    let said = fails(
        lpm()
            .args(["watch", "-i", "nosuch0"])
            .env("LPM_AGENT", "http://127.0.0.1:1"),
    );
    assert!(said.contains("nosuch0"), "{said}");
    let said = fails(lpm().arg("watch").env("LPM_AGENT", "http://127.0.0.1:1"));
    assert!(said.contains("no agent answers"), "{said}");
}

#[test]
fn an_idle_watcher_ends_with_its_output_or_input() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let agent = Agent::start(&node, &[]);
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let theirs = Stdio::from(std::os::fd::OwnedFd::from(theirs));
    let child = watching(&agent, Stdio::null(), theirs);
    drop(ours);
    ends(child, "the other end of a socket has gone");
    // `kubectl exec -i`: the runtime closes the input and keeps the output.
    let mut child = watching(&agent, Stdio::piped(), Stdio::piped());
    drop(child.stdin.take());
    ends(child, "the client has gone");
}

#[test]
fn one_that_measures_ends_with_its_output_and_takes_all_off() {
    if !kernel_is_usable() {
        return;
    }
    for &mode in modes() {
        let (node, _pod) = node_with_pod("va");
        let mut command = lpm();
        command.args([
            "--netns",
            &path_of(&node),
            "watch",
            "--attach",
            mode.as_str(),
        ]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start lpm watch");
        let stderr = BufReader::new(child.stderr.take().expect("stderr"));
        let attached = stderr.lines().map_while(Result::ok);
        attached
            .take_while(|line| !line.contains("attached to va"))
            .for_each(drop);
        drop(child.stdout.take());
        ends(child, "an idle watcher whose reader has gone");
        let left = match mode {
            Mode::Netlink => filters(&node, "va", Ingress).len(),
            _ => tcx_chain(&node, "va", Ingress).len(),
        };
        assert_eq!(left, 0, "{mode:?}");
    }
}

#[test]
fn the_first_process_of_a_container_is_asked() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("lpm.sock");
    // In the node's network namespace, as with `hostNetwork`.
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", path_of(&node)))
        .args(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args([env!("CARGO_BIN_EXE_lpm"), "run", "--listen", "0.0.0.0:9477"])
        .arg("--socket")
        .arg(&socket)
        .env_remove("LPM_LOG")
        .stdin(Stdio::null());
    let agent = Lpm::spawn(&node, &mut command);
    agent.wait_for("metrics at");
    let outer = agent.child.id();
    let children = format!("/proc/{outer}/task/{outer}/children");
    let children = std::fs::read_to_string(children).expect("children");
    let first = children.trim();
    let mut exec = Command::new("nsenter");
    exec.args(["-t", first, "-p", "-m", "-n", env!("CARGO_BIN_EXE_lpm")])
        .args(["top", "--once", "--tab", "links", "--seconds", "0.2"])
        .env_remove("LPM_AGENT");
    // Where there is no socket, by TCP.
    for address in [
        format!("unix:{}", socket.display()),
        "http://127.0.0.1:9477".to_owned(),
    ] {
        let output = lpm::output(&mut exec);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert!(said.contains("the agent of this container"), "{said}");
        assert!(said.contains(&address), "{said}");
        let _ = std::fs::remove_file(&socket);
    }
    let ended = agent.end(Signal::SIGKILL);
    assert!(!ended.success());
}

#[test]
fn detach_says_which_capability_is_missing_and_what_to_do() {
    if !kernel_is_usable() {
        return;
    }
    let said = fails(with_capabilities(AGENTS).arg("detach"));
    for word in [
        "CAP_SYS_ADMIN (",
        "on the node",
        "kubectl debug",
        "DaemonSet",
    ] {
        assert!(said.contains(word), "no {word} in: {said}");
    }
    assert!(!said.contains("CAP_NET_ADMIN"), "{said}");
    let said = fails(with_capabilities("+chown").arg("detach"));
    assert!(
        said.contains("CAP_SYS_ADMIN") && said.contains("CAP_NET_ADMIN"),
        "{said}"
    );
}

/// What `kubectl debug --profile=sysadmin` and the manifest in `deploy/README.md` have at least.
#[test]
fn two_capabilities_clean_a_node() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    AgentProcess::start(&node, Mode::Netlink).kill();
    assert_eq!(filters(&node, "va", Egress).len(), 1);
    let mut command = with_capabilities("+sys_admin,+net_admin");
    command.args([
        "--netns",
        &path_of(&node),
        "detach",
        "--pins",
        "/nowhere/lpm",
    ]);
    let said = succeeds(&mut command);
    assert!(said.contains("removed the filter"), "{said}");
    assert_eq!(filters(&node, "va", Egress), []);
    assert_eq!(filters(&node, "va", Ingress), []);
}

/// Probing and answering take no more than the chart's three capabilities, with the agent's own
/// filter of system calls on.
#[test]
fn the_containers_capabilities_are_enough_to_probe_and_to_answer() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("lpm.yaml");
    let text = "reflector: {listen: [\"127.0.0.1:8620\"]}\n\
                probes: {interval: 100ms, targets: [{name: self, address: 127.0.0.1}]}\n";
    std::fs::write(&file, text).expect("write");
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", path_of(&node)))
        .arg("setpriv")
        .args([
            "--bounding-set",
            &format!("-all,{AGENTS}"),
            "--inh-caps=-all",
        ])
        .args([
            env!("CARGO_BIN_EXE_lpm"),
            "run",
            "--listen",
            "127.0.0.1:9477",
            "-c",
        ])
        .arg(&file)
        .env_remove("LPM_LOG")
        .stdin(Stdio::null());
    let agent = Lpm::spawn(&node, &mut command);
    agent.wait_for("metrics at");
    agent.wait_for("keeps CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, with seccomp");
    let metrics = || {
        let page = node.run_in(|| {
            let page = ureq::get("http://127.0.0.1:9477/metrics").call().ok()?;
            page.into_body().read_to_string().ok()
        });
        page.expect("the namespace").unwrap_or_default()
    };
    eventually("round trips by the kernel's times", || {
        let page = metrics();
        let kernel = |stage| {
            let labels = format!(",stage=\"{stage}\",source=\"kernel\"}}");
            page.lines().any(|line| {
                line.starts_with("lpm_probe_timestamps_total") && line.contains(&labels)
            })
        };
        ["t1", "t2", "t3", "t4"].into_iter().all(kernel)
            && page.contains("lpm_probe_rtt_seconds_count")
            && page.contains("lpm_reflector_packets_total{result=\"answered\"}")
    });
    assert!(agent.end(Signal::SIGTERM).success());
}

/// Looking who is in front, and moving there, takes no more than measuring does.
#[test]
fn the_containers_capabilities_are_enough_to_be_first() {
    if !kernel_is_usable() || !has_tcx() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    // A container begins in its network namespace: to enter one takes more.
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", path_of(&node)))
        .arg("setpriv")
        .args([
            "--bounding-set",
            &format!("-all,{AGENTS}"),
            "--inh-caps=-all",
        ])
        .args([env!("CARGO_BIN_EXE_lpm"), "run", "--listen", "127.0.0.1:0"])
        .env_remove("LPM_LOG")
        .stdin(Stdio::null());
    let agent = Lpm::spawn(&node, &mut command);
    agent.wait_for("metrics at");
    let ours = tcx_chain(&node, "va", Ingress)[0];
    let neighbour = Neighbour::load("neighbour", 0);
    let _link = neighbour.add_tcx_first(&node, "va", Ingress).expect("TCX");
    let theirs = tcx_chain(&node, "va", Ingress)[0];
    agent.wait_for("our program is first at its ingress again");
    assert_eq!(tcx_chain(&node, "va", Ingress), [ours, theirs]);
    let said = agent.said();
    let line = said
        .lines()
        .find(|line| line.contains("is first"))
        .expect("the line");
    assert!(
        line.contains("va") && line.contains(&format!("program {theirs}")),
        "{line}"
    );
    assert!(agent.end(Signal::SIGTERM).success());
}

/// The log names the interface whose programs were taken off.
#[test]
fn who_took_our_programs_off_is_not_known_but_where_is() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod): (Netns, Netns) = node_with_pod("va");
    let agent = Agent::start(&node, &["--attach", "netlink"]);
    node.output("tc", &["qdisc", "del", "dev", "va", "clsact"])
        .expect("delete clsact");
    agent.lpm.wait_for("another process removed our programs");
    let said = agent.lpm.said();
    let line = said
        .lines()
        .find(|line| line.contains("removed our programs"));
    assert!(
        line.expect("the line").contains("interface=\"va\""),
        "{said}"
    );
    eventually("they are attached again", || {
        filters(&node, "va", Egress).len() == 1
    });
}

/// A hook that was put in front is the one that is pinned.
#[test]
fn the_next_agent_takes_over_in_front() {
    if !kernel_is_usable() {
        return;
    }
    for &mode in modes() {
        let (node, _pod) = node_with_pod("va");
        let bpffs = Bpffs::mount("mode=0700").expect("a BPF file system");
        let pins = bpffs.path().join("lpm").display().to_string();
        let arguments = ["--pins", pins.as_str(), "--attach", mode.as_str()];
        let chain = || match mode {
            Mode::Netlink => {
                let seen = filters(&node, "va", Ingress).into_iter();
                seen.filter_map(|filter| u32::try_from(filter.program?).ok())
                    .collect()
            }
            _ => tcx_chain(&node, "va", Ingress),
        };
        let first = Agent::start(&node, &arguments);
        let neighbour = Neighbour::load("neighbour", 0);
        let _link = match mode {
            Mode::Netlink => {
                neighbour.add_filter(&node, "va", Ingress, 1, 1);
                None
            }
            _ => neighbour.add_tcx_first(&node, "va", Ingress).ok(),
        };
        let theirs = chain()[0];
        first
            .lpm
            .wait_for("our program is first at its ingress again");
        first.lpm.end(Signal::SIGKILL);
        let left = chain();
        assert_eq!((left.len(), left[1]), (2, theirs), "{mode:?}: it is pinned");
        let second = Agent::start(&node, &arguments);
        second.lpm.wait_for("took over from the last agent");
        let taken = chain();
        assert_eq!((taken.len(), taken[1]), (2, theirs), "{mode:?}");
        assert_ne!(
            taken[0], left[0],
            "{mode:?}: another program, in the same place"
        );
        second.lpm.end(Signal::SIGTERM);
        let mut detach = lpm();
        detach.args(["--netns", &path_of(&node), "detach", "--pins", &pins]);
        succeeds(&mut detach);
        eventually("the kernel to close links", || chain() == [theirs]);
    }
}
