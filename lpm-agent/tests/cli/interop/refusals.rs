//! Packets that a reflector refuses, each counted by its reason, and those that it answers with a flag.

use std::{cell::Cell, net::UdpSocket};

use super::ends::{Ends, HERE, Reflector, STRANGER, key_file, vector, vectors};
use crate::support::turn;

const ALLOW: [&str; 2] = ["--allow", HERE[0]];

/// A client that knows a packet without an answer from one whose answer is on its way: behind each, it
/// sends a packet that is answered.
struct Client<'a> {
    socket: UdpSocket,
    good: UdpSocket,
    /// Makes a packet with this number that gets an answer.
    make: &'a dyn Fn(u32) -> Vec<u8>,
    number: Cell<u32>,
}

impl<'a> Client<'a> {
    fn new(ends: &Ends, from: &str, make: &'a dyn Fn(u32) -> Vec<u8>) -> Self {
        Self {
            socket: ends.client(from),
            good: ends.client(HERE[0]),
            make,
            number: Cell::new(0),
        }
    }

    /// The answer to a packet. None: there was none when a later packet was answered.
    fn ask(&self, packet: &[u8]) -> Option<Vec<u8>> {
        self.socket.send(packet).expect("sent");
        self.good
            .send(&(self.make)(self.number.get()))
            .expect("sent");
        self.number.set(self.number.get() + 1);
        let mut buffer = [0; 16384];
        self.good
            .recv(&mut buffer)
            .expect("the answer of a good packet");
        self.socket.set_nonblocking(true).expect("no waiting");
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    }
}

fn numbered(mut packet: Vec<u8>, number: u32) -> Vec<u8> {
    packet[..4].copy_from_slice(&number.to_be_bytes());
    packet
}

#[track_caller]
fn counted(counts: &str, how_many: u32, what: &str) {
    let line = format!("lpm: {how_many} packets {what}\n");
    assert!(counts.contains(&line), "no {line:?} in {counts}");
}

#[test]
fn short_long_and_strange_packets_get_no_answer() {
    turn::take();
    let ends = Ends::new();
    let reflector = Reflector::start(&ends, &ALLOW);
    let make = |number| numbered(vector("session_0"), number);
    let client = Client::new(&ends, HERE[0], &make);
    let whole = vector("a_tlv_cut_to_1_bytes");
    for length in [0, 1, 13, 14, 40] {
        assert_eq!(client.ask(&whole[..length]), None, "{length} bytes");
    }
    for length in [9217, 16000] {
        assert_eq!(client.ask(&vec![0; length]), None, "{length} bytes");
    }
    let longest = client.ask(&[1; 9216]);
    assert_eq!(longest.map(|answer| answer.len()), Some(9216));
    let stranger = Client::new(&ends, STRANGER, &make);
    assert_eq!(stranger.ask(&vector("session_0")), None);
    // Answered, as RFC 8972 has it, with flag M.
    let malformed = client.ask(&vector("timestamp_information_malformed"));
    assert_eq!(malformed.expect("an answer")[44], 0x40);
    let counts = reflector.end();
    counted(&counts, 5, "too short to answer");
    counted(&counts, 2, "too long");
    counted(&counts, 1, "from clients that are not allowed");
    // The longest one is no row of TLVs, either.
    counted(&counts, 2, "with a malformed TLV");
}

#[test]
fn forged_and_replayed_packets_get_no_answer() {
    turn::take();
    let ends = Ends::new();
    let directory = tempfile::tempdir().expect("a directory");
    let key = key_file(directory.path(), 0x1234);
    let other = format!("9{}", key.trim_start_matches(char::is_numeric));
    let arguments = [&ALLOW[..], &["--key", &key, "--key", &other]].concat();
    let reflector = Reflector::start(&ends, &arguments);
    // A packet of a session begins it, so each good one is of a port of its own.
    let good = vector("authenticated");
    let ask = |packet: &[u8]| {
        let make = |_| good.clone();
        Client::new(&ends, HERE[0], &make).ask(packet)
    };
    let answer = ask(&good).expect("an answer");
    assert_eq!(answer.len(), 112);
    for at in [0, 3, 26, 95, 96, 111] {
        let mut forged = good.clone();
        forged[at] ^= 1;
        assert_eq!(ask(&forged), None, "byte {at}");
    }
    assert_eq!(ask(&vector("authenticated_session_0")), None, "no key");
    assert_eq!(ask(&vector("session_0")), None, "no HMAC");
    // An answer that comes back as a request is one of the session, but its number was there.
    let make = |_| good.clone();
    let again = Client::new(&ends, HERE[0], &make);
    assert!(again.ask(&good).is_some());
    let mut buffer = [0; 200];
    again.socket.send(&good).expect("sent");
    let last = ends.client(HERE[0]);
    last.send(&good).expect("sent");
    last.recv(&mut buffer).expect("an answer");
    assert!(again.socket.recv(&mut buffer).is_err(), "the same again");
    // TLVs with another's HMAC: answered with flag I, and nothing is done for them.
    let doubtful = ask(&vector("authenticated_tlvs_with_another_key")).expect("an answer");
    assert_eq!(doubtful[112], 0x20);
    let counts = reflector.end();
    counted(&counts, 7, "without a valid HMAC");
    counted(&counts, 1, "too short to answer");
    counted(&counts, 1, "seen before");
    counted(&counts, 1, "with TLVs without a valid HMAC");
}

