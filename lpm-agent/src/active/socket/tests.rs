//! Sockets with the kernel's times, on the loopback device.

use std::time::{Duration, Instant};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    time::{ClockId, clock_gettime},
};

use super::*;

fn now() -> i64 {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).expect("a clock");
    now.tv_sec() * 1_000_000_000 + now.tv_nsec()
}

/// Waits until `ask` has an answer.
fn wait<T>(socket: &StampedSocket, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "nothing came");
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(100_u8)).expect("poll");
    }
}

fn packets_have_their_times(there: &str, here: &str, target: &str) {
    let _keep = KeepStamping::start().expect("a socket");
    let bind = |address: &str| {
        StampedSocket::bind(address.parse().expect("an address"), false).expect("a socket")
    };
    let (reflector, sender) = (bind(there), bind(here));
    let port = reflector.address().expect("an address").port();
    let to = SocketAddr::new(target.parse().expect("an address"), port);
    for packet in 0..3 {
        let before = now();
        let how = Outgoing {
            from: None,
            traffic_class: 46 << 2,
        };
        sender.send(&[7; 50], to, how).expect("sent");
        let mut buffer = [0; 100];
        let received = wait(&reflector, || {
            reflector.receive(&mut buffer).expect("a socket")
        });
        let arrived = received.stamp.expect("a time of receiving");
        let mut sent = None;
        while sent.is_none() {
            match wait(&sender, || sender.notice().expect("a socket")) {
                Notice::Sent {
                    packet: number,
                    stage,
                    stamp,
                } => {
                    assert_eq!(number, packet, "OPT_ID counts packets");
                    if stage == Stage::Sent {
                        sent = Some(stamp);
                    }
                }
                Notice::Unreachable { error } => panic!("{error}"),
            }
        }
        let sent = sent.expect("a time of sending");
        assert_eq!(
            (sent.source, arrived.source),
            (Source::Kernel, Source::Kernel)
        );
        let order = [before, sent.nanoseconds, arrived.nanoseconds, now()];
        assert!(order.is_sorted(), "{order:?}");
        assert_eq!((received.length, received.is_cut), (50, false));
        assert_eq!(received.ttl, Some(64));
        assert_eq!(received.traffic_class, Some(46 << 2));
        assert_eq!(received.to, Some(to.ip()));
    }
}

#[test]
fn packets_have_their_times_by_ipv4() {
    packets_have_their_times("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1");
}

#[test]
fn packets_have_their_times_by_ipv6() {
    packets_have_their_times("[::1]:0", "[::1]:0", "::1");
}

#[test]
fn an_ipv6_socket_serves_ipv4() {
    packets_have_their_times("[::]:0", "[::]:0", "127.0.0.1");
}

#[test]
fn a_closed_port_is_told() {
    let sender = StampedSocket::bind("127.0.0.1:0".parse().expect("an address"), false);
    let sender = sender.expect("a socket");
    let closed = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let to = closed.local_addr().expect("an address");
    drop(closed);
    sender.send(&[1], to, Outgoing::default()).expect("sent");
    let error = wait(&sender, || match sender.notice().expect("a socket") {
        Some(Notice::Unreachable { error }) => Some(error),
        _ => None,
    });
    assert_eq!(error, Errno::ECONNREFUSED);
}

/// Recorded control messages of a card: its time goes before the kernel's.
#[test]
fn a_cards_time_is_preferred() {
    let time = |seconds| TimeSpec::new(seconds, 5);
    let none = TimeSpec::new(0, 0);
    let times = |system, hw_raw| Timestamps {
        system,
        hw_trans: none,
        hw_raw,
    };
    let of = |system, hw_raw| stamp_of(&times(system, hw_raw)).map(|stamp| stamp.source);
    assert_eq!(of(time(1), time(2)), Some(Source::Hardware));
    assert_eq!(of(time(1), none), Some(Source::Kernel));
    assert_eq!(of(none, none), None);
}
