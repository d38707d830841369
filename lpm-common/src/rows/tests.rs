//! Rows are assigned, and flows find theirs.

use core::cell::RefCell;

use super::*;
use crate::{
    hash::SEEDS,
    host::{Model, Settings},
    layout::{Methods, PeerKind},
};

/// Eight rows; those from row 6 on are for whole namespaces.
#[derive(Default)]
struct Eight {
    control: Control,
    labels: [AtomicU64; 8],
    full: bool,
    bound: RefCell<[(u64, u32); 8]>,
}

impl Slots for Eight {
    fn rows(&self) -> u32 {
        8
    }

    fn control(&self) -> Option<&Control> {
        Some(&self.control)
    }

    fn label(&self, row: u32) -> Option<&AtomicU64> {
        self.labels.get(row as usize)
    }

    fn bind(&self, pair: PairKey, row: u32) -> bool {
        self.bound.borrow_mut()[row as usize] = (pair.0, row);
        !self.full
    }
}

/// A pair of a namespace, or of a member of it.
fn pair(namespace: u16, member: u16) -> PairKey {
    let local = NameValue::new(NameId::new(namespace, member), PeerKind::Pod);
    PairKey::new(Vantage::Pod as u8, local, local)
}

#[test]
fn what_is_free_again_is_given_first() {
    let eight = Eight::default();
    assert_eq!(give(pair(1, 1), &eight), Some(1));
    assert_eq!(give(pair(1, 0), &eight), Some(2));
    assert_eq!(give(pair(2, 0), &eight), Some(3));
    eight.labels[3].store(PairKey::FREE, Relaxed);
    eight.labels[1].store(PairKey::FREE | 3, Relaxed);
    eight.control.free_row.store(1, Relaxed);
    assert_eq!(give(pair(3, 1), &eight), Some(1));
    assert_eq!(eight.labels[1].load(Relaxed), pair(3, 1).0);
    assert_eq!(give(pair(4, 1), &eight), Some(3));
    assert_eq!(eight.control.free_row.load(Relaxed), 0);
    assert_eq!(give(pair(5, 1), &eight), Some(4));
}

#[test]
fn free_ones_that_namespaces_need_are_left_to_them() {
    let eight = Eight::default();
    eight.control.next_row.store(8, Relaxed);
    eight.labels[6].store(PairKey::FREE, Relaxed);
    eight.control.free_row.store(6, Relaxed);
    assert_eq!(give(pair(1, 1), &eight), None);
    assert_eq!(give(pair(1, 0), &eight), Some(6));
    assert_eq!(give(pair(2, 0), &eight), None);
}

#[test]
fn a_row_that_cannot_be_found_stays_free() {
    let eight = Eight {
        full: true,
        ..Eight::default()
    };
    eight.control.next_row.store(4, Relaxed);
    eight.labels[2].store(PairKey::FREE | 3, Relaxed);
    eight.control.free_row.store(2, Relaxed);
    assert_eq!(give(pair(1, 0), &eight), None);
    assert_eq!(eight.labels[2].load(Relaxed), PairKey::FREE | 3);
    assert_eq!(eight.control.free_row.load(Relaxed), 2);
    eight.control.free_row.store(0, Relaxed);
    assert_eq!(give(pair(1, 0), &eight), None);
    assert_eq!(eight.control.next_row.load(Relaxed), 4);
}

#[test]
fn a_flow_to_a_service_is_counted_for_whom_is_behind_it() {
    let mut model = Model::new(Settings {
        flow_entries: 4,
        rows: 8,
        seeds: [1; SEEDS],
        hz: 250,
        query_entries: 4,
        idle_seconds: 60,
        methods: Methods::DEFAULT,
    });
    let (pod, service) = ([0, 0, 0xffff_0000, 1], [0, 0, 0xffff_0000, 2]);
    let name = |id, kind| NameValue::new(NameId::new(1, id), kind);
    model.names.insert(pod, name(0, PeerKind::Pod));
    let stands = NameValue {
        stands: 1,
        ..name(7, PeerKind::Service)
    };
    model.names.insert(service, stands);
    model.generation = 3;
    let flow = |port, first_seen: u32| {
        let entry = FlowEntry::default();
        entry.cold.set_birth(Vantage::Pod as u8, true);
        for (to, address) in [(&entry.cold.local, pod), (&entry.cold.remote, service)] {
            for (to, word) in to.iter().zip(address) {
                to.store(word, Relaxed);
            }
        }
        entry.cold.local_port.store(port, Relaxed);
        entry.cold.remote_port.store(80, Relaxed);
        entry.cold.first_seen.store(first_seen, Relaxed);
        entry
    };
    let (young, old) = (flow(4000, 0), flow(4000, 250_u32.wrapping_neg()));
    let other = flow(4001, 250_u32.wrapping_neg());
    let remote = |model: &Model, entry: &FlowEntry| {
        let row = of_flow(entry, model, model);
        let label = model.labels[row as usize].load(Relaxed);
        let remote = PairKey(label).remote();
        (remote.id.member(), remote.kind)
    };
    let is = |member, kind: PeerKind| (member, kind as u8);
    for entry in [&young, &old, &other] {
        assert_eq!(remote(&model, entry), is(7, PeerKind::Service));
    }
    assert_eq!(known(&young, &model), None, "it is asked again");
    assert!(known(&old, &model).is_some());
    let key = backend_key((pod, 4000), (service, 80));
    model.backends.insert(key, NameId::new(1, 9));
    assert_eq!(remote(&model, &young), is(9, PeerKind::Service));
    assert!(known(&young, &model).is_some());
    assert_eq!(remote(&model, &old), is(7, PeerKind::Service));
    model.generation = 4;
    assert_eq!(remote(&model, &old), is(9, PeerKind::Service));
    assert_eq!(remote(&model, &other), is(7, PeerKind::Service));
    // An address that stands for itself is not looked for.
    model.names.insert(service, name(7, PeerKind::Service));
    model.generation = 5;
    assert_eq!(remote(&model, &old), is(7, PeerKind::Service));
}
