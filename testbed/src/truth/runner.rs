//! One delay after the other, on one testbed, with one agent.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Capture, Client, Echo, Error, Leg, Method, Monitor, Reference, RunResult, Sample, Spread,
    Stamps, Unlimited, WireTruth, float,
    result::{Judged, times},
};
use crate::{
    testbed::{Pair, PairConfig, wire::Precision},
    traffic::{
        Background, Limit, PacedConfig, PacedSize, RequestConfig, RequestReport, Server, paced,
        requests,
    },
};

/// The flows that count: from the pod, full segments in pairs.
const PACED_PORT: u16 = 5301;
/// Requests whose client measures too.
const REQUEST_PORT: u16 = 5302;
/// In the pod: data sent to it, for the local leg.
const LOCAL_PORT: u16 = 5303;

/// How much is measured at one delay.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The wire's delay, each way.
    pub delay: Duration,
    /// Flows that count.
    pub flows: usize,
    /// From one message of a flow to its next.
    pub period: Duration,
    /// How long traffic runs, again and again until there are enough samples.
    pub round: Duration,
    /// Prompt samples of the remote leg that there must be.
    pub samples: usize,
    /// Where to keep a capture for the matcher without limits, and where its
    /// script is (`tests/oracle`); None: not compared.
    pub unlimited: Option<(PathBuf, PathBuf)>,
}

impl Plan {
    /// Flows that send four full segments every 10 ms, and 1,000 samples.
    #[must_use]
    pub fn new(delay: Duration) -> Self {
        Self {
            delay,
            // Three samples in a long round trip: that takes more flows. At
            // short ones they would only wait for each other.
            flows: if delay < Duration::from_millis(20) {
                6
            } else {
                16
            },
            period: Duration::from_millis(10),
            // Some round trips pass before the connections are up to speed.
            round: Duration::from_secs(5) + delay * 50,
            samples: 1000,
            unlimited: None,
        }
    }
}

/// A pod, a node with an agent, a wire and a remote machine with servers.
#[derive(Debug)]
pub struct Runner {
    // The agent first: it ends while its namespace is there.
    monitor: Monitor,
    _servers: [Server; 3],
    pair: Pair,
    method: Method,
}

impl Runner {
    /// Lays it out and starts the binary `lpm` at the pod's veth; TCP carries
    /// timestamps if the method is that of timestamps.
    pub fn new(lpm: &Path, method: Method) -> Result<Self, Error> {
        let pair = Pair::new(&PairConfig {
            timestamps: method == Method::Ts,
            ..PairConfig::default()
        })?;
        for netns in [&pair.client, &pair.server] {
            // Each connection finds out by itself: what an earlier delay was is
            // no matter of the next.
            netns.sysctl("net.ipv4.tcp_no_metrics_save", "1")?;
        }
        let servers = [
            Server::start(&pair.server, PACED_PORT)?,
            Server::start(&pair.server, REQUEST_PORT)?,
            Server::start(&pair.client, LOCAL_PORT)?,
        ];
        let monitor = Monitor::start(lpm, &pair.node, &["-i", Pair::POD_INTERFACE])?;
        Ok(Self {
            monitor,
            _servers: servers,
            pair,
            method,
        })
    }

    /// The agent.
    #[must_use]
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// Runs traffic at one delay and judges what the agent measured.
    pub fn run(&self, plan: &Plan) -> Result<RunResult, Error> {
        self.pair.set_delay(plan.delay);
        self.monitor.settle()?;
        drop(self.monitor.take_samples());
        drop(self.pair.wire().take_records());
        let before = Stamps::now(&self.monitor)?;
        let capture = plan.unlimited.as_ref().map(|(file, scripts)| {
            let (node, interface) = (&self.pair.node, Pair::POD_INTERFACE);
            Capture::start(node, interface, PACED_PORT, file).map(|capture| (capture, scripts))
        });
        let capture = capture.transpose()?;
        let rounds = self.rounds(plan)?;
        let capture = match capture {
            Some((capture, scripts)) => Some((capture.stop()?, scripts)),
            None => None,
        };
        self.monitor.settle()?;
        let stamps = Stamps::now(&self.monitor)?.since(before);
        let client = self.ask(plan)?;
        self.monitor.settle()?;
        let seconds = plan.round.as_secs_f64() * f64::from(rounds);
        let mut result = self.judge(plan, &client, stamps, seconds)?;
        if let Some((capture, scripts)) = capture {
            let reference = Reference::of_capture(&capture, scripts, self.method, &Pair::CLIENT)?;
            let mut samples = self.samples();
            samples.retain(|s| s.dport == PACED_PORT || s.sport == PACED_PORT);
            result.unlimited = Unlimited::compare(&samples, &reference);
        }
        Ok(result)
    }

