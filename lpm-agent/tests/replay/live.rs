//! The kernel and a capture of the same packets at the same hook: `lpm watch` and `lpm replay`
//! must have the same samples. And the independent reference on that capture.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lpm_agent::export::sample::SampleRecord;
use lpm_testbed::{
    testbed::{Direction, Impairment, Pair, PairConfig},
    traffic::{
        Background, BulkConfig, Limit, PORT, PacedConfig, PacedSize, RequestConfig, Server, bulk,
        paced, requests,
    },
    truth::Capture,
};
use nix::sys::signal::Signal;

use crate::support::lpm::{self, Lpm, eventually, kernel_is_usable, succeeds};

/// Port of the connections that only ask whether the monitor is there yet.
const MARKER_PORT: u16 = 5399;

/// Share of the samples that one side may have alone: two packets on two CPUs pass the hook and
/// the capture in different orders, and which of several stamps found a slot free follows from
/// that. By sequence number each segment of a burst wants a slot; by timestamps only the first one
/// of a tick.
const ALONE: [(&str, f64); 2] = [("ts", 0.002), ("seq", 0.02)];

/// Beyond this difference the CPU was taken away between hook and capture, nanoseconds; share of
/// the samples that may be so.
const TAKEN_AWAY: (f64, f64) = (500_000.0, 0.002);

#[test]
fn the_kernel_and_its_capture_have_the_same_samples() {
    compared("ts", "oracle.py");
}

#[test]
fn without_timestamps_too() {
    compared("seq", "seq.py");
}

/// `method` is that of most samples, `script` the reference of it.
fn compared(method: &str, script: &str) {
    if !kernel_is_usable() {
        return;
    }
    if let Some(tool) = missing(&["tcpdump", "editcap", "tshark", "python3"]) {
        println!("LPM-SKIP replay: {tool} is not installed");
        return;
    }
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a temporary directory");
    // For a look at what went wrong: a directory that stays.
    let kept = std::env::var_os("LPM_REPLAY_DIRECTORY").map(PathBuf::from);
    let directory = kept.as_deref().unwrap_or(directory.path());
    let file = directory.join(format!("{method}.pcap"));

    let watched = live(&file, method == "ts");
    let kernel = of_port(&watched);
    let lines = replay(&file, &[]);
    let offline = of_port(&lines);
    let both = [&kernel, &offline].map(|samples| {
        let of = |wanted: &str| samples.keys().filter(|key| key.6 == wanted).count();
        (of(method), of("handshake"))
    });
    println!("in the kernel and offline, {method} and handshake: {both:?}");
    assert!(
        both.iter()
            .all(|(most, handshakes)| *most > 1500 && *handshakes > 50)
    );
    same_samples(&kernel, &offline, method);

    // The other format tells the same, to the last digit.
    let pcapng = directory.join(format!("{method}.pcapng"));
    succeeds(
        Command::new("editcap")
            .args(["-F", "pcapng"])
            .args([&file, &pcapng]),
    );
    assert!(replay(&pcapng, &[]) == lines, "pcap and pcapng differ");

    reference(directory, &file, &lines, &kernel, (method, script));
}

/// One at a time: they would take each other's CPUs.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Talks over a wire with `lpm watch` and tcpdump at the pod's veth; the watcher's lines.
fn live(file: &Path, timestamps: bool) -> Vec<String> {
    let config = PairConfig {
        timestamps,
        ..PairConfig::default()
    };
    let pair = Pair::new(&config).expect("the testbed");
    let delay = Impairment::delay(Duration::from_micros(400));
    for direction in [Direction::Forward, Direction::Backward] {
        pair.wire().set(direction, delay.clone());
    }
    let _server = Server::start(&pair.server, PORT).expect("a server beyond the wire");
    let _marker = Server::start(&pair.server, MARKER_PORT).expect("a server for markers");
    let watch = Lpm::start(
        &pair.node,
        &["watch", "-i", Pair::POD_INTERFACE, "--format", "json"],
    );
    let mut lines = Vec::new();
    marker(&pair, &watch, &mut lines);
    let capture = Capture::start(&pair.node, Pair::POD_INTERFACE, PORT, file).expect("tcpdump");
    talk(&pair);
    capture.stop().expect("a capture without holes");
    marker(&pair, &watch, &mut lines);
    assert!(watch.end(Signal::SIGINT).success());
    lines.extend(watch.lines.iter());
    lines
}

