//! The tables of a run, and the tools that make one from another.

use std::{
    fs::File,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use lpm_bench::{testbed::Pair, traffic::PORT};

/// Where everything of a run lies, and the tools that go from one to the next.
pub(crate) struct Files {
    pub(crate) capture: PathBuf,
    fields: PathBuf,
    oracle: PathBuf,
    pub(crate) second: PathBuf,
    pub(crate) watch: PathBuf,
}

impl Files {
    pub(crate) fn new(directory: &Path) -> Self {
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
    pub(crate) fn fields(&self) {
        let options = stdout(script("oracle.py").arg("--fields"));
        let mut tshark = Command::new("tshark");
        tshark.arg("-r").arg(&self.capture).arg("-n");
        tshark.args(["-o", "tcp.relative_sequence_numbers:FALSE", "-T", "fields"]);
        tshark.args(options.split_whitespace());
        into(&mut tshark, &self.fields);
    }

    pub(crate) fn oracle(&self, mutation: Option<&str>) {
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

    pub(crate) fn second_reading(&self) {
        let mut slotted = script("slotted.py");
        slotted.args(Pair::CLIENT.map(|address: IpAddr| address.to_string()));
        into(
            slotted.stdin(File::open(&self.fields).expect("the fields")),
            &self.second,
        );
    }

    pub(crate) fn compare(&self, watch: &Path) -> Verdict {
        let mut compare = script("compare.py");
        compare
            .arg(&self.oracle)
            .arg(watch)
            .args(["--port", &PORT.to_string()])
            // Two packets of one direction on two CPUs have no order.
            .args(["--crossed", "0.0001"]);
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
pub(crate) struct Verdict {
    pass: bool,
    text: String,
}

impl Verdict {
    pub(crate) fn expect_pass(&self, who: &str) {
        println!("--- {who}\n{}", self.text);
        assert!(
            self.pass,
            "{who} does not agree with the reference:\n{}",
            self.text
        );
    }

    pub(crate) fn expect_failure(&self, rule: &str) {
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

pub(crate) fn script_directory() -> PathBuf {
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
