//! Expiry of ids: which numbers may be reused, and the labels of the rows that are left.
//!
//! A row may be counted in several series: of its pod, of its workload, of the service that it
//! talks to, of the namespaces. When the pod is gone, the others live on and must not go backwards.
//! So the row is kept, under a reduced member that has lost what is gone ([`Member::is_reduced`]).
//! It is in no series that needs the lost name, and in all others as before.

use std::{collections::HashSet, sync::Arc, time::Instant};

use lpm_common::layout::NameId;

use super::{Ids, Known, Levels, Living, Member, Namespace, places::kept};
use crate::identity::UNKNOWN;

/// Stands in place of a name that is gone.
pub(super) const GONE: &str = "";

impl Member {
    /// True if a name of the member is gone.
    #[must_use]
    pub fn is_reduced(&self) -> bool {
        let all = [
            &self.workload,
            &self.service,
            &self.pod,
            &self.node,
            &self.zone,
        ];
        all.into_iter().any(|name| is_gone(name.as_deref()))
    }
}

/// True if a name existed and is gone.
#[must_use]
pub fn is_gone(name: Option<&str>) -> bool {
    name == Some(GONE)
}

impl Namespace {
    pub(super) fn touch(&mut self, member: u16, now: Instant) {
        let place = usize::from(member).checked_sub(1);
        if let Some(Some(known)) = place.and_then(|place| self.by_id.get_mut(place)) {
            known.alive = now;
        }
    }

    /// The members that were among the names since `since`.
    pub(super) fn alive(&self, since: Instant) -> impl Iterator<Item = &Known> {
        let known = self.by_id.iter().flatten();
        known.filter(move |known| known.alive >= since && !known.member.is_reduced())
    }

    /// Makes a member without the names that are gone. Workloads, services and pods live in this
    /// namespace. Nodes and zones live in all of them together.
    fn reduced(&self, member: &Member, since: Instant, living: &Living) -> Member {
        let keep = |of: fn(&Member) -> &Option<Arc<str>>| {
            let name = of(member).as_ref()?;
            let lives = |known: &Known| of(&known.member).as_ref() == Some(name);
            let lives = self.alive(since).any(lives);
            Some(if lives { Arc::clone(name) } else { GONE.into() })
        };
        // A workload of the same name and another kind is another workload.
        let is_same = |known: &Known| known.member.workload() == member.workload();
        let (workload, workload_type) = match &member.workload {
            Some(_) if !self.alive(since).any(is_same) => (Some(GONE.into()), None),
            _ => (member.workload.clone(), member.workload_type.clone()),
        };
        Member {
            workload,
            workload_type,
            service: keep(|member| &member.service),
            pod: keep(|member| &member.pod),
            node: kept(member.node.as_ref(), &living.nodes),
            zone: kept(member.zone.as_ref(), &living.zones),
        }
    }
}

impl Ids {
    /// Marks an id as alive at `now`.
    pub fn touch(&mut self, id: NameId, now: Instant) {
        if let Some(of) = self.of(id.namespace()) {
            of.alive = now;
            of.touch(id.member(), now);
        }
    }

    /// Marks the owner of an interface as alive at `now`.
    pub fn touch_member(&mut self, namespace: &str, member: Option<&Member>, now: Instant) {
        let Some(number) = self.by_name.get(namespace).copied() else {
            return;
        };
        if let Some(of) = self.of(number) {
            let known = member.and_then(|member| of.by_member.get(member));
            let known = known.copied().unwrap_or(0);
            self.touch(NameId::new(number, known), now);
        }
    }

    /// The id that a row with this id should have. It is the same id if that was among the names
    /// since `since`. It is [`NameId::GONE`] if its namespace was not.
    pub fn reduce(&mut self, id: NameId, since: Instant, living: &Living) -> NameId {
        if self.is_of_the_gone(id) {
            return self.reduce_of_the_gone(id, living);
        }
        let namespace = id.namespace();
        let Some(of) = self.of(namespace) else {
            return id;
        };
        if of.alive < since {
            return NameId::GONE;
        }
        let Some(known) = of.known(id.member()) else {
            return id;
        };
        if known.alive >= since && !known.member.is_reduced() {
            return id;
        }
        let reduced = of.reduced(&known.member, since, living);
        if reduced == *known.member {
            return id;
        }
        if let Some(number) = of.by_member.get(&reduced) {
            return NameId::new(namespace, *number);
        }
        // There is no cap: reduced members are no more than combinations of living ones. If no
        // number is left, the row keeps its id.
        self.give(namespace, reduced).unwrap_or(id)
    }

