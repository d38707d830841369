//! Two machines on a wire, as network namespaces.

use std::{
    fs,
    io::{BufRead, BufReader, Read as _},
    net::UdpSocket,
    path::Path,
    process::{ChildStderr, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use lpm_testbed::testbed::{Netns, NsChild};
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::Value;

use crate::support::kernel::{LIMIT, path_of, process::lpm};

/// The addresses of the one that asks, and the one that answers.
pub(super) const HERE: [&str; 2] = ["198.18.1.1", "fd00:18:1::1"];
pub(super) const THERE: [&str; 2] = ["198.18.1.2", "fd00:18:1::2"];
/// An address that a reflector's list lacks.
pub(super) const STRANGER: &str = "198.18.1.9";
/// The reflector's port.
pub(super) const PORT: u16 = 8620;

/// Two machines and a veth pair between them.
pub(super) struct Ends {
    pub(super) here: Netns,
    pub(super) there: Netns,
}

impl Ends {
    pub(super) fn new() -> Self {
        let [here, there] = ["here", "there"].map(|label| Netns::new(label).expect("a namespace"));
        here.veth("eth0", &there, "eth0", 1500).expect("a wire");
        let more = format!("addr add {STRANGER}/24 dev eth0\n");
        for (netns, [v4, v6], more) in [(&here, HERE, more.as_str()), (&there, THERE, "")] {
            netns
                .ip_batch(&format!(
                    "addr add {v4}/24 dev eth0\n{more}addr add {v6}/64 dev eth0 nodad\n\
                     link set eth0 up\nlink set lo up"
                ))
                .expect("addresses");
        }
        Self { here, there }
    }

    /// Runs `lpm probe --format json` here. Gives its records, the summary last.
    pub(super) fn probe(&self, arguments: &[&str]) -> (ExitStatus, Vec<Value>, String) {
        let mut command = lpm();
        command.args(["--netns", &path_of(&self.here), "probe", "--format", "json"]);
        let output = command.args(arguments).output().expect("run lpm probe");
        let lines = String::from_utf8_lossy(&output.stdout);
        let records = lines
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status, records.collect(), said)
    }

    /// The summary of probes to the other end's port.
    pub(super) fn summary(&self, arguments: &[&str]) -> Value {
        let target = format!("{}:{PORT}", THERE[0]);
        let (_, records, said) = self.probe(&[arguments, &[&target]].concat());
        records.last().unwrap_or_else(|| panic!("{said}")).clone()
    }

    /// A socket here, connected to the reflector there. Each has a port that none had before: with a
    /// port that is used again, the session that it had would go on.
    pub(super) fn client(&self, from: &str) -> UdpSocket {
        static PORTS: AtomicU16 = AtomicU16::new(10_000);
        let open = || {
            let port = PORTS.fetch_add(1, Ordering::Relaxed);
            let socket = UdpSocket::bind((from, port)).expect("a socket");
            socket.connect((THERE[0], PORT)).expect("connect");
            socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
            socket
        };
        self.here.run_in(open).expect("the namespace")
    }

    /// A socket there, in the reflector's place.
    pub(super) fn server(&self) -> UdpSocket {
        let open = || {
            let socket = UdpSocket::bind((THERE[0], PORT)).expect("a socket");
            // An end that is never missed: the thread looks for its own end in between.
            let timeout = Some(Duration::from_millis(50));
            socket.set_read_timeout(timeout).expect("a timeout");
            socket
        };
        self.there.run_in(open).expect("the namespace")
    }
}

/// `lpm reflect` there. Dropping it kills it.
pub(super) struct Reflector {
    child: NsChild,
    log: BufReader<ChildStderr>,
}

impl Reflector {
    pub(super) fn start(ends: &Ends, arguments: &[&str]) -> Self {
        let mut command = lpm();
        command
            .args(["--netns", &path_of(&ends.there), "reflect"])
            .args(["--listen", &format!("[::]:{PORT}")])
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let child = ends.there.spawn(&mut command).expect("start lpm reflect");
        let mut log = BufReader::new(child.stderr().expect("stderr"));
        let mut line = String::new();
        log.read_line(&mut line).expect("read its log");
        assert!(line.contains("answering"), "{line}");
        Self { child, log }
    }

    /// Ends it, and gives what it counted.
    pub(super) fn end(mut self) -> String {
        self.child.signal(Signal::SIGTERM).expect("end it");
        let mut counts = String::new();
        self.log.read_to_string(&mut counts).expect("read its log");
        assert!(self.child.wait(LIMIT).expect("its end").success());
        counts
    }
}

/// A packet of `tests/vectors/stamp.json`.
#[derive(Deserialize)]
pub(super) struct Vector {
    pub(super) name: String,
    pub(super) mode: String,
    pub(super) key: Option<String>,
    pub(super) request: String,
}

impl Vector {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&self.request[at..at + 2], 16).expect("digits");
        (0..self.request.len()).step_by(2).map(byte).collect()
    }
}

pub(super) fn vectors() -> Vec<Vector> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/stamp.json");
    serde_json::from_slice(&fs::read(path).expect("the vectors")).expect("packets")
}

/// The bytes of a packet by its name.
pub(super) fn vector(name: &str) -> Vec<u8> {
    let found = vectors().into_iter().find(|vector| vector.name == name);
    found.expect(name).bytes()
}

/// Writes the key of the vectors as a key file, and gives its argument for a session.
pub(super) fn key_file(directory: &Path, session: u16) -> String {
    let path = directory.join("key");
    // "a key of this session"
    let digits = "61206b6579206f6620746869732073657373696f6e";
    fs::write(&path, digits).expect("a key file");
    format!("{session}:{}", path.display())
}

/// Python with Scapy. None: it is not here, which is printed as a skip.
pub(super) fn scapy() -> Option<Command> {
    let unpacked = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/scapy");
    let python = || {
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", unpacked).stdin(Stdio::null());
        command
    };
    let tried = python().args(["-c", "import scapy.contrib.stamp"]).output();
    if tried.is_ok_and(|output| output.status.success()) {
        return Some(python());
    }
    println!("LPM-SKIP scapy: there is no Scapy with contrib.stamp; run `cargo xtask setup`");
    None
}
