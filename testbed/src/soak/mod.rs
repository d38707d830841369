//! An hour of mixed load: whether agents take more and more, and whether all samples are right.
//!
//! Two agents watch one node. Each has a pod of its own, with and without TCP timestamps, that
//! talks to a remote machine by long and short connections, pings and DNS across a wire of a fixed
//! delay. The `steady` agent runs all the time. The `mortal` one is killed again and again, and
//! started again over its pins. Meanwhile interfaces come and go, an address gets another owner
//! every second from a real API server, and that server is restarted now and then.
//!
//! [`run`] reads what both agents take, and holds each of their samples against the wire's log;
//! [`Report`] says whether that is flat, by a rule that [`Measure::slack`] states.

mod changes;
mod error;
mod judge;
mod load;
mod reading;
mod report;
mod site;

use std::{
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use self::{
    changes::{Ending, Progress},
    judge::Judge,
    load::Load,
    reading::read,
    site::{PLAIN_INTERFACE, Site, populate},
};
pub use self::{
    error::Error,
    judge::Judgement,
    load::Traffic,
    reading::{Measure, Reading},
    report::{Counts, Report, Row},
};
use crate::{kubernetes::ApiServer, testbed::Pair, truth::Monitor};

/// How far the agents' names may be behind the API server when all is over.
const PATIENCE: Duration = Duration::from_mins(1);

/// How much is done.
#[derive(Debug, Clone)]
pub struct Config {
    /// The agent's program.
    pub lpm: PathBuf,
    /// How long it lasts.
    pub lasts: Duration,
    /// From one interface to the next.
    pub interface_every: Duration,
    /// From one death of the mortal agent to the next.
    pub kill_every: Duration,
    /// From one restart of the API server to the next.
    pub restart_every: Duration,
    /// From one reading to the next.
    pub read_every: Duration,
}

impl Config {
    /// The long version: 1,000 interfaces, 60 deaths and 12 restarts of the API server an hour.
    #[must_use]
    pub fn new(lpm: &Path, lasts: Duration) -> Self {
        Self {
            lpm: lpm.to_owned(),
            lasts,
            interface_every: Duration::from_millis(3600),
            kill_every: Duration::from_mins(1),
            restart_every: Duration::from_mins(5),
            read_every: Duration::from_secs(5),
        }
    }

    /// The dense version: all happens more often, so that minutes show what leaks.
    #[must_use]
    pub fn dense(lpm: &Path, lasts: Duration) -> Self {
        Self {
            interface_every: Duration::from_millis(500),
            kill_every: lasts / 8,
            restart_every: lasts / 3,
            read_every: Duration::from_secs(2),
            ..Self::new(lpm, lasts)
        }
    }
}

/// Runs the load and two agents; an error if any of it broke off.
pub fn run(config: &Config) -> Result<Report, Error> {
    let mut api = ApiServer::start()?;
    populate(&api)?;
    let site = Site::new()?;
    let load = Load::start(&site)?;
    let steady = Agent::start(config, &site, &api, "steady", Pair::POD_INTERFACE)?;
    let mortal = Agent::start(config, &site, &api, "mortal", PLAIN_INTERFACE)?;
    let progress = Progress::default();
    let mut soak = Soak {
        config,
        site: &site,
        progress: &progress,
        steady: &steady,
        judge: Judge::default(),
        report: Report::default(),
        begun: Instant::now(),
    };
    let mortal = thread::scope(|scope| {
        let ending = Ending(&progress);
        let threads = [
            scope.spawn(|| {
                let every = config.interface_every;
                changes::interfaces(&site, &steady.monitor, every, &progress)
            }),
            scope.spawn(|| changes::names(&mut api, config.restart_every, &progress)),
        ];
        let mortal = soak.watch(mortal, || threads.iter().any(ScopedJoinHandle::is_finished));
        drop(ending);
        for thread in threads {
            match thread.join() {
                Ok(ended) => ended?,
                Err(payload) => std::panic::resume_unwind(payload),
            }
        }
        mortal
    })?;
    soak.end(&mortal, load)
}

/// An agent, and what starts it again.
struct Agent {
    monitor: Monitor,
    lpm: PathBuf,
    configuration: PathBuf,
}

impl Agent {
    fn start(
        config: &Config,
        site: &Site,
        api: &ApiServer,
        name: &str,
        interface: &str,
    ) -> Result<Self, Error> {
        let configuration = site.configuration(name, interface, api)?;
        let monitor = monitor(&config.lpm, site, &configuration)?;
        Ok(Self {
            monitor,
            lpm: config.lpm.clone(),
            configuration,
        })
    }

    /// Kills the agent, and starts another over its pins. An error if that one has counted less.
    fn again(self, site: &Site) -> Result<Self, Error> {
        let before = self.monitor.counter("lpm_samples_total")?;
        self.monitor.kill()?;
        let monitor = monitor(&self.lpm, site, &self.configuration)?;
        let after = monitor.counter("lpm_samples_total")?;
        if after < before {
            return Err(Error::Broken(format!(
                "{before} samples were counted before an agent was killed, {after} after"
            )));
        }
        Ok(Self { monitor, ..self })
    }
}

fn monitor(lpm: &Path, site: &Site, configuration: &Path) -> Result<Monitor, Error> {
    let configuration = configuration.display().to_string();
    Ok(Monitor::start(
        lpm,
        &site.pair.node,
        &["-c", &configuration],
    )?)
}

/// A soak that runs.
struct Soak<'a> {
    config: &'a Config,
    site: &'a Site,
    progress: &'a Progress,
    steady: &'a Agent,
    judge: Judge,
    report: Report,
    begun: Instant,
}

