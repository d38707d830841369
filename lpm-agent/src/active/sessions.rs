//! The sessions of a reflector: its own sequence numbers, the last time of sending, and packets that
//! come again. Bounded, since anybody who is allowed may begin sessions.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use lpm_common::stamp::reflect::FollowUp;

/// Most sessions at a time.
pub const MOST: usize = 4096;

/// Time after which a silent session ends. Its numbers begin at 0 again.
const SILENT: Duration = Duration::from_mins(15);

/// What tells sessions apart (RFC 8972 section 3): both ends' addresses and the SSID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// The sender's address and port.
    pub sender: SocketAddr,
    /// The address that it sends to.
    pub reflector: Option<IpAddr>,
    /// The sender's number for the session.
    pub session: u16,
}

/// A session.
#[derive(Clone, Debug)]
pub struct Session {
    /// The sequence number of the next answer: the number of packets received so far.
    pub next: u32,
    /// The last answer whose time of sending is known.
    pub previous: Option<FollowUp>,
    heard: Instant,
    window: Window,
}

/// Sequence numbers that were received: the highest, and which of the 64 below.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    highest: Option<u32>,
    below: u64,
}

impl Window {
    /// Takes a number. False: it was there before, or it is too old to tell.
    fn take(&mut self, number: u32) -> bool {
        let Some(highest) = self.highest else {
            self.highest = Some(number);
            return true;
        };
        if number > highest {
            let by = number - highest;
            // The old highest becomes a bit, too.
            self.below =
                self.below.checked_shl(by).unwrap_or(0) | 1_u64.checked_shl(by - 1).unwrap_or(0);
            self.highest = Some(number);
            return true;
        }
        let Some(bit) = (highest - number)
            .checked_sub(1)
            .and_then(|by| 1_u64.checked_shl(by))
        else {
            return false;
        };
        let is_new = self.below & bit == 0;
        self.below |= bit;
        is_new
    }
}

impl Session {
    /// Takes a packet's sequence number. False: the packet was there before.
    pub fn is_new(&mut self, number: u32) -> bool {
        self.window.take(number)
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    all: HashMap<SessionKey, Session>,
}

impl Sessions {
    /// Finds a session, or begins it. None: there are too many, and none is silent.
    pub fn of(&mut self, key: SessionKey, now: Instant) -> Option<&mut Session> {
        if self.all.len() >= MOST && !self.all.contains_key(&key) {
            self.all
                .retain(|_, session| now.duration_since(session.heard) < SILENT);
            if self.all.len() >= MOST {
                return None;
            }
        }
        let session = self.all.entry(key).or_insert_with(|| Session {
            next: 0,
            previous: None,
            heard: now,
            window: Window::default(),
        });
        session.heard = now;
        Some(session)
    }

    /// Finds a session that has begun.
    pub fn get(&mut self, key: &SessionKey) -> Option<&mut Session> {
        self.all.get_mut(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(session: u16) -> SessionKey {
        SessionKey {
            sender: SocketAddr::from(([198, 18, 0, 1], 4000)),
            reflector: None,
            session,
        }
    }

    #[test]
    fn numbers_are_taken_once() {
        let mut window = Window::default();
        for (number, is_new) in [
            (5, true),
            (5, false),
            (7, true),
            (6, true),
            (6, false),
            (5, false),
            (70, true),
            (7, false),
            (6, false),
            (8, true),
            (5, false),
            (200, true),
            (136, true),
            (136, false),
            (135, false),
            (u32::MAX, true),
            (0, false),
        ] {
            assert_eq!(window.take(number), is_new, "{number}");
        }
    }

    #[test]
    fn sessions_are_bounded_and_silent_ones_give_way() {
        let mut sessions = Sessions::default();
        let begun = Instant::now();
        for session in 0..MOST {
            let session = u16::try_from(session).expect("below 65,536");
            assert!(sessions.of(key(session), begun).is_some());
        }
        assert!(sessions.of(key(5000), begun).is_none());
        assert!(
            sessions.of(key(7), begun + SILENT).is_some(),
            "one that is there"
        );
        assert!(sessions.of(key(5000), begun + SILENT).is_some());
        assert_eq!(sessions.all.len(), 2);
    }
}
