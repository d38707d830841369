//! Runs a group's command: shows and reads its output, and ends it when it takes too long.

use std::{
    cell::Cell,
    io::{self, BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    process::{Child, Command},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{process, signals};

/// Interval at which a running command is checked for a signal.
const CHECK: Duration = Duration::from_millis(200);

thread_local! {
    /// Text at the beginning of each line that a command of this thread prints.
    static LABEL: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Calls `work`. Each line that commands print meanwhile begins with `label`, so that the lines of
/// threads that run commands side by side can be told apart.
pub(crate) fn labelled<T>(label: &'static str, work: impl FnOnce() -> T) -> T {
    LABEL.set(Some(label));
    let result = work();
    LABEL.set(None);
    result
}

/// Runs `command` in a process group of its own, hands each line of stdout and stderr to `line`
/// after printing it, and returns whether it succeeded.
///
/// # Errors
/// When it cannot be started, when it takes longer than `limit` or when a signal came: its whole
/// process group has been killed then.
pub(crate) fn run(
    command: &mut Command,
    limit: Duration,
    mut line: impl FnMut(&str),
) -> Result<bool> {
    let shown = process::show(command);
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    command.stdin(std::process::Stdio::null());
    command
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    // The command keeps the pipe's other end open here, too.
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let (sender, lines) = mpsc::channel();
    let reading = thread::spawn(move || {
        for bytes in BufReader::new(reader)
            .split(b'\n')
            .map_while(io::Result::ok)
        {
            if sender.send(bytes).is_err() {
                break;
            }
        }
    });
    let end = Instant::now() + limit;
    loop {
        match lines.recv_timeout(CHECK) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                match LABEL.get() {
                    Some(label) => println!("{label}| {text}"),
                    None => println!("{text}"),
                }
                line(text.trim_end());
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if Instant::now() > end || signals::stopped() {
            kill_group(&mut child);
            if signals::stopped() {
                bail!("`{shown}` was stopped by a signal");
            }
            bail!(
                "`{shown}` took longer than {} s and was killed",
                limit.as_secs()
            );
        }
    }
    // Its end of the pipe is closed, so the reader has ended, or is about to.
    drop(reading.join());
    Ok(child.wait()?.success())
}

/// Asks the whole group to end, so that tests can clean up, and kills what is left.
fn kill_group(child: &mut Child) {
    let group = format!("-{}", child.id());
    for signal in ["-TERM", "-KILL"] {
        // The group may hold processes of root: sudo, where this one is not root.
        drop(process::output(
            process::privileged("kill").args([signal, "--", &group]),
        ));
        let patience = Instant::now() + Duration::from_secs(10);
        while Instant::now() < patience {
            if child.try_wait().is_ok_and(|status| status.is_some()) {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn reads_stdout_and_stderr_and_the_verdict() {
        let mut lines = Vec::new();
        let limit = Duration::from_mins(1);
        let mut command = shell("echo a; echo b >&2; exit 1");
        let success = run(&mut command, limit, |line| lines.push(line.to_owned())).unwrap();
        assert!(!success);
        assert_eq!(lines, ["a", "b"]);
    }

    #[test]
    fn ends_what_takes_too_long() {
        let start = Instant::now();
        let error = run(&mut shell("sleep 600"), Duration::ZERO, |_| {}).unwrap_err();
        assert!(error.to_string().contains("took longer"), "{error}");
        assert!(start.elapsed() < Duration::from_mins(5));
    }
}
