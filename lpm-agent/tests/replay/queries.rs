//! Pings and DNS of captures: sent again with the same number, in fragments, put together.

use std::net::IpAddr;

use lpm_agent::replay::{Choice, Settings, order::WINDOW_NS};
use lpm_common::{
    counter::Counter,
    layout::Method,
    testing::{
        frame::Frame,
        query::{Message, echo},
        vectors,
    },
};

use crate::{
    run::{Out, replay_with, replay_within, settings, undirected},
    talk::BEGIN,
    write::{ETHERNET, PCAP, Record, capture},
};

const MS: u64 = 1_000_000;
const S: u64 = 1000 * MS;

fn both(test: impl Fn(IpAddr, IpAddr)) {
    for v6 in [false, true] {
        let (local, remote) = vectors::ends(v6);
        test(local, remote);
    }
}

fn read(records: &[Record]) -> [Out; 2] {
    let bytes = capture(PCAP, false, &[(ETHERNET, None)], records);
    [settings(), undirected()]
        .map(|settings| replay_with(&bytes, roomy(settings), Choice::default()))
}

fn at(after: u64, frame: &Frame) -> Record {
    Record::whole(BEGIN + after, frame.bytes())
}

fn rtts(out: &Out, method: Method) -> Vec<u64> {
    let of = out.samples.iter();
    of.filter(|sample| sample.method == method as u8)
        .map(|sample| sample.rtt_ns)
        .collect()
}

#[test]
fn after_one_loss_the_same_number_is_measured_again() {
    both(|local, remote| {
        let ping = |reply, src, dst| echo(src, dst, reply, 0, 0);
        let ask = Message::query(1).udp(local, remote, 40_000, 53);
        let answer = Message::answer(1, 0).udp(remote, local, 53, 40_000);
        let mut records = vec![at(0, &ping(false, local, remote)), at(0, &ask)];
        for second in 1..=60 {
            records.push(at(second * S, &ping(false, local, remote)));
            records.push(at(second * S, &ask));
            records.push(at(second * S + 3 * MS, &ping(true, remote, local)));
            records.push(at(second * S + 3 * MS, &answer));
        }
        for out in read(&records) {
            assert_eq!(rtts(&out, Method::Icmp), [3 * MS; 50]);
            assert_eq!(rtts(&out, Method::Dns), [3 * MS; 55]);
            assert_eq!((out.unanswered.icmp, out.unanswered.dns), (0, 0));
        }
    });
}

/// An answer with records, of which a capture can tell how long it is.
fn answer(id: u16, data: u16) -> Message {
    let mut message = Message::answer(id, 0);
    message.counts = [1, 1, 0, 0];
    message.tail.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60]);
    message.tail.extend(data.to_be_bytes());
    message.tail.extend(vec![7; data.into()]);
    message
}

/// The first of these with the others behind it.
fn together(all: &[Message]) -> Message {
    let mut bytes: Vec<u8> = all.iter().flat_map(Message::bytes).collect();
    Message {
        tail: bytes.split_off(12),
        ..all[0].clone()
    }
}

/// Five queries, of which four are answered in two packets.
fn merged(local: IpAddr, remote: IpAddr) -> Vec<Record> {
    let ask = |all: &[Message]| together(all).udp(local, remote, 40_000, 53);
    let tell = |all: &[Message]| together(all).udp(remote, local, 53, 40_000);
    let other = Message::query(5).udp(local, remote, 40_001, 53);
    vec![
        at(0, &ask(&[1, 2].map(Message::query))),
        at(0, &ask(&[3, 4].map(Message::query))),
        at(0, &other),
        at(4 * MS, &tell(&[answer(2, 16), answer(1, 4)])),
        at(5 * MS, &tell(&[answer(3, 4), answer(4, 4)])),
        at(20 * S, &Message::query(9).udp(local, remote, 40_002, 53)),
    ]
}

#[test]
fn merged_datagrams_are_read_by_the_length_of_their_messages() {
    both(|local, remote| {
        for out in read(&merged(local, remote)) {
            assert_eq!(rtts(&out, Method::Dns), [4 * MS, 4 * MS, 5 * MS, 5 * MS]);
            assert_eq!((out.unanswered.dns, out.unanswered.unknown), (1, 0));
            assert_eq!(out.counter(Counter::DnsFurther), 0);
        }
    });
}

#[test]
fn what_was_not_captured_of_merged_answers_is_never_unanswered() {
    both(|local, remote| {
        let mut records = merged(local, remote);
        for answers in &mut records[3..5] {
            // The first one's header, and no end of it.
            answers.data.truncate(if local.is_ipv4() { 60 } else { 80 });
        }
        for out in read(&records) {
            assert_eq!(rtts(&out, Method::Dns), [4 * MS, 5 * MS]);
            // That one has other ports: nothing came for it.
            assert_eq!(out.unanswered.dns, 1);
            assert_eq!(out.unanswered.unknown, 2);
        }
        // Captured whole, but what follows is no message: nobody knows.
        let mut records = merged(local, remote);
        let mut odd = answer(2, 4);
        odd.tail.extend(answer(1, 400).bytes());
        records[3] = at(4 * MS, &odd.udp(remote, local, 53, 40_000));
        for out in read(&records) {
            assert_eq!(rtts(&out, Method::Dns), [4 * MS, 5 * MS, 5 * MS]);
            assert_eq!((out.unanswered.dns, out.unanswered.unknown), (1, 1));
            assert_eq!(out.counter(Counter::DnsFurther), 1);
        }
    });
}

