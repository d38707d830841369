//! Basic authentication (RFC 7617) against bcrypt hashes.
//!
//! A bcrypt hash takes a CPU for 50 ms and more. So it runs outside the threads of requests, at most
//! [`AT_ONCE`] at a time, and its result is kept, as in exporter-toolkit. Failures are kept apart from
//! successes: who tries many passwords displaces nobody's good one.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Semaphore;

use super::secret::{Digest, digest};
use crate::api::router::blocking;

/// Hashes that are computed at once.
const AT_ONCE: usize = 2;

/// Requests that may wait for a hash. More are turned away.
const WAITING: usize = 32;

/// Results that are kept, of each kind.
const KEPT: usize = 128;

/// The verdict on a name and a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Verdict {
    /// The password is the user's.
    Right,
    /// There is no such user, or the password is another.
    Wrong,
    /// Too many passwords are being looked at.
    Busy,
}

/// Looks at passwords, and remembers the results.
#[derive(Debug)]
pub(in crate::api) struct Passwords {
    turns: Arc<Semaphore>,
    waiting: Semaphore,
    right: Mutex<VecDeque<Digest>>,
    wrong: Mutex<VecDeque<Digest>>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Semaphore::new(WAITING),
            right: Mutex::default(),
            wrong: Mutex::default(),
        }
    }
}

impl Passwords {
    /// Holds a password against the users' hashes.
    pub(in crate::api) async fn check(
        &self,
        users: &BTreeMap<String, String>,
        name: &str,
        password: &[u8],
    ) -> Verdict {
        let Some((hash, exists)) = hash_for(users, name) else {
            return Verdict::Wrong;
        };
        // With the hash in it, a result holds only as long as the user's password is the same. A
        // user who is gone may get the hash of another, who has got that password.
        let tried = digest(
            "password",
            &[name.as_bytes(), &[exists.into()], hash.as_bytes(), password],
        );
        if let Some(known) = self.known(&tried) {
            return known;
        }
        let Ok(_place) = self.waiting.try_acquire() else {
            return Verdict::Busy;
        };
        let Ok(turn) = Arc::clone(&self.turns).acquire_owned().await else {
            return Verdict::Busy;
        };
        // Another request may have had the same question.
        if let Some(known) = self.known(&tried) {
            return known;
        }
        let (password, hash) = (password.to_vec(), hash.to_owned());
        let matches = blocking(move || {
            let matches = bcrypt::verify(password, &hash).unwrap_or(false);
            // A client that goes away does not end the work, so the turn ends with it.
            drop(turn);
            matches
        })
        .await;
        let is_right = matches && exists;
        let kept = if is_right { &self.right } else { &self.wrong };
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(tried);
        verdict(is_right)
    }

    fn known(&self, tried: &Digest) -> Option<Verdict> {
        let is_in = |kept: &Mutex<VecDeque<Digest>>| {
            let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.contains(tried)
        };
        (is_in(&self.right).then_some(Verdict::Right))
            .or_else(|| is_in(&self.wrong).then_some(Verdict::Wrong))
    }
}

fn verdict(is_right: bool) -> Verdict {
    if is_right {
        Verdict::Right
    } else {
        Verdict::Wrong
    }
}

