//! Token buckets per client address: nobody takes all of a reflector.

use std::{collections::HashMap, net::IpAddr, time::Instant};

/// Most clients that are counted at a time.
const CLIENTS: usize = 4096;

/// A bucket of tokens.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

/// The buckets of all clients.
#[derive(Debug)]
pub struct Rates {
    per_second: f64,
    clients: HashMap<IpAddr, Bucket>,
}

impl Rates {
    /// Lets each client send so many packets per second, and as many at once.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self {
            per_second: f64::from(per_second),
            clients: HashMap::new(),
        }
    }

    /// Whether a client may have one more answer.
    pub fn admit(&mut self, client: IpAddr, now: Instant) -> bool {
        let per_second = self.per_second;
        if self.clients.len() >= CLIENTS && !self.clients.contains_key(&client) {
            // A full bucket says nothing that a new one would not.
            self.clients.retain(|_, bucket| {
                let filled = now.duration_since(bucket.filled).as_secs_f64() * per_second;
                bucket.tokens + filled < per_second
            });
            if self.clients.len() >= CLIENTS {
                return false;
            }
        }
        let bucket = self.clients.entry(client).or_insert(Bucket {
            tokens: per_second,
            filled: now,
        });
        let passed = now.duration_since(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * per_second).min(per_second);
        bucket.filled = now;
        let is_admitted = bucket.tokens >= 1.0;
        if is_admitted {
            bucket.tokens -= 1.0;
        }
        is_admitted
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
