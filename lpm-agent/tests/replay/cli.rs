//! The command: formats, tables, options, and what it says.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
};

use lpm_agent::export::sample::SampleRecord;
use serde_json::Value;

use crate::support::lpm::{LIMIT, fails, lpm, succeeds};
use crate::{
    talk::Talk,
    write::{ETHERNET, PCAP, PCAPNG, capture},
};

const KEY: &str = "0123456789abcdeffedcba98765432101032547698badcfeefcdab8967452301\n";

/// A directory with a capture of ten samples or more in it.
struct Scene(tempfile::TempDir);

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let records = Talk::usual(false).records();
        let bytes = capture(PCAPNG, false, &[(ETHERNET, Some("va, \"b\""))], &records);
        fs::write(directory.path().join("good.pcapng"), bytes).expect("a file");
        Self(directory)
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).expect("a file");
        path
    }

    /// The command with the good capture.
    fn replay(&self, options: &[&str]) -> Command {
        replay(&self.0.path().join("good.pcapng"), options)
    }
}

fn replay(file: &Path, options: &[&str]) -> Command {
    let mut command = lpm();
    command.arg("replay").arg(file).args(options);
    command
}

fn json(text: &str) -> Vec<Value> {
    let line = |line| serde_json::from_str(line).expect("JSON");
    text.lines().map(line).collect()
}

#[test]
fn json_lines_are_those_of_watch() {
    let scene = Scene::new();
    let out = succeeds(&mut scene.replay(&["--format", "json", "--vantage", "pod"]));
    let first = out.lines().next().expect("a sample");
    assert!(
        first.starts_with("{\"schema\":1,\"time\":\"2026-01-02T"),
        "{first}"
    );
    let records: Vec<SampleRecord> = out
        .lines()
        .map(|line| serde_json::from_str(line).expect("a record"))
        .collect();
    assert!(records.len() >= 10);
    let ts = records
        .iter()
        .find(|record| record.method == "ts")
        .expect("one by timestamps");
    assert_eq!((&*ts.vantage, &*ts.interface), ("pod", "va, \"b\""));
    assert_eq!((ts.rtt_ns, &*ts.leg, ts.id), (1_600_000, "remote", 110));
    assert_eq!(ts.time, "2026-01-02T02:53:20.011600000Z");
    // Where nobody looks on, that is the default.
    assert_eq!(succeeds(&mut scene.replay(&["--vantage", "pod"])), out);
}

#[test]
fn csv_has_a_schema() {
    let scene = Scene::new();
    let out = succeeds(&mut scene.replay(&["--format", "csv"]));
    let mut lines = out.lines();
    let header = "schema,time,interface,vantage,vlan,src,sport,dst,dport,rtt_ns,leg,echo,method,id,\
                  tunnels,rcode";
    assert!(lines.next().expect("a header").starts_with(header));
    let row = lines.find(|line| line.contains(",ts,")).expect("a sample");
    let expected = "1,2026-01-02T02:53:20.011600000Z,\"va, \"\"b\"\"\",unknown,,198.18.5.1,41140,\
                    198.18.5.2,5301,1600000,remote,data,ts,110";
    assert!(row.starts_with(expected), "{row}");
    let samples = json(&succeeds(&mut scene.replay(&["--format", "json"]))).len();
    assert_eq!(out.lines().count(), samples + 1);
    // A capture without a sample has the columns too.
    let empty = scene.file("empty.pcap", capture(PCAP, false, &[(ETHERNET, None)], &[]));
    let out = succeeds(&mut replay(&empty, &["--format", "csv"]));
    assert_eq!(out.lines().count(), 1);
}

#[test]
fn text_and_ppviz() {
    let scene = Scene::new();
    let out = succeeds(&mut scene.replay(&["--format", "text"]));
    assert!(
        out.contains(" remote data     1.60ms 198.18.5.1:41140 > 198.18.5.2:5301"),
        "{out}"
    );
    let out = succeeds(&mut scene.replay(&["--format", "ppviz", "--methods", "ts"]));
    let line = "1767322400.011600000 0.001600000 TCP 198.18.5.1:41140+198.18.5.2:5301";
    assert_eq!(out.lines().next(), Some(line));
}

