//! One emulated machine: the file server for its root, qemu, and what it says.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{process, setup, test::runner};

/// How long the file server may take to listen.
const LISTENS: Duration = Duration::from_secs(20);

/// Lines of the guest's console that are shown when it fails.
const TAIL: usize = 30;

/// What the guest has of memory.
const MEMORY: &str = "2G";

/// Boots `image` with the memory disk `disk`, hands each line of its output to `line`, and ends it
/// after `limit`. `dir` gets the console's text.
///
/// # Errors
/// When it cannot be started, or does not end by itself; the end of its console has been shown.
pub(super) fn run(
    image: &Path,
    disk: &Path,
    dir: &Path,
    limit: Duration,
    line: impl FnMut(&str),
) -> Result<()> {
    let console = dir.join("console.log");
    let result = boot(image, disk, &console, limit, line);
    if result.is_err() {
        show_tail(&console);
    }
    result
}

fn boot(
    image: &Path,
    disk: &Path,
    console: &Path,
    limit: Duration,
    line: impl FnMut(&str),
) -> Result<()> {
    let files = FileServer::start()?;
    let mut qemu = process::privileged("qemu-system-x86_64");
    // Emulated throughout: the same everywhere, nested machines included. Without cmpxchg16b:
    // QEMU 7.2 now and then returns from it with flags that are none, and the kernel's allocator,
    // which can do without, ends in a double fault.
    let cpu = "max,-cx16";
    // Both CPUs in turn: with a thread for each, one now and then runs into the breakpoint of a
    // static key that the other has patched already, and 6.12 dies of it (`int3` in
    // __netif_receive_skb_core, seen twice).
    qemu.args(["-accel", "tcg,thread=single", "-cpu", cpu, "-smp", "2"]);
    // The file server reads the guest's memory.
    let memory = format!("memory-backend-memfd,id=memory,size={MEMORY},share=on");
    qemu.args([
        "-m",
        MEMORY,
        "-object",
        &memory,
        "-numa",
        "node,memdev=memory",
    ]);
    qemu.args(["-nodefaults", "-display", "none", "-no-reboot"]);
    let socket = format!("socket,id=files,path={}", files.socket.display());
    qemu.args(["-chardev", &socket]);
    qemu.args(["-device", "vhost-user-fs-pci,chardev=files,tag=host"]);
    qemu.arg("-serial")
        .arg(format!("file:{}", console.display()));
    qemu.args(["-serial", "stdio"]);
    qemu.arg("-kernel").arg(image).arg("-initrd").arg(disk);
    qemu.args([
        "-append",
        "console=ttyS0 panic=-1 random.trust_cpu=on mitigations=off",
    ]);
    if !runner::run(&mut qemu, limit, line)? {
        bail!("qemu failed; its message is above");
    }
    Ok(())
}

/// The end of what the guest's kernel said.
pub(super) fn show_tail(console: &Path) {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    println!("the guest's console ends ({}):", console.display());
    for line in lines.iter().skip(lines.len().saturating_sub(TAIL)) {
        println!("  {}", line.trim_end());
    }
}

/// virtiofsd, which lets the guest read the host's files. Ended when this is dropped, if the
/// guest's end did not do so.
struct FileServer {
    child: Child,
    dir: PathBuf,
    socket: PathBuf,
}

impl FileServer {
    fn start() -> Result<Self> {
        let program = setup::virtiofsd().context("virtiofsd is missing")?;
        // Paths of sockets are short: the target directory's may be too long.
        let dir = std::env::temp_dir().join(format!("lpm-kernel-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        let socket = dir.join("files");
        let mut command = process::privileged(&program);
        command.arg(format!("--socket-path={}", socket.display()));
        // Both the one of qemu and its successor in Rust know these.
        command.args([
            "-o",
            "source=/",
            "-o",
            "sandbox=chroot",
            "-o",
            "cache=always",
        ]);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.join("log"))?)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut server = Self { child, dir, socket };
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
