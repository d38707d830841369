//! Network namespaces that vanish with their guard.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::process::CommandExt,
    panic,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use nix::sched::{CloneFlags, setns};

use super::{Error, NsChild, child::Shared};

/// Every namespace of a testbed is named `lpmt-<pid>-<n>-<label>`.
pub const NAME_PREFIX: &str = "lpmt-";

/// Where `ip netns` keeps its namespaces.
const DIRECTORY: &str = "/run/netns";

static NEXT: AtomicU32 = AtomicU32::new(0);
static NEXT_INDEX: AtomicU32 = AtomicU32::new(10_000);

/// A network namespace of our own, visible to `ip netns` and deleted on drop.
///
/// Its name is unique, so that tests run in parallel. Processes started with
/// [`Netns::spawn`] are killed before it goes.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
    children: Mutex<Vec<Shared>>,
}

impl Netns {
    /// Makes a namespace with `lo` up and without IPv6's waiting for
    /// duplicate addresses. `label` (letters, digits) ends its name.
    pub fn new(label: &str) -> Result<Self, Error> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{NAME_PREFIX}{}-{number}-{label}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let file = match File::open(Path::new(DIRECTORY).join(&name)) {
            Ok(file) => file,
            Err(source) => {
                delete(&name);
                return Err(Error::system(
                    format!("cannot open namespace {name}"),
                    source,
                ));
            }
        };
        let namespace = Self {
            name,
            file,
            children: Mutex::default(),
        };
        for scope in ["all", "default"] {
            namespace.sysctl(&format!("net.ipv6.conf.{scope}.accept_dad"), "0")?;
        }
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The name that `ip netns` shows.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file to hand to `setns`, and to `lpm --netns`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn enter(&self) -> Result<(), Error> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| Error::system(format!("cannot enter namespace {}", self.name), errno))
    }

    /// Runs `work` inside the namespace, on a thread that ends with it. Sockets
    /// opened there stay in the namespace wherever they are used later.
    /// A panic of `work` goes on in the caller.
    pub fn run_in<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let outcome = thread::scope(|scope| scope.spawn(|| self.enter().map(|()| work())).join());
        outcome.unwrap_or_else(|payload| panic::resume_unwind(payload))
    }

    /// Starts a thread named `name` (15 letters are shown) that enters the
    /// namespace and then works; it may outlive the borrow of the namespace.
    pub fn spawn_thread<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T, Error>>, Error> {
        let file = self
            .file
            .try_clone()
            .map_err(|source| Error::system("cannot copy a namespace's descriptor", source))?;
        let namespace = self.name.clone();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET).map_err(|errno| {
                    Error::system(format!("cannot enter namespace {namespace}"), errno)
                })?;
                Ok(work())
            })
            .map_err(|source| Error::system("cannot start a thread", source))
    }

    /// A command that will run inside the namespace. Start it with
    /// [`Netns::spawn`], or yourself when it should outlive the namespace.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Ok(file) = self.file.try_clone() {
            // SAFETY: setns is one system call and allocates nothing, so it is
            // sound between fork and exec.
            unsafe {
                command.pre_exec(move || Ok(setns(&file, CloneFlags::CLONE_NEWNET)?));
            }
        } else {
            // SAFETY: returning an error allocates nothing.
            unsafe {
                command.pre_exec(|| Err(io::Error::from_raw_os_error(libc::EMFILE)));
            }
        }
        command
    }

    /// Starts a command in a process group of its own, which is killed when
    /// the returned guard or the namespace is dropped.
    pub fn spawn(&self, command: &mut Command) -> Result<NsChild, Error> {
        let child = command
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Command {
                command: format!("{command:?}"),
                reason: source.to_string(),
            })?;
        let child = NsChild::new(child);
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.retain(|child| std::sync::Arc::strong_count(child) > 1);
        children.push(child.shared());
        Ok(child)
    }

    /// Runs one `ip` command here, for example `ip("link set eth0 up")`.
    pub fn ip(&self, arguments: &str) -> Result<(), Error> {
        self.ip_batch(arguments)
    }

    /// Runs one `ip` command per line; empty lines are skipped.
    pub fn ip_batch(&self, lines: &str) -> Result<(), Error> {
        batch("ip", &self.name, lines)
    }

    /// Runs one `bridge` command per line; empty lines are skipped.
    pub fn bridge_batch(&self, lines: &str) -> Result<(), Error> {
        batch("bridge", &self.name, lines)
    }

    /// Runs a program here to its end and returns what it printed.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String, Error> {
        run(self.command(program).args(arguments))
    }

    /// Sets a kernel parameter of this namespace, such as
    /// `net.ipv4.tcp_timestamps`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), Error> {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        self.run_in(|| fs::write(&path, value))?
            .map_err(|source| Error::system(format!("cannot set {key} to {value}"), source))
    }

    /// Whether TCP connections opened here carry timestamps from now on.
    pub fn set_tcp_timestamps(&self, on: bool) -> Result<(), Error> {
        self.sysctl("net.ipv4.tcp_timestamps", if on { "1" } else { "0" })
    }

    /// Makes a veth pair: `own` (with `mtu`, in bytes) here and `peer` in
    /// another namespace, both still down.
    pub fn veth(&self, own: &str, other: &Self, peer: &str, mtu: u32) -> Result<(), Error> {
        // With the same index at both ends the kernel takes the pair for a
        // plain device, whose carrier it notices up to a second late, and IPv6
        // waits for that. Low indices are those the kernel gives by itself.
        let index = NEXT_INDEX.fetch_add(1, Ordering::Relaxed);
        self.ip(&format!(
            "link add {own} index {index} mtu {mtu} type veth peer name {peer} mtu {mtu} netns {}",
            other.name
        ))
    }

    /// Removes the namespaces of testbeds whose process is gone (killed before
    /// it could clean up), with the processes inside. Returns their names.
    pub fn remove_stale() -> io::Result<Vec<String>> {
        let mut removed = Vec::new();
        let entries = match fs::read_dir(DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(removed),
            entries => entries?,
        };
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let Some(pid) = creator(&name) else { continue };
            if alive(&pid.to_string()) {
                continue;
            }
            // Only a dead testbed's processes can be in here.
            if let Ok(pids) = run(Command::new("ip").args(["netns", "pids", &name])) {
                for pid in pids.lines().filter_map(|line| line.trim().parse().ok()) {
                    let pid = nix::unistd::Pid::from_raw(pid);
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                }
            }
            delete(&name);
            removed.push(name);
        }
        Ok(removed)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let children = self
            .children
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for child in children.drain(..) {
            super::child::end(&child);
        }
        delete(&self.name);
    }
}

