//! Clients that mean harm, of each kind and in great number: nobody else may notice them.
//!
//! `cargo xtask test --only hostile` runs the same with a thousand of each kind for a minute, under
//! the chart's memory limit.

mod limited;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    thread,
    time::{Duration, Instant},
};

use lpm_testbed::testbed::{Netns, Pair, PairConfig};
use nix::sys::signal::Signal;

use self::limited::{Limited, talk};
use crate::support::{
    clients::{Clients, Ended, Kind, half_open},
    lpm::{eventually, kernel_is_usable, value},
};

/// The port of the agent, and that of its health checks.
const PORT: u16 = 9477;
const HEALTH: u16 = 9478;

/// The address of clients that vanish without a word.
const VANISHING: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 99);

/// How old a page may be that shows a new name.
const PAGE_AGE: Duration = Duration::from_millis(900);

/// Addresses of hostile pods, and of what makes the page large.
const PODS: u8 = 25;

/// How much harm is tried.
struct Scale {
    /// Clients of each kind.
    each: usize,
    /// How long it lasts at least.
    lasts: Duration,
    /// What each answer may take.
    answer: Duration,
    /// Least size of the page, bytes.
    page: usize,
    /// The program, if not that of this build.
    program: Option<PathBuf>,
    /// The agent's memory limit, bytes.
    memory: Option<u64>,
}

impl Scale {
    /// The full scale if `LPM_HOSTILE` names a program that is built for release, else one for every
    /// day.
    fn asked_for() -> Self {
        match std::env::var_os("LPM_HOSTILE") {
            Some(program) => Self {
                each: 1000,
                lasts: Duration::from_mins(1),
                answer: Duration::from_secs(1),
                page: 5_000_000,
                program: Some(program.into()),
                // What the chart gives with so many rows.
                memory: Some(257 << 20),
            },
            None => Self {
                each: 200,
                lasts: Duration::from_secs(1),
                answer: Duration::from_mins(1),
                page: 1_000_000,
                program: None,
                memory: None,
            },
        }
    }
}

fn pods() -> Vec<Ipv4Addr> {
    (0..PODS).map(|n| [198, 18, 1, 100 + n].into()).collect()
}

fn peers() -> Vec<Ipv4Addr> {
    (0..PODS).map(|n| [198, 18, 2, 100 + n].into()).collect()
}

/// Names by which each pair of these addresses is a pair of namespaces.
fn names(more: &str) -> String {
    let entry = |(n, address)| format!("- {{address: {address}, namespace: team-{n}}}\n");
    let all: String = pods()
        .iter()
        .chain(&peers())
        .enumerate()
        .map(entry)
        .collect();
    all + more
}

fn configure(directory: &Path) -> PathBuf {
    fs::write(directory.join("names.yaml"), names("")).expect("names");
    let config = format!(
        "listen: \"0.0.0.0:{PORT}\"\nhealth: {{listen: \"127.0.0.1:{HEALTH}\"}}\n\
         names: names.yaml\nrows: 1024\ninterfaces: [{{name: {}, vantage: none}}]\n",
        Pair::WIRE_INTERFACE
    );
    fs::write(directory.join("lpm.yaml"), config).expect("a configuration");
    directory.join("lpm.yaml")
}

/// What a path answers in a namespace's view, and how long that took.
fn get(netns: &Netns, to: SocketAddr, path: &str) -> (String, Duration) {
    let begun = Instant::now();
    let asked = netns.run_in(|| {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_mins(1))?;
        stream.set_read_timeout(Some(Duration::from_mins(1)))?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer)
    });
    let answer = asked
        .expect("a namespace")
        .unwrap_or_else(|error| panic!("{path}: {error}"));
    let status = answer.lines().next().unwrap_or_default();
    assert!(status.contains(" 200 "), "{path}: {status:?}");
    (answer, begun.elapsed())
}

/// Times of one kind of question.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn worst(&self) -> Duration {
        self.0.iter().copied().max().unwrap_or_default()
    }
}

/// A legitimate client beside the hostile ones.
struct Legitimate<'a> {
    pair: &'a Pair,
    agent: &'a Limited,
    scrapes: Times,
    checks: Times,
    memory: u64,
}

impl Legitimate<'_> {
    /// Scrapes once, and asks for health once.
    fn look(&mut self) -> String {
        let (page, took) = get(&self.pair.server, agent_at(), "/metrics");
        self.scrapes.0.push(took);
        let health = ([127, 0, 0, 1], HEALTH).into();
        for path in ["/healthz", "/readyz"] {
            self.checks.0.push(get(&self.pair.node, health, path).1);
        }
        self.memory = self.memory.max(self.agent.anonymous());
        page
    }

    /// Looks until a line of the page begins so.
    fn until(&mut self, begins: &str) {
        eventually(begins, || {
            self.look().lines().any(|line| line.starts_with(begins))
        });
    }
}

fn agent_at() -> SocketAddr {
    (Ipv4Addr::new(198, 18, 2, 1), PORT).into()
}

