//! How the sources of names are: what they know, and what they could not learn.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{kubernetes::Watched, peers::Report};

/// State of the watch of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    /// Objects that are there.
    pub objects: usize,
    /// All of them have been seen once.
    pub synced: bool,
}

/// Whose pods are followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// As configured: `cluster` or `node`.
    pub wanted: &'static str,
    /// As it is.
    pub now: &'static str,
    /// Why that is not the same.
    pub why: Option<String>,
}

/// How the other nodes' agents are, where they are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// Agents whose names are believed now.
    pub answering: usize,
    /// Agents that are asked and do not answer.
    pub silent: usize,
    /// Those of them of whose nodes' pods the API server tells meanwhile.
    pub in_place: usize,
    /// Names that are known from them.
    pub names: usize,
    /// Conversations that failed or broke, by reason.
    pub errors: BTreeMap<&'static str, u64>,
}

/// What is known now; shared between the sources and the metrics.
#[derive(Debug, Default)]
pub struct Status {
    inner: Mutex<Inner>,
    /// All names are known.
    complete: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    kinds: BTreeMap<Watched, Kind>,
    errors: BTreeMap<(Watched, &'static str), u64>,
    broken: BTreeMap<Watched, Broken>,
    lag: Option<Duration>,
    complete: bool,
    scope: Option<Scope>,
    peers: Option<Peers>,
}

#[derive(Debug)]
struct Broken {
    since: Instant,
    /// What has been said of it.
    said: Vec<&'static str>,
    /// The same for people.
    sentences: Vec<String>,
}

impl Status {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_objects(&self, kind: Watched, objects: usize, synced: bool) {
        self.inner().kinds.insert(kind, Kind { objects, synced });
    }

    /// Only these kinds are followed from now on.
    pub(super) fn follow_only(&self, kinds: &[Watched]) {
        self.inner().kinds.retain(|kind, _| kinds.contains(kind));
    }

    /// All that have addresses are known: what has no name is outside.
    pub(super) fn set_complete(&self) {
        self.inner().complete = true;
        self.complete.notify_all();
    }

    /// Waits until all names are known; false: they were not in time.
    #[must_use]
    pub fn wait_for_names(&self, within: Duration) -> bool {
        let waited = self
            .complete
            .wait_timeout_while(self.inner(), within, |inner| !inner.complete);
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        inner.complete
    }

    pub(super) fn set_lag(&self, lag: Duration) {
        self.inner().lag = Some(lag);
    }

    /// A watch works; returns how long it did not.
    pub(super) fn alive(&self, kind: Watched) -> Option<Duration> {
        let broken = self.inner().broken.remove(&kind)?;
        Some(broken.since.elapsed())
    }

    /// A watch does not work; returns whether this reason is a new one.
    pub(super) fn failed(
        &self,
        kind: Watched,
        (reason, sentence): (&'static str, &str),
        now: Instant,
    ) -> bool {
        let mut inner = self.inner();
        *inner.errors.entry((kind, reason)).or_default() += 1;
        let broken = inner.broken.entry(kind).or_insert_with(|| Broken {
            since: now,
            said: Vec::new(),
            sentences: Vec::new(),
        });
        let new = !broken.said.contains(&reason);
        if new {
            broken.said.push(reason);
            broken.sentences.push(sentence.to_owned());
        }
        new
    }

    pub(super) fn set_scope(&self, scope: Scope) {
        self.inner().scope = Some(scope);
    }

    pub(super) fn set_peers(&self, report: &Report, errors: HashMap<&'static str, u64>) {
        self.inner().peers = Some(Peers {
            answering: report.answering,
            silent: report.silent,
            in_place: report.in_place,
            names: report.names,
            errors: errors.into_iter().collect(),
        });
    }

    /// Whose pods are followed; `None`: Kubernetes is not asked.
    #[must_use]
    pub fn scope(&self) -> Option<Scope> {
        self.inner().scope.clone()
    }

    /// How the other agents are; `None`: they are not asked.
    #[must_use]
    pub fn peers(&self) -> Option<Peers> {
        self.inner().peers.clone()
    }

    /// The watches by kind; empty: Kubernetes is not asked.
    #[must_use]
    pub fn kinds(&self) -> BTreeMap<Watched, Kind> {
        self.inner().kinds.clone()
    }

    /// Failures so far, by kind and reason.
    #[must_use]
    pub fn errors(&self) -> BTreeMap<(Watched, &'static str), u64> {
        self.inner().errors.clone()
    }

    /// What does not work now, in sentences for people.
    #[must_use]
    pub fn said(&self) -> Vec<String> {
        let inner = self.inner();
        let sentences = inner.broken.values().flat_map(|broken| &broken.sentences);
        sentences.cloned().collect()
    }

    /// How far behind the names of pods are: how long the last change took to get here or, if it
    /// is longer, for how long nothing could. `None`: not measured yet.
    #[must_use]
    pub fn lag(&self) -> Option<Duration> {
        let inner = self.inner();
        let broken = inner.broken.get(&Watched::Pods);
        inner.lag.max(broken.map(|broken| broken.since.elapsed()))
    }
}

#[cfg(test)]
impl Status {
    /// Sets everything that can be known, so that every metric of it has a series.
    pub(crate) fn know_everything(&self) {
        self.set_objects(Watched::Pods, 1, true);
        self.failed(Watched::Pods, ("unreachable", ""), Instant::now());
        self.set_lag(Duration::from_secs(1));
        self.set_scope(Scope {
            wanted: "node",
            now: "cluster",
            why: None,
        });
        self.inner().peers = Some(Peers {
            errors: [("unreachable", 1)].into(),
            ..Peers::default()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_new_once_until_the_watch_works_again() {
        let status = Status::default();
        let fail = |reason| {
            status.failed(
                Watched::Pods,
                (reason, "it does not answer"),
                Instant::now(),
            )
        };
        assert!(fail("unreachable"));
        assert!(!fail("unreachable"));
        assert!(fail("unauthorized"));
        assert!(status.lag().is_some(), "for so long nothing could get here");
        assert!(status.alive(Watched::Pods).is_some());
        assert_eq!(status.alive(Watched::Pods), None);
        assert_eq!(status.lag(), None, "not measured is not zero");
        assert!(fail("unreachable"));
        assert_eq!(status.errors()[&(Watched::Pods, "unreachable")], 3);
    }
}
