//! What other users of the machine do to pins and to the signs of life: a process of `nobody` may
//! neither keep an agent from starting nor keep `lpm detach` from removing what was left.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::{Child, Command, Stdio},
};

use lpm_agent::kernel::{
    Direction::{Egress, Ingress},
    attach::Mode,
};
use lpm_testbed::testbed::{Bpffs, Netns};
use nix::sys::signal::Signal;

use crate::support::{
    kernel::{
        comes_to, filters, has_tcx, kernel_is_usable, node_with_pod, path_of,
        process::AgentProcess, tcx_chain,
    },
    lpm::{Agent, fails, lpm, succeeds},
};

/// The user `nobody`.
const NOBODY: u32 = 65_534;

/// A process of `nobody`, which says a line when it has done its work. Killed when dropped.
struct Stranger(Child);

impl Stranger {
    /// Runs a shell script in a namespace, as `nobody`.
    fn start(netns: &Netns, script: &str) -> Self {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", path_of(netns)))
            .args(["setpriv", "--reuid=65534", "--regid=65534"])
            .args(["--clear-groups", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("start a process of nobody");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line.trim(), "done", "{script}");
        Self(child)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `lpm run` over pins, up to its refusal.
fn refused(node: &Netns, pins: &Path) -> String {
    let mut run = lpm();
    run.args(["--netns", &path_of(node), "run", "--listen", "127.0.0.1:0"]);
    let said = fails(run.arg("--pins").arg(pins));
    assert!(!said.contains("waiting for the agent"), "{said}");
    said
}

fn detach(node: &Netns, pins: &Path) -> String {
    let mut detach = lpm();
    detach.args(["--netns", &path_of(node), "detach", "--pins"]);
    succeeds(detach.arg(pins))
}

/// Runs an agent over pins and kills it. Its two programs stay on `va`.
fn killed(node: &Netns, pins: &Path) {
    let path = pins.display().to_string();
    let agent = Agent::start(node, &["--pins", &path, "--attach", "tcx"]);
    agent.lpm.end(Signal::SIGKILL);
    assert_eq!(tcx_chain(node, "va", Ingress).len(), 1);
    assert_eq!(tcx_chain(node, "va", Egress).len(), 1);
}

/// Nothing is attached any more, once the kernel has done what it put off.
fn is_clean(node: &Netns) {
    for direction in [Ingress, Egress] {
        let chain = || tcx_chain(node, "va", direction).len();
        comes_to("nothing is attached", chain, &0);
    }
}

/// The only directory in a directory.
fn only(directory: &Path) -> std::path::PathBuf {
    let mut entries = fs::read_dir(directory).expect("a directory");
    let only = entries.next().expect("an entry").expect("an entry").path();
    assert!(entries.next().is_none(), "there is another one");
    only
}

#[test]
fn a_directory_of_nobodys_is_refused_at_once() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let bpffs = Bpffs::mount("mode=1777").expect("a BPF file system");
    fs::set_permissions(
        bpffs.path().parent().expect("a parent"),
        fs::Permissions::from_mode(0o755),
    )
    .expect("a way to it");
    let pins = bpffs.path().join("lpm");
    let script = format!(
        "mkdir {0} && exec 9<{0} && flock 9 && echo done && exec sleep 600",
        pins.display()
    );
    let stranger = Stranger::start(&node, &script);
    let said = refused(&node, &pins);
    for word in [
        "user 65534",
        "mode",
        "rm -r",
        "chown",
        "pins.path",
        "mode=0700",
    ] {
        assert!(said.contains(word), "no {word} in: {said}");
    }
    drop(stranger);
    let said = refused(&node, &pins);
    assert!(
        said.contains("user 65534"),
        "without the lock as well: {said}"
    );
    // `lpm check` says the same before anything is started.
    let mut check = lpm();
    let config = tempfile::tempdir().expect("a directory");
    let file = config.path().join("lpm.yaml");
    let text = format!("pins: {{enabled: true, path: {}}}\n", pins.display());
    fs::write(&file, text).expect("a configuration");
    let output = check.arg("check").arg("-c").arg(&file).output();
    let output = output.expect("lpm check");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        !output.status.success() && said.contains("user 65534"),
        "{said}"
    );
}

#[test]
fn a_symbolic_link_is_refused() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let bpffs = Bpffs::mount("mode=0700").expect("a BPF file system");
    let pins = bpffs.path().join("lpm");
    fs::create_dir(bpffs.path().join("others")).expect("a directory");
    std::os::unix::fs::symlink(bpffs.path().join("others"), &pins).expect("a link");
    let said = refused(&node, &pins);
    assert!(said.contains("symbolic link"), "{said}");
}

