//! Sockets with the kernel's times, on the loopback device.

use std::time::{Duration, Instant};

use nix::{
    errno::Errno,
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

fn bound() -> StampedSocket {
    let address = "127.0.0.1:0".parse().expect("an address");
    StampedSocket::bind(address, false).expect("a socket")
}

/// Waits for the time at which a packet was handed to a device.
fn sent(socket: &StampedSocket) -> (u64, i64) {
    wait(socket, || match socket.notice().expect("a socket") {
        Some(Notice::Sent {
            packet,
            stage: Stage::Sent,
            stamp,
        }) => Some((packet, stamp.nanoseconds)),
        _ => None,
    })
}

/// A packet enters the device's queue before the device takes it. Both are told apart.
#[test]
fn the_queue_has_a_time_of_its_own() {
    let _keep = KeepStamping::start().expect("a socket");
    let (sender, receiver) = (bound(), bound());
    let to = receiver.address().expect("an address");
    let number = sender.send(&[1], to, Outgoing::default()).expect("sent");
    let mut times = Vec::new();
    while times.len() < 2 {
        let notice = wait(&sender, || sender.notice().expect("a socket"));
        let Notice::Sent {
            packet,
            stage,
            stamp,
        } = notice
        else {
            panic!("{notice:?}");
        };
        assert_eq!(Some(packet), number);
        times.push((stamp.nanoseconds, stage));
    }
    times.sort_by_key(|(time, _)| *time);
    assert_eq!([times[0].1, times[1].1], [Stage::Queued, Stage::Sent]);
}

/// A refused packet may have taken a number or not. Those behind it keep their own times.
#[test]
fn numbers_begin_anew_behind_a_refused_packet() {
    let _keep = KeepStamping::start().expect("a socket");
    let (sender, receiver) = (bound(), bound());
    let to = receiver.address().expect("an address");
    let send = |to| sender.send(&[1], to, Outgoing::default());
    assert_eq!(send(to).expect("sent"), Some(0));
    assert_eq!(sent(&sender).0, 0);
    send(SocketAddr::new(to.ip(), 0)).expect_err("there is no port 0");
    while sender.notice().expect("a socket").is_some() {}
    let before = now();
    let number = send(to).expect("sent").expect("a number");
    let (packet, time) = sent(&sender);
    assert_eq!((packet, number), (1 << 32, 1 << 32));
    assert!((before..=now()).contains(&time));
    // As long as news of earlier packets wait, their times could be taken for those of later ones.
    assert!(send(to).expect("sent").is_some());
    send(SocketAddr::new(to.ip(), 0)).expect_err("there is no port 0");
    assert_eq!(send(to).expect("sent"), None);
    while sender.notice().expect("a socket").is_some() {}
    assert_eq!(send(to).expect("sent"), Some(2 << 32));
}

/// More packets than a system call takes, of all lengths, with and without a time of sending.
#[test]
fn packets_are_sent_and_received_together() {
    let _keep = KeepStamping::start().expect("a socket");
    let address = "127.0.0.1:0".parse().expect("an address");
    let open = || StampedSocket::bind_reflector(address, false).expect("a socket");
    let (sender, target) = (open(), open());
    let to = target.address().expect("an address");
    let (mut outbox, mut inbox) = (Outbox::new(3000), Inbox::new(3000));
    let length = |at: usize| [1, 255, 256, 257, 3000][at % 5];
    for at in 0..BATCH {
        let fill = u8::try_from(at).expect("a small number");
        outbox.room()[..length(at)].fill(fill);
        sender.enclose(
            &mut outbox,
            length(at),
            to,
            Outgoing::default(),
            at % 2 == 1,
        );
    }
    assert!(outbox.room().is_empty(), "it is full");
    assert_eq!(sender.send_box(&mut outbox, 0).expect("sent"), BATCH);
    sender
        .send(&[9; 3001], to, Outgoing::default())
        .expect("sent");
    let count = |inbox: &mut Inbox| target.receive_all(inbox).expect("a socket");
    assert_eq!(count(&mut inbox), BATCH);
    for at in 0..BATCH {
        let (received, bytes) = inbox.packet(at).expect("a packet");
        assert_eq!((bytes.len(), received.is_cut), (length(at), false));
        assert!(bytes.iter().all(|byte| usize::from(*byte) == at), "{at}");
        assert_eq!(received.from, sender.address().expect("an address"));
        assert_eq!(
            received.stamp.map(|stamp| stamp.source),
            Some(Source::Kernel)
        );
        let number = (at % 2 == 1).then_some(at as u64 / 2);
        assert_eq!(outbox.number(at), number);
    }
    assert_eq!(count(&mut inbox), 1);
    let (received, bytes) = inbox.packet(0).expect("a packet");
    assert_eq!((bytes.len(), received.is_cut), (3000, true));
    assert!(inbox.packet(1).is_none(), "what came before is gone");
    assert_eq!(count(&mut inbox), 0);
    let (mut errors, mut numbers) = (Errors::default(), Vec::new());
    sender
        .notices(&mut errors, |notice| match notice {
            Notice::Sent { packet, stage, .. } => {
                assert_eq!(stage, Stage::Sent, "nothing else is asked for");
                numbers.push(packet);
            }
            Notice::Unreachable { error } => panic!("{error}"),
        })
        .expect("a socket");
    assert_eq!(numbers, (0..BATCH as u64 / 2).collect::<Vec<_>>());
}
