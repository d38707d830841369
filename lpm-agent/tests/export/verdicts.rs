//! What is done to a link is named, and nothing else is: delay, a stalled receiver, a filter before the
//! probes' port, a peer that is away, a clock that is set. Each across a real wire, between real agents.
//!
//! `LPM_VERDICT_ROUNDS` says how often each is done; once unless told.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    env, fs,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use lpm_agent::active::{
    clock::{Clock, bend::Bend, real},
    fate::Counts,
    reflector::{Reflector, Settings},
};
use lpm_testbed::{
    testbed::{Impairment, Netns, Pair, PairConfig},
    traffic::{Background, PORT, RequestConfig, Server, requests},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, pipe},
};

use crate::support::lpm::{Agent, eventually, kernel_is_usable};

/// How soon a cause must be named.
const NAMED_WITHIN: Duration = Duration::from_secs(30);

/// What the wire takes each way when all is well, in milliseconds: a busy machine adds less than half of
/// it.
const USUAL: u64 = 20;

/// The target whose reflector is an agent's, and the one whose clock is bent.
const PEER: &str = "n2";
const BENT: &str = "n3";

/// A reflector of this process with a clock that the test sets. Dropping it ends it.
struct Bent {
    bend: Bend,
    end: Option<OwnedFd>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Bent {
    fn start(netns: &Netns) -> Self {
        let settings = Settings {
            allow: vec!["198.18.0.0/15".parse().expect("a range")].into(),
            rate: 1_000_000,
            keys: HashMap::new(),
        };
        let bend = Bend::default();
        bend.claims(None);
        let clock = Clock::bent(&bend).expect("a timer");
        let address = SocketAddr::from(([198, 18, 2, 2], 8621));
        let open = || Reflector::with_clock(address, false, settings, clock);
        let mut reflector = netns.run_in(open).expect("enter").expect("a reflector");
        let (readable, end) = pipe().expect("a pipe");
        let serve = move || {
            let served = reflector.serve(&Arc::<Counts>::default(), &readable);
            served.expect("the reflector's socket");
        };
        Self {
            bend,
            end: Some(end),
            thread: Some(thread::spawn(serve)),
        }
    }
}

impl Drop for Bent {
    fn drop(&mut self) {
        // The other end of the pipe becomes readable.
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(thread::panicking() || ended.is_ok());
        }
    }
}

/// Wake-ups that are this late mean that the machine starves its programs: reflectors then keep probes
/// too long, and `host` is right.
const STARVED: Duration = Duration::from_millis(15);

/// A thread that notices by itself how late this machine's programs run.
struct Witness {
    latest: Arc<Mutex<Duration>>,
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Witness {
    fn start() -> Self {
        let (latest, over) = (
            Arc::<Mutex<Duration>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let (told, ended) = (Arc::clone(&latest), Arc::clone(&over));
        let pause = Duration::from_millis(2);
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let begun = Instant::now();
                thread::sleep(pause);
                let late = begun.elapsed().saturating_sub(pause);
                let mut latest = told.lock().expect("no panic");
                *latest = late.max(*latest);
            }
        });
        Self {
            latest,
            over,
            thread: Some(thread),
        }
    }

    /// How late the latest wake-up was since the last call.
    fn take(&self) -> Duration {
        std::mem::take(&mut *self.latest.lock().expect("no panic"))
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}

/// Two agents, the wire between their nodes, and a server on the farther one.
struct Scene {
    // What talks ends before what it talks to.
    prober: Agent,
    reflector: Agent,
    bent: Bent,
    witness: Witness,
    _server: Server,
    pair: Pair,
    _directory: tempfile::TempDir,
}

fn agent(node: &Netns, directory: &tempfile::TempDir, name: &str, text: &str) -> Agent {
    let file = directory.path().join(format!("{name}.yaml"));
    fs::write(&file, text).expect("write");
    let file = file.display().to_string();
    Agent::start_with(node, &["-c", &file], &[("NODE_NAME", name)])
}