    /// The id that a row with this id should have when these levels are switched on now and were
    /// not when it was counted. It is that of a member without the names of these levels. So the
    /// row's counts stay in the series of other levels, and are in none of these.
    pub fn without(&mut self, id: NameId, levels: &Levels) -> NameId {
        let mut member = self.who(id).as_deref().cloned().unwrap_or_default();
        for (new, name) in [
            (levels.workload, &mut member.workload),
            (levels.service, &mut member.service),
            (levels.pod, &mut member.pod),
            (levels.node, &mut member.node),
            (levels.zone, &mut member.zone),
        ] {
            if new && name.is_none() {
                *name = Some(GONE.into());
            }
        }
        let namespace = id.namespace();
        let Some(of) = self.of(namespace).filter(|_| member.is_reduced()) else {
            return id;
        };
        if let Some(number) = of.by_member.get(&member) {
            return NameId::new(namespace, *number);
        }
        self.give(namespace, member).unwrap_or(id)
    }

    /// Releases numbers that were not among the names since `since` and that no row is labelled
    /// with. Returns how many more members may be told apart than before.
    pub fn release(&mut self, since: Instant, borne: &HashSet<NameId>) -> usize {
        let mut released = HashSet::new();
        let mut apart = 0;
        for (namespace, of) in (1..).zip(&mut self.by_id) {
            for (number, place) in (1..).zip(&mut of.by_id) {
                let id = NameId::new(namespace, number);
                let Some(known) =
                    place.take_if(|known| known.alive < since && !borne.contains(&id))
                else {
                    continue;
                };
                // Another number may have been taken over with the same text.
                if of.by_member.get(&known.member) == Some(&number) {
                    of.by_member.remove(&known.member);
                }
                of.free.push(number);
                apart += usize::from(!known.member.is_reduced());
                released.insert(id);
            }
        }
        self.fresh.retain(|(id, _)| !released.contains(id));
        self.stale.extend(released);
        self.given = self.given.saturating_sub(apart);
        self.release_namespaces(since, borne);
        apart
    }

    /// Releases the numbers of namespaces in the same way, once none of their ids is in use.
    fn release_namespaces(&mut self, since: Instant, borne: &HashSet<NameId>) {
        let borne: HashSet<u16> = borne.iter().map(|id| id.namespace()).collect();
        let mut released = HashSet::new();
        for (number, of) in (1..).zip(&mut self.by_id) {
            let bears = !of.by_member.is_empty() || borne.contains(&number);
            if of.alive >= since || bears || !self.free.insert(number) {
                continue;
            }
            // Another number may have been taken over with the same name.
            if self.by_name.get(&of.name) == Some(&number) {
                self.by_name.remove(&of.name);
            }
            of.name = UNKNOWN.into();
            released.insert(number);
        }
        self.fresh
            .retain(|(id, _)| !released.contains(&id.namespace()));
    }
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use super::*;

    fn member(workload: &str, pod: &str) -> Member {
        Member {
            workload: Some(workload.into()),
            pod: Some(pod.into()),
            ..Member::default()
        }
    }

    #[test]
    fn what_is_gone_leaves_what_lives() {
        let (mut ids, begun) = (Ids::default(), Instant::now());
        let one = ids.member("a", Some(&member("web", "web-1")), 9);
        let two = ids.member("a", Some(&member("web", "web-2")), 9);
        let now = Instant::now();
        let [later, last] = [10, 20].map(|s| now + Duration::from_secs(s));
        assert_eq!(
            ids.reduce(one, begun, &Living::default()),
            one,
            "all are there"
        );
        ids.touch(two, later);
        let reduced = ids.reduce(one, later, &Living::default());
        let who = ids.who(reduced).expect("a member");
        assert_eq!(*who, member("web", GONE));
        assert!(who.is_reduced());
        assert_eq!(ids.reduce(two, later, &Living::default()), two);
        assert_eq!(
            ids.reduce(reduced, later, &Living::default()),
            reduced,
            "the workload lives"
        );
        // The workload follows, then the namespace.
        ids.touch(NameId::new(1, 0), last);
        let all = ids.reduce(reduced, last, &Living::default());
        assert_eq!(*ids.who(all).expect("a member"), member(GONE, GONE));
        assert_eq!(ids.reduce(two, last, &Living::default()), all);
        let end = last + Duration::from_secs(1);
        assert_eq!(ids.reduce(all, end, &Living::default()), NameId::GONE);
        assert_eq!(
            ids.reduce(NameId::new(1, 0), end, &Living::default()),
            NameId::GONE
        );
        assert_eq!(
            ids.reduce(NameId(0), end, &Living::default()),
            NameId(0),
            "nobody's are nobody's"
        );
        assert_eq!(
            ids.reduce(NameId::GONE, end, &Living::default()),
            NameId::GONE
        );
    }

