//! How many streams of samples may be open.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::Peer;

/// Most streams of samples. Each may keep some 300 KB of lines for a client that is slow.
const ALL: usize = 32;

/// Most streams of one client.
const EACH: usize = 16;

/// The client that a stream counts for: a user by a Unix socket, or (`None`) whoever comes by TCP.
type Client = Option<u32>;

/// Counts the open streams.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<HashMap<Client, usize>>);

/// The place of an open stream. Dropping it makes room for another.
#[derive(Debug)]
pub(super) struct OpenStream {
    streams: Arc<Streams>,
    client: Client,
}

impl Streams {
    /// Opens a stream. `None`: there are too many.
    pub(super) fn open(self: &Arc<Self>, peer: &Peer) -> Option<OpenStream> {
        let client = match peer {
            Peer::Unix { uid, .. } => Some(*uid),
            Peer::Tcp(_) => None,
        };
        let mut open = self.lock();
        let all: usize = open.values().sum();
        let own = open.entry(client).or_default();
        if all >= ALL || *own >= EACH {
            return None;
        }
        *own += 1;
        Some(OpenStream {
            streams: Arc::clone(self),
            client,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Client, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        if let Some(own) = open.get_mut(&self.client) {
            *own -= 1;
        }
        open.retain(|_, own| *own > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Peer {
        Peer::Unix {
            uid,
            gid: 0,
            pid: None,
        }
    }

    #[test]
    fn streams_are_bounded_for_each_and_for_all() {
        let streams = Arc::<Streams>::default();
        let one: Vec<_> = (0..100).filter_map(|_| streams.open(&user(1))).collect();
        assert_eq!(one.len(), EACH);
        let all: Vec<_> = (2..100)
            .filter_map(|uid| streams.open(&user(uid)))
            .collect();
        assert_eq!(one.len() + all.len(), ALL);
        drop(one);
        assert!(streams.open(&user(1)).is_some());
    }
}