/// The hash to compute for a name, and whether there is such a user. A name that does not exist gets
/// the hash of some user, always the same one, so that it takes as long. None: there are no users.
fn hash_for<'a>(users: &'a BTreeMap<String, String>, name: &str) -> Option<(&'a str, bool)> {
    if let Some(hash) = users.get(name) {
        return Some((hash, true));
    }
    let [first, ..] = digest("stranger", &[name.as_bytes()]);
    let hash = users
        .values()
        .nth(usize::from(first) % users.len().max(1))?;
    Some((hash, false))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// The password is `right`, cost 4: a millisecond.
    fn users() -> BTreeMap<String, String> {
        let hash = |password| {
            let hashed = bcrypt::hash_with_salt(password, 4, [7; 16]).expect("a hash");
            hashed.to_string()
        };
        BTreeMap::from([
            ("alice".to_owned(), hash("right")),
            ("bob".to_owned(), hash("other")),
        ])
    }

    #[tokio::test]
    async fn the_users_own_password_alone_is_right() {
        let (passwords, users) = (Passwords::default(), users());
        // Each twice: computed, and kept.
        for _ in 0..2 {
            for (name, password, verdict) in [
                ("alice", "right", Verdict::Right),
                ("bob", "other", Verdict::Right),
                ("alice", "other", Verdict::Wrong),
                ("alice", "", Verdict::Wrong),
                ("Alice", "right", Verdict::Wrong),
                ("", "right", Verdict::Wrong),
                // Strangers get one of the hashes, whose password is no password of theirs.
                ("mallory", "right", Verdict::Wrong),
                ("mallory", "other", Verdict::Wrong),
            ] {
                let said = passwords.check(&users, name, password.as_bytes()).await;
                assert_eq!(said, verdict, "{name} {password}");
            }
        }
        let nobody = BTreeMap::new();
        assert_eq!(passwords.check(&nobody, "", b"").await, Verdict::Wrong);
    }

    #[tokio::test]
    async fn a_changed_password_is_looked_at_anew() {
        let (passwords, mut users) = (Passwords::default(), users());
        assert_eq!(
            passwords.check(&users, "alice", b"right").await,
            Verdict::Right
        );
        users.insert("alice".to_owned(), users["bob"].clone());
        assert_eq!(
            passwords.check(&users, "alice", b"right").await,
            Verdict::Wrong
        );
        assert_eq!(
            passwords.check(&users, "alice", b"other").await,
            Verdict::Right
        );
    }

    /// Results are bounded, and no number of failures displaces a success.
    #[tokio::test]
    async fn who_guesses_displaces_nobody() {
        let (passwords, users) = (Passwords::default(), users());
        assert_eq!(
            passwords.check(&users, "alice", b"right").await,
            Verdict::Right
        );
        for guess in 0..2 * KEPT {
            let guess = format!("guess {guess}");
            passwords.check(&users, "alice", guess.as_bytes()).await;
        }
        assert_eq!(passwords.wrong.lock().expect("it").len(), KEPT);
        assert_eq!(passwords.right.lock().expect("it").len(), 1);
        // Without a turn only what is kept has a verdict.
        passwords.turns.close();
        assert_eq!(
            passwords.check(&users, "alice", b"right").await,
            Verdict::Right
        );
        assert_eq!(
            passwords.check(&users, "alice", b"new").await,
            Verdict::Busy
        );
    }

    #[tokio::test]
    async fn beyond_the_waiting_requests_others_are_turned_away() {
        let (passwords, users) = (Arc::new(Passwords::default()), users());
        let all = u32::try_from(AT_ONCE).expect("few");
        let turns = Arc::clone(&passwords.turns);
        let turns = turns.acquire_many_owned(all).await.expect("turns");
        let waiting: Vec<_> = (0..WAITING)
            .map(|number| {
                let (passwords, users) = (Arc::clone(&passwords), users.clone());
                tokio::spawn(async move {
                    passwords
                        .check(&users, "alice", format!("{number}").as_bytes())
                        .await
                })
            })
            .collect();
        let begun = Instant::now();
        while passwords.waiting.available_permits() > 0 {
            assert!(begun.elapsed() < Duration::from_mins(1), "they do not wait");
            tokio::task::yield_now().await;
        }
        assert_eq!(
            passwords.check(&users, "alice", b"one more").await,
            Verdict::Busy
        );
        drop(turns);
        for one in waiting {
            assert_eq!(one.await.expect("an answer"), Verdict::Wrong);
        }
        assert_eq!(
            passwords.check(&users, "alice", b"right").await,
            Verdict::Right
        );
    }
}
