//! Hand-made connections through the host model, each with and without
//! timestamps, opened by either end, in both families.

mod silence;

use core::net::IpAddr;
use std::{vec, vec::Vec};

use crate::{
    counter::Counter,
    env::RequestSample,
    host::{Arrival, Model, Settings},
    layout::{Family, Method, Methods, PairKey},
    packet::{Direction, flag},
    parse::Link,
    testing::frame::Frame,
};

const MS: u64 = 1_000_000;
/// Initial sequence numbers of client and server.
const ISN: [u32; 2] = [1000, u32::MAX - 5];

/// Who sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Client = 0,
    Server = 1,
}
use End::{Client, Server};

/// One connection at one vantage.
struct Connection {
    model: Model,
    v6: bool,
    timestamps: bool,
    client_is_local: bool,
    /// The client's port.
    port: u16,
    /// What each end has sent, and seen of the other.
    sent: [u32; 2],
    seen: [u32; 2],
    now: u64,
}

impl Connection {
    fn new(methods: Methods, v6: bool, timestamps: bool, client_is_local: bool) -> Self {
        Self {
            model: Model::new(Settings {
                flow_entries: 64,
                rows: 8,
                seeds: core::array::from_fn(|i| 0x9e37_79b9_u32.wrapping_mul(i as u32 + 1)),
                hz: 250,
                query_entries: 16,
                idle_seconds: 60,
                methods,
            }),
            v6,
            timestamps,
            client_is_local,
            port: 40_000,
            sent: ISN,
            seen: [0; 2],
            now: 1_000_000_000,
        }
    }

    /// A packet at `ms` after the connection's begin.
    fn at(&mut self, ms: u64, from: End, flags: u8, seq: u32, payload: u32) -> &mut Self {
        let me = from as usize;
        let (client, server) = if self.v6 {
            ("fd00::1", "fd00::2")
        } else {
            ("198.18.5.1", "198.18.5.2")
        };
        let ends: [(IpAddr, u16); 2] = [
            (client.parse().unwrap(), self.port),
            (server.parse().unwrap(), 80),
        ];
        let ((src, sport), (dst, dport)) = (ends[me], ends[1 - me]);
        self.now = 1_000_000_000 + ms * MS;
        let frame = Frame {
            seq,
            ack: if flags & flag::ACK != 0 {
                self.seen[me]
            } else {
                0
            },
            flags,
            payload,
            timestamp: self
                .timestamps
                .then_some((1000 * (me as u32 + 1) + ms as u32, 7)),
            ..Frame::new(src, dst, sport, dport)
        };
        let local = (from == Client) == self.client_is_local;
        let bytes = frame.bytes();
        self.model.packet(
            &bytes,
            &Arrival {
                now_ns: self.now,
                link: Link::Ethernet,
                direction: if local {
                    Direction::FromLocal
                } else {
                    Direction::ToLocal
                },
                ifindex: 7,
                vlan: 0,
                segments: 1,
                segment_size: 0,
            },
        );
        self
    }

    /// The next bytes of an end, which has seen all that the other one sent.
    fn sends(&mut self, ms: u64, from: End, flags: u8, payload: u32) -> &mut Self {
        let me = from as usize;
        self.seen[me] = self.sent[1 - me];
        self.crosses(ms, from, flags, payload)
    }

    /// The next bytes of an end that has not seen what the other one sent last.
    fn crosses(&mut self, ms: u64, from: End, flags: u8, payload: u32) -> &mut Self {
        let me = from as usize;
        let seq = self.sent[me];
        let length =
            payload + u32::from(flags & flag::SYN != 0) + u32::from(flags & flag::FIN != 0);
        self.sent[me] = seq.wrapping_add(length);
        self.at(ms, from, flags, seq, payload)
    }

    fn opens(&mut self) -> &mut Self {
        self.sends(0, Client, flag::SYN, 0)
            .sends(1, Server, flag::SYN | flag::ACK, 0)
            .sends(2, Client, flag::ACK, 0)
    }

    fn samples(&self) -> Vec<RequestSample> {
        self.model.requested.take()
    }

    fn count(&self, counter: Counter) -> u64 {
        self.model.counter(counter)
    }
}

