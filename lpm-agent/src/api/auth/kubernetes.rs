//! Bearer tokens of the cluster: a `TokenReview` says whose a token is, a `SubjectAccessReview` whether
//! the holder may `get` the path.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::Semaphore, time::timeout};

use super::secret::{Digest, digest};
use crate::kube::{NoAnswer, Reviewer};

/// How long a verdict is kept. A deleted account may ask for as long.
const KEPT: Duration = Duration::from_secs(5);

/// Most verdicts that are kept.
const MOST: usize = 1024;

/// Reviews that run at once. Made-up tokens must not overrun the API server.
const AT_ONCE: usize = 8;

/// Longest wait for a review, for its turn included.
const PATIENCE: Duration = Duration::from_secs(5);

/// The verdict on a token and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::api) enum Verdict {
    /// The holder, by this name, may get the path.
    Allowed(Arc<str>),
    /// The holder, by this name, may not get the path.
    Forbidden(Arc<str>),
    /// The token is nobody's.
    Unknown,
}

/// Asks the API server, and keeps its answers for a few seconds.
#[derive(Debug)]
pub(in crate::api) struct Reviews {
    reviewer: Reviewer,
    audiences: Vec<String>,
    turns: Semaphore,
    kept: Mutex<HashMap<Digest, (Instant, Verdict)>>,
}

impl Reviews {
    pub(in crate::api) fn new(reviewer: Reviewer, audiences: Vec<String>) -> Self {
        Self {
            reviewer,
            audiences,
            turns: Semaphore::new(AT_ONCE),
            kept: Mutex::default(),
        }
    }

    /// Whether the holder of a token may get a path. The error is the reason why nobody knows.
    pub(in crate::api) async fn check(&self, token: &str, path: &str) -> Result<Verdict, String> {
        let asked = digest("review", &[token.as_bytes(), path.as_bytes()]);
        if let Some(known) = self.known(&asked) {
            return Ok(known);
        }
        let review = async {
            // It is never closed.
            let _turn = self.turns.acquire().await;
            match self.known(&asked) {
                Some(known) => Ok(known),
                None => self.review(token, path).await,
            }
        };
        let verdict = (timeout(PATIENCE, review).await)
            .map_err(|_| "the API server does not answer in time".to_owned())?
            .map_err(|error| error.to_string())?;
        self.keep(asked, verdict.clone());
        Ok(verdict)
    }

    async fn review(&self, token: &str, path: &str) -> Result<Verdict, NoAnswer> {
        let Some(user) = self.reviewer.holder(token, &self.audiences).await? else {
            return Ok(Verdict::Unknown);
        };
        let name: Arc<str> = user.username.as_deref().unwrap_or_default().into();
        Ok(if self.reviewer.allows(&user, "get", path).await? {
            Verdict::Allowed(name)
        } else {
            Verdict::Forbidden(name)
        })
    }

    fn known(&self, asked: &Digest) -> Option<Verdict> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, verdict) = kept.get(asked)?;
        (since.elapsed() < KEPT).then(|| verdict.clone())
    }

    fn keep(&self, asked: Digest, verdict: Verdict) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST {
            kept.retain(|_, (since, _)| since.elapsed() < KEPT);
        }
        // Made-up tokens fill it, and do not displace the others.
        if kept.len() < MOST || verdict != Verdict::Unknown {
            if kept.len() >= MOST {
                kept.retain(|_, (_, verdict)| *verdict != Verdict::Unknown);
            }
            if kept.len() < MOST {
                kept.insert(asked, (Instant::now(), verdict));
            }
        }
    }
}
