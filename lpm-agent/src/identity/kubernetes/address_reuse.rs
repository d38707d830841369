//! Address reuse: finds addresses that had changed owners before the event about it came.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use k8s_openapi::jiff::Timestamp;

use super::objects::Pod;
use crate::identity::merge::Moved;
use crate::kube::Event;

/// Rounding of the server's times: whole seconds, rounded down.
const ROUNDED: Duration = Duration::from_secs(1);

/// The addresses that a pod's event takes from their owners, with the time since when they had no
/// claim to them. `others` tells whether an address is held by another pod than the event's, or was
/// by one whose end is unknown. `own` tells whether the event's pod holds it. `asked` is when the
/// pod was asked to end.
pub(super) fn moved(
    event: &Event<Pod>,
    asked: Option<Timestamp>,
    addresses: impl IntoIterator<Item = IpAddr>,
    others: impl Fn(IpAddr) -> bool,
    own: impl Fn(IpAddr) -> bool,
) -> Vec<Moved> {
    let (since, taken): (_, &dyn Fn(IpAddr) -> bool) = match event {
        Event::Delete(pod) => (ended(pod, asked), &own),
        Event::Apply(pod) if pod.has_ended() => (pod.changed(), &own),
        // A new owner had no address before it began.
        Event::Apply(pod) | Event::InitApply(pod) => match pod.began() {
            Some(began) => (Some(began), &others),
            None => return Vec::new(),
        },
        Event::Init | Event::InitDone => return Vec::new(),
    };
    let since = since.map(|since| SystemTime::from(since) + ROUNDED);
    let taken = addresses.into_iter().filter(|address| taken(*address));
    taken.map(|address| Moved { address, since }).collect()
}

