//! The agent as a process: what it serves, and what it takes.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

use super::topology::Topology;
use lpm_testbed::testbed::NsChild;

/// How long anything may take; far more than it ever needs.
const LIMIT: Duration = Duration::from_mins(2);

/// What Prometheus asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Format {
    /// Native histograms.
    Protobuf,
    /// Classic ones.
    Text,
}

impl Format {
    fn accept(self) -> &'static str {
        match self {
            Self::Protobuf => {
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                 encoding=delimited"
            }
            Self::Text => "text/plain;version=0.0.4",
        }
    }
}

/// Series of one scrape.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Series {
    /// Histograms.
    pub(super) histograms: usize,
    /// All series with classic histograms.
    pub(super) classic: usize,
    /// All series with native histograms.
    pub(super) native: usize,
    /// Bytes of the text.
    pub(super) bytes: usize,
}

/// A running `lpm run`; killed on drop.
#[derive(Debug)]
pub(super) struct Agent {
    child: NsChild,
    url: String,
}

impl Agent {
    /// Starts it on a topology; returns once it serves.
    pub(super) fn start(lpm: &Path, topology: &Topology, levels: &str) -> Result<Self> {
        let mut command = Command::new(lpm);
        command
            .arg("--netns")
            .arg(topology.node.path())
            .args(["run", "--listen", "127.0.0.1:0", "-c"])
            .arg(topology.configuration(levels)?)
            .env_remove("LPM_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let child = topology.node.spawn(&mut command)?;
        let stderr = child.stderr().context("the agent has no stderr")?;
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let mut said = String::new();
        let url = lines.find_map(|line| {
            said += &line;
            Some(line.split_once("metrics at ")?.1.trim().to_owned())
        });
        let Some(url) = url else {
            bail!("{} ended: {said}", lpm.display());
        };
        // Nobody reads what it says later, but it may not find the pipe closed.
        thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, url })
    }

    pub(super) fn scrape(&self, format: Format) -> Result<Vec<u8>> {
        // A page of its own, which takes work: others would share one for a second.
        let get = ureq::get(&self.url).header("Cache-Control", "no-cache");
        let get = get.header("Accept", format.accept());
        let mut answer = get.call().context("scrape the agent")?;
        let body = answer.body_mut().with_config().limit(64 << 20);
        body.read_to_vec().context("read the metrics")
    }

    fn text(&self) -> Result<String> {
        String::from_utf8(self.scrape(Format::Text)?).context("read the metrics")
    }

    /// Waits until this many interfaces are watched and all have samples.
    pub(super) fn wait_for(&self, pods: usize) -> Result<()> {
        let until = Instant::now() + LIMIT;
        loop {
            let text = self.text()?;
            let attached = text.matches("lpm_interface_attached{").count();
            let active = text.lines().find_map(|line| {
                let value = line.strip_prefix("lpm_active_flows{vantage=\"pod\"} ")?;
                value.parse::<usize>().ok()
            });
            if attached >= pods && active >= Some(pods) {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("{attached} interfaces are watched, {active:?} flows are active");
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    pub(super) fn series(&self) -> Result<Series> {
        let text = self.text()?;
        let lines = || text.lines().filter(|line| !line.starts_with('#'));
        let histograms = lines().filter(|line| line.contains("le=\"+Inf\"")).count();
        let buckets = lines().filter(|line| line.contains("le=\"")).count();
        let classic = lines().count();
        Ok(Series {
            histograms,
            classic,
            // One each, without buckets, sum and count.
            native: classic - buckets - histograms,
            bytes: text.len(),
        })
    }

    /// Time on CPUs so far, of all its threads, those that have ended included.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let pid = i32::try_from(self.child.id()).context("a process id")?;
        let clock = clock_getcpuclockid(Pid::from_raw(pid)).context("find the agent's clock")?;
        let time = clock_gettime(clock).context("read the agent's clock")?;
        Ok(Duration::from(time))
    }

    /// Anonymous memory, bytes.
    pub(super) fn anonymous(&self) -> Result<u64> {
        self.memory("RssAnon:")
    }

    /// Mapped memory, bytes: the kernel's tables and the program.
    pub(super) fn mapped(&self) -> Result<u64> {
        Ok(self.memory("RssFile:")? + self.memory("RssShmem:")?)
    }

    fn memory(&self, what: &str) -> Result<u64> {
        let file = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(what));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: u64 = kib
            .with_context(|| format!("no {what} in {file}"))?
            .parse()?;
        Ok(kib << 10)
    }
}