/// Runs a connection in every way, and compares the times in milliseconds.
fn each_way(wanted: &[u64], run: impl Fn(&mut Connection)) -> Vec<Connection> {
    let methods: Methods = Method::ALL.into_iter().collect();
    let mut all = Vec::new();
    for v6 in [false, true] {
        for timestamps in [false, true] {
            for client_is_local in [true, false] {
                let mut connection = Connection::new(methods, v6, timestamps, client_is_local);
                run(&mut connection);
                let samples = connection.samples();
                let times: Vec<u64> = samples.iter().map(|sample| sample.rtt_ns / MS).collect();
                assert_eq!(times, wanted, "v6 {v6}, timestamps {timestamps}");
                let leg = u8::from(!client_is_local);
                assert!(samples.iter().all(|sample| sample.leg == leg));
                all.push(connection);
            }
        }
    }
    all
}

#[test]
fn from_the_first_byte_to_the_last() {
    // The server acknowledges after 40 ms, answers after 42, in three segments:
    // 86 ms are felt.
    let all = each_way(&[86, 10], |connection| {
        connection
            .opens()
            .sends(10, Client, flag::ACK, 100)
            .sends(50, Server, flag::ACK, 0)
            .sends(52, Server, flag::ACK, 500)
            .sends(53, Client, flag::ACK, 0)
            .sends(60, Server, flag::ACK, 500)
            .sends(96, Server, flag::ACK, 20)
            .sends(97, Client, flag::ACK, 0)
            // The next request ends it, and is ended by the close.
            .sends(500, Client, flag::ACK, 100)
            .sends(510, Server, flag::ACK, 20)
            .sends(520, Client, flag::ACK | flag::FIN, 0)
            .sends(521, Server, flag::ACK | flag::FIN, 0)
            .sends(522, Client, flag::ACK, 0);
    });
    for connection in all {
        assert_eq!(connection.count(Counter::SampledRequest), 2);
        let pairs = connection.model.pairs.borrow();
        let requests = pairs
            .keys()
            .filter(|pair| PairKey(**pair).family() == Some(Family::Request));
        assert_eq!(requests.count(), 1, "one row of their own");
    }
}

#[test]
fn a_long_request_counts_from_its_first_segment() {
    each_way(&[30], |connection| {
        connection
            .opens()
            .sends(10, Client, flag::ACK, 1000)
            .crosses(11, Client, flag::ACK, 1000)
            .crosses(12, Client, flag::ACK, 1000);
        // An acknowledgment of a part.
        let all = connection.sent[0];
        connection.seen[1] = all.wrapping_sub(1000);
        connection
            .crosses(13, Server, flag::ACK, 0)
            .crosses(14, Client, flag::ACK, 100)
            .sends(40, Server, flag::ACK, 20)
            .sends(41, Client, flag::ACK | flag::FIN, 0);
    });
}

#[test]
fn what_comes_again_counts_as_it_passes() {
    each_way(&[200], |connection| {
        connection.opens().sends(10, Client, flag::ACK, 100);
        let answer = connection.sent[1];
        connection
            .sends(20, Server, flag::ACK, 500)
            // Lost beyond the vantage, so it passes again.
            .at(210, Server, flag::ACK, answer, 500);
        let request = connection.sent[0].wrapping_sub(100);
        connection
            .sends(211, Client, flag::ACK, 0)
            // Needlessly again: it was acknowledged.
            .at(300, Server, flag::ACK, answer, 500)
            .at(301, Client, flag::ACK, request, 100)
            .sends(400, Client, flag::ACK | flag::FIN, 0);
    });
}

#[test]
fn whoever_closes_the_answer_is_whole() {
    // The server closes with its answer (HTTP/1.0); the client with its request.
    for client_fin in [0, flag::FIN] {
        each_way(&[15], |connection| {
            connection
                .opens()
                .sends(10, Client, flag::ACK | client_fin, 100)
                .sends(20, Server, flag::ACK, 500)
                .sends(21, Client, flag::ACK, 0)
                .sends(25, Server, flag::ACK | flag::FIN, 500)
                .sends(26, Client, flag::ACK, 0);
        });
    }
}