    #[test]
    fn namespaces_come_and_go_without_end() {
        let (mut ids, begun) = (Ids::default(), Instant::now());
        let stays = ids.namespace("stays");
        let borne = ids.member("borne", Some(&member("web", "web-1")), 9);
        let mut now = begun;
        for round in 0..3 * u32::from(NameId::MAX_NAMESPACE) {
            if round % 8000 == 0 {
                now += Duration::from_secs(1);
                ids.touch(NameId::new(stays, 0), now);
                ids.release(now, &[borne].into());
            }
            let name = format!("ci-{round}");
            let id = ids.namespace(&name);
            assert_ne!(id, 0, "{name}");
            assert_eq!(ids.name(id).as_deref(), Some(&*name));
            ids.by_id[usize::from(id) - 1].alive = begun;
        }
        assert_eq!(ids.namespace("stays"), stays);
        assert_eq!(ids.name(borne.namespace()).as_deref(), Some("borne"));
        // Once no row has them they are free. A reused number does not have its old name.
        ids.release(now + Duration::from_secs(1), &HashSet::new());
        assert_eq!(ids.who(borne), None);
        let again = ids.namespace("ci-1");
        assert_eq!(ids.name(again).as_deref(), Some("ci-1"));
        assert!(!ids.is_told_apart("borne", &member("web", "web-1")));
    }

    #[test]
    fn of_too_many_namespaces_the_last_have_none() {
        let mut ids = Ids::default();
        let all = (1..NameId::MAX_NAMESPACE).map(|n| ids.namespace(&format!("n{n}")));
        assert!(all.eq(1..NameId::MAX_NAMESPACE));
        assert_eq!(ids.namespace("late"), 0);
        assert_eq!(ids.namespace("n7"), 7);
        let later = Instant::now() + Duration::from_secs(1);
        ids.touch(NameId::new(7, 0), later);
        ids.release(later, &[NameId::new(1, 0)].into());
        assert_eq!(ids.namespace("late"), 2, "1 is borne");
        assert_eq!(ids.namespace("n7"), 7);
    }

    #[test]
    fn a_workload_of_another_kind_is_another() {
        let mut ids = Ids::default();
        let of_kind = |kind: &str| Member {
            workload: Some("web".into()),
            workload_type: Some(kind.into()),
            ..Member::default()
        };
        let gone = ids.member("a", Some(&of_kind("barepod")), 9);
        let stays = ids.member("a", Some(&of_kind("deployment")), 9);
        assert_ne!(gone, stays);
        let later = Instant::now() + Duration::from_secs(10);
        ids.touch(stays, later);
        let reduced = ids.reduce(gone, later, &Living::default());
        let who = ids.who(reduced).expect("a member");
        assert_eq!(who.workload(), (Some(GONE), None));
        assert_eq!(ids.reduce(stays, later, &Living::default()), stays);
    }

    #[test]
    fn an_id_that_was_released_is_forgotten_unless_it_was_given_again() {
        let mut ids = Ids::default();
        let [one, two] = ["web-1", "web-2"].map(|pod| {
            let pod = member("web", pod);
            ids.member("a", Some(&pod), 9)
        });
        let later = Instant::now() + Duration::from_secs(10);
        assert_eq!(ids.release(later, &HashSet::new()), 2);
        let again = ids.member("a", Some(&member("db", "db-1")), 9);
        let mut forgotten = Vec::new();
        let refused = ids.forget(|_| Err(io::ErrorKind::Other.into()));
        assert!(refused.is_err(), "the next attempt passes it again");
        let forget = ids.forget(|id| {
            forgotten.push(id);
            Ok(())
        });
        assert!(forget.is_ok());
        let left = if again == one { two } else { one };
        assert_eq!(forgotten, [left]);
    }

    #[test]
    fn numbers_are_given_again_once_nothing_bears_them() {
        let mut ids = Ids::default();
        let one = ids.member("a", Some(&member("web", "web-1")), 1);
        let later = Instant::now() + Duration::from_secs(1);
        let whole = NameId::new(1, 0);
        assert_eq!(
            ids.member("a", Some(&member("web", "web-2")), 1),
            whole,
            "the cap"
        );
        assert_eq!(ids.release(later, &[one].into()), 0, "a row bears it");
        assert_eq!(ids.release(later, &HashSet::new()), 1);
        assert_eq!(ids.who(one), None);
        let mut kept = Vec::new();
        let two = ids.member("a", Some(&member("web", "web-2")), 1);
        assert_eq!(two, one, "the same number");
        ids.remember(|id, text| {
            kept.push((id, text.to_owned()));
            Ok(())
        })
        .expect("kept");
        let texts: Vec<_> = kept.iter().filter(|(id, _)| *id == two).collect();
        assert_eq!(texts.len(), 1, "{kept:?}");
        assert!(texts[0].1.contains("web-2"), "{kept:?}");
    }
}