impl Scene {
    fn start() -> Self {
        let pair = Pair::new(&PairConfig::default()).expect("a wire");
        let usual = Impairment::delay(Duration::from_millis(USUAL));
        pair.wire().set_both(&usual);
        let directory = tempfile::tempdir().expect("a directory");
        let server = Server::start(&pair.server, PORT).expect("a server");
        let reflector = agent(
            &pair.server,
            &directory,
            PEER,
            "reflector: {listen: [\"198.18.2.2:8620\"], allow: [198.18.0.0/15]}\n",
        );
        reflector.lpm.wait_for("answers probes at 198.18.2.2:8620");
        let bent = Bent::start(&pair.server);
        let prober = agent(
            &pair.node,
            &directory,
            "n1",
            "probes: {interval: 1s, timeout: 500ms, train: {packets: 10}, targets: [\
             {name: n2, address: 198.18.2.2}, {name: n3, address: \"198.18.2.2:8621\"}]}\n",
        );
        Self {
            prober,
            reflector,
            bent,
            witness: Witness::start(),
            _server: server,
            pair,
            _directory: directory,
        }
    }

    /// The verdict on the link to a target, by the metric. None: there is none.
    fn verdict(&self, target: &str) -> Option<String> {
        let page = self.prober.metrics();
        let begin =
            format!("lpm_link_verdict{{source_node=\"n1\",target_node=\"{target}\",verdict=\"");
        let mut series = page.lines().filter_map(|line| line.strip_prefix(&begin));
        let verdict = series
            .next()?
            .strip_suffix("\"} 1")
            .expect("the value is 1");
        assert_eq!(series.next(), None, "one verdict at a time");
        Some(verdict.to_owned())
    }

    /// Verdicts on a target that the agent has logged so far.
    fn logged(&self, target: &str) -> Vec<String> {
        let said = self.prober.lpm.said();
        let of_target = format!("target={target} ");
        let lines = said.lines().filter(|line| line.contains(&of_target));
        let verdict = |line: &str| {
            let (_, rest) = line.split_once("verdict=")?;
            Some(rest.split_whitespace().next()?.trim_matches('"').to_owned())
        };
        lines.filter_map(verdict).collect()
    }

    fn ok(&self) {
        for target in [PEER, BENT] {
            eventually("the link is ok", || {
                self.verdict(target).as_deref() == Some("ok")
            });
        }
    }

    /// Does something to the link, and undoes it. It must be named, in time, with nothing else.
    /// Returns how long it took.
    fn named(
        &self,
        target: &str,
        expected: &str,
        does: impl FnOnce(),
        undo: impl FnOnce(),
    ) -> Duration {
        self.ok();
        let before = self.logged(target).len();
        self.witness.take();
        let begun = Instant::now();
        does();
        eventually(expected, || {
            let verdict = self.verdict(target);
            verdict.as_deref() == Some(expected)
        });
        let took = begun.elapsed();
        let mut link = self.prober.list("diagnosis").into_iter();
        let link = link
            .find(|link| link["target_node"] == target)
            .expect("the link");
        eprintln!(
            "{target} {expected} after {took:.1?}: {}",
            link["explanation"]
        );
        assert_eq!(link["verdict"], expected);
        undo();
        self.ok();
        let mut named = self.logged(target).split_off(before);
        let late = self.witness.take();
        if expected != "host" && late > STARVED {
            eprintln!("the machine starved its programs for {late:.1?}: host is right, too");
            named.retain(|verdict| verdict != "host");
            named.dedup();
            let caused = named.iter().position(|verdict| verdict != "ok");
            named.drain(..caused.unwrap_or(0));
        }
        assert_eq!(
            named,
            [expected, "ok"],
            "after {took:?}, on these grounds: {link}"
        );
        took
    }

    fn delay(&self, milliseconds: u64) {
        let delay = Impairment::delay(Duration::from_millis(milliseconds));
        self.pair.wire().set_both(&delay);
    }