#[test]
fn an_answer_in_fragments_is_measured_at_the_first_one() {
    let (local, remote) = vectors::ends(false);
    let mut long = Message::answer(7, 0).udp(remote, local, 53, 40_000);
    let (protocol, mut body) = long.other.take().expect("UDP");
    body.resize(1700, 0);
    body[4..6].copy_from_slice(&1700_u16.to_be_bytes());
    let parts = [(0_u16, &body[..1480]), (1480, &body[1480..])].map(|(offset, part)| {
        long.other = Some((protocol, part.to_vec()));
        let mut bytes = long.bytes();
        let more = if offset == 0 { 0x2000 } else { 0 };
        bytes[20..22].copy_from_slice(&((offset / 8) | more).to_be_bytes());
        bytes
    });
    let [first, last] = parts;
    let ask = |id, port| Message::query(id).udp(local, remote, port, 53);
    // Also where they come in another order.
    let records = [
        at(0, &ask(7, 40_000)),
        Record::whole(BEGIN + 4 * MS, first.clone()),
        Record::whole(BEGIN + 4 * MS + 9000, last.clone()),
        at(10 * S, &ask(7, 40_000)),
        Record::whole(BEGIN + 10 * S + 3 * MS, last),
        Record::whole(BEGIN + 10 * S + 4 * MS, first),
        at(30 * S, &ask(9, 40_001)),
    ];
    for out in read(&records) {
        assert_eq!(rtts(&out, Method::Dns), [4 * MS; 2]);
        assert_eq!((out.unanswered.dns, out.unanswered.unknown), (0, 0));
    }
}

/// With room for all questions whatever their hashes.
fn roomy(settings: Settings) -> Settings {
    Settings {
        flow_entries: 1 << 14,
        ..settings
    }
}

/// A capture as a file, and through a pipe.
fn file_and_pipe(records: &[Record]) -> [Out; 2] {
    let bytes = capture(PCAP, false, &[(ETHERNET, None)], records);
    let settings = || roomy(settings());
    let read = |window_ns| replay_within(&bytes[..], settings(), Choice::default(), window_ns);
    [WINDOW_NS, 0].map(read)
}

/// Frames as they are, in two VLANs, and behind headers of IPv6 that are longer than most frames.
fn dressed(mut frame: Frame, how: usize) -> Frame {
    match how {
        1 => frame.tags = vec![(0x88a8, 5), (0x8100, 7)],
        // Options of a destination: padding (RFC 8200 section 4.2).
        2 if frame.src.is_ipv6() => frame.extensions = vec![(60, padding()), (60, padding())],
        _ => {}
    }
    frame
}

/// 600 bytes.
fn padding() -> Vec<u8> {
    let mut options = vec![0; 600];
    // Next header, of the frame's writer; length in units of 8 bytes beyond the first.
    options[1] = 74;
    for (at, len) in [(2, 255), (259, 255), (516, 82)] {
        (options[at], options[at + 1]) = (1, len);
    }
    options
}

#[test]
fn of_a_file_as_much_is_read_as_of_a_pipe() {
    const MANY: u16 = 60;
    both(|local, remote| {
        for how in 0..3 {
            let ids = 1..=MANY;
            let asked: Vec<_> = ids.clone().map(Message::query).collect();
            let told: Vec<_> = ids.clone().map(|id| answer(id, 900)).collect();
            let mut ask = Message::tcp(&asked, local, remote, 40_000, 53);
            let mut tell = Message::tcp(&told, remote, local, 53, 40_000);
            (ask.seq, ask.ack, tell.seq) = (1000, 9000, 9000);
            tell.ack = ask.seq + ask.payload;
            let mut records = vec![
                at(0, &dressed(ask, how)),
                at(3 * MS, &dressed(tell, how)),
                at(20 * S, &Message::query(9).udp(local, remote, 40_002, 53)),
            ];
            for out in file_and_pipe(&records) {
                assert_eq!(rtts(&out, Method::Dns), [3 * MS; 60], "{how}");
            }
            let ask = |id| Message::query(id).udp(local, remote, 40_000, 53);
            records = (1..=8).map(|id| at(0, &dressed(ask(id), how))).collect();
            let told: Vec<_> = (1..=8).map(|id| answer(id, 500)).collect();
            let tell = together(&told).udp(remote, local, 53, 40_000);
            records.push(at(4 * MS, &dressed(tell, how)));
            records.push(at(20 * S, &ask(9)));
            for out in file_and_pipe(&records) {
                assert_eq!(rtts(&out, Method::Dns), [4 * MS; 8], "{how}");
                assert_eq!((out.unanswered.dns, out.unanswered.unknown), (0, 0));
            }
        }
    });
}
