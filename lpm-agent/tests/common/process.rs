//! An agent in a process of its own, so that it can be killed.
//!
//! The process is this test binary, started anew to run nothing but [`agent_in_a_process`].

use std::{
    env,
    io::{BufRead, BufReader, Read},
    process::{ChildStdout, Command, Stdio},
};

use lpm_agent::kernel::{
    attach::Mode,
    hotplug::{Hotplug, Settings},
    load::Kernel,
    rules::Rules,
};
use lpm_bench::testbed::{Netns, NsChild};

/// Tells the child its mode.
const MODE: &str = "LPM_TEST_AGENT_MODE";

/// What the child says once everything is attached.
const READY: &str = "lpm-test-agent-ready";

/// An agent that runs in a namespace, by the built-in rules.
pub struct AgentProcess {
    pub child: NsChild,
    /// Kept open: what the test harness prints at the end goes there.
    _output: BufReader<ChildStdout>,
}

impl AgentProcess {
    /// Starts one and waits until it has attached to what is there.
    pub fn start(netns: &Netns, mode: Mode) -> Self {
        let mut command: Command = netns.command(env::current_exe().expect("this test"));
        command
            .args(["--exact", "agent_in_a_process", "--nocapture"])
            .env(MODE, mode.as_str())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let child = netns.spawn(&mut command).expect("start an agent");
        let mut output = BufReader::new(child.stdout().expect("stdout"));
        let mut said = String::new();
        while !said.contains(READY) {
            said.clear();
            let read = output.read_line(&mut said).expect("read from the agent");
            assert_ne!(read, 0, "the agent ended before it was ready");
        }
        Self {
            child,
            _output: output,
        }
    }

    /// Ends it in good order.
    pub fn stop(self) {
        // The end of its input is its signal to stop.
        drop(self.child.stdin());
        let status = self.child.wait(super::LIMIT).expect("wait for the agent");
        assert!(status.success(), "the agent ended with {status}");
    }

    /// Kills it with SIGKILL.
    pub fn kill(self) {
        let killed = self.child.signal(nix::sys::signal::Signal::SIGKILL);
        killed.expect("kill the agent");
        self.child.wait(super::LIMIT).expect("wait for the agent");
    }
}

/// Call this from a test named `agent_in_a_process` in each binary that uses [`AgentProcess`].
/// It does nothing unless it is the child.
pub fn agent_in_a_process() {
    let Ok(mode) = env::var(MODE) else { return };
    let mode = if mode == "netlink" {
        Mode::Netlink
    } else {
        Mode::Tcx
    };
    let mut kernel = Kernel::load(&super::SETTINGS).expect("load");
    let programs = kernel.programs().expect("programs").into();
    let table = kernel.interfaces().expect("map INTERFACES");
    let settings = Settings {
        mode,
        ..Settings::new(Rules::default())
    };
    let hotplug = Hotplug::start(settings, programs, table, drop).expect("start watching");
    println!("{READY}");
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).expect("stdin");
    hotplug.stop();
}
