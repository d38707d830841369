//! A reflector on the loopback device.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use lpm_common::stamp::{
    ErrorEstimate, Mode, ReflectorPacket, SenderPacket, Timestamp,
    agent::StampSource,
    reply::{self, Reply},
};

use super::*;
use crate::active::{
    clock,
    fate::{Fate, Taken},
    plan::{Plan, Train},
    schedule::when::Rhythm,
    sessions::{MOST, SessionKey},
    socket::Source,
};

fn reflector() -> Reflector {
    let settings = Settings {
        allow: vec!["127.0.0.0/8".parse().expect("a range")].into(),
        rate: 1_000_000,
        keys: HashMap::new(),
    };
    let address = "127.0.0.1:0".parse().expect("an address");
    Reflector::bind(address, false, settings).expect("a reflector")
}

fn client(reflector: &Reflector) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client
        .connect(reflector.address().expect("an address"))
        .expect("connect");
    client.set_nonblocking(true).expect("it does not block");
    client
}

/// A packet without TLVs.
fn bare(session: u16) -> [u8; 44] {
    let mut packet = [0; 44];
    let sender = SenderPacket {
        sequence: 7,
        timestamp: Timestamp(1),
        error: ErrorEstimate(1),
        session,
    };
    sender.write(Mode::Unauthenticated, &mut packet);
    packet
}

/// A packet as `lpm probe` sends it.
fn probe(session: u16, sequence: u32) -> Vec<u8> {
    let plan = Plan {
        target: (Ipv4Addr::LOCALHOST, 1).into(),
        from: None,
        interface: None,
        ports: None,
        count: None,
        interval: Duration::from_secs(1),
        rhythm: Rhythm::Even,
        size: 0,
        dscp: 0,
        ecn: 0,
        train: Train::SINGLE,
        timeout: Duration::from_secs(1),
        session,
        key: None,
    };
    let now = answer::timestamp(clock::real());
    plan.packet(sequence, now, Claim { error: None })
}

/// All answers that have come. On the loopback device they have come once they are sent.
fn answers(client: &UdpSocket) -> Vec<Reply> {
    let mut packet = [0; 200];
    let mut replies = Vec::new();
    while let Ok(length) = client.recv(&mut packet) {
        let mode = Mode::Unauthenticated;
        let reply = reply::read(&packet[..length], mode, None::<&Key>);
        replies.push(reply.expect("an answer"));
    }
    replies
}

/// A session that finds no place gets no answer: a copied number would look like a count.
#[test]
fn a_session_too_many_gets_no_answer_and_is_counted() {
    let mut reflector = reflector();
    let client = client(&reflector);
    let (counts, mut boxes) = (Counts::default(), Boxes::default());
    let mut ask = |session: u16| {
        client.send(&bare(session)).expect("sent");
        // On the loopback device it has arrived by then.
        reflector.work(&counts, &mut boxes).expect("a socket");
        let mut packet = [0; 44];
        let length = client.recv(&mut packet).ok()?;
        let answer = ReflectorPacket::read(&packet[..length], Mode::Unauthenticated)?;
        Some(answer.sequence)
    };
    let most = u16::try_from(MOST).expect("below 65,536");
    assert!((1..=most).all(|session| ask(session) == Some(0)));
    assert_eq!(ask(most + 1), None);
    assert_eq!(ask(1), Some(1), "a session that is there goes on");
    assert_eq!(counts.of(Fate::Crowded), 1);
    assert_eq!(counts.of(Fate::Answered), u64::from(most) + 1);
    assert_eq!(counts.times(Taken::Sending, Source::Kernel), 0, "none asks");
}

/// Packets that come together are answered together, and yet each answer tells the time of the one
/// before. Two sessions take turns, and a third asks for no times, so that packets without a number
/// lie between.
#[test]
fn in_a_batch_each_answer_tells_the_time_of_the_one_before() {
    let mut reflector = reflector();
    let clients = [(); 3].map(|()| client(&reflector));
    let (counts, mut boxes) = (Counts::default(), Boxes::default());
    let begun = clock::real();
    for sequence in 0..5 {
        for client in &clients[..2] {
            client.send(&probe(3, sequence)).expect("sent");
        }
        clients[2].send(&bare(9)).expect("sent");
    }
    reflector.work(&counts, &mut boxes).expect("a socket");
    assert_eq!(counts.of(Fate::Answered), 15);
    let ended = clock::real();
    for client in &clients[..2] {
        let replies = answers(client);
        assert_eq!(replies.len(), 5);
        let mut last = begun;
        for (sequence, reply) in (0..).zip(&replies) {
            assert_eq!(reply.packet.sequence, sequence);
            let agent = reply.extensions.agent.expect("an agent");
            assert_eq!(agent.receive, StampSource::Kernel);
            let previous = reply.extensions.previous;
            if sequence == 0 {
                assert_eq!((previous, agent.previous), (None, StampSource::None));
                continue;
            }
            let previous = previous.expect("the time of the one before");
            assert_eq!(previous.sequence, sequence - 1);
            assert_eq!(agent.previous, StampSource::Kernel);
            let near = u64::try_from(ended).expect("after 1970");
            let time = previous
                .timestamp
                .to_unix(lpm_common::stamp::Format::Ntp, near);
            let time = i64::try_from(time.expect("a time")).expect("before 2262");
            // NTP's fractions are a quarter of a nanosecond, cut.
            assert!((last - 1..=ended).contains(&time), "{last} {time} {ended}");
            last = time;
        }
    }
    assert_eq!(counts.times(Taken::Arrival, Source::Kernel), 15);
    assert_eq!(counts.times(Taken::Sending, Source::Kernel), 10);
    assert_eq!(counts.of(Fate::NoSendTime), 0);
}

