//! What goes wrong with `lpm probe`: each by its name, counted, and never as a figure.

use std::{
    io::{BufRead as _, BufReader},
    net::UdpSocket,
    process::{Output, Stdio},
    thread,
    time::{Duration, SystemTime},
};

use lpm_testbed::testbed::{Netns, Pair, PairConfig};
use serde_json::Value;

use crate::support::{
    kernel::{LIMIT, path_of, process::lpm},
    turn,
};

fn probe(netns: &Netns, arguments: &[&str]) -> (Output, Vec<Value>) {
    let mut command = lpm();
    command.args(["--netns", &path_of(netns), "probe", "--format", "json"]);
    let output = command.args(arguments).output().expect("run lpm probe");
    let lines = String::from_utf8_lossy(&output.stdout);
    let records = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    let records = records.collect();
    (output, records)
}

fn veth() -> Pair {
    let config = PairConfig {
        wire: None,
        ..PairConfig::default()
    };
    Pair::new(&config).expect("two ends")
}

fn summary(records: &[Value]) -> &Value {
    let last = records.last().expect("a summary");
    assert_eq!(last["type"], "summary", "{last}");
    last
}

/// The words of the first packet that could not be sent.
fn unreachable(netns: &Netns, arguments: &[&str]) -> String {
    let (output, records) = probe(netns, arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(records[0]["result"], "unreachable", "{:?}", records[0]);
    let summary = summary(&records);
    assert_eq!(summary["unreachable"], summary["sent"]);
    assert_eq!(summary.get("rtt_ns"), None, "not measured is not 0");
    records[0]["error"].as_str().expect("a reason").to_owned()
}

#[test]
fn where_no_way_leads_the_kernels_reason_is_told() {
    turn::take();
    let alone = Netns::new("alone").expect("a namespace");
    let error = unreachable(&alone, &["-c", "2", "-i", "0.01", "198.18.77.1"]);
    assert_eq!(error, "Network is unreachable", "no route");
    let pair = veth();
    let refuse = "route add unreachable 198.18.77.0/24";
    pair.node.ip(refuse).expect("a route");
    let error = unreachable(&pair.client, &["-c", "1", "198.18.77.1"]);
    assert_eq!(error, "No route to host", "the router says so");
}

/// A packet that does not fit is not sent in pieces, neither here nor beyond a router.
#[test]
fn a_packet_longer_than_the_mtu_is_told() {
    turn::take();
    let pair = veth();
    let arguments = ["-c", "1", "-W", "0.5", "-s", "3000", "198.18.2.2:8620"];
    assert_eq!(unreachable(&pair.client, &arguments), "Message too long");
    let narrow = format!("link set {} mtu 1000", Pair::WIRE_INTERFACE);
    pair.node.ip(&narrow).expect("an MTU");
    let arguments = ["-c", "1", "-W", "0.5", "-s", "1200", "198.18.2.2:8620"];
    assert_eq!(unreachable(&pair.client, &arguments), "Message too long");
    let mut command = lpm();
    command.args(["--netns", &path_of(&pair.client), "probe", "-s", "3000"]);
    let output = command.args(["-c", "1", "198.18.2.2"]).output();
    let text = output.expect("run lpm probe").stdout;
    let text = String::from_utf8_lossy(&text);
    assert!(
        text.contains("longer than the MTU: give fewer bytes with -s"),
        "{text}"
    );
}

#[test]
fn an_interval_of_nothing_or_of_a_year_is_refused() {
    let alone = Netns::new("alone").expect("a namespace");
    for (arguments, words) in [
        (
            ["-i", "0", "198.18.2.2"],
            "give seconds from 0.0001 to 86400",
        ),
        (
            ["-i", "31536000", "198.18.2.2"],
            "give seconds from 0.0001 to 86400",
        ),
        (["--train", "0", "198.18.2.2"], "give 1 to 1000 probes"),
        (["--ecn", "4", "198.18.2.2"], "4 is not in 0..4"),
    ] {
        let (output, _) = probe(&alone, &arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(words), "{text}");
    }
    let long = ["--train", "20:0.1", "-i", "1", "198.18.2.2"];
    let (output, _) = probe(&alone, &long);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("longer than the interval"), "{text}");
}