#[test]
fn ends_that_do_not_take_turns_are_counted_and_not_timed() {
    let all = each_way(&[5], |connection| {
        connection
            .opens()
            .sends(10, Client, flag::ACK, 100)
            .sends(20, Server, flag::ACK, 500)
            // A second request before the first answer arrived: pipelining.
            .crosses(21, Client, flag::ACK, 100);
        connection
            .crosses(22, Server, flag::ACK, 500)
            .sends(30, Server, flag::ACK, 500)
            // Both have all: a request counts again.
            .sends(100, Client, flag::ACK, 100)
            .sends(105, Server, flag::ACK, 500)
            .sends(110, Client, flag::ACK | flag::FIN, 0);
    });
    for connection in all {
        assert_eq!(connection.count(Counter::RequestOverlapping), 1);
    }
}

#[test]
fn a_message_without_answer_is_no_part_of_the_next_request() {
    let all = each_way(&[7], |connection| {
        connection
            .opens()
            .sends(10, Client, flag::ACK, 13)
            .sends(50, Server, flag::ACK, 0)
            // Ten seconds later the true request, of which nobody knows that.
            .sends(10_050, Client, flag::ACK, 100)
            .sends(10_060, Server, flag::ACK, 500)
            .sends(10_100, Client, flag::ACK, 100)
            .sends(10_107, Server, flag::ACK, 500)
            .sends(10_110, Client, flag::ACK | flag::FIN, 0);
    });
    for connection in all {
        assert_eq!(connection.count(Counter::RequestInterrupted), 1);
    }
}

#[test]
fn what_the_server_says_unasked_is_no_answer() {
    each_way(&[8], |connection| {
        connection
            .opens()
            // A greeting.
            .sends(3, Server, flag::ACK, 40)
            .sends(4, Client, flag::ACK, 0)
            .sends(10, Client, flag::ACK, 100);
        // Sent before the request arrived, as a TLS session ticket is.
        connection
            .crosses(12, Server, flag::ACK, 200)
            .sends(18, Server, flag::ACK, 500)
            .sends(20, Client, flag::ACK | flag::FIN, 0);
    });
}

#[test]
fn a_reset_ends_what_was_whole_and_nothing_else() {
    for (acknowledged, wanted) in [(true, vec![10]), (false, vec![])] {
        let all = each_way(&wanted, |connection| {
            connection
                .opens()
                .sends(10, Client, flag::ACK, 100)
                .sends(20, Server, flag::ACK, 500);
            if acknowledged {
                connection.sends(21, Client, flag::ACK, 0);
            }
            connection.at(30, Client, flag::RST, connection.sent[0], 0);
        });
        for connection in all {
            assert_eq!(
                connection.count(Counter::RequestReset),
                u64::from(!acknowledged)
            );
        }
    }
}

#[test]
fn nobody_knows_who_asks_on_a_connection_joined_in_the_middle() {
    each_way(&[], |connection| {
        connection
            .sends(10, Client, flag::ACK, 100)
            .sends(20, Server, flag::ACK, 500)
            .sends(30, Client, flag::ACK, 100)
            .sends(40, Server, flag::ACK, 500)
            .sends(41, Client, flag::ACK | flag::FIN, 0);
    });
}

#[test]
fn off_it_costs_nothing_and_tells_nothing() {
    let mut connection = Connection::new(Methods::DEFAULT, false, true, true);
    connection
        .opens()
        .sends(10, Client, flag::ACK, 100)
        .sends(20, Server, flag::ACK, 500)
        .sends(30, Client, flag::ACK | flag::FIN, 0);
    assert!(connection.samples().is_empty());
    assert!(!connection.model.samples.borrow().is_empty());
}

#[test]
fn the_other_methods_measure_the_same_with_it_and_without() {
    for timestamps in [false, true] {
        let run = |methods| {
            let mut connection = Connection::new(methods, false, timestamps, true);
            connection
                .opens()
                .sends(10, Client, flag::ACK, 100)
                .sends(20, Server, flag::ACK, 500)
                .sends(21, Client, flag::ACK, 0)
                .sends(30, Client, flag::ACK, 100)
                .sends(31, Server, flag::ACK, 0)
                .sends(33, Server, flag::ACK | flag::FIN, 500)
                .sends(34, Client, flag::ACK | flag::FIN, 0);
            connection.model.samples.take()
        };
        let without = run(Methods::DEFAULT);
        assert!(!without.is_empty());
        assert_eq!(without, run(Method::ALL.into_iter().collect()));
    }
}

