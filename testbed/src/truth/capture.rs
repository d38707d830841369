//! A matcher without limits, on a capture at the same hook.
//!
//! tcpdump captures at the interface that the agent watches; the reference in
//! `tests/oracle` then says which samples somebody with any memory would have.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{BufRead, BufReader},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{ChildStderr, Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::{Echo, Error, Leg, Method, Sample, Spread, bucket, float};
use crate::testbed::{Netns, NsChild};

const LIMIT: Duration = Duration::from_secs(30);

/// tcpdump at an interface, until stopped.
#[derive(Debug)]
pub struct Capture {
    child: NsChild,
    stderr: BufReader<ChildStderr>,
    file: PathBuf,
}

/// A sample that a matcher without limits has.
#[derive(Debug, Clone, Deserialize)]
pub struct Reference {
    src: IpAddr,
    sport: u16,
    dst: IpAddr,
    dport: u16,
    id: u32,
    rtt_ns: u64,
    leg: Leg,
    echo: Echo,
    /// One ACK may cover several segments: samples of one group exclude each
    /// other, the oldest is first.
    group: Option<u64>,
    /// Its ACK may have changed places with another on two CPUs.
    #[serde(default)]
    crossed: bool,
}

/// The agent's samples beside those of a matcher without limits: prompt echoes
/// of the remote leg. Times in ns.
#[derive(Debug, Clone, Serialize)]
pub struct Unlimited {
    /// All that there could be, by the capture's clock.
    pub full: Spread,
    /// Those of them that the agent has, by the capture's clock too: what the
    /// choice of the slots does, and nothing else.
    pub chosen: Spread,
    /// The agent's time less the capture's, of the same samples. The capture's
    /// clock is read elsewhere: on reception before the packet waits for its
    /// CPU, on sending after the hook.
    pub clocks: Spread,
    /// Samples of the agent, of any kind, that should not be.
    pub false_samples: usize,
    /// How far the mean of the chosen is off, as a share.
    pub mean_off: f64,
    /// For each percentile (50, 90, 99): whether that of the chosen lies in the
    /// bucket that holds the truth, and how far off it is as a share.
    pub percentiles: Vec<(&'static str, bool, f64)>,
}

impl Capture {
    /// Begins to capture TCP packets of `port` at an interface.
    pub fn start(netns: &Netns, interface: &str, port: u16, file: &Path) -> Result<Self, Error> {
        let mut command = netns.command("tcpdump");
        command
            .args(["-i", interface, "-n", "-Z", "root", "-s", "160", "-w"])
            .arg(file)
            // 64 MiB and no waiting for full blocks: nothing may be lost.
            .args(["-B", "65536", "--immediate-mode"])
            .arg("--time-stamp-precision=nano")
            .arg(format!("tcp port {port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let child = netns.spawn(&mut command)?;
        let stderr = child.stderr().ok_or_else(|| tcpdump("it has no stderr"))?;
        let mut capture = Self {
            child,
            stderr: BufReader::new(stderr),
            file: file.to_owned(),
        };
        capture.line_with("listening on")?;
        Ok(capture)
    }

    /// Ends it when it took all packets that passed the filter. An error if
    /// some are missing.
    pub fn stop(mut self) -> Result<PathBuf, Error> {
        let deadline = Instant::now() + LIMIT;
        loop {
            self.signal(Signal::SIGUSR1)?;
            let report = self.line_with("captured, ")?;
            if number(&report, "captured")? >= number(&report, "received")? {
                break;
            }
            if Instant::now() > deadline {
                return Err(tcpdump(&format!("it does not keep up: {report}")));
            }
        }
        self.signal(Signal::SIGINT)?;
        let dropped = self.line_with("dropped by kernel")?;
        self.child
            .wait(LIMIT)
            .map_err(Error::io("cannot wait for tcpdump"))?;
        if number(&dropped, "dropped")? > 0 {
            return Err(Error::Incomplete(format!(
                "the capture has holes ({})",
                dropped.trim()
            )));
        }
        Ok(self.file)
    }

    fn signal(&self, signal: Signal) -> Result<(), Error> {
        self.child
            .signal(signal)
            .map_err(Error::io("cannot signal tcpdump"))
    }

    fn line_with(&mut self, wanted: &str) -> Result<String, Error> {
        loop {
            let mut line = String::new();
            let length = self
                .stderr
                .read_line(&mut line)
                .map_err(Error::io("cannot read what tcpdump says"))?;
            if length == 0 {
                return Err(tcpdump(&format!("it ended without saying `{wanted}`")));
            }
            if line.contains(wanted) {
                return Ok(line);
            }
        }
    }
}

impl Reference {
    /// What a matcher without limits finds in a capture, by timestamps or by
    /// sequence numbers; `scripts` is `tests/oracle`, `local` are the pod's
    /// addresses.
    pub fn of_capture(
        capture: &Path,
        scripts: &Path,
        method: Method,
        local: &[IpAddr],
    ) -> Result<Vec<Self>, Error> {
        let name = match method {
            Method::Seq => "seq.py",
            _ => "oracle.py",
        };
        let oracle = |name| {
            let mut command = Command::new("python3");
            command.arg("-B").arg(scripts.join(name));
            command
        };
        let fields = output(oracle("oracle.py").arg("--fields"))?;
        let options = String::from_utf8_lossy(&fields).into_owned();
        let mut tshark = Command::new("tshark");
        tshark.arg("-r").arg(capture).arg("-n");
        tshark.args(["-o", "tcp.relative_sequence_numbers:FALSE", "-T", "fields"]);
        tshark.args(options.split_whitespace());
        let fields = capture.with_extension("tsv");
        std::fs::write(&fields, output(&mut tshark)?)
            .map_err(Error::io("cannot write tshark's fields"))?;
        let mut matcher = oracle(name);
        matcher
            .arg("--local")
            .args(local.iter().map(IpAddr::to_string));
        matcher.stdin(File::open(&fields).map_err(Error::io("cannot read tshark's fields"))?);
        let lines = output(&mut matcher)?;
        let read = |line: &[u8]| {
            serde_json::from_slice(line).map_err(|error| tool(name, &error.to_string()))
        };
        let lines = lines.split(|byte| *byte == b'\n');
        lines.filter(|line| !line.is_empty()).map(read).collect()
    }

    /// What tells it from all others at the hook: sender and receiver of the
    /// stamped packet, and what matched.
    #[must_use]
    pub fn identity(&self) -> (IpAddr, u16, IpAddr, u16, u32) {
        (self.src, self.sport, self.dst, self.dport, self.id)
    }
}

impl Unlimited {
    /// Compares the samples of the captured port with all that there could be;
    /// None if either has no prompt echo of the remote leg.
    #[must_use]
    pub fn compare(samples: &[Sample], reference: &[Reference]) -> Option<Self> {
        let mut open: HashMap<_, _> = reference.iter().map(|r| (r.identity(), r)).collect();
        let wanted = |r: &Reference| r.leg == Leg::Remote && r.echo == Echo::Prompt;
        let mut groups = HashSet::new();
        let mut oldest = |r: &&Reference| r.group.is_none_or(|group| groups.insert(group));
        let full = reference.iter().filter(|r| oldest(r) && wanted(r));
        let full = Spread::of_times(full.map(|r| r.rtt_ns))?;
        let (mut chosen, mut clocks, mut false_samples) = (Vec::new(), Vec::new(), 0);
        let mut met = HashSet::new();
        for s in samples {
            // Each only once: the second sample of one id is false too.
            match open.remove(&(s.src, s.sport, s.dst, s.dport, s.id)) {
                Some(reference) if reference.group.is_some_and(|g| !met.insert(g)) => {
                    false_samples += usize::from(!reference.crossed);
                }
                Some(reference) if wanted(reference) => {
                    chosen.push(reference.rtt_ns);
                    clocks.push(float(s.rtt_ns) - float(reference.rtt_ns));
                }
                Some(_) => {}
                None => false_samples += 1,
            }
        }
        let chosen = Spread::of_times(chosen)?;
        let pairs = chosen.percentiles().into_iter().zip(full.percentiles());
        let percentiles = pairs
            .map(|((name, got), (_, truth))| {
                (name, bucket(got) == bucket(truth), (got - truth) / truth)
            })
            .collect();
        Some(Self {
            mean_off: (chosen.mean - full.mean) / full.mean,
            full,
            chosen,
            clocks: Spread::of(clocks)?,
            false_samples,
            percentiles,
        })
    }
}

fn output(command: &mut Command) -> Result<Vec<u8>, Error> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| tool(&name, &error.to_string()))?;
    if !output.status.success() {
        return Err(tool(&name, &String::from_utf8_lossy(&output.stderr)));
    }
    Ok(output.stdout)
}

/// The number that stands before `packets` before `word` in a report of tcpdump's.
fn number(report: &str, word: &str) -> Result<u64, Error> {
    let words: Vec<_> = report.split_whitespace().collect();
    let at = words.iter().position(|found| found.starts_with(word));
    at.and_then(|at| words.get(at.checked_sub(2)?)?.parse().ok())
        .ok_or_else(|| tcpdump(&format!("no number of packets {word} in `{report}`")))
}

fn tcpdump(reason: &str) -> Error {
    tool("tcpdump", reason)
}

fn tool(tool: &str, reason: &str) -> Error {
    Error::Tool {
        tool: tool.to_owned(),
        reason: reason.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_tcpdump() {
        let report = "tcpdump: 120 packets captured, 121 packets received by filter, 0 packets dropped by kernel";
        assert_eq!(number(report, "captured").ok(), Some(120));
        assert_eq!(number(report, "received").ok(), Some(121));
        assert_eq!(
            number("3 packets dropped by kernel", "dropped").ok(),
            Some(3)
        );
        assert!(number(report, "lost").is_err());
    }
}
