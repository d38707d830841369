//! Rates per client address: nobody takes all of a reflector.

use std::{collections::HashMap, net::IpAddr, time::Instant};

/// Most clients that are counted at a time.
const CLIENTS: usize = 4096;

/// Nanoseconds of what a silent client may send at once.
const BURST: u64 = 1_000_000_000;

/// The rates of all clients, by the generic cell rate algorithm (ITU-T I.371): a client has one
/// number, the time until which its packets would take if they came at their rate.
#[derive(Debug)]
pub struct Rates {
    begun: Instant,
    /// Nanoseconds that a packet takes.
    takes: u64,
    /// Nanoseconds since the beginning, by client.
    clients: HashMap<[u8; 16], u64>,
}

impl Rates {
    /// Lets each client send so many packets per second, and as many at once.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self {
            begun: Instant::now(),
            takes: BURST / u64::from(per_second.max(1)),
            clients: HashMap::new(),
        }
    }

    /// Whether a client may have one more answer.
    pub fn admit(&mut self, client: IpAddr, now: Instant) -> bool {
        let now = u64::try_from(now.saturating_duration_since(self.begun).as_nanos());
        let now = now.unwrap_or(u64::MAX);
        let client = octets(client);
        if let Some(until) = self.clients.get_mut(&client) {
            return take(until, now, self.takes);
        }
        if self.clients.len() >= CLIENTS {
            // A client that may send all at once says nothing that a new one would not.
            self.clients.retain(|_, until| *until > now);
            if self.clients.len() >= CLIENTS {
                return false;
            }
        }
        take(self.clients.entry(client).or_insert(now), now, self.takes)
    }
}

/// Takes one packet of a client.
fn take(until: &mut u64, now: u64, takes: u64) -> bool {
    let next = (*until).max(now).saturating_add(takes);
    let is_admitted = next <= now.saturating_add(BURST);
    if is_admitted {
        *until = next;
    }
    is_admitted
}

/// An address as 16 bytes: IPv4 is mapped into IPv6, which takes less memory than both kinds.
pub(super) fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_client_gets_its_rate_and_takes_nothing_from_others() {
        let mut rates = Rates::new(10);
        let now = Instant::now();
        let (a, b) = (IpAddr::from([198, 18, 0, 1]), IpAddr::from([198, 18, 0, 2]));
        let admitted = (0..100).filter(|_| rates.admit(a, now)).count();
        assert_eq!(admitted, 10);
        assert!(rates.admit(b, now));
        let later = now + Duration::from_millis(500);
        assert_eq!((0..100).filter(|_| rates.admit(a, later)).count(), 5);
    }

    #[test]
    fn clients_are_bounded() {
        let mut rates = Rates::new(10);
        let now = Instant::now();
        let client = |nth: u32| IpAddr::from(nth.to_be_bytes());
        let clients = u32::try_from(CLIENTS).expect("a small number");
        assert!((0..clients).all(|nth| rates.admit(client(nth), now)));
        assert!(!rates.admit(client(clients), now));
        assert!(rates.admit(client(clients), now + Duration::from_secs(1)));
        assert_eq!(rates.clients.len(), 1);
    }
}
