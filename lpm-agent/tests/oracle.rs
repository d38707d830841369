//! The samples of `lpm watch` against the reference in `tests/oracle`, on the
//! same packets at the same hook.
//!
//! A client pod talks to a server over a wire that delays, loses and reorders.
//! tcpdump and `lpm watch` look at the host end of the pod's veth; tshark,
//! `oracle.py` and `compare.py` then say whether the samples are those that
//! RFC 7323 and the terms ask for. Each rule broken on purpose must be found.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use lpm_bench::{
    testbed::{
        Direction, Impairment, NsChild, Pair, PairConfig,
        wire::{Jitter, Loss, Reorder},
    },
    traffic::{
        Background, BulkConfig, Limit, PORT, PacedConfig, PacedSize, RequestConfig, Server, bulk,
        paced, requests,
    },
};
use nix::sys::signal::Signal;

/// Port of the connections that only ask whether the monitor is there yet.
const MARKER_PORT: u16 = 5399;
const LIMIT: Duration = Duration::from_secs(30);
const MUTATIONS: [&str; 4] = ["any-tsval", "pure-ack", "overwrite-slots", "forget-match"];

#[test]
fn samples_are_those_of_the_reference() {
    if let Some(reason) = missing() {
        println!("LPM-SKIP oracle: {reason}");
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    // For a look at what went wrong: a directory that stays.
    let kept = std::env::var_os("LPM_ORACLE_DIRECTORY").map(PathBuf::from);
    let files = Files::new(kept.as_deref().unwrap_or(directory.path()));
    let pair = Pair::new(&PairConfig::default()).expect("the testbed");
    let _server = Server::start(&pair.server, PORT).expect("a server beyond the wire");
    let _pod = Server::start(&pair.client, PORT).expect("a server in the pod");
    let _marker = Server::start(&pair.server, MARKER_PORT).expect("a server for markers");

    let watch = Watch::start(&pair, &files);
    watch.seen_after_now(&pair);
    let capture = Capture::start(&pair, &files);
    traffic(&pair);
    capture.stop();
    watch.seen_after_now(&pair);
    watch.stop();

    files.fields();
    files.oracle(None);
    // What the capture itself is worth: right rules pass on it.
    files.second_reading();
    files
        .compare(&files.second)
        .expect_pass("the second reading");
    files.compare(&files.watch).expect_pass("lpm watch");
    for rule in MUTATIONS {
        files.oracle(Some(rule));
        files.compare(&files.watch).expect_failure(rule);
    }
}

#[test]
fn the_reference_passes_its_own_tests() {
    if !runs("python3") {
        println!("LPM-SKIP oracle: python3 is not installed");
        return;
    }
    let mut tests = Command::new("python3");
    tests.args(["-B", "-m", "unittest", "-v"]);
    tests.current_dir(script_directory());
    let output = tests.output().expect("python3 to run");
    let words = String::from_utf8_lossy(&output.stderr);
    println!("{words}");
    assert!(
        output.status.success() && words.contains("test_every_vector"),
        "{words}"
    );
}

/// Why this machine cannot run the test.
fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root for network namespaces and the capture".to_owned());
    }
    let tools = ["tshark", "tcpdump", "python3"];
    let absent = tools.into_iter().find(|tool| !runs(tool))?;
    Some(format!("{absent} is not installed"))
}

