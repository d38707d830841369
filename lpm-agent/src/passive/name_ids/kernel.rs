//! The names in the kernel's map, and those that found no room there.

use std::{collections::BTreeMap, io};

use lpm_common::layout::{NameKey, NameValue, PeerKind};

use crate::kernel::maps::NameMaps;

/// Prefix length and address, as map `NAMES` has them.
pub(super) type Key = (u32, [u8; 16]);

/// Keys and values of map `NAMES`.
pub(super) type Ranges = BTreeMap<Key, NameValue>;

/// The names in the kernel.
///
/// An address whose own name found no room would get the name of a range around it. Within pod
/// ranges that is right: the owner of such an address is unknown. But an address of the cluster
/// would be counted as `internet`. So while any name has no room, ranges outside of the cluster
/// have none either.
#[derive(Debug, Default)]
pub(super) struct InKernel {
    here: Ranges,
    /// Names that have no room.
    waiting: Ranges,
    /// Number of times that a name found no room.
    refused: u64,
}

impl InKernel {
    /// Starts with the names that the last agent left there.
    pub(super) fn resume(&mut self, left: Ranges) {
        self.here = left;
    }

    /// The names in the kernel.
    pub(super) fn here(&self) -> &Ranges {
        &self.here
    }

    /// Number of names, with or without room.
    pub(super) fn wanted(&self) -> usize {
        self.here.len() + self.waiting.len()
    }

    /// Number of times that a name found no room.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Replaces all names. Returns whether the kernel has anything new.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub(super) fn replace(&mut self, tables: &dyn NameMaps, wanted: &Ranges) -> io::Result<bool> {
        let all = self.here.keys().chain(self.waiting.keys());
        let gone: Vec<Key> = all
            .filter(|key| !wanted.contains_key(*key))
            .copied()
            .collect();
        let gone = gone.into_iter().map(|key| (key, None));
        let wanted = wanted.iter().map(|(key, value)| (*key, Some(*value)));
        self.change(tables, gone.chain(wanted))
    }

    /// Applies changes of names. None: the range has no name any more. Returns whether the kernel
    /// has anything new.
    ///
    /// # Errors
    /// The last error of a name that was refused for another reason than want of room. The other
    /// changes are applied nevertheless. A refused range has no name rather than its old one.
    pub(super) fn change(
        &mut self,
        tables: &dyn NameMaps,
        changes: impl IntoIterator<Item = (Key, Option<NameValue>)>,
    ) -> io::Result<bool> {
        let (mut new, mut done) = (false, Ok(()));
        for (key, wanted) in changes {
            let made = match wanted {
                Some(value) => self.set(tables, key, value),
                None => self.remove(tables, key),
            };
            match made {
                Ok(made) => new |= made,
                Err(error) => {
                    new = true;
                    done = Err(error);
                }
            }
        }
        match self.make_room(tables) {
            Ok(made) => done.map(|()| new || made),
            Err(error) => Err(error),
        }
    }

    fn set(&mut self, tables: &dyn NameMaps, key: Key, value: NameValue) -> io::Result<bool> {
        if self.here.get(&key) == Some(&value) {
            return Ok(false);
        }
        if is_outside(value) && self.waits_inside() {
            self.waiting.insert(key, value);
            return self.take_out(tables, key);
        }
        let mut done = tables.set_name(name_key(key), value);
        // The old name is not true any more. And before 6.13 a full trie takes no other value for a
        // key that it holds.
        let took_out = done.is_err() && self.take_out(tables, key)?;
        if took_out {
            done = tables.set_name(name_key(key), value);
        }
        match done {
            Ok(()) => {
                self.waiting.remove(&key);
                self.here.insert(key, value);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                self.refused += 1;
                self.waiting.insert(key, value);
                Ok(took_out)
            }
            Err(error) => Err(error),
        }
    }

    fn remove(&mut self, tables: &dyn NameMaps, key: Key) -> io::Result<bool> {
        self.waiting.remove(&key);
        self.take_out(tables, key)
    }

    /// Removes a name from the kernel. Returns whether there was one.
    fn take_out(&mut self, tables: &dyn NameMaps, key: Key) -> io::Result<bool> {
        if !self.here.contains_key(&key) {
            return Ok(false);
        }
        tables.remove_name(name_key(key))?;
        self.here.remove(&key);
        Ok(true)
    }

    /// Puts in the names that wait, as far as there is room. Names inside of the cluster go first.
    /// Names outside go in only once all of those are in. Returns whether the kernel has anything
    /// new.
    fn make_room(&mut self, tables: &dyn NameMaps) -> io::Result<bool> {
        let mut new = self.put_in_all(tables, |value| !is_outside(value))?;
        if self.waits_inside() {
            new |= self.give_way(tables)?;
            new |= self.put_in_all(tables, |value| !is_outside(value))?;
        }
        if !self.waits_inside() {
            new |= self.put_in_all(tables, is_outside)?;
        }
        Ok(new)
    }

    /// True if a name inside of the cluster has no room.
    fn waits_inside(&self) -> bool {
        self.waiting.values().any(|value| !is_outside(*value))
    }

    /// Puts in these waiting names until there is no room. Returns whether any went in.
    fn put_in_all(
        &mut self,
        tables: &dyn NameMaps,
        which: impl Fn(NameValue) -> bool,
    ) -> io::Result<bool> {
        let waiting = self.waiting.iter().filter(|(_, value)| which(**value));
        let waiting: Vec<(Key, NameValue)> = waiting.map(|(key, value)| (*key, *value)).collect();
        let mut new = false;
        for (key, value) in waiting {
            match tables.set_name(name_key(key), value) {
                Ok(()) => {
                    self.waiting.remove(&key);
                    self.here.insert(key, value);
                    new = true;
                }
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error),
            }
        }
        Ok(new)
    }

    /// Removes the names outside of the cluster, which then wait.
    fn give_way(&mut self, tables: &dyn NameMaps) -> io::Result<bool> {
        let outside = self.here.iter().filter(|(_, value)| is_outside(**value));
        let outside: Vec<(Key, NameValue)> = outside.map(|(key, value)| (*key, *value)).collect();
        for (key, value) in &outside {
            self.take_out(tables, *key)?;
            self.waiting.insert(*key, *value);
        }
        Ok(!outside.is_empty())
    }
}

