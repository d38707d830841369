//! Switches between node scope and the whole cluster. Where the configuration asks for node scope,
//! all pods are followed while an address does not identify its node.

use std::time::{Duration, Instant};

use super::pod_addressing::PodAddressing;
use crate::identity::status::Scope;

/// Time for which the reason must be gone before the scope goes back to the node: first and
/// longest. It doubles each time, because following all pods again costs the API server a list of
/// them.
const STEADY: (Duration, Duration) = (Duration::from_secs(15), Duration::from_hours(1));

/// Interval between two checks, over all pods of the cluster, whether the reason is gone.
const LOOK: Duration = Duration::from_secs(3);

/// The change of scope that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Follow all pods. The sentence says why.
    Widen(String),
    /// Follow one node's pods.
    Narrow,
}

/// Width of the scope, where the configuration asks for node scope.
#[derive(Debug)]
pub(super) struct Width {
    /// True: all pods are followed.
    wide: bool,
    /// Why an address does not identify its node. None: it does.
    flat: Option<String>,
    /// Since when the reason is gone.
    steady: Option<Instant>,
    /// Time for which the reason must be gone.
    wait: Duration,
    looked: Option<Instant>,
    /// The last message about the way back.
    said: Option<String>,
}

impl Default for Width {
    fn default() -> Self {
        Self {
            wide: false,
            flat: None,
            steady: None,
            wait: STEADY.0,
            looked: None,
            said: None,
        }
    }
}

impl Width {
    /// True if all pods are followed though the configuration asks for node scope.
    pub(super) fn is_wide(&self) -> bool {
        self.wide
    }

    /// True if other agents are asked. They are asked before the scope goes back, so that their
    /// names arrive before the API server's are dropped.
    pub(super) fn asks(&self) -> bool {
        self.flat.is_none() || self.steady.is_some()
    }

    /// Records why an address does not identify its node.
    pub(super) fn set_flat(&mut self, why: String) {
        self.flat = Some(why);
    }

    pub(super) fn turn(&self) -> Option<Turn> {
        match (&self.flat, self.steady) {
            (Some(why), _) if !self.wide => Some(Turn::Widen(why.clone())),
            (_, Some(since)) if self.wide && since.elapsed() >= self.wait => Some(Turn::Narrow),
            _ => None,
        }
    }

    /// Checks at intervals whether the reason is gone. Returns the scope to report, if it is new.
    pub(super) fn look(&mut self, addressing: impl FnOnce() -> PodAddressing) -> Option<Scope> {
        self.look_at(Instant::now(), addressing)
    }

    fn look_at(
        &mut self,
        now: Instant,
        addressing: impl FnOnce() -> PodAddressing,
    ) -> Option<Scope> {
        let early = |looked: Instant| now.saturating_duration_since(looked) < LOOK;
        if self.looked.is_some_and(early) {
            return None;
        }
        self.looked = Some(now);
        let why = match addressing() {
            PodAddressing::PerNode => {
                self.steady.get_or_insert(now);
                format!(
                    "the reason is gone; the agent returns to scope node if it stays gone for {} s",
                    self.wait.as_secs()
                )
            }
            PodAddressing::Unknown => {
                self.steady = None;
                "the reason is gone, but no pod yet shows that pods have addresses in their nodes' \
                 pod ranges (spec.podCIDRs)"
                    .to_owned()
            }
            PodAddressing::Flat(why) => {
                self.steady = None;
                why
            }
        };
        if self.said.as_ref() == Some(&why) {
            return None;
        }
        tracing::info!("The agent still follows all pods of the cluster: {why}.");
        self.said = Some(why.clone());
        Some(wide(why))
    }

    /// Records that a change of scope is done.
    pub(super) fn turned(&mut self, turn: &Turn) -> Scope {
        (self.steady, self.looked) = (None, None);
        self.wide = matches!(turn, Turn::Widen(_));
        match turn {
            Turn::Widen(why) => {
                tracing::warn!(
                    "The agent follows all pods of the cluster, although identity.kubernetes.scope is \
                     node: {why}. It returns to scope node when this reason is gone."
                );
                self.said = Some(why.clone());
                wide(why.clone())
            }
            Turn::Narrow => {
                tracing::info!(
                    "The agent follows the pods of its own node only, as identity.kubernetes.scope \
                     says: the reason to follow all pods is gone."
                );
                (self.flat, self.said) = (None, None);
                self.wait = (self.wait * 2).min(STEADY.1);
                Scope {
                    wanted: "node",
                    now: "node",
                    why: None,
                }
            }
        }
    }
}

fn wide(why: String) -> Scope {
    Scope {
        wanted: "node",
        now: "cluster",
        why: Some(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scope_goes_back_when_its_reason_has_been_gone_for_a_while() {
        let (mut width, begun) = (Width::default(), Instant::now());
        assert_eq!(width.turn(), None);
        width.set_flat("a pod is elsewhere".to_owned());
        let turn = width.turn().expect("all are to be followed");
        let scope = width.turned(&turn);
        assert_eq!((scope.now, width.asks()), ("cluster", false));
        let flat = || PodAddressing::Flat("a pod is elsewhere".to_owned());
        assert_eq!(width.look_at(begun, flat), None, "that has been said");
        let scope = width.look_at(begun + LOOK, || PodAddressing::Unknown);
        assert!(scope.is_some_and(|scope| scope.why.is_some_and(|why| why.contains("shows"))));
        assert_eq!((width.turn(), width.asks()), (None, false));
        let gone = begun.checked_sub(STEADY.0).expect("long ago");
        width.looked = None;
        assert!(width.look_at(gone, || PodAddressing::PerNode).is_some());
        assert!(width.asks(), "the others are asked before");
        // The reason was not gone for long.
        width.looked = None;
        assert!(width.look_at(gone, flat).is_some());
        assert_eq!((width.turn(), width.asks()), (None, false));
        width.looked = None;
        width.look_at(gone, || PodAddressing::PerNode);
        let turn = width.turn().expect("back");
        let scope = width.turned(&turn);
        assert_eq!((scope.now, scope.why), ("node", None));
        assert_eq!(width.turn(), None);
        assert_eq!(width.wait, 2 * STEADY.0, "next time it is twice as long");
    }
}
