//! The programs that are measured, as processes.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use lpm_testbed::testbed::{Netns, NsChild};
use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use serde_json::Value;

/// A reflector or server, until dropped.
#[derive(Debug)]
pub(super) struct Server(NsChild);

/// The ports of the servers. That of `lpm` is none that tshark takes for another protocol.
pub(super) const LPM: u16 = 8620;
pub(super) const STAMP_SUITE: u16 = 8621;
pub(super) const IRTT: u16 = 2112;

/// How long a server may take to begin.
const BEGINS: Duration = Duration::from_secs(10);

impl Server {
    fn start(netns: &Netns, command: &mut Command, at: SocketAddr) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = netns.spawn(command.stderr(Stdio::null()))?;
        let end = Instant::now() + BEGINS;
        let port = format!(":{:04X} ", at.port());
        loop {
            let sockets = netns.output("cat", &["/proc/net/udp", "/proc/net/udp6"])?;
            if sockets.contains(&port) {
                return Ok(Self(child));
            }
            if Instant::now() > end || child.try_wait()?.is_some() {
                bail!("{command:?} does not serve at {at}");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(super) fn lpm(netns: &Netns, lpm: &Path, at: IpAddr) -> Result<Self> {
        let at = SocketAddr::new(at, LPM);
        let mut command = netns.command(lpm);
        command.args(["reflect", "--allow", "198.18.0.0/15", "--rate", "10000000"]);
        command.arg("--listen").arg(at.to_string());
        Self::start(netns, &mut command, at)
    }

    pub(super) fn stamp_suite(netns: &Netns, program: &Path, at: SocketAddr) -> Result<Self> {
        let mut command = netns.command(program);
        // Stateful, as `lpm reflect` is: it counts the packets of each session.
        command.args(["--is-reflector", "--stateful-reflector"]);
        command.arg("--local-addr").arg(at.ip().to_string());
        command.arg("--local-port").arg(at.port().to_string());
        Self::start(netns, &mut command, at)
    }

    pub(super) fn irtt(netns: &Netns, program: &Path, at: IpAddr) -> Result<Self> {
        let at = SocketAddr::new(at, IRTT);
        let mut command = netns.command(program);
        command.arg("server").arg("-b").arg(at.to_string());
        // Its limit of a packet per 10 ms is lifted.
        command.args(["-i", "1ms"]);
        Self::start(netns, &mut command, at)
    }

    /// Time on CPUs so far, of all its threads.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let pid = i32::try_from(self.0.id()).context("a process id")?;
        let clock = clock_getcpuclockid(Pid::from_raw(pid)).context("find a process's clock")?;
        let time = clock_gettime(clock).context("read a process's clock")?;
        Ok(Duration::from(time))
    }

    /// Anonymous memory, KiB.
    pub(super) fn anonymous(&self) -> Result<u64> {
        let file = format!("/proc/{}/status", self.0.id());
        let status = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kib
            .with_context(|| format!("no RssAnon in {file}"))?
            .parse()?)
    }
}

/// What one turn of a tool says, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Turn {
    pub(super) median: f64,
    pub(super) mean: f64,
    /// The round trip of each packet, in the order of sending.
    pub(super) packets: Vec<f64>,
    /// The median time from the device's queue to the device, where the tool tells it.
    pub(super) queue: Option<f64>,
}

impl Turn {
    fn of(packets: Vec<f64>) -> Result<Self> {
        let mut sorted = packets.clone();
        sorted.sort_by(f64::total_cmp);
        let median = *sorted
            .get(sorted.len() / 2)
            .context("no packet came back")?;
        #[expect(clippy::cast_precision_loss, reason = "some hundred packets")]
        let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
        Ok(Self {
            median,
            mean,
            packets,
            queue: None,
        })
    }
}

/// Milliseconds between two packets of a turn.
const EVERY: &str = "10";

pub(super) fn lpm(netns: &Netns, lpm: &Path, to: IpAddr, packets: usize) -> Result<Turn> {
    let target = SocketAddr::new(to, LPM).to_string();
    let packets = packets.to_string();
    let arguments = [
        "probe", "-c", &packets, "-i", "0.01", "--format", "json", &target,
    ];
    let said = netns.output(&lpm.display().to_string(), &arguments)?;
    let lines: Vec<Value> = said
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let trips = lines.iter().filter(|line| line["type"] == "packet");
    let trips = trips.filter_map(|line| line["rtt_ns"].as_f64()).collect();
    let summary = lines.last().context("lpm probe says nothing")?;
    let kernel = ["t1", "t2", "t3", "t4"].map(|stage| &summary["class"][stage]);
    if kernel.iter().any(|source| **source != "kernel") {
        bail!("not all times are the kernel's: {summary}");
    }
    Ok(Turn {
        queue: summary["queue_ns"]["p50"].as_f64(),
        ..Turn::of(trips)?
    })
}

pub(super) fn ping(netns: &Netns, to: IpAddr, packets: usize) -> Result<Turn> {
    let (to, packets) = (to.to_string(), packets.to_string());
    // As many bytes on the wire as `lpm probe` sends: 88 behind a header of 8.
    let said = netns.output("ping", &["-c", &packets, "-i", "0.01", "-s", "88", &to])?;
    let times = said.lines().filter_map(|line| {
        let (_, time) = line.split_once("time=")?;
        let milliseconds: f64 = time.split_whitespace().next()?.parse().ok()?;
        Some(milliseconds * 1e6)
    });
    Turn::of(times.collect())
}

pub(super) fn irtt(netns: &Netns, program: &Path, to: IpAddr, packets: usize) -> Result<Turn> {
    let duration = format!("{}ms", packets * 10);
    let file = tempfile::NamedTempFile::new().context("make a file")?;
    let path = file.path().display().to_string() + ".json";
    let to = to.to_string();
    let every = format!("{EVERY}ms");
    let arguments = [
        "client", "-i", &every, "-d", &duration, "-Q", "-o", &path, &to,
    ];
    netns.output(&program.display().to_string(), &arguments)?;
    let said = fs::read(&path).with_context(|| format!("read {path}"))?;
    fs::remove_file(&path).with_context(|| format!("remove {path}"))?;
    let said: Value = serde_json::from_slice(&said).context("read what irtt says")?;
    let trips = said["round_trips"]
        .as_array()
        .context("irtt's round trips")?;
    let trips = trips
        .iter()
        .filter_map(|trip| trip["delay"]["rtt"].as_f64());
    Turn::of(trips.collect())
}

pub(super) fn stamp_suite(
    netns: &Netns,
    program: &Path,
    to: IpAddr,
    packets: usize,
) -> Result<Turn> {
    let (to, packets) = (to.to_string(), packets.to_string());
    let port = STAMP_SUITE.to_string();
    let arguments = [
        "--remote-addr",
        &to,
        "--remote-port",
        &port,
        "--count",
        &packets,
        "--send-delay",
        EVERY,
        "--output-format",
        "json",
    ];
    let said = netns.output(&program.display().to_string(), &arguments)?;
    let summary = said.lines().last().context("stamp-suite says nothing")?;
    let summary: Value = serde_json::from_str(summary).context("read what stamp-suite says")?;
    let of = |key: &str| {
        let milliseconds = summary[key].as_f64();
        milliseconds
            .map(|ms| ms * 1e6)
            .with_context(|| format!("no {key} in {summary}"))
    };
    Ok(Turn {
        median: of("median_rtt_ms")?,
        mean: of("avg_rtt_ms")?,
        packets: Vec::new(),
        queue: None,
    })
}