/// Waits until a sample of a connection made from now on came out: then the hooks are in place,
/// and all samples of earlier packets are out.
fn marker(pair: &Pair, watch: &Lpm, lines: &mut Vec<String>) {
    let wanted = format!("\"dport\":{MARKER_PORT}");
    let config = RequestConfig {
        limit: Limit::count(5),
        period: Duration::from_millis(3),
        ..RequestConfig::new(SocketAddr::new(Pair::SERVER[0], MARKER_PORT))
    };
    let begun = lines.len();
    eventually("a sample of a marker", || {
        let talk = Background::start(&pair.client, move |control| requests(&config, control));
        talk.expect("a marker").join().expect("a marker's answers");
        lines.extend(watch.lines.try_iter());
        let ended = watch.child.try_wait().expect("the state of lpm watch");
        assert!(ended.is_none(), "it ended: {}", watch.said());
        lines[begun..].iter().any(|line| line.contains(&wanted))
    });
}

/// Requests, messages that nobody answers, and bulk, over IPv4 and IPv6.
fn talk(pair: &Pair) {
    let limit = Limit::duration(Duration::from_secs(4));
    let [v4, v6] = Pair::SERVER.map(|server| SocketAddr::new(server, PORT));
    let client = &pair.client;
    let asking = |target| RequestConfig {
        limit,
        ..RequestConfig::new(target)
    };
    let wanted = [
        RequestConfig {
            connections: 3,
            ..asking(v4)
        },
        RequestConfig {
            response: 9_000,
            requests_per_connection: Some(7),
            ..asking(v6)
        },
    ];
    let mut talks: Vec<_> = wanted
        .into_iter()
        .map(|config| {
            let talk = move |control: &_| requests(&config, control).map(drop);
            Background::start(client, talk).expect("a request client")
        })
        .collect();
    for (size, milliseconds) in [(PacedSize::Bytes(200), 30), (PacedSize::Segments(4), 15)] {
        let config = PacedConfig {
            target: v4,
            size,
            period: Duration::from_millis(milliseconds),
            limit,
        };
        let talk = move |control: &_| paced(&config, control).map(drop);
        talks.push(Background::start(client, talk).expect("a paced client"));
    }
    let config = BulkConfig {
        target: v6,
        limit: Limit::count(10_000_000),
        verify: true,
    };
    let talk = move |control: &_| bulk(&config, control).map(drop);
    talks.push(Background::start(client, talk).expect("a bulk client"));
    for talk in talks {
        talk.join().expect("a client that ends well");
    }
}

/// What `lpm replay` prints of a capture.
fn replay(file: &Path, options: &[&str]) -> Vec<String> {
    let mut command = lpm::lpm();
    command
        .arg("replay")
        .arg(file)
        .args(["--format", "json", "--vantage", "pod"]);
    command.args(["-i", Pair::POD_INTERFACE]);
    for local in Pair::CLIENT {
        command.arg("--local").arg(local.to_string());
    }
    let out = succeeds(command.args(options));
    out.lines().map(str::to_owned).collect()
}

/// Whose sample it is, and of which stamp.
type Key = (IpAddr, u16, IpAddr, u16, u32, String, String);

/// Samples of the captured port: round trip and echo class.
fn of_port(lines: &[String]) -> HashMap<Key, (u64, String)> {
    let mut all = HashMap::new();
    for line in lines {
        let sample: SampleRecord = serde_json::from_str(line).expect(line);
        assert_eq!(
            (&*sample.interface, &*sample.vantage),
            (Pair::POD_INTERFACE, "pod")
        );
        if sample.sport != PORT && sample.dport != PORT {
            continue;
        }
        let SampleRecord {
            src,
            sport,
            dst,
            dport,
            id,
            leg,
            method,
            rtt_ns,
            echo,
            ..
        } = sample;
        let before = all.insert((src, sport, dst, dport, id, leg, method), (rtt_ns, echo));
        assert_eq!(before, None, "twice: {line}");
    }
    all
}

