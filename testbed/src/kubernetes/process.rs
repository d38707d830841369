//! Processes that end with their handle, and with this process, however it ends.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{LazyLock, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::Error;

/// How long a process may take to end after SIGTERM.
const END_PATIENCE: Duration = Duration::from_secs(20);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A command to start, and where to say how that went.
type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts children from a thread that lives as long as the process: the kernel's "parent died"
/// signal counts the end of the thread that started a child, and tests' threads end early.
static SPAWNER: LazyLock<Mutex<mpsc::Sender<Job>>> = LazyLock::new(|| {
    let (jobs, received) = mpsc::channel::<Job>();
    thread::spawn(move || {
        for (mut command, reply) in received {
            // The one who asked may be gone: then the child's handle is dropped and nobody waits.
            drop(reply.send(command.spawn()));
        }
    });
    Mutex::new(jobs)
});

/// A background process whose output goes to a file.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it prints is appended to `<logs>/<name>.log`.
    pub(super) fn start(mut command: Command, name: &str, logs: &Path) -> Result<Self, Error> {
        let log = logs.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log);
        let file = file
            .and_then(|file| Ok((file.try_clone()?, file)))
            .map_err(|source| Error::system(format!("open {}", log.display()), source))?;
        command.stdin(Stdio::null()).stdout(file.0).stderr(file.1);
        command.process_group(0);
        // SAFETY: prctl is one system call and allocates nothing, so it is sound between fork and
        // exec.
        unsafe {
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        let what = format!("start {name} ({command:?})");
        let (reply, answer) = mpsc::channel();
        let gone = || io::Error::other("the thread that starts processes is gone");
        let child = SPAWNER
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send((command, reply))
            .map_err(|_| gone())
            .and_then(|()| answer.recv().map_err(|_| gone())?)
            .map_err(|source| Error::system(what, source))?;
        Ok(Self {
            child,
            name: name.to_owned(),
            log,
        })
    }

    /// Its log.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails, with the end of its log, if it ended by itself.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        let status = self.child.try_wait();
        match status.map_err(|source| Error::system(format!("wait for {}", self.name), source))? {
            None => Ok(()),
            Some(status) => Err(Error::Program {
                program: self.name.clone(),
                reason: format!("{status}:\n  {}", tail(&self.log)),
            }),
        }
    }

    /// Ends it: SIGTERM, or SIGKILL at once if `hard`.
    pub(super) fn end(&mut self, hard: bool) {
        let pid = i32::try_from(self.child.id()).map(Pid::from_raw);
        if let (false, Ok(pid), Ok(None)) = (hard, pid, self.child.try_wait()) {
            // It fails only if the process is gone, which is what is wanted.
            let _ = kill(pid, Signal::SIGTERM);
            let deadline = Instant::now() + END_PATIENCE;
            while Instant::now() < deadline {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                thread::sleep(LOOK);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until `done`, while the process lives.
    pub(super) fn wait_until(
        &mut self,
        what: &str,
        patience: Duration,
        mut done: impl FnMut() -> bool,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + patience;
        while !done() {
            self.check()?;
            if Instant::now() > deadline {
                return Err(Error::Timeout {
                    what: what.to_owned(),
                    after: patience,
                    log: self.log.clone(),
                });
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What it would write down in order is thrown away with its directory.
        self.end(true);
    }
}

/// The last lines of a log.
pub(super) fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n  ")
}

/// Runs a program to its end and returns what it printed.
pub(super) fn output(command: &mut Command) -> Result<String, Error> {
    let shown = format!("{command:?}");
    let output = command
        .output()
        .map_err(|source| Error::system(format!("start {shown}"), source))?;
    if !output.status.success() {
        return Err(Error::Program {
            program: shown,
            reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