/// A connection first seen at the SYN-ACK, and data that comes with the SYN
/// (RFC 7413).
#[test]
fn a_syn_of_either_end_tells_who_asks() {
    each_way(&[10], |connection| {
        connection.seen[1] = ISN[0].wrapping_add(1);
        connection.sent[0] = connection.seen[1];
        connection
            .crosses(1, Server, flag::SYN | flag::ACK, 0)
            .sends(2, Client, flag::ACK, 0)
            .sends(10, Client, flag::ACK, 100)
            .sends(20, Server, flag::ACK, 500)
            .sends(30, Client, flag::ACK | flag::FIN, 0);
    });
    each_way(&[15], |connection| {
        connection
            .sends(0, Client, flag::SYN, 100)
            .sends(5, Server, flag::SYN | flag::ACK, 0)
            .sends(15, Server, flag::ACK, 500)
            .sends(16, Client, flag::ACK | flag::FIN, 0);
    });
}

/// Where the ends did not take turns, the next turn begins once everything is
/// received, answered and delivered.
#[test]
fn after_an_overlap_it_goes_on_when_all_is_said() {
    // A third request, before the answers to the first two were acknowledged.
    each_way(&[], |connection| {
        connection
            .opens()
            .sends(10, Client, flag::ACK, 100)
            .sends(20, Server, flag::ACK, 500)
            .crosses(21, Client, flag::ACK, 100)
            .sends(30, Server, flag::ACK, 500)
            .crosses(31, Client, flag::ACK, 100)
            .sends(50, Server, flag::ACK, 500)
            .sends(60, Client, flag::ACK | flag::FIN, 0);
    });
    // A third one, behind two that have no answer.
    each_way(&[], |connection| {
        connection
            .opens()
            .sends(10, Client, flag::ACK, 100)
            .sends(20, Server, flag::ACK, 0)
            .sends(30, Client, flag::ACK, 100)
            .sends(40, Server, flag::ACK, 0)
            .sends(50, Client, flag::ACK, 100)
            .sends(60, Server, flag::ACK, 500)
            .sends(61, Client, flag::ACK | flag::FIN, 0);
    });
}

/// A FIN brings no byte, and a request that comes again is no second one.
#[test]
fn the_last_byte_is_of_the_answer_and_the_first_of_the_request() {
    each_way(&[10], |connection| {
        connection
            .opens()
            .sends(10, Client, flag::ACK, 100)
            .sends(20, Server, flag::ACK, 500)
            .sends(50, Server, flag::ACK | flag::FIN, 0)
            .sends(60, Client, flag::ACK | flag::FIN, 0);
    });
    each_way(&[30], |connection| {
        connection
            .opens()
            .sends(10, Client, flag::ACK, 100)
            .sends(12, Server, flag::ACK, 0);
        let first = connection.sent[0].wrapping_sub(100);
        connection
            .at(20, Client, flag::ACK, first, 100)
            .sends(40, Server, flag::ACK, 500)
            .sends(41, Client, flag::ACK | flag::FIN, 0);
    });
}

/// A connection first seen in mid-stream, in an entry whose former connection
/// had asked.
#[test]
fn an_entry_tells_nothing_of_the_connection_before() {
    let mut connection = Connection::new(Method::ALL.into_iter().collect(), false, false, true);
    let begin = |connection: &mut Connection, port| {
        (connection.port, connection.sent, connection.seen) = (port, ISN, [0; 2]);
    };
    for port in 1000..1200 {
        begin(&mut connection, port);
        connection.opens().sends(10, Client, flag::ACK, 100);
    }
    for port in 2000..2200 {
        begin(&mut connection, port);
        connection
            .sends(200_000, Client, flag::ACK, 100)
            .sends(200_010, Server, flag::ACK, 500)
            .sends(200_011, Client, flag::ACK | flag::FIN, 0);
    }
    let again = connection.count(Counter::EvictedHalfOpen) + connection.count(Counter::EvictedIdle);
    assert!(again > 0, "entries were used again");
    assert_eq!(connection.samples(), []);
}