#[test]
fn the_summary_adds_up() {
    let scene = Scene::new();
    let samples = json(&succeeds(&mut scene.replay(&["--format", "json"])));
    let flows = json(&succeeds(&mut scene.replay(&[
        "--summary",
        "--format",
        "json",
    ])));
    let [flow] = flows.as_slice() else {
        panic!("{flows:?}");
    };
    assert_eq!(
        (&flow["kind"], &flow["schema"]),
        (&"flow".into(), &1.into())
    );
    let rtt = flow["rtt"].as_array().expect("kinds of round trips");
    let counted: u64 = rtt.iter().filter_map(|times| times["count"].as_u64()).sum();
    assert_eq!(counted, samples.len() as u64);
    let remote = rtt
        .iter()
        .find(|t| t["leg"] == "remote" && t["method"] == "ts")
        .expect("them");
    assert_eq!(
        (&remote["min_ns"], &remote["max_ns"]),
        (&1_600_000.into(), &1_632_000.into())
    );
    assert_eq!(remote["mean_ns"], 1_616_000);

    let csv = succeeds(&mut scene.replay(&["--summary", "--format", "csv"]));
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    assert_eq!(reader.headers().expect("a header").get(0), Some("schema"));
    assert_eq!(reader.records().flatten().count(), rtt.len());
    let text = succeeds(&mut scene.replay(&["--summary", "--format", "text"]));
    assert!(text.starts_with("LOCAL ") && text.contains("P99"), "{text}");
    assert_eq!(text.lines().count(), 1 + rtt.len());
}

#[test]
fn histograms_add_up() {
    let scene = Scene::new();
    let samples = json(&succeeds(&mut scene.replay(&["--format", "json"])));
    let lines = json(&succeeds(&mut scene.replay(&[
        "--histograms",
        "--format",
        "json",
    ])));
    let mut counted = 0;
    for line in &lines {
        assert_eq!(line["kind"], "histogram");
        let buckets = line["buckets"].as_array().expect("buckets");
        let count: u64 = buckets
            .iter()
            .filter_map(|bucket| bucket["count"].as_u64())
            .sum();
        assert_eq!(Some(count), line["count"].as_u64());
        counted += count;
    }
    assert_eq!(counted, samples.len() as u64);
    let csv = succeeds(&mut scene.replay(&["--histograms", "--format", "csv"]));
    assert!(
        csv.starts_with("schema,method,leg,echo,le_ns,count,rcode\n"),
        "{csv}"
    );
    let text = succeeds(&mut scene.replay(&["--histograms", "--summary", "--format", "text"]));
    assert!(
        text.contains("\nts remote data\n<= ") && text.starts_with("LOCAL"),
        "{text}"
    );
}

#[test]
fn addresses_are_anonymized_the_same_way_throughout() {
    let scene = Scene::new();
    let key = scene.file("key", KEY);
    let key = key.to_str().expect("a path");
    let plain = json(&succeeds(&mut scene.replay(&[])));
    let with_key = ["--anonymize", "--key", key];
    let once = json(&succeeds(&mut scene.replay(&with_key)));
    assert_eq!(
        once,
        json(&succeeds(&mut scene.replay(&with_key))),
        "the key decides"
    );
    assert_eq!(once.len(), plain.len());
    let address = |value: &Value| -> u32 {
        let text = value.as_str().expect("an address");
        text.parse::<std::net::Ipv4Addr>().expect(text).into()
    };
    for (hidden, plain) in once.iter().zip(&plain) {
        for end in ["src", "dst"] {
            assert_ne!(hidden[end], plain[end]);
        }
        // 198.18.5.1 and 198.18.5.2 differ in the last two bits, of which the first decides.
        let shared = (address(&hidden["src"]) ^ address(&hidden["dst"])).leading_zeros();
        assert_eq!(shared, 30);
        for same in ["sport", "dport", "rtt_ns", "id", "time", "leg"] {
            assert_eq!(hidden[same], plain[same]);
        }
    }
    let random = ["--anonymize", "--summary", "--format", "text"];
    let [first, second] = [(), ()].map(|()| succeeds(&mut scene.replay(&random)));
    assert_ne!(first, second, "a new key each time");
    assert!(!first.contains("198.18.5."), "{first}");
}

/// A capture without its end; what was before it is used.
fn truncated(scene: &Scene) -> PathBuf {
    let records = Talk::usual(false).records();
    let whole = capture(PCAP, false, &[(ETHERNET, None)], &records);
    scene.file("cut.pcap", &whole[..whole.len() - 3])
}