/// Whether a process is there, and not only waits for its parent to ask how it ended.
pub(crate) fn alive(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    // `<pid> (<name>) <state> ...`, and the name may contain anything.
    stat.is_ok_and(|stat| {
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        !state.is_empty() && !state.starts_with(['Z', 'X'])
    })
}

/// The process id in a testbed's namespace name.
fn creator(name: &str) -> Option<u32> {
    name.strip_prefix(NAME_PREFIX)?
        .split('-')
        .next()?
        .parse()
        .ok()
}

/// Deletes a namespace; a failure is printed, because drop cannot return it.
fn delete(name: &str) {
    if let Err(error) = run(Command::new("ip").args(["netns", "delete", name])) {
        eprintln!("testbed: namespace {name} is left behind: {error}");
    }
}

/// Runs a command to its end: its output, or what it said against it.
pub(super) fn run(command: &mut Command) -> Result<String, Error> {
    let fail = |command: &Command, reason: String| Error::Command {
        command: format!("{command:?}"),
        reason,
    };
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| fail(command, source.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(fail(command, format!("{}: {}", output.status, said.trim())))
    }
}

/// Feeds lines to `ip -batch` or `bridge -batch` inside a namespace.
fn batch(tool: &str, namespace: &str, lines: &str) -> Result<(), Error> {
    let fail = |reason: String| Error::Command {
        command: format!("{tool} -n {namespace} -batch -"),
        reason: format!("{reason} (in: {})", lines.trim()),
    };
    let mut child = Command::new(tool)
        .args(["-n", namespace, "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| fail(source.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        // A tool that stopped reading says why on stderr: reported below.
        let _ = input
            .write_all(lines.as_bytes())
            .and_then(|()| input.write_all(b"\n"));
    }
    let output = child
        .wait_with_output()
        .map_err(|source| fail(source.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(fail(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ))
    }
}
