//! Answers that go on after a silence.

use super::{Client, Connection, Server, each_way};
use crate::{counter::Counter, packet::flag};

/// A server that closes what was idle says farewell first: that is no part of the
/// answer six seconds ago. One that closes at once after its answer says nothing
/// else.
#[test]
fn a_farewell_after_a_silence_is_no_answer() {
    let run = |silence: u64, server_closes: Option<u8>| {
        move |connection: &mut Connection| {
            let later = 40 + silence;
            connection
                .opens()
                .sends(10, Client, flag::ACK, 100)
                .sends(40, Server, flag::ACK, 1000)
                .sends(41, Client, flag::ACK, 0);
            let with = server_closes.unwrap_or(0);
            connection.sends(later, Server, flag::ACK | with, 31);
            if server_closes == Some(0) {
                connection.crosses(later, Server, flag::ACK | flag::FIN, 0);
            }
            if server_closes.is_some() {
                connection.sends(later + 1, Client, flag::ACK, 0);
            }
            connection.sends(later + 2, Client, flag::ACK | flag::FIN, 0);
        }
    };
    // Its FIN after the farewell, and with it.
    for fin in [0, flag::FIN] {
        for connection in each_way(&[], run(6000, Some(fin))) {
            assert_eq!(connection.count(Counter::RequestInterrupted), 1);
        }
        each_way(&[30 + 500], run(500, Some(fin)));
    }
    each_way(&[], run(6000, None));
    each_way(&[30 + 500], run(500, None));
}

/// The client says farewell, too, which looks like a request; or the server ends
/// with a reset.
#[test]
fn a_farewell_that_is_answered_is_no_answer() {
    for ends in [true, false] {
        let connections = each_way(&[], |connection| {
            connection
                .opens()
                .sends(10, Client, flag::ACK, 100)
                .sends(40, Server, flag::ACK, 1000)
                .sends(41, Client, flag::ACK, 0)
                .sends(6040, Server, flag::ACK, 31);
            if ends {
                connection
                    .sends(6041, Client, flag::ACK | flag::FIN, 31)
                    .sends(6042, Server, flag::ACK | flag::FIN, 0);
            } else {
                connection.sends(6041, Client, flag::ACK, 0).sends(
                    6042,
                    Server,
                    flag::ACK | flag::RST,
                    0,
                );
            }
        });
        for connection in connections {
            assert_eq!(connection.count(Counter::RequestInterrupted), 1);
        }
    }
}