    /// Runs rounds of traffic until there are enough samples; how many.
    fn rounds(&self, plan: &Plan) -> Result<u32, Error> {
        for rounds in 1..=5 {
            self.round(plan)?;
            self.monitor.settle()?;
            let samples = self.samples();
            let prompt = times(&samples, Leg::Remote, &[Echo::Prompt], PACED_PORT);
            if prompt.is_some_and(|spread| spread.count >= plan.samples) {
                return Ok(rounds);
            }
        }
        Err(Error::Incomplete(format!(
            "five rounds of traffic gave fewer than {} prompt samples at {:?}",
            plan.samples, plan.delay
        )))
    }

    /// The samples so far that the method made: handshakes are measured beside it.
    fn samples(&self) -> Vec<Sample> {
        let mut samples = self.monitor.samples();
        samples.retain(|sample| sample.method == self.method);
        samples
    }

    /// Messages from the pod, and a few to it.
    fn round(&self, plan: &Plan) -> Result<(), Error> {
        let ([server, _], [pod, _]) = (Pair::SERVER, Pair::CLIENT);
        let mut senders = Vec::new();
        let ends = [
            (&self.pair.client, server, PACED_PORT, plan.flows),
            (&self.pair.server, pod, LOCAL_PORT, 2),
        ];
        for (from, to, port, flows) in ends {
            for number in 0..flows {
                let step = plan.period * u32::try_from(number).unwrap_or(0) / 73;
                let config = PacedConfig {
                    target: SocketAddr::new(to, port),
                    size: PacedSize::Segments(4),
                    // A little different each, so that they do not march in step.
                    period: plan.period + step,
                    limit: Limit::duration(plan.round),
                };
                senders.push(Background::start(from, move |c| paced(&config, c))?);
            }
        }
        for sender in senders {
            sender.join().map_err(Error::io("a paced client failed"))?;
        }
        Ok(())
    }

    /// Requests back to back, timed by the client. Alone, because at short
    /// delays they take all of a CPU.
    fn ask(&self, plan: &Plan) -> Result<RequestReport, Error> {
        let long = plan.delay >= Duration::from_millis(5);
        let config = RequestConfig {
            limit: Limit::duration(Duration::from_secs(2) + plan.delay * 30),
            connections: if long { 8 } else { 1 },
            ..RequestConfig::new(SocketAddr::new(Pair::SERVER[0], REQUEST_PORT))
        };
        let asking = Background::start(&self.pair.client, move |c| requests(&config, c))?;
        asking.join().map_err(Error::io("a request client failed"))
    }

    fn judge(
        &self,
        plan: &Plan,
        asked: &RequestReport,
        stamps: Stamps,
        seconds: f64,
    ) -> Result<RunResult, Error> {
        let wire = self.pair.wire();
        let missed = wire.missed()?;
        if missed > 0 {
            return Err(Error::Incomplete(format!(
                "the wire's log lacks {missed} packets"
            )));
        }
        let records = wire.take_records();
        let wire = WireTruth::new(&records);
        let all = Judged::of(self.monitor.samples().iter(), &wire);
        let samples = self.samples();
        let judged = Judged::of(samples.iter().filter(|s| s.dport == PACED_PORT), &wire);
        let nothing = |what: &str| Error::Incomplete(format!("no {what} at {:?}", plan.delay));
        let prompt = || nothing("prompt sample");
        Ok(RunResult {
            delay_ns: u64::try_from(plan.delay.as_nanos()).unwrap_or(u64::MAX),
            seconds,
            remote: judged.count,
            rtt: Spread::of_times(judged.rtt).ok_or_else(prompt)?,
            truth: Spread::of_times(judged.truth).ok_or_else(prompt)?,
            beyond_delay: Spread::of(judged.beyond_delay).ok_or_else(prompt)?,
            beyond_log: Spread::of(judged.beyond_log).ok_or_else(prompt)?,
            unlogged: all.unlogged,
            // Pure ACKs of either kind: four segments never wait for the timer.
            local: times(
                &samples,
                Leg::Local,
                &[Echo::Prompt, Echo::Lone],
                LOCAL_PORT,
            )
            .ok_or_else(|| nothing("sample of the local leg"))?,
            flows: plan.flows,
            client: client(asked, &samples).ok_or_else(|| nothing("answered request"))?,
            stamps,
            wire: Precision::of(&records).ok_or_else(|| nothing("packet on the wire"))?,
            unlimited: None,
        })
    }
}

/// What a client measured, beside both legs of the same flows.
fn client(report: &RequestReport, samples: &[Sample]) -> Option<Client> {
    let own = report.rtt?;
    // Back to back, a request is the echo of the last answer: piggybacked
    // samples cover the whole cycle.
    let leg = |leg| times(samples, leg, &[Echo::Data], REQUEST_PORT);
    Some(Client {
        own_mean: own.mean_ns,
        own_p50: float(own.p50_ns),
        requests: own.count,
        remote: leg(Leg::Remote)?,
        local: leg(Leg::Local)?,
    })
}
