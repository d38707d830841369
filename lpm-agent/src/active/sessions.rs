//! The sessions of a reflector: its own sequence numbers, the last time of sending, and packets that
//! come again. Bounded, since anybody who is allowed may begin sessions.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use lpm_common::stamp::{agent::StampSource, reflect::FollowUp};

use super::rate::octets;

/// Most sessions at a time.
pub const MOST: usize = 4096;

/// Time after which a silent session ends. Its numbers begin at 0 again.
const SILENT: Duration = Duration::from_mins(15);

/// What tells sessions apart (RFC 8972 section 3): both ends' addresses and the SSID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    sender: [u8; 16],
    reflector: [u8; 16],
    port: u16,
    session: u16,
}

impl SessionKey {
    /// Makes a key of the sender's address and port, the address that it sends to, and its number
    /// for the session.
    #[must_use]
    pub fn new(sender: SocketAddr, reflector: Option<IpAddr>, session: u16) -> Self {
        Self {
            sender: octets(sender.ip()),
            reflector: reflector.map_or([0; 16], octets),
            port: sender.port(),
            session,
        }
    }
}

/// A session.
#[derive(Clone, Debug)]
pub struct Session {
    /// The sequence number of the next answer: the number of packets received so far.
    pub next: u32,
    /// The last answer whose time of sending is known, and where that time comes from.
    pub previous: Option<(FollowUp, StampSource)>,
    /// An answer is written and not sent yet.
    pub is_waiting: bool,
    /// No other session has or had this number, as long as 2^32 sessions take.
    id: u32,
    /// Seconds since the beginning.
    heard: u32,
    window: Window,
}

/// A session's place. It is of use until the session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    at: u16,
    id: u32,
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
#[derive(Debug)]
pub struct Sessions {
    begun: Instant,
    places: HashMap<SessionKey, u16>,
    all: Vec<Session>,
    /// Places of sessions that have ended.
    free: Vec<u16>,
    /// The number of the next session.
    id: u32,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            // All at once: growing would leave holes in the memory. Untouched pages take none.
            places: HashMap::with_capacity(MOST),
            all: Vec::with_capacity(MOST),
            free: Vec::new(),
            id: 0,
        }
    }
}

impl Sessions {
    /// Finds a session that has begun.
    #[must_use]
    pub fn find(&self, key: &SessionKey) -> Option<Place> {
        let at = *self.places.get(key)?;
        let id = self.all.get(usize::from(at))?.id;
        Some(Place { at, id })
    }

    /// Begins a session that is not there yet. None: there are too many, and none is silent.
    pub fn begin(&mut self, key: SessionKey, now: Instant) -> Option<Place> {
        let now = self.seconds(now);
        if self.places.len() >= MOST {
            self.end_silent(now);
        }
        if self.places.len() >= MOST {
            return None;
        }
        let session = Session {
            next: 0,
            previous: None,
            is_waiting: false,
            id: self.id,
            heard: now,
            window: Window::default(),
        };
        let at = match self.free.pop() {
            Some(at) => at,
            None => u16::try_from(self.all.len()).ok()?,
        };
        match self.all.get_mut(usize::from(at)) {
            Some(place) => *place = session,
            None => self.all.push(session),
        }
        self.places.insert(key, at);
        let id = self.id;
        self.id = self.id.wrapping_add(1);
        Some(Place { at, id })
    }

    fn end_silent(&mut self, now: u32) {
        let (sessions, free) = (&self.all, &mut self.free);
        self.places.retain(|_, at| {
            let heard = sessions
                .get(usize::from(*at))
                .map_or(0, |session| session.heard);
            let is_heard = u64::from(now.saturating_sub(heard)) < SILENT.as_secs();
            if !is_heard {
                free.push(*at);
            }
            is_heard
        });
    }

    /// The session at a place. None: it has ended.
    pub fn at(&mut self, place: Place) -> Option<&mut Session> {
        let session = self.all.get_mut(usize::from(place.at))?;
        (session.id == place.id).then_some(session)
    }

    /// Notes that a session's packet came.
    pub fn hear(&mut self, place: Place, now: Instant) -> Option<&mut Session> {
        let now = self.seconds(now);
        let session = self.at(place)?;
        session.heard = now;
        Some(session)
    }

    fn seconds(&self, now: Instant) -> u32 {
        let seconds = now.saturating_duration_since(self.begun).as_secs();
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(session: u16) -> SessionKey {
        SessionKey::new(SocketAddr::from(([198, 18, 0, 1], 4000)), None, session)
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
            assert!(sessions.begin(key(session), begun).is_some());
        }
        assert_eq!(sessions.begin(key(5000), begun), None);
        let seventh = sessions.find(&key(7)).expect("it is there");
        let ended = sessions.find(&key(8)).expect("it is there");
        let later = begun + SILENT + Duration::from_secs(1);
        assert!(sessions.hear(seventh, later).is_some());
        let new = sessions.begin(key(5000), later).expect("there is room");
        assert_eq!(sessions.places.len(), 2);
        assert_eq!(sessions.find(&key(7)), Some(seventh));
        assert_eq!(sessions.find(&key(5000)), Some(new));
        assert!(sessions.at(ended).is_none() || ended.at != new.at);
        for session in 0..MOST - 2 {
            let session = 10_000 + u16::try_from(session).expect("below 65,536");
            assert!(sessions.begin(key(session), later).is_some());
        }
        assert!(sessions.at(ended).is_none(), "its place is another's");
        assert_eq!(sessions.all.len(), MOST, "places are used again");
    }
}