fn runs(tool: &str) -> bool {
    let version = Command::new(tool).arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

/// Bulk, requests and paced messages, on a short path without loss and on a
/// long one with loss and reordering.
fn traffic(pair: &Pair) {
    set_wire(pair, &Impairment::delay(Duration::from_micros(500)));
    let short = Limit::duration(Duration::from_secs(4));
    let talks = talks(pair, short);
    finish(talks);

    let lossy = Impairment {
        jitter: Jitter::Uniform(Duration::from_millis(1)),
        loss: Loss::Random(0.01),
        rate_bits_per_second: Some(50_000_000),
        reorder: Some(Reorder {
            probability: 0.01,
            extra: Duration::from_millis(3),
        }),
        ..Impairment::delay(Duration::from_millis(8))
    };
    set_wire(pair, &lossy);
    let mut talks = self::talks(pair, Limit::duration(Duration::from_secs(6)));
    let [server, _] = Pair::SERVER;
    let [pod, _] = Pair::CLIENT;
    for (netns, target) in [(&pair.client, server), (&pair.server, pod)] {
        let config = BulkConfig {
            target: SocketAddr::new(target, PORT),
            limit: Limit::count(12_000_000),
            verify: true,
        };
        let talk = Background::start(netns, move |control| bulk(&config, control).map(drop));
        talks.push(talk.expect("a bulk client"));
    }
    finish(talks);
}

/// The wire does the same both ways, with other random decisions each way.
fn set_wire(pair: &Pair, impairment: &Impairment) {
    for (seed, direction) in [(1, Direction::Forward), (2, Direction::Backward)] {
        let impairment = Impairment {
            seed,
            ..impairment.clone()
        };
        pair.wire().set(direction, impairment);
    }
}

/// Clients in the pod: requests with and without think time, idle gaps and new
/// connections, over IPv4 and IPv6; messages that nobody answers, so that
/// their ACKs wait for the delayed-ACK timer.
fn talks(pair: &Pair, limit: Limit) -> Vec<Background<()>> {
    let [v4, v6] = Pair::SERVER.map(|server| SocketAddr::new(server, PORT));
    let asking = |target| RequestConfig {
        limit,
        ..RequestConfig::new(target)
    };
    let wanted = [
        RequestConfig {
            connections: 4,
            ..asking(v4)
        },
        RequestConfig {
            connections: 2,
            response: 9_000,
            requests_per_connection: Some(7),
            ..asking(v6)
        },
        RequestConfig {
            think: Duration::from_millis(30),
            gap: Some((5, Duration::from_millis(700))),
            ..asking(v4)
        },
        RequestConfig {
            period: Duration::from_millis(3),
            jitter: 0.5,
            gap: Some((50, Duration::from_millis(300))),
            ..asking(v6)
        },
    ];
    let sizes = [
        (PacedSize::Bytes(200), 90),
        (PacedSize::Segments(1), 12),
        (PacedSize::Segments(2), 25),
        (PacedSize::Segments(8), 40),
    ];
    let client = &pair.client;
    let mut talks = Vec::new();
    for config in wanted {
        let talk = Background::start(client, move |control| requests(&config, control).map(drop));
        talks.push(talk.expect("a request client"));
    }
    for (size, milliseconds) in sizes {
        let config = PacedConfig {
            target: v4,
            size,
            period: Duration::from_millis(milliseconds),
            limit,
        };
        let talk = Background::start(client, move |control| paced(&config, control).map(drop));
        talks.push(talk.expect("a paced client"));
    }
    talks
}

fn finish(talks: Vec<Background<()>>) {
    for talk in talks {
        talk.join().expect("a client that ends well");
    }
}

/// `lpm watch` on the pod's veth.
struct Watch<'a> {
    child: NsChild,
    output: &'a Path,
}

impl<'a> Watch<'a> {
    fn start(pair: &Pair, files: &'a Files) -> Self {
        let output = File::create(&files.watch).expect("a file for the samples");
        let mut command = Command::new(env!("CARGO_BIN_EXE_lpm"));
        command
            .args(["--netns", pair.node.name(), "watch"])
            .args(["-i", Pair::POD_INTERFACE, "--format", "json"])
            .stdout(output);
        // Started outside the namespaces, as a user would; the guard kills it.
        let child = pair.node.spawn(&mut command).expect("lpm watch");
        Self {
            child,
            output: &files.watch,
        }
    }

