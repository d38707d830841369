//! Those who look at the pod's veth: the monitor and tcpdump.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use lpm_testbed::{
    testbed::{NsChild, Pair},
    traffic::{Background, Limit, RequestConfig, requests},
};
use nix::sys::signal::Signal;

use super::{LIMIT, MARKER_PORT, files::Files};

/// `lpm watch` on the pod's veth.
pub(crate) struct Watch<'a> {
    child: NsChild,
    output: &'a Path,
}

impl<'a> Watch<'a> {
    /// With these further arguments; the samples go to `output`.
    pub(crate) fn start(pair: &Pair, output: &'a Path, arguments: &[&str]) -> Self {
        let file = File::create(output).expect("a file for the samples");
        let mut command = Command::new(env!("CARGO_BIN_EXE_lpm"));
        command
            .args(["--netns", pair.node.name(), "watch"])
            .args(["-i", Pair::POD_INTERFACE, "--format", "json"])
            .args(arguments)
            .stdout(file);
        // Started outside the namespaces, as a user would; the guard kills it.
        let child = pair.node.spawn(&mut command).expect("lpm watch");
        Self { child, output }
    }

    /// Waits until a sample of a connection made from now on came out: then
    /// the hooks are in place, and all samples of earlier packets are out.
    pub(crate) fn seen_after_now(&self, pair: &Pair) {
        let target = SocketAddr::new(Pair::SERVER[0], MARKER_PORT);
        let config = RequestConfig {
            limit: Limit::count(5),
            period: Duration::from_millis(3),
            ..RequestConfig::new(target)
        };
        let before = self.markers();
        let deadline = Instant::now() + LIMIT;
        while self.markers() <= before {
            let ended = self.child.try_wait().expect("the state of lpm watch");
            assert!(ended.is_none(), "lpm watch ended by itself: {ended:?}");
            assert!(
                Instant::now() < deadline,
                "lpm watch shows no sample after {LIMIT:?}"
            );
            let asked = Background::start(&pair.client, move |control| requests(&config, control));
            asked.expect("a marker").join().expect("a marker's answers");
        }
    }

    fn markers(&self) -> usize {
        let wanted = format!("\"dport\":{MARKER_PORT}");
        let file = File::open(self.output).expect("the samples");
        let lines = BufReader::new(file).lines().map_while(Result::ok);
        lines
            .filter(|line| line.replace(' ', "").contains(&wanted))
            .count()
    }

    pub(crate) fn stop(self) {
        self.child
            .signal(Signal::SIGINT)
            .expect("lpm watch to be told");
        let status = self.child.wait(LIMIT).expect("lpm watch to end");
        assert!(status.success(), "lpm watch ended with {status}");
    }
}

/// tcpdump at the same interface.
pub(crate) struct Capture {
    child: NsChild,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Capture {
    pub(crate) fn start(pair: &Pair, files: &Files, filter: &str) -> Self {
        let mut command = pair.node.command("tcpdump");
        command
            .args(["-i", Pair::POD_INTERFACE, "-w"])
            .arg(&files.capture)
            // 64 MiB and no waiting for full blocks: nothing may be lost.
            .args([
                "-Z",
                "root",
                "-n",
                "-s",
                "160",
                "-B",
                "65536",
                "--immediate-mode",
            ])
            .arg("--time-stamp-precision=nano")
            .arg(filter)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let child = pair.node.spawn(&mut command).expect("tcpdump");
        let stderr = BufReader::new(child.stderr().expect("tcpdump's words"));
        let mut capture = Self { child, stderr };
        capture.line_with("listening on");
        capture
    }

    fn line_with(&mut self, wanted: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let length = self.stderr.read_line(&mut line).expect("tcpdump's words");
            assert!(length > 0, "tcpdump ended without saying `{wanted}`");
            if line.contains(wanted) {
                return line;
            }
        }
    }

    /// Packets captured, and those that passed the filter, so far.
    fn progress(&mut self) -> [u64; 2] {
        self.child
            .signal(Signal::SIGUSR1)
            .expect("tcpdump to be told");
        let report = self.line_with("captured, ");
        ["captured", "received"].map(|word| count(&report, word))
    }

    /// Ends it when it took all packets that passed the filter.
    pub(crate) fn stop(mut self) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let [captured, received] = self.progress();
            if captured >= received {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "tcpdump took {captured} of {received} packets"
            );
        }
        self.child
            .signal(Signal::SIGINT)
            .expect("tcpdump to be told");
        let [captured, received, dropped] =
            ["captured", "received", "dropped"].map(|word| count(&self.line_with(word), word));
        let status = self.child.wait(LIMIT).expect("tcpdump to end");
        assert!(status.success(), "tcpdump ended with {status}");
        println!("capture: {captured} of {received} packets, {dropped} dropped by kernel");
        assert_eq!(
            (captured, dropped),
            (received, 0),
            "the capture has holes and proves nothing"
        );
    }
}

/// The number before `packets` before `word` in a report of tcpdump's.
fn count(report: &str, word: &str) -> u64 {
    let words: Vec<_> = report.split_whitespace().collect();
    let at = words.iter().position(|found| found.starts_with(word));
    let number = at.and_then(|at| words.get(at.checked_sub(2)?));
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no number of packets {word} in `{report}`"))
}