/// The clock is set while a batch is answered, and the program sees it then. Packets that came behind
/// the batch may have a time of arrival from before: they are in doubt, too.
#[test]
fn packets_behind_a_batch_in_which_the_clock_was_set_are_in_doubt() {
    let bend = clock::bend::Bend::default();
    let plain = reflector();
    let clock = Clock::bent(&bend).expect("a timer");
    let address = "127.0.0.1:0".parse().expect("an address");
    let reflector = Reflector::with_clock(address, false, plain.settings.clone(), clock);
    let mut reflector = reflector.expect("a reflector");
    let client = client(&reflector);
    let (counts, mut boxes) = (Counts::default(), Boxes::default());
    let mut numbers = |reflector: &mut Reflector, first: u32, between: &dyn Fn(&mut Reflector)| {
        for sequence in first..first + 3 {
            client.send(&probe(3, sequence)).expect("sent");
        }
        // They have arrived by then.
        between(reflector);
        reflector.work(&counts, &mut boxes).expect("a socket");
        let numbers = answers(&client).into_iter();
        let numbers = numbers.filter_map(|reply| Some(reply.extensions.agent?.clock_changes));
        numbers.collect::<Vec<_>>()
    };
    assert_eq!(numbers(&mut reflector, 0, &|_| {}), [0, 0, 0]);
    let set = |reflector: &mut Reflector| {
        bend.set(clock::real(), 1_000_000);
        reflector.look_within_a_batch();
    };
    assert_eq!(numbers(&mut reflector, 3, &set), [1, 1, 1]);
    assert_eq!(numbers(&mut reflector, 6, &|_| {}), [2, 2, 2]);
}

/// A client with a port that cannot be answered: its packets are counted, the others' times stay
/// their own.
#[test]
fn an_answer_that_cannot_be_sent_leaves_the_others_times_alone() {
    let mut reflector = reflector();
    let good = client(&reflector);
    let (counts, mut boxes) = (Counts::default(), Boxes::default());
    let mut last = 0;
    for sequence in 0..6 {
        good.send(&probe(3, sequence)).expect("sent");
        if sequence % 2 == 1 {
            // Nothing is sent to port 0: the kernel refuses it.
            let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let how = crate::active::socket::Outgoing::default();
            boxes.outbox.room()[..44].copy_from_slice(&bare(1));
            reflector
                .socket
                .enclose(&mut boxes.outbox, 44, nowhere, how, true);
            let session = reflector.sessions.find(&SessionKey::new(
                good.local_addr().expect("an address"),
                Some(Ipv4Addr::LOCALHOST.into()),
                3,
            ));
            reflector.waiting.push(follow_up::Waiting {
                place: session.expect("it has begun"),
                sequence: 77,
                is_timed: true,
            });
        }
        let before = clock::real();
        reflector.work(&counts, &mut boxes).expect("a socket");
        let replies = answers(&good);
        let previous = replies[0].extensions.previous;
        assert_eq!(previous.is_some(), sequence > 0, "no time is missing");
        if let Some(previous) = previous {
            assert_eq!(previous.sequence, sequence - 1);
            let near = u64::try_from(before).expect("after 1970");
            let time = previous
                .timestamp
                .to_unix(lpm_common::stamp::Format::Ntp, near);
            let time = i64::try_from(time.expect("a time")).expect("before 2262");
            assert!((last - 1..before).contains(&time), "{last} {time} {before}");
        }
        last = before;
    }
    assert_eq!(
        (counts.of(Fate::NotSent), counts.of(Fate::Answered)),
        (3, 6)
    );
}

/// The kernel gives all packets of a session to one of the sockets that share an address, and uses
/// all of them for many sessions. A client has one rate at all of them.
#[test]
fn a_session_stays_on_one_of_several_sockets() {
    let one = reflector();
    let address = "127.0.0.1:0".parse().expect("an address");
    let mut several = Reflector::bind_several(address, 4, &one.settings).expect("reflectors");
    assert!(several.iter().all(|other| other.bound == several[0].bound));
    assert!(
        several
            .iter()
            .all(|other| Arc::ptr_eq(&other.rates, &several[0].rates))
    );
    let clients: Vec<_> = (0..64).map(|_| client(&several[0])).collect();
    let (counts, mut boxes) = ([(); 4].map(|()| Counts::default()), Boxes::default());
    for sequence in 0..3 {
        for client in &clients {
            client.send(&probe(5, sequence)).expect("sent");
        }
        for (reflector, counts) in several.iter_mut().zip(&counts) {
            while reflector.work(counts, &mut boxes).expect("a socket") > 0 {}
        }
        for client in &clients {
            let replies = answers(client);
            let numbers: Vec<u32> = replies.iter().map(|reply| reply.packet.sequence).collect();
            assert_eq!(numbers, [sequence], "no other socket counts for it");
        }
    }
    let answered = counts.each_ref().map(|counts| counts.of(Fate::Answered));
    assert_eq!(answered.iter().sum::<u64>(), 3 * 64);
    assert!(
        answered.iter().filter(|count| **count > 0).count() > 1,
        "{answered:?}"
    );
}