    /// Runs nft in the peer's namespace.
    fn nft(&self, rules: &str) {
        self.pair.server.output("nft", &[rules]).expect("rules");
    }

    fn filter(&self, verdict: &str) {
        self.nft(&format!(
            "table ip probes {{ chain in {{ type filter hook input priority 0; \
             udp dport 8620 {verdict}; }}; }}"
        ));
    }

    fn unfilter(&self) {
        self.nft("delete table ip probes");
    }
}

/// Stops a process for most of the time, until it is dropped.
struct Stalled {
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Stalled {
    fn new(agent: &Agent) -> Self {
        let id = i32::try_from(agent.lpm.child.id()).expect("a process id");
        let over = Arc::<AtomicBool>::default();
        let ended = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let signal = |signal| kill(Pid::from_raw(id), signal).expect("signal");
            while !ended.load(Ordering::Relaxed) {
                signal(Signal::SIGSTOP);
                thread::sleep(Duration::from_millis(700));
                signal(Signal::SIGCONT);
                thread::sleep(Duration::from_millis(70));
            }
        });
        Self {
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}

/// Causes that are brought about, each with a name for the figures.
type Cause<'a> = (&'static str, &'a dyn Fn(&Scene) -> Duration);

/// TCP from the pod to the peer, while a filter holds up the probes.
fn filtered(scene: &Scene, verdict: &str) -> Duration {
    let config = RequestConfig {
        period: Duration::from_millis(100),
        ..RequestConfig::new(SocketAddr::from((Pair::SERVER[0], PORT)))
    };
    let calls = Background::start(&scene.pair.client, move |control| {
        requests(&config, control)
    });
    let calls = calls.expect("requests");
    let filter = || scene.filter(verdict);
    let took = scene.named(PEER, "blocked", filter, || scene.unfilter());
    calls.stop().expect("they were answered");
    took
}

fn stalled(scene: &Scene) -> Duration {
    let stalled = RefCell::new(None);
    let stall = || drop(stalled.replace(Some(Stalled::new(&scene.reflector))));
    scene.named(PEER, "host", stall, || drop(stalled.take()))
}

fn gone(scene: &Scene) -> Duration {
    let ip = |lines| scene.pair.server.ip_batch(lines).expect("ip");
    let away = || ip("link set eth0 down");
    scene.named(PEER, "gone", away, || {
        ip("link set eth0 up\nroute add default via 198.18.2.1");
    })
}

#[test]
fn each_cause_is_named_and_no_other() {
    if !kernel_is_usable() {
        return;
    }
    let rounds = env::var("LPM_VERDICT_ROUNDS");
    let rounds = rounds.map_or(1, |rounds| rounds.parse().expect("a number"));
    let scene = Scene::start();
    let causes: [Cause<'_>; 6] = [
        ("delay", &|scene| {
            scene.named(PEER, "network", || scene.delay(60), || scene.delay(USUAL))
        }),
        ("stalled receiver", &stalled),
        ("dropped", &|scene| filtered(scene, "drop")),
        ("prohibited", &|scene| {
            filtered(scene, "reject with icmp type admin-prohibited")
        }),
        ("away", &gone),
        ("stepped clock", &|scene| {
            let step = || scene.bent.bend.set(real(), 50_000_000);
            scene.named(BENT, "clock", step, || {})
        }),
    ];
    let mut all: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for round in 0..rounds {
        eprintln!("round {round}");
        for (cause, bring_about) in &causes {
            let took = bring_about(&scene);
            assert!(took < NAMED_WITHIN, "{cause}: {took:?}");
            all.entry(cause).or_default().push(took);
        }
    }
    for (cause, times) in &all {
        let (first, last) = (times.iter().min(), times.iter().max());
        eprintln!(
            "{cause}: {} rounds, named after {first:.1?} to {last:.1?}",
            times.len()
        );
    }
}
