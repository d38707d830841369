//! State of the sources of names: what they know, and what they could not learn.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{claims::Claims, kubernetes::Watched, peers::Report};

/// State of the watch of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    /// Number of objects.
    pub objects: usize,
    /// True: all objects have been listed once.
    pub synced: bool,
}

/// Scope of the followed pods: the cluster's, or one node's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Configured scope: `cluster` or `node`.
    pub wanted: &'static str,
    /// Scope in effect: `cluster` or `node`.
    pub now: &'static str,
    /// Why the scope in effect is not the configured one. None: they are equal.
    pub why: Option<String>,
}

/// State of the other nodes' agents, where they are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// Number of agents whose names are believed now.
    pub answering: usize,
    /// Number of agents that are asked and do not answer.
    pub silent: usize,
    /// Number of silent agents whose pods' names come from the API server meanwhile.
    pub in_place: usize,
    /// Number of names from other agents.
    pub names: usize,
    /// Number of names that were refused so far, because there were too many.
    pub refused: u64,
    /// Connections that failed or broke, by reason.
    pub errors: BTreeMap<&'static str, u64>,
}

/// The state now, shared between the sources and the metrics.
#[derive(Debug, Default)]
pub struct Status {
    inner: Mutex<Inner>,
    /// Signals that all names are known.
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
    claims: Option<Claims>,
    outranked: usize,
}

#[derive(Debug)]
struct Broken {
    since: Instant,
    /// Reasons of the failure that were logged.
    said: Vec<&'static str>,
    /// Sentences for people about the failure.
    sentences: Vec<String>,
}

impl Status {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_objects(&self, kind: Watched, objects: usize, synced: bool) {
        self.inner().kinds.insert(kind, Kind { objects, synced });
    }

    /// Follows only these kinds from now on.
    pub(super) fn follow_only(&self, kinds: &[Watched]) {
        self.inner().kinds.retain(|kind, _| kinds.contains(kind));
    }

    /// Records that all kinds with addresses are known: an address without a name is external.
    pub(super) fn set_complete(&self) {
        self.inner().complete = true;
        self.complete.notify_all();
    }

    /// Waits until all names are known. False: they were not in time.
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

    /// Records that a watch works. Returns for how long it did not.
    pub(super) fn alive(&self, kind: Watched) -> Option<Duration> {
        let broken = self.inner().broken.remove(&kind)?;
        Some(broken.since.elapsed())
    }

    /// Records that a watch failed. Returns whether the reason is a new one.
    pub(super) fn failed(
        &self,
        kind: Watched,
        reason: &'static str,
        sentence: &str,
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
            refused: report.refused,
            errors: errors.into_iter().collect(),
        });
    }

    pub(super) fn set_claims(&self, claims: Claims) {
        self.inner().claims = Some(claims);
    }

    /// Records how many claims of pods' annotations give way to other sources of names.
    pub fn set_outranked(&self, claims: usize) {
        self.inner().outranked = claims;
    }

    /// What pods' annotations claim. None: Kubernetes is not asked, or has not answered.
    #[must_use]
    pub fn claims(&self) -> Option<Claims> {
        self.inner().claims
    }

    /// Number of claims that count and give way to other sources of names.
    #[must_use]
    pub fn outranked(&self) -> usize {
        self.inner().outranked
    }

    /// Scope of the followed pods. None: Kubernetes is not asked.
    #[must_use]
    pub fn scope(&self) -> Option<Scope> {
        self.inner().scope.clone()
    }

    /// State of the other agents. None: they are not asked.
    #[must_use]
    pub fn peers(&self) -> Option<Peers> {
        self.inner().peers.clone()
    }

    /// State of the watches by kind. Empty: Kubernetes is not asked.
    #[must_use]
    pub fn kinds(&self) -> BTreeMap<Watched, Kind> {
        self.inner().kinds.clone()
    }

    /// Number of failures so far, by kind and reason.
    #[must_use]
    pub fn errors(&self) -> BTreeMap<(Watched, &'static str), u64> {
        self.inner().errors.clone()
    }

    /// Current failures, as sentences for people.
    #[must_use]
    pub fn said(&self) -> Vec<String> {
        let inner = self.inner();
        let sentences = inner.broken.values().flat_map(|broken| &broken.sentences);
        sentences.cloned().collect()
    }

    /// Delay of pod names. It is the time that the last change took to get here or, if that is
    /// longer, the time for which nothing could arrive. None: not measured yet.
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
        self.failed(Watched::Pods, "unreachable", "", Instant::now());
        self.set_lag(Duration::from_secs(1));
        self.set_scope(Scope {
            wanted: "node",
            now: "cluster",
            why: None,
        });
        self.set_claims(Claims::default());
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
        let fail =
            |reason| status.failed(Watched::Pods, reason, "it does not answer", Instant::now());
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
