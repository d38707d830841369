//! What comes of another agent's stream, without a connection: for the fuzzers.

use std::{net::IpAddr, sync::Arc, time::Instant};

use ipnet::IpNet;

use super::{Line, Peers};
use crate::{
    identity::merge::Change,
    mesh::{Agent, Lines, PeerConnection},
};

/// Takes the pieces of a stream as they come from the agent of a node with this range of addresses,
/// up to the first piece that ends the connection. Returns the changes of names that follow.
pub fn hear<'a>(
    node: &str,
    range: IpNet,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<Change> {
    let node: Arc<str> = node.into();
    let home = |address: IpAddr| {
        range.contains(&address).then(|| Agent {
            node: Arc::clone(&node),
            address: range.addr(),
        })
    };
    let mut peers = Peers::new("".into(), 9477, |_, _: &Arc<str>, _| None::<PeerConnection>);
    let (now, mut changes) = (Instant::now(), Vec::new());
    peers.want([range.addr()], home, now, &mut changes);
    let Some(number) = peers.number(&node) else {
        return changes;
    };
    let mut lines = Lines::<Line>::default();
    for piece in pieces {
        let Ok(complete) = lines.take(piece) else {
            break;
        };
        for line in complete {
            if line.node != node {
                return changes;
            }
            peers.take(number, line, home, now, &mut changes);
        }
    }
    changes
}