/// Gives addresses to the pod and to the remote machine, and lets each pair of them talk.
fn make_page_large(pair: &Pair) {
    for (netns, all) in [(&pair.client, pods()), (&pair.server, peers())] {
        let add = |address: &Ipv4Addr| format!("addr add {address}/24 dev eth0\n");
        let lines: String = all.iter().map(add).collect();
        netns.ip_batch(&lines).expect("addresses");
    }
    talk(pair, &pods(), &peers());
}

#[test]
fn hostile_clients_harm_nobody_else() {
    if !kernel_is_usable() {
        return;
    }
    let scale = Scale::asked_for();
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let directory = tempfile::tempdir().expect("a directory");
    let config = configure(directory.path());
    let agent = Limited::start(&pair.node, scale.program.as_deref(), scale.memory, &config);
    make_page_large(&pair);
    let mut legitimate = Legitimate {
        pair: &pair,
        agent: &agent,
        scrapes: Times::default(),
        checks: Times::default(),
        memory: 0,
    };
    let mut before = legitimate.look();
    // Which kinds of round trips a pair has is chance: more talk fills what is missing.
    for _ in 0..5 {
        if before.len() >= scale.page {
            break;
        }
        talk(&pair, &pods(), &peers());
        before = legitimate.look();
    }
    assert!(before.len() >= scale.page, "{} bytes", before.len());
    println!(
        "a page of {} bytes; at rest {} KiB",
        before.len(),
        agent.anonymous() >> 10
    );
    legitimate.scrapes.0.clear();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ended = Ended(&stop);
        scope.spawn(|| half_open(&pair.client, scale.each, VANISHING, agent_at(), &stop));
        let strangers = &[
            Kind::SlowReader,
            Kind::SlowWriter,
            Kind::Silent,
            Kind::Pipelining,
        ];
        let _strangers = Clients::start(
            Some(&pair.client),
            strangers,
            scale.each,
            pods(),
            agent_at(),
        );
        let here = ([127, 0, 0, 1], PORT).into();
        let local = vec![Ipv4Addr::LOCALHOST];
        let _watchers = Clients::start(Some(&pair.node), &[Kind::Watcher], scale.each, local, here);
        let begun = Instant::now();
        let (veth, name) = under_attack(&mut legitimate, directory.path());
        let reasons = ["client", "header", "unread", "share", "streams"];
        for reason in reasons {
            let series = format!("lpm_http_refused_total{{reason=\"{reason}\"}}");
            eventually(reason, || {
                value(&legitimate.look(), &series).is_some_and(|n| n > 0.0)
            });
        }
        while begun.elapsed() < scale.lasts {
            legitimate.look();
        }
        report(&legitimate, veth, name);
        assert!(veth < scale.answer, "{veth:?}");
        assert!(name < scale.answer + PAGE_AGE, "{name:?}");
        assert!(legitimate.scrapes.worst() < scale.answer);
        assert!(legitimate.checks.worst() < scale.answer);
    });
    // Some 20 MiB without the attack, and 45 MiB with it.
    assert!(legitimate.memory < 128 << 20, "{} bytes", legitimate.memory);
    agent.end();
}

/// What else the agent has to do: a new interface, and a new name. Returns what they took.
fn under_attack(legitimate: &mut Legitimate<'_>, directory: &Path) -> (Duration, Duration) {
    let pair = legitimate.pair;
    let another = Netns::new("another").expect("a namespace");
    pair.node
        .veth("vethnew", &another, "eth0", 1500)
        .expect("a veth");
    pair.node.ip("link set vethnew up").expect("up");
    let begun = Instant::now();
    legitimate.agent.wait_for("attached to vethnew");
    let veth = begun.elapsed();
    legitimate.until("lpm_interface_attached{interface=\"vethnew\",vantage=\"pod\"} 1");
    let more = "- {address: 198.18.1.2, namespace: newcomer}\n";
    fs::write(directory.join("names.yaml"), names(more)).expect("names");
    legitimate.agent.signal(Signal::SIGHUP);
    let begun = Instant::now();
    eventually("the new name", || {
        talk(pair, &[Ipv4Addr::new(198, 18, 1, 2)], &peers()[..1]);
        legitimate.look().contains("namespace=\"newcomer\"")
    });
    (veth, begun.elapsed())
}

fn report(legitimate: &Legitimate<'_>, veth: Duration, name: Duration) {
    println!(
        "{} scrapes, the slowest {:?}; {} health checks, the slowest {:?}; a new veth seen after \
         {veth:?}, a new name after {name:?}; at most {} KiB",
        legitimate.scrapes.0.len(),
        legitimate.scrapes.worst(),
        legitimate.checks.0.len(),
        legitimate.checks.worst(),
        legitimate.memory >> 10
    );
    let (page, _) = get(&legitimate.pair.server, agent_at(), "/metrics");
    for line in page
        .lines()
        .filter(|line| line.starts_with("lpm_http_refused"))
    {
        println!("{line}");
    }
}
