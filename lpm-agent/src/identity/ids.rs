//! Ids: small numbers for namespaces and for their members, which are told apart within them.
//!
//! A namespace gets a number at its first name. The members of a namespace (by the levels that are
//! switched on) get numbers as long as fewer than [`Levels::top`] are in use. The numbers of what
//! is gone are reused (`expiry`), once no histogram row is labelled with them.

mod expiry;
mod places;

pub use self::{
    expiry::is_gone,
    places::{Living, Place},
};

use std::{
    collections::{BTreeSet, HashMap},
    io,
    sync::Arc,
    time::Instant,
};

use lpm_common::layout::NameId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GONE_NAMESPACE, Name, UNKNOWN};

/// Which histograms are kept beside those of the namespaces themselves.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key of the configuration"
)]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Levels {
    /// Workloads at both ends: `lpm_workload_rtt_seconds`.
    pub workload: bool,
    /// The services that connections go to: `lpm_service_rtt_seconds`.
    pub service: bool,
    /// The pods of this node, if each has an interface of its own: `lpm_pod_rtt_seconds`.
    pub pod: bool,
    /// The nodes at both ends, over all namespaces: `lpm_node_rtt_seconds`.
    pub node: bool,
    /// The zones at both ends, over all namespaces: `lpm_zone_rtt_seconds`. A node's zone is its
    /// label `topology.kubernetes.io/zone`.
    pub zone: bool,
    /// How many workloads, services, pods, nodes and zones are shown separately, in all. Nodes and
    /// zones count once in each namespace that has a pod there, and once for each workload there if
    /// workloads are shown, too. If there are more, those with the most packets are shown. The
    /// others are shown together as `overflow`.
    #[schemars(range(min = 1, max = 2000))]
    pub top: u16,
}

impl Default for Levels {
    fn default() -> Self {
        Self {
            workload: false,
            service: false,
            pod: false,
            node: false,
            zone: false,
            top: 200,
        }
    }
}

impl Levels {
    /// True if any level is switched on.
    #[must_use]
    pub fn any(&self) -> bool {
        self.workload || self.service || self.pod || self.has_places()
    }

    /// True if nodes or zones are told apart.
    #[must_use]
    pub fn has_places(&self) -> bool {
        self.node || self.zone
    }

    /// True if the backends of connections to services are told apart.
    #[must_use]
    pub fn tell_backends(&self) -> bool {
        self.workload || self.has_places()
    }

    /// The levels that are among these and not among the others.
    #[must_use]
    pub fn beyond(&self, others: &Self) -> Self {
        Self {
            workload: self.workload && !others.workload,
            service: self.service && !others.service,
            pod: self.pod && !others.pod,
            node: self.node && !others.node,
            zone: self.zone && !others.zone,
            top: self.top,
        }
    }

    /// The member that this name, at this place, is within its namespace: as the remote end, or
    /// (`here`) as the end that an interface of this node names. None: no level tells it apart.
    #[must_use]
    pub fn member(&self, name: &Name, here: bool, place: Place) -> Option<Member> {
        let member = Member {
            workload: name.workload.clone().filter(|_| self.workload),
            workload_type: name.workload_type.clone().filter(|_| self.workload),
            service: name.service.clone().filter(|_| self.service),
            pod: name.pod.clone().filter(|_| self.pod && here),
            node: place.node.filter(|_| self.node),
            zone: place.zone.filter(|_| self.zone),
        };
        (member != Member::default()).then_some(member)
    }
}

/// A member of a namespace: what the levels tell apart within it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// Name of the workload.
    pub workload: Option<Arc<str>>,
    /// Kind of the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_type: Option<Arc<str>>,
    /// Name of the service.
    pub service: Option<Arc<str>>,
    /// Name of the pod.
    pub pod: Option<Arc<str>>,
    /// Name of the node. [`UNKNOWN`]: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Arc<str>>,
    /// Name of the zone. [`UNKNOWN`]: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Arc<str>>,
}

impl Member {
    /// Name and kind of the member's workload.
    #[must_use]
    pub fn workload(&self) -> (Option<&str>, Option<&str>) {
        (self.workload.as_deref(), self.workload_type.as_deref())
    }
}

/// The table of ids.
#[derive(Debug, Default)]
pub struct Ids {
    by_name: HashMap<Arc<str>, u16>,
    /// Namespaces by number, from number 1 on.
    by_id: Vec<Namespace>,
    /// True: it was logged that no number is left.
    exhausted: bool,
    /// Numbers of namespaces that are free again.
    free: BTreeSet<u16>,
    given: usize,
    /// True: a member could not be told apart.
    overflown: bool,
    /// Ids that are not stored for the next agent yet.
    fresh: Vec<(NameId, String)>,
    /// Ids of members that may be stored for the next agent, and that nobody has any more.
    stale: Vec<NameId>,
}

