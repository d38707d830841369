//! The second source: what tshark makes of a capture at the same interface.

use std::{collections::BTreeMap, process::Command};

use lpm_testbed::testbed::Pair;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Site, rtt};
use crate::support::lpm::Lpm;

/// How far the two may lie from each other in the middle, ns. Capture and hook
/// are next to each other in the kernel's path, but a busy machine can come
/// between.
const APART_NS: u64 = 500_000;

/// A capture at the pod's interface.
pub(crate) struct Capture {
    tcpdump: Lpm,
    file: String,
}

impl Capture {
    pub(crate) fn start(site: &Site) -> Self {
        let file = site.directory.path().join("capture.pcap");
        let file = file.display().to_string();
        let mut tcpdump = site.pair.node.command("tcpdump");
        let options = ["--immediate-mode", "-U", "-Z", "root", "-w", &file, "-i"];
        tcpdump.args(options).arg(Pair::POD_INTERFACE);
        let tcpdump = Lpm::spawn(&site.pair.node, &mut tcpdump);
        tcpdump.wait_for("listening on");
        Self { tcpdump, file }
    }

    /// Ends it; gives the times that tshark reads, by id.
    pub(crate) fn times(self, id: &str, time: &str, unit_ns: f64) -> BTreeMap<u64, u64> {
        assert!(self.tcpdump.end(Signal::SIGINT).success());
        let fields = ["-T", "fields", "-e", id, "-e", time];
        let output = Command::new("tshark")
            .args(["-r", &self.file, "-Y", time])
            .args(fields)
            .output()
            .expect("tshark");
        let text = String::from_utf8_lossy(&output.stdout);
        let mut times = BTreeMap::new();
        for line in text.lines() {
            let (id, time) = line.split_once('\t').expect("two fields");
            let id = id.strip_prefix("0x").map_or_else(
                || id.parse().expect("a number"),
                |hex| u64::from_str_radix(hex, 16).expect("a number"),
            );
            let time: f64 = time.parse().expect("a time");
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "seconds of a test"
            )]
            times.insert(id, (time * unit_ns) as u64);
        }
        times
    }
}

/// Holds samples against tshark's times; `id` makes tshark's id of a sample's.
pub(crate) fn compare(
    samples: &BTreeMap<u64, Value>,
    times: &BTreeMap<u64, u64>,
    id: impl Fn(u64) -> u64,
) {
    let mut apart: Vec<u64> = samples
        .iter()
        .map(|(own, sample)| {
            let other = times.get(&id(*own));
            let other = other.unwrap_or_else(|| panic!("tshark has no time of {sample}"));
            rtt(sample).abs_diff(*other)
        })
        .collect();
    apart.sort_unstable();
    let (median, most) = (apart[apart.len() / 2], apart[apart.len() - 1]);
    println!(
        "{} times, apart from tshark's: median {median} ns, most {most} ns",
        apart.len()
    );
    assert!(median <= APART_NS, "median {median} ns apart");
}
