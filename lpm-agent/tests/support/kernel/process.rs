//! The real thing: `lpm run` in a process of its own, so that it can be ended and killed.

use std::{
    io::{BufRead, BufReader},
    process::{ChildStderr, Command, Stdio},
};

use lpm_agent::kernel::attach::Mode;
use lpm_testbed::testbed::{Netns, NsChild};
use nix::sys::signal::Signal;

/// What the agent logs once everything that is there is attached and it serves.
const READY: &str = "metrics at http://";

/// `lpm run` in a namespace, by the built-in rules.
pub struct AgentProcess {
    pub child: NsChild,
    /// Kept open: the agent logs to it.
    _log: BufReader<ChildStderr>,
}

impl AgentProcess {
    /// Starts one and waits until it has attached to what is there.
    pub fn start(netns: &Netns, mode: Mode) -> Self {
        let mut command = lpm();
        command
            .args(["--netns", &super::path_of(netns), "run"])
            .args(["--listen", "127.0.0.1:0", "--attach", mode.as_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let child = netns.spawn(&mut command).expect("start an agent");
        let mut log = BufReader::new(child.stderr().expect("stderr"));
        let mut said = String::new();
        loop {
            let before = said.len();
            let read = log.read_line(&mut said).expect("read the agent's log");
            assert_ne!(read, 0, "the agent ended before it was ready: {said}");
            if said[before..].contains(READY) {
                return Self { child, _log: log };
            }
        }
    }

    /// Ends it in good order.
    pub fn stop(self) {
        self.child.signal(Signal::SIGTERM).expect("end the agent");
        let status = self.child.wait(super::LIMIT).expect("wait for the agent");
        assert!(status.success(), "the agent ended with {status}");
    }

    /// Kills it with SIGKILL.
    pub fn kill(self) {
        self.child.signal(Signal::SIGKILL).expect("kill the agent");
        self.child.wait(super::LIMIT).expect("wait for the agent");
    }
}

/// The binary that is tested, with nothing of this environment's that could steer it.
pub fn lpm() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lpm"));
    command.env_remove("LPM_LOG");
    command
}