#[derive(Debug)]
struct Namespace {
    name: Arc<str>,
    /// When the namespace was last among the names.
    alive: Instant,
    by_member: HashMap<Arc<Member>, u16>,
    /// Members by number, from number 1 on. None: the number is free.
    by_id: Vec<Option<Known>>,
    /// Numbers of members that are free again.
    free: Vec<u16>,
}

#[derive(Debug)]
struct Known {
    member: Arc<Member>,
    /// When the member was last among the names.
    alive: Instant,
}

impl Namespace {
    fn new(name: Arc<str>) -> Self {
        Self {
            name,
            alive: Instant::now(),
            by_member: HashMap::new(),
            by_id: Vec::new(),
            free: Vec::new(),
        }
    }

    fn known(&self, member: u16) -> Option<&Known> {
        self.by_id
            .get(usize::from(member.checked_sub(1)?))?
            .as_ref()
    }

    /// Gives a number to a member. None: all numbers are in use.
    fn give(&mut self, member: &Arc<Member>) -> Option<u16> {
        let number = match self.free.pop() {
            Some(number) => number,
            None => u16::try_from(self.by_id.len() + 1).ok()?,
        };
        if number > NameId::MAX_MEMBER {
            return None;
        }
        let place = usize::from(number - 1);
        self.by_id
            .resize_with(self.by_id.len().max(place + 1), || None);
        self.by_id[place] = Some(Known {
            member: Arc::clone(member),
            alive: Instant::now(),
        });
        self.by_member.insert(Arc::clone(member), number);
        Some(number)
    }
}

impl Ids {
    /// The number of a namespace. 0, which means "none": all numbers are in use, or the name is
    /// reserved.
    pub fn namespace(&mut self, name: &str) -> u16 {
        if name == GONE_NAMESPACE {
            return 0;
        }
        self.number(name)
    }

    fn number(&mut self, name: &str) -> u16 {
        if let Some(id) = self.by_name.get(name).copied() {
            if let Some(of) = self.of(id) {
                of.alive = Instant::now();
            }
            return id;
        }
        let fresh = u16::try_from(self.by_id.len() + 1).unwrap_or(u16::MAX);
        let id = self.free.pop_first().unwrap_or(fresh);
        // The last number is that of rows whose namespace is gone.
        if id >= NameId::MAX_NAMESPACE {
            if !std::mem::replace(&mut self.exhausted, true) {
                tracing::warn!(
                    namespace = name,
                    "no namespace id is left: this namespace and other new ones have no name in \
                     histograms until another namespace is deleted"
                );
            }
            return 0;
        }
        self.exhausted = false;
        let name: Arc<str> = name.into();
        let new = Namespace::new(Arc::clone(&name));
        match self.of(id) {
            Some(free) => *free = new,
            None => self.by_id.push(new),
        }
        self.fresh.push((NameId::new(id, 0), name.to_string()));
        self.by_name.insert(name, id);
        id
    }

    /// The levels that some member is told apart by.
    #[must_use]
    pub fn levels(&self) -> Levels {
        let members = || {
            let known = self.by_id.iter().flat_map(|of| of.by_id.iter().flatten());
            known.map(|known| &known.member)
        };
        Levels {
            workload: members().any(|member| member.workload.is_some()),
            service: members().any(|member| member.service.is_some()),
            pod: members().any(|member| member.pod.is_some()),
            node: members().any(|member| member.node.is_some()),
            zone: members().any(|member| member.zone.is_some()),
            ..Levels::default()
        }
    }

    /// Takes over an id of the last agent, with the text that it was stored by. Namespaces must
    /// come before their members.
    pub fn resume(&mut self, id: NameId, text: &str) {
        let namespaces = usize::from(id.namespace());
        let Some(place) = namespaces.checked_sub(1) else {
            return;
        };
        let all = self.by_id.len().max(namespaces);
        self.by_id
            .resize_with(all, || Namespace::new(Arc::from(UNKNOWN)));
        let of = &mut self.by_id[place];
        let Some(member) = id.member().checked_sub(1).map(usize::from) else {
            of.name = text.into();
            self.by_name.insert(Arc::clone(&of.name), id.namespace());
            return;
        };
        // The numbers in between were free.
        let between = of.by_id.len() + 1..=member;
        of.free
            .extend(between.filter_map(|n| u16::try_from(n).ok()));
        let all = of.by_id.len().max(member + 1);
        of.by_id.resize_with(all, || None);
        if let Ok(known) = serde_json::from_str::<Member>(text) {
            let known = Arc::new(known);
            of.by_member.insert(Arc::clone(&known), id.member());
            self.given += usize::from(!known.is_reduced());
            of.by_id[member] = Some(Known {
                member: known,
                alive: Instant::now(),
            });
        }
    }

