//! The real binary, in a process of its own, and what it says.

use std::{
    io::{BufRead, BufReader},
    net::IpAddr,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde::Deserialize;

use super::Error;
use crate::testbed::{Netns, NsChild};

/// What the agent logs once everything that is there is attached and it serves.
const READY: &str = "metrics at ";

/// How long anything may take; far more than it ever needs.
const LIMIT: Duration = Duration::from_secs(30);

/// Which part of the path a sample covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leg {
    /// Beyond the vantage.
    Remote,
    /// Towards the pod.
    Local,
}

/// How long the far end may have sat on the echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Echo {
    /// Not at all.
    Prompt,
    /// The far end may have held the echo as long as a delayed acknowledgement.
    Lone,
    /// The far end may have held the echo as long as the application thought.
    Data,
}

/// How a sample was made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// By TCP timestamps.
    #[default]
    Ts,
    /// By TCP sequence numbers.
    Seq,
    /// A TCP handshake.
    Handshake,
    /// ICMP echo.
    Icmp,
    /// A DNS query and its answer.
    Dns,
}

/// A tunnel around a flow.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub struct Tunnel {
    /// `vxlan` or `geneve`.
    pub kind: String,
    /// Number of its network.
    pub vni: u32,
}

/// A sample as the agent's stream has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Sample {
    /// Interface of the vantage.
    pub interface: String,
    /// Kind of the vantage.
    pub vantage: String,
    /// Sender of the stamped packet.
    pub src: IpAddr,
    /// Port of the sender of the stamped packet.
    pub sport: u16,
    /// Receiver of the stamped packet.
    pub dst: IpAddr,
    /// Port of the receiver of the stamped packet.
    pub dport: u16,
    /// The round trip, ns.
    pub rtt_ns: u64,
    /// Which part of the path.
    pub leg: Leg,
    /// Which kind of echo.
    pub echo: Echo,
    /// How it was made.
    #[serde(default)]
    pub method: Method,
    /// The `TSval`; of `seq` and `handshake` the sequence number after the
    /// stamped segment.
    pub id: u32,
    /// Outer VLAN id, if there is one.
    #[serde(default)]
    pub vlan: Option<u16>,
    /// The tunnels around the flow, outermost first.
    #[serde(default)]
    pub tunnels: Vec<Tunnel>,
}

/// `lpm run` in a namespace, with its stream of samples open; ended on drop.
#[derive(Debug)]
pub struct Monitor {
    child: NsChild,
    base: String,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Samples the kernel had counted before the stream was open.
    before: u64,
    /// Whether the agent was killed on purpose.
    killed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    samples: Mutex<Vec<Sample>>,
    change: Condvar,
    received: AtomicU64,
    missed: AtomicU64,
    open: AtomicBool,
    said: Mutex<String>,
}