/// A sender of RFC 8762 has no session number. The key of session 0 is for it.
#[test]
fn a_sender_without_a_number_has_the_key_of_session_0() {
    turn::take();
    let ends = Ends::new();
    let directory = tempfile::tempdir().expect("a directory");
    let key = key_file(directory.path(), 0);
    let reflector = Reflector::start(&ends, &[&ALLOW[..], &["--key", &key]].concat());
    let good = vector("authenticated_session_0");
    let make = |_| good.clone();
    let client = Client::new(&ends, HERE[0], &make);
    assert_eq!(
        client.ask(&vector("authenticated")),
        None,
        "another session"
    );
    let summary = ends.summary(&["-c", "3", "-i", "0.01", "--key", &key]);
    assert_eq!(summary["received"], 3, "{summary}");
    counted(&reflector.end(), 1, "without a valid HMAC");
}

#[test]
fn a_client_above_its_rate_is_counted() {
    turn::take();
    let ends = Ends::new();
    let allow = ["--allow", "198.18.1.0/24", "--rate", "3"];
    let reflector = Reflector::start(&ends, &allow);
    let many = ends.client(STRANGER);
    for number in 0..50 {
        many.send(&numbered(vector("session_0"), number))
            .expect("sent");
    }
    // Another client has a rate of its own.
    let other = ends.client(HERE[0]);
    other.send(&vector("session_0")).expect("sent");
    let mut buffer = [0; 100];
    other.recv(&mut buffer).expect("an answer");
    many.set_nonblocking(true).expect("no waiting");
    let answered = (0..50).filter(|_| many.recv(&mut buffer).is_ok()).count();
    assert!((3..50).contains(&answered), "{answered}");
    let counts = reflector.end();
    let above = u32::try_from(50 - answered).expect("below 50");
    counted(&counts, above, "above the client's rate");
}

/// Each packet of the vectors, by a socket: no answer is longer than its packet, and the sequence
/// number is the reflector's own.
#[test]
fn answers_are_as_long_as_their_packets() {
    turn::take();
    let ends = Ends::new();
    let directory = tempfile::tempdir().expect("a directory");
    let key = key_file(directory.path(), 0x1234);
    for (mode, more) in [
        ("unauthenticated", &[][..]),
        ("authenticated", &["--key", &key]),
    ] {
        let reflector = Reflector::start(&ends, &[&ALLOW[..], more].concat());
        let of_mode = vectors().into_iter().filter(|vector| vector.mode == mode);
        // Sessions of a key for unauthenticated packets are not what `lpm reflect` offers.
        let plain = |key: &Option<String>| key.is_some() == (mode == "authenticated");
        let mut answered = 0;
        for vector in of_mode.filter(|vector| plain(&vector.key)) {
            if vector.name.ends_with("session_0") && mode == "authenticated" {
                continue;
            }
            let client = ends.client(HERE[0]);
            let request = vector.bytes();
            client.send(&request).expect("sent");
            let mut buffer = [0xa5; 2048];
            let length = client.recv(&mut buffer).expect("an answer");
            assert_eq!(length, request.len(), "{}", vector.name);
            assert_eq!(buffer[..4], [0; 4], "{}: a session's first", vector.name);
            let copies = if mode == "authenticated" {
                48..52
            } else {
                24..28
            };
            assert_eq!(buffer[copies], request[..4], "{}", vector.name);
            answered += 1;
        }
        assert!(answered >= 38, "{answered} {mode}");
        counted(&reflector.end(), answered, "answered");
    }
}