fn same_samples(
    kernel: &HashMap<Key, (u64, String)>,
    offline: &HashMap<Key, (u64, String)>,
    method: &str,
) {
    let alone = |these: &HashMap<Key, _>, those: &HashMap<Key, _>| -> Vec<Key> {
        these
            .keys()
            .filter(|key| !those.contains_key(*key))
            .cloned()
            .collect()
    };
    let only = [alone(kernel, offline), alone(offline, kernel)];
    let mut differences = Vec::new();
    let mut echoes = 0;
    for (key, (live, echo)) in kernel {
        if let Some((replayed, class)) = offline.get(key) {
            differences.push(float(*live) - float(*replayed));
            echoes += usize::from(echo != class);
        }
    }
    let all = differences.len();
    differences.retain(|difference| difference.abs() < TAKEN_AWAY.0);
    let taken_away = all - differences.len();
    differences.sort_by(f64::total_cmp);
    let mean = differences.iter().sum::<f64>() / float(differences.len() as u64);
    let at = |share: usize| differences[(differences.len() - 1) * share / 100] / 1000.0;
    println!(
        "kernel less replay: mean {:.3} us, p1 {:.2}, p50 {:.2}, p99 {:.2} us, {:.2} to {:.2}; \
         {taken_away} beyond that; only in the kernel {}, only offline {}, of another class {echoes}",
        mean / 1000.0,
        at(1),
        at(50),
        at(99),
        at(0),
        at(100),
        only[0].len(),
        only[1].len(),
    );
    for (side, keys) in ["kernel", "offline"].iter().zip(&only) {
        let allowed = ALONE
            .iter()
            .find(|(of, _)| *of == method)
            .expect("a method")
            .1;
        let share = float(keys.len() as u64) / float(kernel.len() as u64);
        assert!(share <= allowed, "only in the {side}: {keys:?}");
    }
    assert!(float(taken_away as u64) <= TAKEN_AWAY.1 * float(all as u64));
    assert!(mean.abs() <= 3000.0, "mean difference {mean} ns");
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a test")]
fn float(number: u64) -> f64 {
    number as f64
}

/// The independent reference on the same file: the same clock as replay's, so the same times, and
/// packets in their order (two CPUs write theirs into the file a moment after they took it). What
/// the kernel has, the reference knows; how well it does is another test's business.
fn reference(
    directory: &Path,
    file: &Path,
    lines: &[String],
    kernel: &HashMap<Key, (u64, String)>,
    (method, script): (&str, &str),
) {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/oracle");
    let python = |script: &str| {
        let mut command = Command::new("python3");
        command.arg("-B").arg(scripts.join(script));
        command
    };
    let at = |name: &str| directory.join(name);
    let options = succeeds(python("oracle.py").arg("--fields"));
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(file);
    tshark.args([
        "-n",
        "-o",
        "tcp.relative_sequence_numbers:FALSE",
        "-T",
        "fields",
    ]);
    tshark.args(options.split_whitespace());
    fs::write(at("fields.tsv"), succeeds(&mut tshark)).expect("the fields");
    let mut oracle = python(script);
    oracle
        .args(["--by-time", "--local"])
        .args(Pair::CLIENT.map(|address| address.to_string()));
    oracle.stdin(File::open(at("fields.tsv")).expect("the fields"));
    fs::write(at("oracle.jsonl"), succeeds(&mut oracle)).expect("its samples");
    fs::write(at("replay.jsonl"), lines.join("\n")).expect("our samples");
    let mut compare = python("compare.py");
    compare.args([at("oracle.jsonl"), at("replay.jsonl")]);
    compare.args([
        "--method",
        method,
        "--port",
        &PORT.to_string(),
        "--min-samples",
        "1500",
    ]);
    compare.args(["--mean", "0.1", "--p99", "0.1", "--worst", "0.2"]);
    println!("{}", succeeds(&mut compare));

    let text = fs::read_to_string(at("oracle.jsonl")).expect("its samples");
    let known: HashSet<Stamp> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let foreign = kernel.keys().filter(|key| {
        let (src, sport, dst, dport, id, _, by) = (*key).clone();
        by == method
            && !known.contains(&Stamp {
                src,
                sport,
                dst,
                dport,
                id,
            })
    });
    let foreign = foreign.count();
    println!("{foreign} samples of the kernel are not known to the reference");
    assert!(foreign <= kernel.len() / 1000, "{foreign}");
}

/// Of which stamp a sample is, as the reference prints it.
#[derive(PartialEq, Eq, Hash, serde::Deserialize)]
struct Stamp {
    src: IpAddr,
    sport: u16,
    dst: IpAddr,
    dport: u16,
    id: u32,
}

/// The first of the tools that is not there.
fn missing<'t>(tools: &[&'t str]) -> Option<&'t str> {
    let runs = |tool: &str| {
        let mut command = Command::new(tool);
        command
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    tools.iter().copied().find(|tool| !runs(tool))
}