/// When the last process of a deleted pod ended. The kubelet writes that down before the object
/// goes. None: unknown, because the pod was deleted at once, or with its node. A status that was
/// written before the pod was asked to end says nothing of its end.
fn ended(pod: &Pod, asked: Option<Timestamp>) -> Option<Timestamp> {
    if pod.has_ended() {
        return pod.changed();
    }
    let due = pod.metadata.deletion_timestamp.as_ref()?.0;
    let changed = pod.changed().filter(|changed| Some(*changed) >= asked)?;
    Some(changed.min(due))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::{ClusterState, StateEvent},
        *,
    };

    const ADDRESS: [u8; 4] = [198, 18, 0, 1];

    fn pod(object: Value) -> Pod {
        serde_json::from_value(object).expect("a pod")
    }

    fn at(seconds: u64) -> Moved {
        Moved {
            address: ADDRESS.into(),
            since: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
        }
    }

    fn moved_by(event: &Event<Pod>, held_by_another: bool) -> Vec<Moved> {
        let others = |_| held_by_another;
        let asked = "1970-01-01T00:00:30Z".parse().ok();
        moved(event, asked, [ADDRESS.into()], others, |_| !held_by_another)
    }

    #[test]
    fn an_owner_ends_when_it_was_last_written_to() {
        let deleted = |written: &str, due: Option<&str>| {
            Event::Delete(pod(json!({"metadata": {
                "deletionTimestamp": due,
                "managedFields": [{"time": "1970-01-01T00:00:10Z"}, {"time": written}],
            }})))
        };
        let due = Some("1970-01-01T00:01:00Z");
        let by_kubelet = deleted("1970-01-01T00:00:40Z", due);
        assert_eq!(moved_by(&by_kubelet, false), [at(41)]);
        assert_eq!(moved_by(&by_kubelet, true), [], "it had lost it already");
        let later = deleted("1970-01-01T00:02:00Z", due);
        assert_eq!(moved_by(&later, false), [at(61)], "it is killed by then");
        let unknown = [Moved {
            address: ADDRESS.into(),
            since: None,
        }];
        let forced = deleted("1970-01-01T00:00:20Z", due);
        assert_eq!(moved_by(&forced, false), unknown, "nobody wrote of its end");
        let at_once = deleted("1970-01-01T00:00:40Z", None);
        assert_eq!(moved_by(&at_once, false), unknown);
    }

    #[test]
    fn a_new_owner_has_nothing_before_it_began() {
        let new = pod(json!({
            "status": {"phase": "Running", "startTime": "1970-01-01T00:00:07Z"},
        }));
        for event in [Event::Apply(new.clone()), Event::InitApply(new)] {
            assert_eq!(moved_by(&event, true), [at(8)]);
            assert_eq!(moved_by(&event, false), [], "it is its own already");
        }
        let done = pod(json!({
            "metadata": {"managedFields": [{"time": "1970-01-01T00:00:40Z"}]},
            "status": {"phase": "Succeeded", "startTime": "1970-01-01T00:00:07Z"},
        }));
        assert_eq!(moved_by(&Event::Apply(done), false), [at(41)]);
    }

    fn at_address(name: &str, began: &str) -> Pod {
        pod(json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name},
            "status": {"phase": "Running", "startTime": began, "podIP": "198.18.0.1"},
        }))
    }

    /// Returns a function that applies events to a new cluster, and gives the reused addresses of
    /// each.
    fn told() -> impl FnMut(Event<Pod>) -> Vec<Moved> {
        let mut state = ClusterState::new(&[]);
        move |event| {
            let event = StateEvent::Pod(event);
            let moved = state.moved(&event);
            state.take(event, &mut Vec::new());
            moved
        }
    }

    #[test]
    fn an_old_owner_that_is_still_told_of_takes_nothing_back() {
        let mut take = told();
        let old = || at_address("old", "1970-01-01T00:00:07Z");
        let new = || at_address("new", "1970-01-01T00:00:20Z");
        // The names that an earlier agent reported are unknown.
        take(Event::Init);
        assert_eq!(take(Event::InitApply(old())), []);
        assert_eq!(take(Event::InitApply(new())), []);
        take(Event::Delete(new()));
        take(Event::InitDone);
        assert_eq!(take(Event::Apply(new())), [at(21)]);
        assert_eq!(take(Event::Apply(old())), [], "it ends slowly");
        assert_eq!(take(Event::Apply(new())), []);
        assert_eq!(take(Event::Delete(old())), []);
    }

    #[test]
    fn the_first_word_says_when_a_pod_was_asked_to_go() {
        let going = |written: &str, due: &str, grace: u32| {
            let mut pod = at_address("web", "1970-01-01T00:00:01Z");
            let meta = json!({"deletionTimestamp": due, "deletionGracePeriodSeconds": grace,
                "name": "web", "namespace": "shop", "uid": "web",
                "managedFields": [{"time": written}]});
            pod.metadata = serde_json::from_value::<Pod>(json!({ "metadata": meta }))
                .expect("a pod")
                .metadata;
            pod
        };
        let mut take = told();
        take(Event::Init);
        take(Event::InitDone);
        // The kubelet writes that the pod has ended, and then has its object deleted without delay.
        take(Event::Apply(going(
            "1970-01-01T00:00:05Z",
            "1970-01-01T00:00:50Z",
            30,
        )));
        take(Event::Apply(going(
            "1970-01-01T00:00:28Z",
            "1970-01-01T00:00:50Z",
            30,
        )));
        let ended = going("1970-01-01T00:00:28Z", "1970-01-01T00:00:30Z", 0);
        assert_eq!(take(Event::Delete(ended)), [at(29)]);
        // The pod is deleted by force: its last status is older than the deletion.
        take(Event::Apply(at_address("web", "1970-01-01T00:00:01Z")));
        let forced = || going("1970-01-01T00:00:28Z", "1970-01-01T00:00:40Z", 0);
        take(Event::Apply(forced()));
        let [moved] = take(Event::Delete(forced()))[..] else {
            panic!("its end is not known");
        };
        assert_eq!(moved.since, None);
    }

    #[test]
    fn the_next_owner_tells_what_the_end_did_not() {
        let mut take = told();
        take(Event::Init);
        take(Event::InitDone);
        let old = || at_address("old", "1970-01-01T00:00:07Z");
        let new = || at_address("new", "1970-01-01T00:00:20Z");
        assert_eq!(take(Event::Apply(old())), [], "it was nobody's");
        let [end] = take(Event::Delete(old()))[..] else {
            panic!("it was deleted at once");
        };
        assert_eq!(end.since, None);
        assert_eq!(take(Event::Apply(new())), [at(21)]);
        assert_eq!(take(Event::Apply(new())), [], "it has it");
        let done = json!({"metadata": {"name": "new", "namespace": "shop", "uid": "new",
            "managedFields": [{"time": "1970-01-01T00:00:40Z"}]},
            "status": {"phase": "Succeeded", "podIP": "198.18.0.1"}});
        assert_eq!(take(Event::Apply(pod(done))), [at(41)]);
        assert_eq!(take(Event::Apply(old())), [], "the end was known");
    }
}
