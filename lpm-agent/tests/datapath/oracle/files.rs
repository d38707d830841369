//! The tables of a run, and the tools that make one from another.

use std::{
    fs::File,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use lpm_testbed::testbed::Pair;

/// Where everything of a run lies, and the tools that go from one to the next.
pub(crate) struct Files {
    directory: PathBuf,
    pub(crate) capture: PathBuf,
    fields: PathBuf,
    pub(crate) second: PathBuf,
    pub(crate) watch: PathBuf,
}

impl Files {
    pub(crate) fn new(directory: &Path) -> Self {
        let at = |name| directory.join(name);
        Self {
            directory: directory.to_owned(),
            capture: at("hook.pcap"),
            fields: at("fields.tsv"),
            second: at("second.jsonl"),
            watch: at("watch.jsonl"),
        }
    }

    /// A file of this name beside the others.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.directory.join(name)
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

    /// What a method should give; the file it is written to, one for each method and its options.
    pub(crate) fn oracle(&self, method: &str, options: &[&str]) -> PathBuf {
        let name = match method {
            "ts" => "oracle.py",
            "seq" => "seq.py",
            "handshake" => "handshake.py",
            other => panic!("no script for the method {other}"),
        };
        let path = self.at(&format!("oracle-{method}{}.jsonl", options.concat()));
        let mut oracle = script(name);
        oracle.arg("--local").args(local()).args(options);
        into(oracle.stdin(self.read_fields()), &path);
        path
    }

    /// What another reading of a method's rules gives, in `second`.
    pub(crate) fn second_reading(&self, name: &str, options: &[&str]) {
        let mut slotted = script(name);
        slotted.args(options).args(local());
        into(slotted.stdin(self.read_fields()), &self.second);
    }

    /// Holds the samples of a method at a port, seen beside the capture, against what there should
    /// be.
    pub(crate) fn live(
        &self,
        oracle: &Path,
        watch: &Path,
        method: &str,
        port: u16,
        options: &[&str],
    ) -> Verdict {
        let mut compare = comparison(oracle, watch, method, port);
        compare
            // Two packets on two CPUs have no order; one may wait for its CPU between hook and
            // capture. Each must be explained by such an order.
            .args(["--crossed", "0.0005"])
            // And where two CPUs are in the matcher at once, no order need explain it.
            .args(["--raced", "0.00003"])
            .arg("--fields")
            .arg(&self.fields)
            .arg("--local")
            .args(local())
            // Then the gap to another packet differs, too.
            .args(["--late", "0.0005"])
            .args(options);
        Verdict::of(&mut compare)
    }

    fn read_fields(&self) -> File {
        File::open(&self.fields).expect("the fields")
    }
}

/// The pod's addresses.
fn local() -> [String; 2] {
    Pair::CLIENT.map(|address: IpAddr| address.to_string())
}

/// Holds the samples of a method at a port against what there should be, exactly.
pub(crate) fn compare(
    oracle: &Path,
    watch: &Path,
    method: &str,
    port: u16,
    options: &[&str],
) -> Verdict {
    Verdict::of(comparison(oracle, watch, method, port).args(options))
}

fn comparison(oracle: &Path, watch: &Path, method: &str, port: u16) -> Command {
    let mut compare = script("compare.py");
    compare
        .arg(oracle)
        .arg(watch)
        .args(["--method", method, "--port", &port.to_string()]);
    compare
}

/// Holds the samples against what no clock decides: which samples there are, their leg, and whether
/// data carried the echo. Nothing is excused.
pub(crate) fn identities(
    oracle: &Path,
    watch: &Path,
    method: &str,
    port: u16,
    least: &str,
) -> Verdict {
    let mut compare = script("compare.py");
    compare.arg(oracle).arg(watch).arg("--identities");
    compare.args(["--method", method, "--port", &port.to_string()]);
    compare.args(["--min-samples", least, "--coverage", "1"]);
    Verdict::of(&mut compare)
}

/// What `compare.py` says.
pub(crate) struct Verdict {
    pass: bool,
    text: String,
}

impl Verdict {
    /// Runs a script that ends with status 1 if something does not hold, and keeps what it says.
    pub(crate) fn of(script: &mut Command) -> Self {
        let output = script.output().expect("python3 to run");
        assert!(
            output.stderr.is_empty(),
            "{script:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Self {
            pass: output.status.success(),
            text: String::from_utf8(output.stdout).expect("text"),
        }
    }

    /// Whether all bounds hold.
    pub(crate) fn holds(&self) -> bool {
        self.pass
    }

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
pub(crate) fn script(name: &str) -> Command {
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

pub(crate) fn into(command: &mut Command, file: &Path) {
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