#[test]
fn a_truncated_capture_is_used_up_to_there() {
    let scene = Scene::new();
    let truncated = truncated(&scene);
    let output = replay(&truncated, &["--format", "csv"])
        .output()
        .expect("lpm");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        output.stdout.split(|byte| *byte == b'\n').count() > 10,
        "what was before is used"
    );
    let said = String::from_utf8(output.stderr).expect("text");
    let last = said.lines().last().expect("an error");
    assert!(
        last.contains("cut.pcap is truncated: the record at byte"),
        "{said}"
    );
    for options in [&["--format", "json"][..], &["--summary"]] {
        says(&truncated, options, &["everything before it was used"]);
    }
}

/// Fails, with these words.
#[track_caller]
fn says(file: &Path, options: &[&str], words: &[&str]) {
    let said = fails(&mut replay(file, options));
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[test]
fn what_is_no_capture_is_named() {
    let scene = Scene::new();
    let records = Talk::usual(false).records();
    let wifi = capture(PCAP, false, &[(105, None)], &records);
    let wifi = scene.file("wifi.pcap", wifi);
    let only_wifi = capture(PCAPNG, false, &[(105, Some("wlan0"))], &records);
    let only_wifi = scene.file("wifi.pcapng", only_wifi);
    let missing = scene.0.path().join("missing");
    let cases: [(&Path, &[&str]); 5] = [
        (&missing, &["missing cannot be opened", "give a capture"]),
        (scene.0.path(), &["cannot be opened", "directory"]),
        (&wifi, &["link type 105 (IEEE802_11)", "give a capture of"]),
        (
            &only_wifi,
            &["wlan0", "no packet of a link type that lpm reads"],
        ),
        (
            Path::new("/dev/null"),
            &["/dev/null is not a pcap or pcapng file", "empty"],
        ),
    ];
    for (file, words) in cases {
        says(file, &[], words);
    }
}

#[test]
fn what_is_wrong_with_an_option_is_said() {
    let scene = Scene::new();
    let truncated = truncated(&scene);
    let key = scene.file("key", "0123");
    let key = key.to_str().expect("a path");
    let cases: [(&[&str], &[&str]); 5] = [
        (
            &["--anonymize", "--key", key],
            &["is not a key", "openssl rand -hex 32"],
        ),
        (
            &["--anonymize", "--key", "/nowhere"],
            &["/nowhere cannot be read"],
        ),
        (&["--names", "/nowhere"], &["/nowhere"]),
        (
            &["--summary", "--format", "ppviz"],
            &["ppviz is for round trips"],
        ),
        (
            &["--summary", "--histograms", "--format", "csv"],
            &["two tables"],
        ),
    ];
    for (options, words) in cases {
        says(&truncated, options, words);
    }
    for (option, value, word) in [
        ("--local", "10.0.0.0/33", "10.0.0.0/8"),
        ("--vantage", "host", "give pod, overlay"),
        ("--methods", "ts,rtt", "give ts, seq"),
        ("--flows", "1000", "power of two"),
        ("--join", "east", "two interfaces or more"),
        ("--join", "east,east", "two interfaces or more"),
        ("--idle", "-1", "-1"),
    ] {
        let output = replay(&truncated, &[option, value]).output().expect("lpm");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(!output.status.success() && said.contains(word), "{said}");
    }
}

/// What it says on stderr.
fn said(command: &mut Command) -> String {
    let output = command.output().expect("lpm");
    assert!(output.status.success());
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn what_is_odd_about_a_capture_is_said() {
    let scene = Scene::new();
    let records = Talk::usual(false).records();
    let pcap = |records: &[_]| capture(PCAP, false, &[(ETHERNET, None)], records);
    let twice: Vec<_> = records
        .iter()
        .flat_map(|r| [r.clone(), r.clone()])
        .collect();
    let twice = scene.file("twice.pcap", pcap(&twice));
    let words = "lpm: copies: 21 frames recorded twice";
    assert!(said(&mut replay(&twice, &[])).contains(words));

    let mut late = records.clone();
    late.swap(4, 5);
    let late = scene.file("late.pcap", pcap(&late));
    let text = said(&mut replay(&late, &[]));
    assert!(
        text.contains("out of order by up to") && text.contains("put in order"),
        "{text}"
    );
    // Through a pipe they are measured as they come, and the remedy is named.
    let cat = format!(
        "cat {} | {} replay -",
        late.display(),
        env!("CARGO_BIN_EXE_lpm")
    );
    let text = said(Command::new("sh").args(["-c", &cat]));
    assert!(text.contains("reordercap"), "{text}");
    // From a file they are put in order also there.
    let file = fs::File::open(&late).expect("the capture");
    let text = said(replay(Path::new("-"), &[]).stdin(file));
    assert!(text.contains("put in order"), "{text}");

    let mut coarse = records.clone();
    for record in &mut coarse {
        record.time_ns = record.time_ns / 4_000_000 * 4_000_000;
    }
    let coarse = scene.file("coarse.pcap", pcap(&coarse));
    let text = said(&mut replay(&coarse, &[]));
    assert!(
        text.contains("ticks every 4.00ms") && text.contains("samples of 0 ns"),
        "{text}"
    );

    let text = said(&mut scene.replay(&["--join", "eth7,eth8"]));
    assert!(
        text.contains("--join names eth7") && text.contains("eth8"),
        "{text}"
    );
    says(
        &late,
        &["--join", "a,b", "--join", "b,c"],
        &["names b twice"],
    );
}

#[test]
fn stdin_and_a_closed_pipe() {
    let scene = Scene::new();
    let good = fs::read(scene.0.path().join("good.pcapng")).expect("the capture");
    let mut child = replay(Path::new("-"), &[])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("lpm");
    child
        .stdin
        .take()
        .expect("stdin")
        .write_all(&good)
        .expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(said.contains("standard input: 21 packets"), "{said}");
    let expected = succeeds(&mut scene.replay(&[]));
    assert_eq!(String::from_utf8(output.stdout).expect("text"), expected);

    // Whoever reads has enough: quiet, and no failure. Long enough for the pipe to notice.
    let records = Talk::usual(false).records();
    let many: Vec<_> = (0..500)
        .flat_map(|i| records.iter().cloned().map(move |record| (i, record)))
        .map(|(i, mut record)| {
            record.time_ns += i * 1_000_000_000;
            record
        })
        .collect();
    let long = scene.file(
        "long.pcap",
        capture(PCAP, false, &[(ETHERNET, None)], &many),
    );
    for format in ["text", "json", "csv", "ppviz"] {
        let mut child = replay(&long, &["--format", format])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("lpm");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(output.status.success(), "{said}");
        assert_eq!(said, "", "{format}");
    }
}

/// `tcpdump -w - | lpm replay -`: a sample is there when its packet is.
#[test]
fn a_pipe_is_answered_while_it_is_open() {
    let records = Talk::usual(false).records();
    for kind in [PCAP, PCAPNG] {
        let mut child = replay(Path::new("-"), &[])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("lpm");
        let mut stdin = child.stdin.take().expect("stdin");
        let bytes = capture(kind, false, &[(ETHERNET, None)], &records);
        stdin.write_all(&bytes).expect("it reads");
        let stdout = BufReader::new(child.stdout.take().expect("stdout"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // Nobody listens any more: the test is over.
                let _ = sender.send(line);
            }
        });
        let line = lines.recv_timeout(LIMIT).expect("a line");
        assert!(line.starts_with("{\"schema\":1,"), "{line}");
        drop(stdin);
        assert!(child.wait().expect("it ends").success());
    }
}

#[test]
fn it_needs_no_rights() {
    const NOBODY: u32 = 65_534;
    if !nix::unistd::geteuid().is_root() {
        println!("LPM-SKIP replay: needs root to become somebody without rights");
        return;
    }
    let scene = Scene::new();
    let expected = succeeds(&mut scene.replay(&[]));
    let good = fs::File::open(scene.0.path().join("good.pcapng")).expect("the capture");
    // The binary may lie where nobody else may look: opened before the rights are gone.
    let binary = fs::File::open(env!("CARGO_BIN_EXE_lpm")).expect("the binary");
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&binary));
    nix::fcntl::fcntl(
        &binary,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .expect("the binary is handed on");
    let mut command = Command::new(path);
    command
        .args(["replay", "-"])
        .stdin(good)
        .uid(NOBODY)
        .gid(NOBODY);
    assert_eq!(succeeds(&mut command), expected);
}
