//! What the kernel has of the names, and what found no room there.

use std::{collections::BTreeMap, io};

use lpm_common::layout::{NameKey, NameValue, PeerKind};

use crate::kernel::maps::NameMaps;

/// Prefix length and address, as map `NAMES` has them.
pub(super) type Key = (u32, [u8; 16]);

/// Keys and values of map `NAMES`.
pub(super) type Ranges = BTreeMap<Key, NameValue>;

/// The names in the kernel.
///
/// An address whose own name found no room would bear that of a range around it. That is right for
/// ranges of pods, where it is unknown whose an address is, but what is inside the cluster would
/// be counted as `internet`: while anything has no room, ranges outside of the cluster have none
/// either.
#[derive(Debug, Default)]
pub(super) struct InKernel {
    here: Ranges,
    /// What has no room.
    waiting: Ranges,
    /// How often something found none.
    refused: u64,
}

impl InKernel {
    /// With what an agent before this one left there.
    pub(super) fn resume(&mut self, left: Ranges) {
        self.here = left;
    }

    /// What is in the kernel.
    pub(super) fn here(&self) -> &Ranges {
        &self.here
    }

    /// Names that there are, with or without room.
    pub(super) fn wanted(&self) -> usize {
        self.here.len() + self.waiting.len()
    }

    /// How often a name found no room.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Makes these all the names. Whether the kernel has anything new.
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

    /// Makes changes; `None`: it has no name any more. Whether the kernel has anything new.
    ///
    /// # Errors
    /// The last of what was refused for another reason than want of room. The other changes are
    /// made nevertheless, and what was refused has no name rather than the one it had.
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
        // What it had is not true any more; and before 6.13 a full trie takes no other value for
        // what is there.
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

    /// Takes a name out of the kernel. Whether there was one.
    fn take_out(&mut self, tables: &dyn NameMaps, key: Key) -> io::Result<bool> {
        if !self.here.contains_key(&key) {
            return Ok(false);
        }
        tables.remove_name(name_key(key))?;
        self.here.remove(&key);
        Ok(true)
    }

    /// Puts in what waits, as far as there is room now: first what is inside of the cluster, and
    /// what is outside only if all of that is in. Whether the kernel has anything new.
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

    /// Something inside of the cluster has no room.
    fn waits_inside(&self) -> bool {
        self.waiting.values().any(|value| !is_outside(*value))
    }

    /// Those that wait, until there is no room. Whether there was for any.
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

    /// What is outside of the cluster waits.
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
        // With the fourth it is full: what is outside gives way.
        let full = change(&[is(pod(2), 2, PeerKind::Pod), is(pod(3), 3, PeerKind::Pod)]);
        let pods = vec![(128, 1, 1), (128, 2, 2), (128, 3, 3)];
        assert_eq!(full, (true, pods.clone(), 1));
        // One more has none, and what is outside stays out, though it is told of again.
        let more = change(&[is(pod(4), 4, PeerKind::Pod), outside]);
        assert_eq!(more, (false, pods, 2));
        assert!(!change(&[]).0, "nothing has changed");
        // One changes hands, as a kernel may refuse that has no room for both.
        let renamed = change(&[is(pod(3), 5, PeerKind::Pod)]);
        let pods = vec![(128, 1, 1), (128, 2, 2), (128, 3, 5)];
        assert_eq!(renamed, (true, pods, 2));
        // One goes: the one that waits comes in, and only with the next what is outside.
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