impl Monitor {
    /// Starts the binary `lpm` for the interfaces of `netns` with these further
    /// arguments of `lpm run`, and waits until its stream of samples is open.
    pub fn start(lpm: &Path, netns: &Netns, arguments: &[&str]) -> Result<Self, Error> {
        let mut command = Command::new(lpm);
        command
            .arg("--netns")
            .arg(netns.path())
            .args(["run", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .env_remove("LPM_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // Started outside the namespace, as a user would; the guard kills it.
        let child = netns.spawn(&mut command)?;
        let mut log = BufReader::new(child.stderr().ok_or_else(|| agent("has no log", ""))?);
        let shared = Arc::new(Shared::default());
        let base = await_address(&mut log, &shared)?;
        let mut monitor = Self {
            child,
            base,
            shared,
            threads: Vec::new(),
            before: 0,
            killed: false,
        };
        let shared = Arc::clone(&monitor.shared);
        monitor.thread("monitor-log", move || {
            for line in log.lines().map_while(Result::ok) {
                let mut said = shared.said.lock().unwrap_or_else(PoisonError::into_inner);
                said.push_str(&line);
                said.push('\n');
            }
        })?;
        monitor.follow()?;
        monitor.before = monitor.counted()?;
        Ok(monitor)
    }

    /// Opens the stream of samples and waits for its first line.
    fn follow(&mut self) -> Result<(), Error> {
        let body = get(&format!("{}/api/v1/watch", self.base))?;
        let shared = Arc::clone(&self.shared);
        self.thread("monitor-samples", move || {
            for line in BufReader::new(body.into_reader())
                .lines()
                .map_while(Result::ok)
            {
                shared.line(&line);
            }
        })?;
        let shared = Arc::clone(&self.shared);
        wait_until("the first line of the stream of samples", || {
            Ok(shared.open.load(Ordering::Acquire))
        })
    }

    fn thread(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
        self.threads
            .push(thread.map_err(Error::io("cannot start a thread"))?);
        Ok(())
    }

    /// The samples so far.
    #[must_use]
    pub fn samples(&self) -> Vec<Sample> {
        self.shared.samples().clone()
    }

    /// The samples so far; they are forgotten here.
    #[must_use]
    pub fn take_samples(&self) -> Vec<Sample> {
        std::mem::take(&mut *self.shared.samples())
    }

    /// Waits until the samples are such that `enough`.
    pub fn wait_for(&self, what: &str, enough: impl Fn(&[Sample]) -> bool) -> Result<(), Error> {
        let samples = self.shared.samples();
        let waiting = |samples: &mut Vec<Sample>| !enough(samples);
        let wait = self
            .shared
            .change
            .wait_timeout_while(samples, LIMIT, waiting);
        if wait.unwrap_or_else(PoisonError::into_inner).1.timed_out() {
            return Err(timeout(what));
        }
        Ok(())
    }

    /// Waits until every sample that the kernel counted so far came down the
    /// stream. An error if the stream missed one: then nothing is proved.
    pub fn settle(&self) -> Result<(), Error> {
        wait_until("the arrival of all samples that the kernel counted", || {
            let wanted = self.counted()? - self.before;
            let missed = self.shared.missed.load(Ordering::Acquire);
            if missed > 0 {
                return Err(Error::Incomplete(format!(
                    "the stream missed {missed} samples"
                )));
            }
            Ok(self.shared.received.load(Ordering::Acquire) >= wanted)
        })
    }

    /// Samples that came down the stream since the start.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Acquire)
    }

    /// Samples that the kernel counted in its histograms while the stream was open.
    pub fn in_histograms(&self) -> Result<u64, Error> {
        Ok(self.counted()? - self.before)
    }

    /// All samples that the kernel counted.
    fn counted(&self) -> Result<u64, Error> {
        Ok(value(&self.metrics()?, "lpm_samples_total").unwrap_or(0))
    }

    /// The metrics, as text.
    pub fn metrics(&self) -> Result<String, Error> {
        let mut body = get(&format!("{}/metrics", self.base))?;
        body.read_to_string()
            .map_err(|error| agent("does not tell its metrics", &error.to_string()))
    }

    /// The sum of all series that begin with `series`, such as
    /// `lpm_stamps_total{result="stored"}`; 0 if there is none.
    pub fn counter(&self, series: &str) -> Result<u64, Error> {
        Ok(value(&self.metrics()?, series).unwrap_or(0))
    }

    /// The items of `/api/v1/flows?all=true` or another list of the API.
    pub fn list(&self, path: &str) -> Result<Vec<serde_json::Value>, Error> {
        let text = get(&format!("{}/api/v1/{path}", self.base))?
            .read_to_string()
            .map_err(|error| agent("does not answer", &error.to_string()))?;
        let mut page: serde_json::Value = serde_json::from_str(&text)
            .map_err(|error| agent("answers no JSON", &error.to_string()))?;
        match page["items"].take() {
            serde_json::Value::Array(items) => Ok(items),
            other => Err(agent("answers no list", &other.to_string())),
        }
    }

    /// The agent's process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Samples that the stream did not bring.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.shared.missed.load(Ordering::Acquire)
    }

    /// Kills the agent, which has no time to put anything in order.
    pub fn kill(mut self) -> Result<(), Error> {
        self.killed = true;
        let killed = self.child.signal(Signal::SIGKILL);
        killed.map_err(Error::io("cannot kill the agent"))?;
        let ended = self.child.wait(LIMIT);
        ended.map_err(Error::io("the agent does not die")).map(drop)
    }

    /// What it logged since it was ready.
    #[must_use]
    pub fn said(&self) -> String {
        let said = self.shared.said.lock();
        said.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // In good order first, so that it detaches by itself; the guard would kill it.
        let _ = self.child.signal(Signal::SIGTERM);
        let ended = self.child.wait(Duration::from_secs(10));
        let well = self.killed || matches!(&ended, Ok(status) if status.success());
        if !well && !thread::panicking() {
            eprintln!("testbed: the agent did not end well: {ended:?}");
        }
        if ended.is_err() {
            let _ = self.child.signal(Signal::SIGKILL);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn samples(&self) -> MutexGuard<'_, Vec<Sample>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a line of the stream: a sample, or the heartbeat.
    fn line(&self, line: &str) {
        #[derive(Deserialize)]
        struct Heartbeat {
            missed: u64,
        }
        if let Ok(sample) = serde_json::from_str::<Sample>(line) {
            let mut samples = self.samples();
            samples.push(sample);
            self.received.fetch_add(1, Ordering::AcqRel);
            self.change.notify_all();
        } else if let Ok(Heartbeat { missed }) = serde_json::from_str(line) {
            self.missed.store(missed, Ordering::Release);
        }
        self.open.store(true, Ordering::Release);
    }
}

/// Reads the agent's log until it says where it serves; the base of its URLs.
fn await_address(log: &mut impl BufRead, shared: &Shared) -> Result<String, Error> {
    let mut said = shared.said.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let before = said.len();
        let read = log
            .read_line(&mut said)
            .map_err(Error::io("cannot read the agent's log"))?;
        if read == 0 {
            return Err(agent("ended before it was ready", said.trim()));
        }
        if let Some((_, url)) = said[before..].split_once(READY) {
            return Ok(url.trim().trim_end_matches("/metrics").to_owned());
        }
    }
}

fn get(url: &str) -> Result<ureq::Body, Error> {
    // What was counted until now, not the page that another client got within this second.
    match ureq::get(url).header("Cache-Control", "no-cache").call() {
        Ok(response) => Ok(response.into_body()),
        Err(error) => Err(agent("does not answer", &format!("{url}: {error}"))),
    }
}

/// The sum of the values of all lines of the text format that begin with `series`.
fn value(metrics: &str, series: &str) -> Option<u64> {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(series)?;
        // The whole name, not the beginning of a longer one.
        let whole = series.ends_with('}') || rest.starts_with(['{', ' ']);
        rest.rsplit_once(' ').filter(|_| whole)?.1.parse().ok()
    });
    let values: Vec<u64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

/// Asks again and again, up to [`LIMIT`].
fn wait_until(what: &str, mut holds: impl FnMut() -> Result<bool, Error>) -> Result<(), Error> {
    let deadline = Instant::now() + LIMIT;
    while !holds()? {
        if Instant::now() >= deadline {
            return Err(timeout(what));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn timeout(what: &str) -> Error {
    Error::Timeout {
        what: what.to_owned(),
        after: LIMIT,
    }
}

fn agent(what: &'static str, said: &str) -> Error {
    Error::Agent {
        what,
        said: said.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_their_whole_name() {
        let text = "a_total{x=\"1\"} 3\na_total{x=\"2\"} 4\na_total_more 9\nb 5\n";
        assert_eq!(value(text, "a_total"), Some(7));
        assert_eq!(value(text, "a_total{x=\"2\"}"), Some(4));
        assert_eq!(value(text, "b"), Some(5));
        assert_eq!(value(text, "c"), None);
    }

    #[test]
    fn lines_of_the_stream() {
        let shared = Shared::default();
        shared.line(
            r#"{"schema":1,"time":"T","interface":"va","vantage":"pod","src":"198.18.5.1","sport":41140,"dst":"198.18.5.2","dport":5301,"rtt_ns":12000,"leg":"remote","echo":"prompt","method":"ts","id":7}"#,
        );
        shared.line(r#"{"schema":1,"missed":2}"#);
        let samples = shared.samples();
        assert_eq!((samples.len(), samples[0].echo), (1, Echo::Prompt));
        assert_eq!(shared.missed.load(Ordering::Acquire), 2);
    }
}