    /// Waits until a sample of a connection made from now on came out: then
    /// the hooks are in place, and all samples of earlier packets are out.
    fn seen_after_now(&self, pair: &Pair) {
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

    fn stop(self) {
        self.child
            .signal(Signal::SIGINT)
            .expect("lpm watch to be told");
        let status = self.child.wait(LIMIT).expect("lpm watch to end");
        assert!(status.success(), "lpm watch ended with {status}");
    }
}

/// tcpdump at the same interface.
struct Capture {
    child: NsChild,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Capture {
    fn start(pair: &Pair, files: &Files) -> Self {
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
            .arg(format!("tcp port {PORT}"))
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
    fn stop(mut self) {
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

/// Where everything of a run lies, and the tools that go from one to the next.
struct Files {
    capture: PathBuf,
    fields: PathBuf,
    oracle: PathBuf,
    second: PathBuf,
    watch: PathBuf,
}

impl Files {
    fn new(directory: &Path) -> Self {
        let at = |name| directory.join(name);
        Self {
            capture: at("hook.pcap"),
            fields: at("fields.tsv"),
            oracle: at("oracle.jsonl"),
            second: at("second.jsonl"),
            watch: at("watch.jsonl"),
        }
    }

    /// Header fields as tshark prints them.
    fn fields(&self) {
        let options = stdout(script("oracle.py").arg("--fields"));
        let mut tshark = Command::new("tshark");
        tshark.arg("-r").arg(&self.capture).arg("-n");
        tshark.args(["-o", "tcp.relative_sequence_numbers:FALSE", "-T", "fields"]);
        tshark.args(options.split_whitespace());
        into(&mut tshark, &self.fields);
    }

    fn oracle(&self, mutation: Option<&str>) {
        let mut oracle = script("oracle.py");
        oracle
            .arg("--local")
            .args(Pair::CLIENT.map(|address: IpAddr| address.to_string()));
        oracle.args(mutation.iter().flat_map(|rule| ["--mutate", rule]));
        into(
            oracle.stdin(File::open(&self.fields).expect("the fields")),
            &self.oracle,
        );
    }

    fn second_reading(&self) {
        let mut slotted = script("slotted.py");
        slotted.args(Pair::CLIENT.map(|address: IpAddr| address.to_string()));
        into(
            slotted.stdin(File::open(&self.fields).expect("the fields")),
            &self.second,
        );
    }

    fn compare(&self, watch: &Path) -> Verdict {
        let mut compare = script("compare.py");
        compare
            .arg(&self.oracle)
            .arg(watch)
            .args(["--port", &PORT.to_string()]);
        let output = compare.output().expect("compare.py");
        assert!(
            output.stderr.is_empty(),
            "compare.py: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Verdict {
            pass: output.status.success(),
            text: String::from_utf8(output.stdout).expect("text"),
        }
    }
}

/// What `compare.py` says.
struct Verdict {
    pass: bool,
    text: String,
}

impl Verdict {
    fn expect_pass(&self, who: &str) {
        println!("--- {who}\n{}", self.text);
        assert!(
            self.pass,
            "{who} does not agree with the reference:\n{}",
            self.text
        );
    }

    fn expect_failure(&self, rule: &str) {
        let why = self.text.lines().find(|line| line.starts_with("FAIL"));
        println!("--- broken rule {rule}: {}", why.unwrap_or("not found"));
        assert!(
            !self.pass && why.is_some(),
            "rule {rule} was broken and nobody noticed:\n{}",
            self.text
        );
    }
}

/// A script of `tests/oracle`.
fn script(name: &str) -> Command {
    let mut command = Command::new("python3");
    // Leave no caches in the source tree.
    command.arg("-B").arg(script_directory().join(name));
    command
}

fn script_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/oracle")
}

fn stdout(command: &mut Command) -> String {
    let output = command.output().expect("a tool to run");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

fn into(command: &mut Command, file: &Path) {
    let target = File::create(file).expect("a file to write");
    let output = command
        .stdout(target)
        .stderr(Stdio::piped())
        .output()
        .expect("a tool to run");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