impl Soak<'_> {
    /// Reads and judges until the time is up or `broken`, and kills the mortal agent now and then.
    fn watch(&mut self, mut mortal: Agent, broken: impl Fn() -> bool) -> Result<Agent, Error> {
        let mut next_kill = self.config.kill_every;
        let mut next = self.begun;
        while self.begun.elapsed() < self.config.lasts && !broken() {
            next += self.config.read_every;
            self.progress.sleep_until(next);
            self.look(&mortal)?;
            if self.begun.elapsed() >= next_kill {
                next_kill += self.config.kill_every;
                self.report.counts.missed += mortal.monitor.missed();
                mortal = mortal.again(self.site)?;
                self.report.counts.kills += 1;
            }
        }
        Ok(mortal)
    }

    fn look(&mut self, mortal: &Agent) -> Result<(), Error> {
        let seconds = self.begun.elapsed().as_secs_f64();
        let agents = [self.steady, mortal];
        let pages = agents.map(|agent| agent.monitor.metrics());
        let [steady_page, mortal_page] = pages;
        let (steady_page, mortal_page) = (steady_page?, mortal_page?);
        let job = self.progress.job.load(Ordering::Relaxed);
        self.report.rows.push(Row {
            seconds,
            agents: [
                read(self.steady.monitor.id(), &steady_page)?,
                read(mortal.monitor.id(), &mortal_page)?,
            ],
            names_behind: last_job(&steady_page).map(|seen| job.saturating_sub(seen)),
        });
        self.report.strangers(&steady_page);
        self.report.strangers(&mortal_page);
        self.judge(mortal);
        Ok(())
    }

    /// Judges the samples of both agents: those first, the wire's log then has their packets.
    fn judge(&mut self, mortal: &Agent) {
        let mut samples = self.steady.monitor.take_samples();
        samples.extend(mortal.monitor.take_samples());
        self.judge.take(&samples, self.site.pair.wire());
    }

    /// Waits for the last name, ends the traffic, and counts.
    fn end(mut self, mortal: &Agent, load: Load) -> Result<Report, Error> {
        let last = self.progress.job.load(Ordering::Relaxed);
        let until = Instant::now() + PATIENCE;
        for agent in [self.steady, mortal] {
            while last_job(&agent.monitor.metrics()?) != Some(last) {
                if Instant::now() > until {
                    return Err(Error::Broken(format!(
                        "the last of {last} names is not there after {PATIENCE:?}"
                    )));
                }
                thread::sleep(Duration::from_millis(200));
            }
        }
        self.report.traffic = load.stop()?;
        self.judge(mortal);
        self.report.judgement = self.judge.found;
        let counts = &mut self.report.counts;
        counts.missed += mortal.monitor.missed() + self.steady.monitor.missed();
        counts.names = last;
        counts.interfaces = self.progress.interfaces.load(Ordering::Relaxed);
        counts.restarts = self.progress.restarts.load(Ordering::Relaxed);
        Ok(self.report)
    }
}

/// The latest job among the workloads that a page of metrics shows.
fn last_job(metrics: &str) -> Option<u32> {
    let jobs = metrics.split("peer_workload=\"job-").skip(1);
    jobs.filter_map(|rest| rest.split('"').next()?.parse().ok())
        .max()
}
