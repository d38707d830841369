//! TWAMP-Light (RFC 5357 appendix I) in both roles, written here from RFC 5357 sections 4.1.2 and 4.2.1.

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use super::ends::{Ends, HERE, Reflector};
use crate::support::turn;

/// Bytes of an answer without padding.
const ANSWER: usize = 41;

/// An NTP timestamp of now.
fn now() -> [u8; 8] {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let seconds = since.as_secs() + 2_208_988_800;
    let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
    (seconds << 32 | fraction).to_be_bytes()
}

/// A sender's packet: number, time, Error Estimate, padding.
fn request(number: u32, padding: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &now(), &[0x3f, 0xff], padding].concat()
}

#[test]
fn a_sender_with_random_padding_has_one_session() {
    turn::take();
    let ends = Ends::new();
    let reflector = Reflector::start(&ends, &["--allow", HERE[0]]);
    let client = ends.client(HERE[0]);
    // Of 27 bytes the answer is as long as the packet (RFC 6038 section 4.2); more comes back.
    for (number, length) in (0..).zip([27, 27, 30, 100, 1000]) {
        let padding: Vec<u8> = (0..length).map(|_| fastrand::u8(1..)).collect();
        let packet = request(number, &padding);
        client.send(&packet).expect("sent");
        let mut answer = [0; 2048];
        let got = client.recv(&mut answer).expect("an answer");
        assert_eq!(got, packet.len());
        assert_eq!(answer[..4], number.to_be_bytes(), "it counts this session");
        assert_eq!(answer[24..28], number.to_be_bytes());
        assert_eq!(
            answer[28..38],
            packet[4..14],
            "the sender's time and estimate"
        );
        assert_eq!(answer[40], 64, "the TTL");
        let time = |at: usize| u64::from_be_bytes(answer[at..at + 8].try_into().expect("eight"));
        let sent = u64::from_be_bytes(packet[4..12].try_into().expect("eight"));
        assert!(sent <= time(16) && time(16) <= time(4), "T1, T2, T3");
    }
    assert!(reflector.end().contains("lpm: 5 packets answered\n"));
}

/// A reflector that knows no STAMP, only padding.
fn reflect(socket: &UdpSocket, end: &AtomicBool, keeps_padding: bool) -> u32 {
    let mut buffer = [0; 2048];
    let mut count: u32 = 0;
    while !end.load(Ordering::Acquire) {
        let Ok((length, client)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let received = now();
        let packet = &buffer[..length];
        let padding = packet.get(ANSWER..).unwrap_or_default();
        let padding = if keeps_padding { padding } else { &[] };
        let head = [
            &count.to_be_bytes()[..],
            &now(),
            &[0x3f, 0xff],
            &[0, 0],
            &received,
        ]
        .concat();
        let copies = [&packet[..4], &packet[4..14], &[0, 0], &[64]].concat();
        let answer = [&head[..], &copies, padding].concat();
        socket.send_to(&answer, client).expect("sent");
        count += 1;
    }
    count
}

#[test]
fn a_reflector_that_knows_no_tlvs_is_measured_too() {
    turn::take();
    let ends = Ends::new();
    for keeps_padding in [true, false] {
        let (socket, end) = (ends.server(), AtomicBool::new(false));
        let summary = thread::scope(|scope| {
            let reflector = scope.spawn(|| reflect(&socket, &end, keeps_padding));
            let summary = ends.summary(&["-c", "5", "-i", "0.01", "-W", "2"]);
            end.store(true, Ordering::Release);
            assert!(reflector.join().expect("it reflected") >= 5);
            summary
        });
        assert_eq!(
            (&summary["sent"], &summary["received"]),
            (&5.into(), &5.into()),
            "{summary}"
        );
        // Its times are its own word, and none of them is the kernel's here.
        assert_eq!(
            (&summary["class"]["t2"], &summary["class"]["t3"]),
            (&"peer".into(), &"peer".into())
        );
        assert!(summary["rtt_ns"]["min"].as_u64().is_some(), "{summary}");
        assert!(summary["dwell_ns"]["min"].as_u64().is_some(), "{summary}");
    }
}
