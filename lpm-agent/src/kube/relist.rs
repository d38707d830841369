//! Turns the events of a watch, and of its relists, into objects that exist and objects that are
//! gone.

use std::collections::HashSet;

use super::uid_of;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// An event of a watch.
#[derive(Clone, Debug)]
pub enum Event<K> {
    /// A list of all objects begins.
    Init,
    /// An object of the list.
    InitApply(K),
    /// The list is complete.
    InitDone,
    /// An object is new, or has changed.
    Apply(K),
    /// An object is gone. Its last state.
    Delete(K),
}

/// State of one kind of object. After a watch was lost for too long, all objects are relisted.
/// Until the list is complete the known ones stay. Then those that are not in the list are gone.
#[derive(Debug, Default)]
pub(crate) struct Relist {
    /// Objects of the list so far, while one is being read.
    listing: Option<HashSet<u128>>,
    /// True: a list has been read to its end.
    pub(crate) synced: bool,
}

/// The action that an event requires.
#[derive(Debug, PartialEq)]
pub(crate) enum Step<K> {
    /// Apply the current state of an object.
    Apply(u128, K),
    /// Remove an object that is gone.
    Remove(u128),
    /// Remove all objects that are not among these.
    Keep(HashSet<u128>),
    /// Do nothing.
    Nothing,
}

impl Relist {
    pub(crate) fn step<K>(&mut self, event: Event<K>, meta: fn(&K) -> &ObjectMeta) -> Step<K> {
        match event {
            Event::Init => {
                self.listing = Some(HashSet::new());
                Step::Nothing
            }
            Event::InitApply(object) => {
                let uid = uid_of(meta(&object));
                self.listing.get_or_insert_default().insert(uid);
                Step::Apply(uid, object)
            }
            Event::InitDone => {
                self.synced = true;
                Step::Keep(self.listing.take().unwrap_or_default())
            }
            Event::Apply(object) => Step::Apply(uid_of(meta(&object)), object),
            Event::Delete(object) => Step::Remove(uid_of(meta(&object))),
        }
    }

    /// True while objects come from a list, not in the order in which they changed.
    pub(crate) fn is_listing(&self) -> bool {
        self.listing.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(uid: &str) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.to_owned()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn what_a_new_list_leaves_out_is_gone_when_it_ends() {
        let mut listed = Relist::default();
        let mut step = |event| listed.step(event, |meta: &ObjectMeta| meta);
        step(Event::Init);
        step(Event::InitApply(object("a")));
        // The list broke off, and begins again.
        step(Event::Init);
        step(Event::InitApply(object("b")));
        let kept = step(Event::InitDone);
        let b = uid_of(&object("b"));
        assert_eq!(kept, Step::Keep(HashSet::from([b])));
        assert_eq!(step(Event::Delete(object("b"))), Step::Remove(b));
        assert!(listed.synced && !listed.is_listing());
    }
}