    /// Passes new ids to `keep`, as the text that [`Self::resume`] reads.
    ///
    /// # Errors
    /// The error of `keep`. An id that it did not take is passed again next time.
    pub fn remember(
        &mut self,
        mut keep: impl FnMut(NameId, &str) -> io::Result<()>,
    ) -> io::Result<()> {
        while let Some((id, text)) = self.fresh.last() {
            keep(*id, text)?;
            self.fresh.pop();
        }
        Ok(())
    }

    /// Passes ids of members to `forget` that nobody has any more, so that the next agent does not
    /// take them over: they would count among those in use until it releases them.
    ///
    /// # Errors
    /// The error of `forget`. An id that it did not take is passed again next time.
    pub fn forget(&mut self, mut forget: impl FnMut(NameId) -> io::Result<()>) -> io::Result<()> {
        while let Some(id) = self.stale.last().copied() {
            // An id that was given again has another meaning.
            if self.who(id).is_none() {
                forget(id)?;
            }
            self.stale.pop();
        }
        Ok(())
    }

    /// The id of a member, if it has one or one is left. Otherwise the id of its namespace.
    pub fn member(&mut self, namespace: &str, member: Option<&Member>, top: u16) -> NameId {
        let id = self.namespace(namespace);
        let whole = NameId::new(id, 0);
        let (Some(member), Some(of)) = (member, self.of(id)) else {
            return whole;
        };
        if let Some(known) = of.by_member.get(member).copied() {
            of.touch(known, Instant::now());
            return NameId::new(id, known);
        }
        if self.given >= usize::from(top) {
            // With `top` 0 it is not known yet which members are to have ids.
            self.overflown |= top > 0;
            return whole;
        }
        let Some(number) = self.give(id, member.clone()) else {
            self.overflown = true;
            return whole;
        };
        self.given += 1;
        number
    }

    fn give(&mut self, namespace: u16, member: Member) -> Option<NameId> {
        let text = serde_json::to_string(&member).unwrap_or_default();
        let number = self.of(namespace)?.give(&Arc::new(member))?;
        let id = NameId::new(namespace, number);
        self.fresh.push((id, text));
        Some(id)
    }

    /// True if a member ever had no id of its own because none was left.
    #[must_use]
    pub fn is_overflown(&self) -> bool {
        self.overflown
    }

    /// True if a member has an id of its own.
    #[must_use]
    pub fn is_told_apart(&self, namespace: &str, member: &Member) -> bool {
        let id = self.by_name.get(namespace);
        let of = id.and_then(|id| self.by_id.get(usize::from(*id) - 1));
        of.is_some_and(|of| of.by_member.contains_key(member))
    }

    /// The name of a namespace. None: no namespace has this number.
    #[must_use]
    pub fn name(&self, namespace: u16) -> Option<Arc<str>> {
        let of = self.by_id.get(usize::from(namespace.checked_sub(1)?))?;
        Some(Arc::clone(&of.name))
    }

    /// The member with this id. None: the id stands for the namespace as a whole.
    #[must_use]
    pub fn who(&self, id: NameId) -> Option<Arc<Member>> {
        let of = self
            .by_id
            .get(usize::from(id.namespace().checked_sub(1)?))?;
        Some(Arc::clone(&of.known(id.member())?.member))
    }

    fn of(&mut self, namespace: u16) -> Option<&mut Namespace> {
        self.by_id.get_mut(usize::from(namespace.checked_sub(1)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(name: &str) -> Member {
        Member {
            workload: Some(name.into()),
            ..Member::default()
        }
    }

    #[test]
    fn members_keep_their_numbers_and_the_rest_shares_the_namespaces() {
        let mut ids = Ids::default();
        let first = ids.member("a", Some(&workload("web")), 2);
        let second = ids.member("b", Some(&workload("web")), 2);
        assert_ne!(first, second);
        assert_eq!(ids.member("a", Some(&workload("db")), 2), NameId::new(1, 0));
        assert_eq!(ids.member("a", Some(&workload("web")), 2), first);
        assert_eq!(ids.member("a", None, 2), NameId::new(1, 0));
        assert_eq!(ids.who(first).as_deref(), Some(&workload("web")));
        assert_eq!(ids.who(NameId::new(1, 0)), None);
        assert_eq!(ids.who(NameId::new(9, 1)), None);
        assert_eq!(ids.name(2).as_deref(), Some("b"));
        assert!(ids.is_told_apart("b", &workload("web")));
        assert!(!ids.is_told_apart("b", &workload("db")));
    }

    #[test]
    fn pods_are_told_apart_here_only() {
        let levels = Levels {
            pod: true,
            ..Levels::default()
        };
        let name = Name {
            pod: Some("web-1".into()),
            workload: Some("web".into()),
            ..Name::default()
        };
        let place = Place::default;
        assert_eq!(levels.member(&name, false, place()), None);
        let here = levels.member(&name, true, place()).expect("a pod");
        assert_eq!((here.pod.as_deref(), here.workload), (Some("web-1"), None));
        assert_eq!(Levels::default().member(&name, true, place()), None);
    }
}