fn is_outside(value: NameValue) -> bool {
    value.kind == PeerKind::External as u8
}

fn name_key((prefix_len, address): Key) -> NameKey {
    NameKey {
        prefix_len,
        address,
    }
}

#[cfg(test)]
mod tests {
    use lpm_common::layout::NameId;

    use super::*;
    use crate::kernel::maps::memory::Memory;

    const OUTSIDE: Key = (0, [0; 16]);

    fn pod(last: u8) -> Key {
        let mut address = [0; 16];
        address[15] = last;
        (128, address)
    }

    fn value(namespace: u16, kind: PeerKind) -> NameValue {
        NameValue::new(NameId::new(namespace, 0), kind)
    }

    fn is(key: Key, namespace: u16, kind: PeerKind) -> (Key, Option<NameValue>) {
        (key, Some(value(namespace, kind)))
    }

    fn in_kernel(tables: &Memory) -> Vec<(u32, u8, u16)> {
        let names = tables.names.lock().expect("names");
        let mut all: Vec<_> = names
            .iter()
            .map(|(key, value)| (key.prefix_len, key.address[15], value.id.namespace()))
            .collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn without_room_an_address_has_no_name_rather_than_a_wrong_one() {
        let mut tables = Memory::new(4, 2, 1);
        tables.room_for_names = 3;
        let mut kernel = InKernel::default();
        let mut change = |changes: &[(Key, Option<NameValue>)]| {
            let new = kernel.change(&tables, changes.iter().copied());
            let new = new.expect("change");
            (new, in_kernel(&tables), kernel.refused())
        };
        let outside = is(OUTSIDE, 9, PeerKind::External);
        let first = change(&[outside, is(pod(1), 1, PeerKind::Pod)]);
        assert_eq!(first, (true, vec![(0, 0, 9), (128, 1, 1)], 0));
        // The fourth name fills the map, so the one outside gives way.
        let full = change(&[is(pod(2), 2, PeerKind::Pod), is(pod(3), 3, PeerKind::Pod)]);
        let pods = vec![(128, 1, 1), (128, 2, 2), (128, 3, 3)];
        assert_eq!(full, (true, pods.clone(), 1));
        // One more name has no room. The one outside stays out, though it is reported again.
        let more = change(&[is(pod(4), 4, PeerKind::Pod), outside]);
        assert_eq!(more, (false, pods, 2));
        assert!(!change(&[]).0, "nothing has changed");
        // One address changes owners. A kernel may refuse that if it has no room for both.
        let renamed = change(&[is(pod(3), 5, PeerKind::Pod)]);
        let pods = vec![(128, 1, 1), (128, 2, 2), (128, 3, 5)];
        assert_eq!(renamed, (true, pods, 2));
        // One name goes, and the one that waits comes in. The one outside comes in only after the
        // next.
        let less = change(&[(pod(1), None)]);
        assert_eq!(less.1, [(128, 2, 2), (128, 3, 5), (128, 4, 4)]);
        let less = change(&[(pod(2), None)]);
        assert_eq!(less.1, [(0, 0, 9), (128, 3, 5), (128, 4, 4)]);
        assert_eq!(kernel.wanted(), 3);
    }

    #[test]
    fn all_are_replaced() {
        let tables = Memory::new(4, 2, 1);
        let mut kernel = InKernel::default();
        let wanted = |namespaces: &[(u8, u16)]| -> Ranges {
            let all = namespaces.iter();
            all.map(|(last, namespace)| (pod(*last), value(*namespace, PeerKind::Pod)))
                .collect()
        };
        let mut replace = |names: &[(u8, u16)]| {
            let new = kernel.replace(&tables, &wanted(names)).expect("replace");
            (new, in_kernel(&tables))
        };
        assert_eq!(replace(&[(1, 1), (2, 2)]).1, [(128, 1, 1), (128, 2, 2)]);
        assert!(!replace(&[(1, 1), (2, 2)]).0, "nothing new");
        assert_eq!(replace(&[(2, 3)]), (true, vec![(128, 2, 3)]));
    }
}
