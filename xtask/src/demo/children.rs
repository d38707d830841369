//! Child processes that end when their handle is dropped, and waiting for them.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{self, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::signals;

/// Interval at which a condition is checked.
const LOOK: Duration = Duration::from_millis(50);

/// Time that a process may take to end after SIGTERM.
const END_PATIENCE: Duration = Duration::from_secs(15);

/// A background process with a log. On drop it is ended, by SIGTERM first.
pub(super) struct Child {
    process: process::Child,
    name: String,
    log: PathBuf,
}

impl Child {
    /// Starts `command` in a process group of its own, so that Ctrl-C on the terminal leaves it to
    /// this program to end things in order. Its output goes to `<logs>/<name>.log`.
    pub(super) fn start(command: &mut Command, name: &str, logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let file =
            File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let process = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name} ({})", crate::process::show(command)))?;
        Ok(Self {
            process,
            name: name.to_owned(),
            log,
        })
    }

    /// Id of the process.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// What the process printed so far.
    pub(super) fn printed(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Fails, with the end of the process's log, if the process ended by itself.
    pub(super) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.process.try_wait()? {
            let printed = self.printed();
            let lines: Vec<&str> = printed.trim_end().lines().collect();
            let last = lines[lines.len().saturating_sub(5)..].join("\n  ");
            bail!(
                "{} ended with {status}:\n  {last}\nits log is {}",
                self.name,
                self.log.display()
            );
        }
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// Sends SIGTERM, then SIGKILL to a process that ignores it.
fn end(child: &mut process::Child) -> Option<ExitStatus> {
    if let Ok(Some(status)) = child.try_wait() {
        return Some(status);
    }
    if let Ok(id) = i32::try_from(child.id()) {
        // It fails only if the process is gone, which is what is wanted.
        let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
    }
    let deadline = Instant::now() + END_PATIENCE;
    while Instant::now() < deadline {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        thread::sleep(LOOK);
    }
    drop(child.kill());
    child.wait().ok()
}

/// Waits until `done`.
///
/// # Errors
/// After `patience`, when a signal came, or when `done` fails.
pub(super) fn wait_until(
    patience: Duration,
    what: &str,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !done()? {
        if signals::stopped() {
            bail!("stopped by a signal while waiting for {what}");
        }
        if Instant::now() > deadline {
            bail!("waited {} s for {what} without success", patience.as_secs());
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Waits for `child`; ends it at `end` or when a signal comes.
pub(super) fn wait_or_stop(
    child: &mut process::Child,
    until: Option<Instant>,
) -> Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if signals::stopped() || until.is_some_and(|until| Instant::now() > until) {
            let status = end(child).context("cannot end the view")?;
            // Ended because it was told to.
            return Ok(if signals::stopped() || until.is_some() {
                ExitStatus::default()
            } else {
                status
            });
        }
        thread::sleep(LOOK);
    }
}

/// Waits for `time`, but not past `end` nor after a signal.
pub(super) fn pause(time: Duration, end: Option<Instant>) {
    let until = Instant::now() + time;
    let until = end.map_or(until, |end| end.min(until));
    while !signals::stopped() && Instant::now() < until {
        thread::sleep(LOOK);
    }
}

/// Whether `GET path` at `address` is answered with 200.
pub(super) fn answers(address: SocketAddr, path: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(status.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_ends_with_its_handle_and_a_dead_one_tells_why() {
        let logs = tempfile::tempdir().unwrap();
        let child = Child::start(Command::new("sleep").arg("600"), "sleeper", logs.path()).unwrap();
        let proc = format!("/proc/{}", child.id());
        assert!(Path::new(&proc).exists());
        drop(child);
        assert!(!Path::new(&proc).exists());

        let mut command = Command::new("sh");
        command.args(["-c", "echo no port; exit 2"]);
        let mut child = Child::start(&mut command, "failing", logs.path()).unwrap();
        let error = wait_until(Duration::from_mins(1), "it", || {
            child.check().map(|()| false)
        });
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("failing") && error.contains("no port"),
            "{error}"
        );
    }
}