#[test]
fn a_lock_of_nobodys_is_no_agent() {
    if !kernel_is_usable() || !has_tcx() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let bpffs = Bpffs::mount("mode=0755").expect("a BPF file system");
    let pins = bpffs.path().join("lpm");
    fs::create_dir(&pins).expect("a directory");
    fs::set_permissions(&pins, fs::Permissions::from_mode(0o755)).expect("a mode");
    // As the kubelet makes it: everybody may open it, and who opens it may lock it.
    // The process that takes the lock ends, and the shell that opened the file keeps it.
    let lock = format!(
        "exec 9<{} && flock 9 && echo done && exec sleep 600",
        pins.display()
    );
    let stranger = Stranger::start(&node, &lock);
    let said = refused(&node, &pins);
    assert!(
        said.contains("user 65534") && said.contains("kill ") && said.contains("chmod 700"),
        "{said}"
    );
    drop(stranger);
    killed(&node, &pins);
    let mode = fs::metadata(&pins)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700, "nobody else may open it now");
    // Nor does such a lock keep anybody from tidying up.
    fs::set_permissions(&pins, fs::Permissions::from_mode(0o755)).expect("a mode");
    let _stranger = Stranger::start(&node, &lock);
    let said = detach(&node, &pins);
    assert!(said.contains("removed the pin"), "{said}");
    is_clean(&node);
}

#[test]
fn pins_that_were_renamed_are_found() {
    if !kernel_is_usable() || !has_tcx() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let bpffs = Bpffs::mount("mode=0700").expect("a BPF file system");
    let pins = bpffs.path().join("lpm");
    killed(&node, &pins);
    fs::rename(only(&pins), pins.join("nothing-of-lpm")).expect("rename");
    chown(&pins, Some(NOBODY), Some(NOBODY)).expect("chown");
    assert!(refused(&node, &pins).contains("user 65534"));
    let said = detach(&node, &pins);
    assert!(said.contains("nothing-of-lpm/links"), "{said}");
    is_clean(&node);
    assert!(!pins.exists(), "something is left: {said}");
}

#[test]
fn pins_elsewhere_are_told() {
    if !kernel_is_usable() || !has_tcx() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let bpffs = Bpffs::mount("mode=0700").expect("a BPF file system");
    let (pins, other) = (bpffs.path().join("lpm"), bpffs.path().join("other"));
    killed(&node, &pins);
    let ids: Vec<u32> = [Ingress, Egress]
        .into_iter()
        .flat_map(|direction| tcx_chain(&node, "va", direction))
        .collect();
    fs::rename(&pins, &other).expect("rename");
    let said = detach(&node, &pins);
    assert!(!said.contains("has left anything"), "{said}");
    for id in ids {
        let program = format!("left program {id} (lpm_");
        let line = said.lines().find(|line| line.starts_with(&program));
        let line = line.unwrap_or_else(|| panic!("no {program} in: {said}"));
        assert!(
            line.contains("link ") && line.contains("--pins DIRECTORY"),
            "{line}"
        );
    }
    let said = detach(&node, &other);
    assert!(said.contains("removed the pin"), "{said}");
    is_clean(&node);
}

#[test]
fn a_sign_of_life_of_nobodys_keeps_no_filter() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    AgentProcess::start(&node, Mode::Netlink).kill();
    let left = || {
        let hooks = [Ingress, Egress].into_iter();
        let left = hooks.flat_map(|direction| filters(&node, "va", direction));
        left.filter_map(|filter| filter.program)
            .collect::<Vec<u64>>()
    };
    let ids: Vec<String> = left().iter().map(ToString::to_string).collect();
    assert_eq!(ids.len(), 2);
    let bind = format!(
        "exec perl -e 'use Socket; $| = 1; socket(S, PF_UNIX, SOCK_DGRAM, 0) or die; \
         bind(S, pack_sockaddr_un(\"\\0lpm-agent/1/1/{}\")) or die; print \"done\\n\"; sleep 600'",
        ids.join(".")
    );
    let _stranger = Stranger::start(&node, &bind);
    let said = detach(&node, Path::new("/nowhere/lpm"));
    assert!(said.contains("removed the filter"), "{said}");
    assert!(!said.contains("kept"), "{said}");
    assert_eq!(left(), [0_u64; 0]);
}

/// What root's agents say of themselves holds, in their own process id namespace as well.
#[test]
fn a_sign_of_life_of_roots_keeps_its_filters() {
    if !kernel_is_usable() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let agent = AgentProcess::start(&node, Mode::Netlink);
    let said = detach(&node, Path::new("/nowhere/lpm"));
    let pid = agent.child.id();
    assert!(
        said.contains(&format!("process id {pid} uses it")),
        "{said}"
    );
    assert!(!said.contains("removed"), "{said}");
    agent.stop();
}