/// The interface goes while probes are sent: the rest is unreachable, and the figures of those
/// before it stand.
#[test]
fn an_interface_that_goes_is_told() {
    turn::take();
    let pair = veth();
    let mut reflector = lpm();
    reflector
        .args(["--netns", &path_of(&pair.server), "reflect"])
        .args(["--allow", "198.18.1.2", "--listen", "198.18.2.2:8620"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    let reflector = pair
        .server
        .spawn(&mut reflector)
        .expect("start lpm reflect");
    let mut line = String::new();
    let mut log = BufReader::new(reflector.stderr().expect("stderr"));
    log.read_line(&mut line).expect("read its log");
    let mut command = lpm();
    command
        .args([
            "--netns",
            &path_of(&pair.client),
            "probe",
            "--format",
            "json",
        ])
        .args([
            "-c",
            "100",
            "-i",
            "0.02",
            "-W",
            "0.2",
            "-I",
            "eth0",
            "198.18.2.2:8620",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let child = pair.client.spawn(&mut command).expect("start lpm probe");
    let mut out = BufReader::new(child.stdout().expect("stdout")).lines();
    let mut read = || -> Option<Value> {
        let line = out.next()?.expect("read its records");
        Some(serde_json::from_str(&line).expect("JSON"))
    };
    let first = read().expect("a record");
    assert_eq!(first["result"], "ok", "{first}");
    pair.client.ip("link delete eth0").expect("it goes");
    let records: Vec<Value> = std::iter::from_fn(read).collect();
    let errors: Vec<&str> = records
        .iter()
        .filter_map(|record| record["error"].as_str())
        .collect();
    let end = summary(&records);
    eprintln!("{end}: {:?}", errors.last());
    assert!(errors.len() > 10, "{records:?}");
    assert!(end["rtt_ns"]["p50"].is_u64() && end["received"].as_u64() > Some(0));
    assert_eq!(end["sent"], 100);
    assert!(child.wait(LIMIT).expect("the end").success());
}

/// What stands in an answer of a reflector that is none of ours.
type Forge = fn(&mut [u8], &[u8]);

/// Answers packets as a reflector does, each changed by `forge`; from another port if `elsewhere`.
fn answers(pair: &Pair, forge: Forge, elsewhere: bool) -> thread::JoinHandle<()> {
    let open = || {
        let own = UdpSocket::bind("198.18.2.2:8620").expect("a socket");
        let other = UdpSocket::bind("198.18.2.2:8621").expect("a socket");
        (own, other)
    };
    let (own, other) = pair.server.run_in(open).expect("enter");
    own.set_read_timeout(Some(Duration::from_secs(3)))
        .expect("a timeout");
    thread::spawn(move || {
        let mut packet = [0; 1500];
        while let Ok((length, from)) = own.recv_from(&mut packet) {
            let packet = &packet[..length];
            let mut answer = packet.to_vec();
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let now = now.expect("after 1970");
            let seconds = u32::try_from(now.as_secs() + 2_208_988_800).expect("before 2036");
            let fraction = (u64::from(now.subsec_nanos()) << 32) / 1_000_000_000;
            let time = (u64::from(seconds) << 32 | fraction).to_be_bytes();
            answer[4..12].copy_from_slice(&time);
            answer[16..24].copy_from_slice(&time);
            // The sender's number and time (RFC 8972 figure 2).
            answer[24..28].copy_from_slice(&packet[..4]);
            answer[28..36].copy_from_slice(&packet[4..12]);
            answer[44..].fill(0);
            forge(&mut answer, packet);
            let socket = if elsewhere { &other } else { &own };
            socket.send_to(&answer, from).expect("sent");
        }
    })
}

#[test]
fn answers_of_another_session_or_end_count_for_nothing() {
    turn::take();
    let nothing: Forge = |_, _| {};
    let other_session: Forge = |answer, _| answer[15] ^= 0xff;
    let other_number: Forge = |answer, _| answer[24] = 0xff;
    let cases = [
        ("as it is", nothing, false, 0),
        ("another session's number", other_session, false, 3),
        ("a packet that was never sent", other_number, false, 3),
        ("another port", nothing, true, 3),
    ];
    for (name, forge, elsewhere, foreign) in cases {
        let pair = veth();
        let responder = answers(&pair, forge, elsewhere);
        let arguments = ["-c", "3", "-i", "0.01", "-W", "0.2", "198.18.2.2:8620"];
        let (_, records) = probe(&pair.client, &arguments);
        let end = summary(&records);
        // The packets behind them, which fetch a time, are answered likewise.
        let is_foreign = end["foreign"].as_u64() >= Some(foreign);
        assert!(
            is_foreign && (foreign == 0) == (end["foreign"] == 0),
            "{name}: {end}"
        );
        let received = if foreign == 0 { 3 } else { 0 };
        assert_eq!(end["received"], received, "{name}: {end}");
        drop(responder);
    }
}

/// A reflector that says to have kept a packet for longer than it was away gives no round trip.
#[test]
fn a_reflector_that_lies_about_its_times_gives_no_figure() {
    turn::take();
    let pair = veth();
    let lie: Forge = |answer, _| {
        let seconds = u32::from_be_bytes([answer[4], answer[5], answer[6], answer[7]]);
        answer[4..8].copy_from_slice(&(seconds + 1).to_be_bytes());
    };
    let responder = answers(&pair, lie, false);
    let arguments = ["-c", "3", "-i", "0.01", "-W", "0.2", "198.18.2.2:8620"];
    let (_, records) = probe(&pair.client, &arguments);
    let end = summary(&records);
    assert_eq!(records[0]["void"], "impossible", "{:?}", records[0]);
    assert_eq!(
        (&end["void"], &end["clock"]),
        (&3.into(), &0.into()),
        "{end}"
    );
    assert_eq!(
        (end.get("rtt_ns"), end.get("offset_ns")),
        (None, None),
        "{end}"
    );
    drop(responder);
}
