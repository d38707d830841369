//! What passed a pod's interface, packet by packet, by a capture that knows nothing of the agent.
//!
//! The wire's log leaves out what the node itself takes between the pod and the wire, which is
//! milliseconds when its processors are busy. The agent measures at the pod's interface, and so does
//! this.

use std::{fs, net::IpAddr};

use lpm_testbed::{
    kubernetes::cluster::Node,
    testbed::wire::{Direction, Fate, Record, tcp_identity},
    truth::Capture,
};
use serde_json::Value;

use crate::truth::PORT;

/// Of a capture file with nanoseconds: its first word, the length of its header, that of a packet's.
const MAGIC: u32 = 0xa1b2_3c4d;
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;

/// A capture at the host's end of a pod's interface.
pub(crate) struct Veth {
    pod: IpAddr,
    capture: Capture,
    // Removed when all is read.
    _directory: tempfile::TempDir,
}

impl Veth {
    /// Begins at the interface of the pod with this address.
    pub(crate) fn watch(node: &Node, pod: IpAddr) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("pod.pcap");
        let interface = interface(node, pod);
        Self {
            pod,
            capture: Capture::start(&node.netns, &interface, PORT, &file).expect("tcpdump"),
            _directory: directory,
        }
    }

    /// Ends it: each packet as if it came and left at once, by the wall clock.
    pub(crate) fn records(self) -> Vec<Record> {
        let file = self.capture.stop().expect("a whole capture");
        let bytes = fs::read(file).expect("the capture");
        let packets = packets(&bytes).into_iter();
        packets
            .map(|(time, frame)| {
                let tcp = tcp_identity(frame);
                let sent = tcp.is_some_and(|tcp| tcp.source == self.pod);
                Record {
                    direction: if sent {
                        Direction::Forward
                    } else {
                        Direction::Backward
                    },
                    fate: Fate::Forwarded,
                    arrival_ns: time,
                    due_ns: time,
                    departure_ns: Some(time),
                    frame_bytes: u32::try_from(frame.len()).expect("a packet"),
                    tcp,
                }
            })
            .collect()
    }
}

/// The host's end of the interface of the pod with this address, as the CNI's result names it.
pub(crate) fn interface(node: &Node, pod: IpAddr) -> String {
    let results = node.directory.join("cni-state/results");
    let files = fs::read_dir(&results).expect("the CNI's results");
    let mut found = files.flatten().filter_map(|file| {
        let text = fs::read(file.path()).ok()?;
        let result = serde_json::from_slice::<Value>(&text).ok()?["result"].take();
        let is_its = |one: &Value| {
            let address = one["address"].as_str().unwrap_or_default();
            address.split('/').next() == Some(&pod.to_string())
        };
        result["ips"].as_array()?.iter().find(|one| is_its(one))?;
        let host = |one: &&Value| {
            let name = one["name"].as_str().unwrap_or_default();
            one["sandbox"].as_str().unwrap_or_default().is_empty() && name.starts_with("veth")
        };
        let name = result["interfaces"].as_array()?.iter().find(host)?["name"].as_str()?;
        // The result of a pod that is gone may still be there.
        let exists = || nix::net::if_::if_nametoindex(name).is_ok();
        let exists = node.netns.run_in(exists).expect("the node's network");
        exists.then(|| name.to_owned())
    });
    found
        .next()
        .unwrap_or_else(|| panic!("{pod} has no interface in {}", results.display()))
}

/// The packets of a capture file: time in ns, frame.
fn packets(file: &[u8]) -> Vec<(u64, &[u8])> {
    let word = |at: usize| {
        let bytes = file[at..at + 4].try_into().expect("four bytes");
        u32::from_ne_bytes(bytes)
    };
    assert_eq!(word(0), MAGIC, "a capture with nanoseconds");
    let (mut packets, mut at) = (Vec::new(), FILE_HEADER);
    while at + PACKET_HEADER <= file.len() {
        let time = u64::from(word(at)) * 1_000_000_000 + u64::from(word(at + 4));
        let start = at + PACKET_HEADER;
        at = start + word(at + 8) as usize;
        packets.push((time, &file[start..at]));
    }
    packets
}
