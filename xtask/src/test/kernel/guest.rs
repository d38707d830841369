//! One emulated machine: the file server for its root, qemu, and the guest's output.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::neighbour::Neighbour;
use crate::{arch::Arch, process, setup, test::runner};

/// Time that the file server may take to listen.
const LISTENS: Duration = Duration::from_secs(20);

/// Number of lines of the guest's console that are shown when it fails.
const TAIL: usize = 30;

/// Memory of the guest.
const MEMORY: &str = "2G";

/// A machine to boot.
pub(super) struct Machine<'a> {
    /// The machine's architecture.
    pub(super) arch: Arch,
    /// The kernel image.
    pub(super) image: &'a Path,
    /// The memory disk.
    pub(super) disk: &'a Path,
    /// Directory of the host with programs for the guest. It lies over the guest's root where the
    /// guest cannot run the host's programs.
    pub(super) programs: Option<&'a Path>,
    /// A neighbour at the other end of the guest's network card. Without one there is no card.
    pub(super) neighbour: Option<&'a Neighbour>,
}

impl Machine<'_> {
    /// Boots the machine, passes each line of its output to `line`, and ends it after `limit`. The
    /// console's text goes to `dir`.
    ///
    /// # Errors
    /// When the machine cannot be started, or does not end by itself. The end of its console has
    /// then been shown.
    pub(super) fn run(&self, dir: &Path, limit: Duration, line: impl FnMut(&str)) -> Result<()> {
        let console = dir.join("console.log");
        let result = self.boot(&console, limit, line);
        if result.is_err() {
            show_tail(&console);
        }
        result
    }

    fn boot(&self, console: &Path, limit: Duration, line: impl FnMut(&str)) -> Result<()> {
        let host = FileServer::start(Path::new("/"), "host")?;
        let programs = self
            .programs
            .map(|root| FileServer::start(root, "programs"))
            .transpose()?;
        let program = format!("qemu-system-{}", self.arch.cpu());
        let mut qemu = match self.neighbour {
            Some(neighbour) => neighbour.command(Path::new(&program)),
            None => process::privileged(program),
        };
        let parameters = match self.arch {
            Arch::Amd64 => x86(&mut qemu, console),
            Arch::Arm64 => arm(&mut qemu, console),
        };
        // The file server reads the guest's memory.
        let memory = format!("memory-backend-memfd,id=memory,size={MEMORY},share=on");
        qemu.args(["-smp", "2", "-m", MEMORY, "-object", &memory]);
        qemu.args(["-numa", "node,memdev=memory"]);
        qemu.args(["-nodefaults", "-display", "none", "-no-reboot"]);
        if self.neighbour.is_some() {
            Neighbour::connect(&mut qemu);
        }
        host.connect(&mut qemu);
        if let Some(programs) = &programs {
            programs.connect(&mut qemu);
        }
        qemu.arg("-kernel").arg(self.image);
        qemu.arg("-initrd").arg(self.disk);
        let programs = programs.as_ref().map_or("", |_| " LPM_PROGRAMS=1");
        qemu.arg("-append").arg(format!(
            "{parameters} panic=-1 random.trust_cpu=on random.trust_bootloader=on \
             mitigations=off{programs}"
        ));
        if !runner::run(&mut qemu, limit, line)? {
            bail!("qemu failed; its message is above");
        }
        Ok(())
    }
}

/// Gives an x86 machine its processor and consoles. Returns the kernel arguments for them.
fn x86(qemu: &mut Command, console: &Path) -> &'static str {
    // Emulated throughout: the same everywhere, nested machines included. Without cmpxchg16b:
    // QEMU 7.2 now and then returns from it with flags that are none, and the kernel's allocator,
    // which can do without, ends in a double fault.
    let cpu = "max,-cx16";
    // Both CPUs in turn: with a thread for each, one now and then runs into the breakpoint of a
    // static key that the other has patched already, and 6.12 dies of it (`int3` in
    // __netif_receive_skb_core, seen twice).
    qemu.args(["-accel", "tcg,thread=single", "-cpu", cpu]);
    qemu.arg("-serial")
        .arg(format!("file:{}", console.display()));
    qemu.args(["-serial", "stdio"]);
    "console=ttyS0 LPM_OUTPUT=/dev/ttyS1"
}

/// Gives an Arm machine its processor and consoles. Returns the kernel arguments for them. The
/// machine has one serial port only.
fn arm(qemu: &mut Command, console: &Path) -> &'static str {
    // A server's core with atomic instructions (v8.1), of which the kernel's BPF compiler makes
    // use. A thread per CPU; what an x86 host emulates is as strongly ordered as itself.
    qemu.args(["-machine", "virt,gic-version=3", "-cpu", "neoverse-n1"]);
    qemu.args(["-accel", "tcg,thread=multi"]);
    qemu.arg("-serial")
        .arg(format!("file:{}", console.display()));
    qemu.args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
    qemu.args(["-chardev", "stdio,id=output,signal=off"]);
    qemu.args(["-device", "virtconsole,chardev=output"]);
    "console=ttyAMA0 LPM_OUTPUT=/dev/hvc0"
}

/// Shows the end of what the guest's kernel printed.
pub(super) fn show_tail(console: &Path) {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    println!("the guest's console ends ({}):", console.display());
    for line in lines.iter().skip(lines.len().saturating_sub(TAIL)) {
        println!("  {}", line.trim_end());
    }
}

/// A virtiofsd, which lets the guest read files of the host. It is ended on drop, unless the
/// guest's end did so.
struct FileServer {
    child: Child,
    dir: PathBuf,
    socket: PathBuf,
    tag: &'static str,
}

impl FileServer {
    /// Starts a server for the files below `source`, which the guest mounts by `tag`.
    fn start(source: &Path, tag: &'static str) -> Result<Self> {
        let program = setup::virtiofsd().context("virtiofsd is missing")?;
        // Paths of sockets are short: the target directory's may be too long.
        let dir = std::env::temp_dir().join(format!("lpm-kernel-{tag}-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        let socket = dir.join("files");
        let mut command = process::privileged(&program);
        command.arg(format!("--socket-path={}", socket.display()));
        // Both the one of qemu and its successor in Rust know these.
        command
            .arg("-o")
            .arg(format!("source={}", source.display()));
        command.args(["-o", "sandbox=chroot", "-o", "cache=always"]);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.join("log"))?)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut server = Self {
            child,
            dir,
            socket,
            tag,
        };
        let end = Instant::now() + LISTENS;
        while !server.socket.exists() {
            if Instant::now() > end || server.child.try_wait()?.is_some() {
                let said = fs::read_to_string(server.dir.join("log")).unwrap_or_default();
                bail!("{} does not listen: {}", program.display(), said.trim());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Gives the machine a device for the file server.
    fn connect(&self, qemu: &mut Command) {
        let (tag, socket) = (self.tag, self.socket.display());
        qemu.args(["-chardev", &format!("socket,id={tag},path={socket}")]);
        qemu.args([
            "-device",
            &format!("vhost-user-fs-pci,chardev={tag},tag={tag}"),
        ]);
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let id = self.child.id().to_string();
            drop(process::run(
                process::privileged("kill").stderr(Stdio::null()).arg(id),
            ));
        }
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.dir));
    }
}
