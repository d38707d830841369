//! Scapy's `contrib.stamp` in both roles, unauthenticated (it knows no other).

use std::process::{Command, Stdio};

use lpm_testbed::testbed::Netns;
use serde_json::Value;

use super::ends::{Ends, HERE, PORT, Reflector, THERE, scapy};
use crate::support::turn;

/// Sends five packets with TLVs, and prints what Scapy reads in each answer.
const SENDER: &str = r#"
import json, socket, sys, time
from scapy.contrib.stamp import *
peer = (sys.argv[1], int(sys.argv[2]))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(60)
for seq in range(5):
    tlvs = [
        STAMPTestTLV(flags=0x80, type=3, len=4, value=bytes(4)),
        STAMPTestTLV(flags=0x80, type=5, len=12, value=bytes([0, 0, 0, 4]) + bytes(8)),
        STAMPTestTLV(flags=0x80, type=200, len=3, value=b"new"),
        STAMPTestTLV(flags=0x80, type=1, len=6, value=b"Scapy!"),
    ]
    sent = STAMPSessionSenderTestUnauthenticated(seq=seq, ts=time.time() + 2208988800, ssid=77, tlv_objects=tlvs)
    s.sendto(bytes(sent), peer)
    data = s.recv(2048)
    got = STAMPSessionReflectorTestUnauthenticated(data)
    print(json.dumps({
        "length": [len(bytes(sent)), len(data)],
        "seq": [got.seq, got.seq_sender],
        "ssid": got.ssid,
        "ttl": got.ttl_sender,
        "copies": data[28:38] == bytes(sent)[4:14],
        "order": float(sent.ts) <= float(got.ts_rx) <= float(got.ts),
        "zeros": [got.mbz1, got.mbz2],
        # Scapy has the flags the other way round.
        "flags": [f"{bytes(tlv)[0]:02x}" for tlv in got.tlv_objects],
        "types": [tlv.type for tlv in got.tlv_objects],
        "values": [bytes(tlv.value).hex() for tlv in got.tlv_objects],
    }))
"#;

/// Reflects without state, with each TLV as it came and flag U set.
const REFLECTOR: &str = r#"
import socket, sys, time
from scapy.contrib.stamp import *
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
while True:
    data, peer = s.recvfrom(2048)
    received = time.time() + 2208988800
    asked = STAMPSessionSenderTestUnauthenticated(data)
    tlvs = [STAMPTestTLV(flags=0x80, type=t.type, len=t.len, value=t.value) for t in asked.tlv_objects]
    answer = STAMPSessionReflectorTestUnauthenticated(
        seq=asked.seq, ssid=asked.ssid, ts_rx=received, seq_sender=asked.seq, ts_sender=asked.ts,
        err_estimate_sender=asked.err_estimate, ttl_sender=61, tlv_objects=tlvs,
        ts=time.time() + 2208988800)
    answer = bytearray(bytes(answer))
    answer[28:36] = data[4:12]  # as a float, the time would lose its last bits
    s.sendto(answer, peer)
"#;

/// Moves a command into a namespace.
fn within(netns: &Netns, python: &Command, script: &str, arguments: &[&str]) -> Command {
    let mut command = netns.command(python.get_program());
    for (name, value) in python.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.args(["-c", script]).args(arguments);
    command
}

#[test]
fn scapy_reads_our_reflector() {
    turn::take();
    let Some(python) = scapy() else { return };
    let ends = Ends::new();
    let reflector = Reflector::start(&ends, &["--allow", HERE[0]]);
    let port = PORT.to_string();
    let output = within(&ends.here, &python, SENDER, &[THERE[0], &port])
        .output()
        .expect("run Python");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8_lossy(&output.stdout);
    let answers: Vec<Value> = (text.lines())
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(answers.len(), 5);
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(answer["length"][0], answer["length"][1], "{answer}");
        assert_eq!(answer["seq"], serde_json::json!([number, number]));
        assert_eq!((&answer["ssid"], &answer["ttl"]), (&77.into(), &64.into()));
        assert_eq!(answer["copies"], true);
        assert_eq!(answer["order"], true, "{answer}");
        assert_eq!(answer["zeros"], serde_json::json!([0, 0]));
        assert_eq!(answer["types"], serde_json::json!([3, 5, 200, 1]));
        assert_eq!(answer["flags"], serde_json::json!(["00", "00", "80", "00"]));
        // A clock that nobody synchronizes or one by NTP, T2 by the kernel, T3 by the program.
        let stamps = answer["values"][0].as_str().expect("digits");
        assert!(["05020503", "01020103"].contains(&stamps), "{stamps}");
        assert_eq!(answer["values"][1], "000000040000000000000000");
        assert_eq!(answer["values"][3], "536361707921");
    }
    assert!(reflector.end().contains("lpm: 5 packets answered\n"));
}

#[test]
fn our_sender_reads_scapys_reflector() {
    turn::take();
    let Some(python) = scapy() else { return };
    let ends = Ends::new();
    let port = PORT.to_string();
    let mut command = within(&ends.there, &python, REFLECTOR, &[THERE[0], &port]);
    let child = ends
        .there
        .spawn(command.stdout(Stdio::piped()))
        .expect("start Python");
    let mut out = std::io::BufReader::new(child.stdout().expect("stdout"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).expect("its first line");
    assert_eq!(line, "ready\n");
    let summary = ends.summary(&["-c", "5", "-i", "0.02", "-W", "5"]);
    assert_eq!(
        (&summary["sent"], &summary["received"]),
        (&5.into(), &5.into()),
        "{summary}"
    );
    assert_eq!(summary["class"]["t2"], "peer");
    // Without state the way of a loss could not be told.
    assert_eq!(
        (&summary["lost"], summary.get("lost_forward")),
        (&0.into(), None)
    );
}
