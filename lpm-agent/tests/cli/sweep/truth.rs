//! Which source port took which link, by tcpdump at the machine that chooses.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use lpm_testbed::testbed::{Netns, NsChild};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::PORT;
use crate::support::kernel::LIMIT;

/// tcpdump of what a machine sends at all its interfaces.
pub(super) struct Truth {
    child: NsChild,
    directory: TempDir,
}

impl Truth {
    pub(super) fn start(netns: &Netns, filter: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = File::create(directory.path().join("lines")).expect("a file");
        let mut command = netns.command("tcpdump");
        command
            .args(["-i", "any", "-Q", "out", "-n", "-l", "-Z", "root"])
            .args(["-B", "65536", "--immediate-mode", filter])
            .stdout(file)
            .stderr(Stdio::piped());
        let child = netns.spawn(&mut command).expect("tcpdump");
        let mut log = BufReader::new(child.stderr().expect("stderr"));
        let mut said = String::new();
        while !said.contains("listening on") {
            assert_ne!(log.read_line(&mut said).expect("its log"), 0, "{said}");
        }
        Self { child, directory }
    }

    /// Ends it, and tells for each source port of packets to the reflector the links that they left
    /// by. Of a tunnel's packets the inner ones count: tcpdump writes them on a line of their own.
    pub(super) fn end(self) -> BTreeMap<u64, BTreeSet<String>> {
        self.child.signal(Signal::SIGINT).expect("end it");
        self.child.wait(LIMIT).expect("its end");
        let text = std::fs::read_to_string(self.directory.path().join("lines")).expect("lines");
        let to = format!(".{PORT}: ");
        let mut ports: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
        let mut link = "";
        for line in text.lines() {
            // "12:00:00.000000 p5    Out IP 198.18.8.1.50000 > 198.18.8.2.8620: UDP, length 88"
            if let Some((before, _)) = line.split_once(" Out ") {
                link = before.split_whitespace().last().unwrap_or_default();
            }
            let Some((from, _)) = line
                .split_once(" > ")
                .filter(|(_, rest)| rest.contains(&to))
            else {
                continue;
            };
            let port = from.rsplit('.').next().and_then(|port| port.parse().ok());
            let port = port.unwrap_or_else(|| panic!("no port: {line}"));
            if link.starts_with('p') {
                ports.entry(port).or_default().insert(link.to_owned());
            }
        }
        ports
    }
}
