//! How much an agent may say: an impostor at a node's address may send any number of names.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::Line;
use crate::{identity::Name, text::LONGEST_NAME};

/// Most names of one node. A node has some hundred pods with two addresses each.
pub(super) const OF_NODE: Size = Size {
    names: 2048,
    bytes: 2 << 20,
};

/// Most names of all nodes together: half of the kernel's map of names, and a third of the memory
/// that the chart gives the agent.
pub(super) const IN_ALL: Size = Size {
    names: 1 << 17,
    bytes: 64 << 20,
};

/// Most labels of a name (`identity.kubernetes.labels`).
const LABELS: usize = 20;

/// Most bytes of a label's key: a prefix, a slash and 63 bytes.
const LABEL: usize = LONGEST_NAME + 64;

/// Number and size of names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) names: usize,
    /// Bytes of the names' texts.
    pub(super) bytes: usize,
}

impl Size {
    /// True if a name of this many bytes fits in addition.
    pub(super) fn has_room(self, bytes: usize, most: Self) -> bool {
        self.names < most.names && self.bytes + bytes <= most.bytes
    }

    /// Adds another size.
    pub(super) fn with(self, other: Self) -> Self {
        Self {
            names: self.names + other.names,
            bytes: self.bytes + other.bytes,
        }
    }

    /// Returns the size after a part of it has changed from `before` to `after`.
    pub(super) fn moved(self, before: Self, after: Self) -> Self {
        Self {
            names: self.names + after.names - before.names,
            bytes: self.bytes + after.bytes - before.bytes,
        }
    }
}

/// What one agent says: names of its node's pods.
#[derive(Debug, Default)]
pub(super) struct Names {
    all: BTreeMap<IpAddr, Arc<Name>>,
    bytes: usize,
}

impl Names {
    pub(super) fn insert(&mut self, address: IpAddr, name: Arc<Name>) -> Option<Arc<Name>> {
        let before = self.remove(address);
        self.bytes += bytes(&name);
        self.all.insert(address, name);
        before
    }

    pub(super) fn remove(&mut self, address: IpAddr) -> Option<Arc<Name>> {
        let before = self.all.remove(&address)?;
        self.bytes -= bytes(&before);
        Some(before)
    }

    /// True if a name of this many bytes fits, in place of the address's own.
    pub(super) fn has_room(&self, address: IpAddr, more: usize, most: Size) -> bool {
        let own = self.get(address).map_or(0, |name| bytes(name));
        let without = Size {
            names: self.all.len() - usize::from(self.get(address).is_some()),
            bytes: self.bytes - own,
        };
        without.has_room(more, most)
    }

    pub(super) fn get(&self, address: IpAddr) -> Option<&Arc<Name>> {
        self.all.get(&address)
    }

    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.all.keys().copied().collect()
    }

    pub(super) fn size(&self) -> Size {
        Size {
            names: self.all.len(),
            bytes: self.bytes,
        }
    }
}

/// Bytes of a name's texts.
pub(super) fn bytes(name: &Name) -> usize {
    let labels = name.labels.iter();
    let labels = labels.map(|(key, value)| key.len() + value.len());
    texts(name).map(str::len).sum::<usize>() + labels.sum::<usize>()
}

fn texts(name: &Name) -> impl Iterator<Item = &str> {
    let all = [
        &name.namespace,
        &name.pod,
        &name.workload,
        &name.workload_type,
        &name.service,
        &name.node,
        &name.network,
    ];
    all.into_iter().filter_map(|text| text.as_deref())
}

/// True if a text of a name is longer than any in Kubernetes.
fn is_too_long(name: &Name) -> bool {
    let label =
        |(key, value): (&Arc<str>, &Arc<str>)| key.len() > LABEL || value.len() > LONGEST_NAME;
    texts(name).any(|text| text.len() > LONGEST_NAME)
        || name.labels.len() > LABELS
        || name.labels.iter().any(label)
}

/// Why a line is more than an agent may say.
///
/// # Errors
/// The line has too many names, or one with a text that is too long.
pub(super) fn check(line: &Line) -> Result<(), String> {
    let all = line.all.iter().flatten().chain(&line.changed);
    let most = OF_NODE.names;
    let lists = [
        ("names", all.clone().count()),
        ("addresses without a name", line.gone.len()),
        ("addresses that changed owners", line.moved.len()),
    ];
    if let Some((what, count)) = lists.into_iter().find(|(_, count)| *count > most) {
        return Err(format!(
            "a line has {count} {what}, and a node at most {most}"
        ));
    }
    if line.node.len() > LONGEST_NAME {
        return Err(format!("a node's name is longer than {LONGEST_NAME} bytes"));
    }
    match all.into_iter().find(|named| is_too_long(&named.name)) {
        Some(named) => Err(format!(
            "the name of {} has more than {LABELS} labels, or a text of more than {LONGEST_NAME} \
             bytes",
            named.address
        )),
        None => Ok(()),
    }
}
