//! Tests of round trips by node and zone, with maps in memory.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    identity::{Levels, Name, Registry, labels::Chosen, merge::Delta, names_file::Kind},
    kernel::maps::memory::Memory,
    passive::{NameIds, model::tests::observe},
};

const BOTH: Levels = Levels {
    workload: false,
    service: false,
    pod: false,
    node: true,
    zone: true,
    top: 100,
};

/// An agent on node `n1`, over maps that outlive it.
struct Bench {
    model: Model,
    tables: Arc<Memory>,
}

fn maps() -> Arc<Memory> {
    let tables = Arc::new(Memory::new(8, 32, 2));
    tables.control.next_row.store(1, Ordering::Relaxed);
    tables.control.clock_ktime_ns.store(1, Ordering::Relaxed);
    tables
}

impl Bench {
    fn new(levels: Levels, tables: &Arc<Memory>) -> Self {
        let registry = Registry::on_node(Some("n1".into()), Chosen::default());
        let ids = NameIds::new(levels, Arc::new(registry));
        ids.resume(&**tables).expect("resume");
        let idle = Duration::from_secs(30);
        let model = Model::new(Arc::clone(tables) as _, Arc::new(ids), idle);
        let model = model.expect("a model");
        model.begin_levels().expect("begin");
        Self {
            model,
            tables: Arc::clone(tables),
        }
    }

    fn change(&self, n: u8, name: Option<Name>) {
        let change: Delta = (IpAddr::from([198, 18, 0, n]).into(), name.map(Arc::new));
        self.model.registry().apply(std::slice::from_ref(&change));
        let ids = self.model.ids();
        ids.follow(&*self.tables, &[change]).expect("follow");
    }

    /// Gives `198.18.0.n` to a pod of this namespace on this node.
    fn pod(&self, n: u8, namespace: &str, node: Option<&str>) {
        let name = Name {
            namespace: Some(namespace.into()),
            workload: Some("web".into()),
            node: node.map(Into::into),
            ..Name::default()
        };
        self.change(n, Some(name));
    }

    /// Gives `198.18.0.n` to a node.
    fn node(&self, n: u8, node: &str) {
        let name = Name {
            kind: Kind::Node,
            namespace: Some("host".into()),
            node: Some(node.into()),
            ..Name::default()
        };
        self.change(n, Some(name));
    }

    fn gone(&self, n: u8) {
        self.change(n, None);
    }

    /// Sets the nodes' zones, as the housekeeping thread does.
    fn zones(&self, zones: &[(&str, &str)]) {
        let zones = zones
            .iter()
            .map(|(node, zone)| ((*node).into(), (*zone).into()));
        self.model.registry().set_zones(zones.collect());
        let followed = self.model.ids().follow(&*self.tables, &[]);
        followed.expect("follow");
    }

    fn value(&self, n: u8) -> NameValue {
        let names = self.tables.names.lock().expect("names");
        let found = names.iter().find(|(key, _)| key.address[15] == n);
        found.map_or(NameValue::default(), |found| NameValue {
            kind: found.1.kind,
            ..found.1
        })
    }

    /// Counts a round trip between two addresses as the kernel does.
    fn talk(&self, local: u8, remote: u8) {
        let external = NameValue {
            kind: PeerKind::External as u8,
            ..NameValue::default()
        };
        let ends = [local, remote].map(|n| match self.value(n) {
            of if of.kind == 0 => external,
            of => of,
        });
        let pod = lpm_common::layout::Vantage::Pod as u8;
        self.count(PairKey::new(pod, ends[0], ends[1]));
    }

    fn count(&self, pair: PairKey) {
        let control = &self.tables.control;
        let free = control.free_row.load(Ordering::Relaxed) as usize;
        let rows = 1..control.next_row.load(Ordering::Relaxed) as usize;
        let label = |row: usize| self.tables.rows[row].pair.load(Ordering::Relaxed);
        let known = rows.into_iter().find(|row| label(*row) == pair.0);
        let row = known.unwrap_or_else(|| {
            if free == 0 {
                return control.next_row.fetch_add(1, Ordering::Relaxed) as usize;
            }
            let next = u32::try_from(label(free) & 0xffff).expect("a row");
            control.free_row.store(next, Ordering::Relaxed);
            free
        });
        self.tables.rows[row].pair.store(pair.0, Ordering::Relaxed);
        observe(&self.tables, row, Leg::Remote, Echo::Prompt as usize, 1000);
    }

    /// Runs the passes of housekeeping: names that are not there now are gone.
    fn look(&self) {
        for _ in 0..5 {
            self.model.recycle(Instant::now()).expect("recycle");
        }
    }

    fn nodes(&self) -> BTreeMap<String, u64> {
        let nodes = self.model.rtt().places.nodes.into_iter();
        let text = |of: &NodeLabels| format!("{}>{}", of.node, of.peer_node);
        nodes.map(|((of, ..), n)| (text(&of), n.count())).collect()
    }

    fn zones_are(&self) -> BTreeMap<String, u64> {
        let zones = self.model.rtt().places.zones.into_iter();
        let text = |of: &ZoneLabels| format!("{}>{}", of.zone, of.peer_zone);
        zones.map(|((of, ..), n)| (text(&of), n.count())).collect()
    }
}

fn all(wanted: &[(&str, u64)]) -> BTreeMap<String, u64> {
    let wanted = wanted.iter();
    wanted.map(|(of, n)| ((*of).to_owned(), *n)).collect()
}

/// Three nodes in two zones; on `n2` and `n3` are pods of the namespaces `a` and `b`.
fn cluster(bench: &Bench) {
    bench.zones(&[("n1", "west"), ("n2", "west"), ("n3", "east")]);
    bench.pod(1, "shop", Some("n1"));
    bench.pod(2, "a", Some("n2"));
    bench.pod(3, "b", Some("n2"));
    bench.pod(4, "a", Some("n3"));
}

#[test]
fn namespaces_are_summed_up_by_node_and_by_zone() {
    let bench = Bench::new(BOTH, &maps());
    cluster(&bench);
    bench.node(9, "n3");
    bench.pod(5, "a", None);
    for remote in [1, 2, 3, 4, 9, 5] {
        bench.talk(1, remote);
    }
    // An address outside of the cluster has no node.
    bench.talk(1, 200);
    let nodes = [("n1>n1", 1), ("n1>n2", 2), ("n1>n3", 2), ("n1>unknown", 1)];
    assert_eq!(bench.nodes(), all(&nodes));
    let zones = [("west>west", 3), ("west>east", 2), ("west>unknown", 1)];
    assert_eq!(bench.zones_are(), all(&zones));
    // What found no row of its own, and what other vantages count, too.
    let [one, two] = [1, 2].map(|n| bench.value(n));
    let pair = |vantage| PairKey::new(vantage as u8, one, two);
    bench.count(pair(lpm_common::layout::Vantage::Pod).whole());
    bench.count(pair(lpm_common::layout::Vantage::Nic));
    observe(&bench.tables, 0, Leg::Remote, Echo::Prompt as usize, 1000);
    assert_eq!(bench.nodes()["n1>overflow"], 2);
    assert_eq!(bench.zones_are()["overflow>overflow"], 2);
    assert_eq!(bench.nodes().values().sum::<u64>(), 8);
    let found = bench.model.rtt();
    let namespaces: u64 = found.by_labels.values().map(Counts::count).sum();
    assert_eq!(namespaces, 9, "with the one outside of the cluster");
}

#[test]
fn series_outlive_namespaces_and_end_with_the_node() {
    let tables = maps();
    let bench = Bench::new(BOTH, &tables);
    cluster(&bench);
    for remote in [2, 3, 3, 4] {
        bench.talk(1, remote);
    }
    let nodes = [("n1>n2", 3), ("n1>n3", 1)];
    let zones = [("west>west", 3), ("west>east", 1)];
    let is = |bench: &Bench, namespaces: usize| {
        assert_eq!(bench.nodes(), all(&nodes));
        assert_eq!(bench.zones_are(), all(&zones));
        assert_eq!(bench.model.rtt().by_labels.len(), namespaces);
    };
    is(&bench, 2);
    // Namespace `b` is gone, then the local one. The node still has a pod, then an address only.
    bench.gone(3);
    bench.look();
    is(&bench, 1);
    bench.node(9, "n2");
    bench.gone(1);
    bench.look();
    is(&bench, 0);
    let rows = bench.tables.control.next_row.load(Ordering::Relaxed);
    let used = (1..rows as usize).filter(|row| {
        let label = bench.tables.rows[*row].pair.load(Ordering::Relaxed);
        label & PairKey::FREE == 0
    });
    assert_eq!(used.count(), 2, "a row for each node, and no more");
    // The next agent goes on with them, and they count with what is new.
    drop(bench);
    let bench = Bench::new(BOTH, &tables);
    is(&bench, 0);
    cluster(&bench);
    bench.node(9, "n2");
    bench.look();
    is(&bench, 0);
    bench.talk(1, 3);
    assert_eq!(bench.nodes(), all(&[("n1>n2", 4), ("n1>n3", 1)]));
    // The node goes, with its pods: the pair's series ends. Its zone has another node.
    for n in [2, 3, 9] {
        bench.gone(n);
    }
    bench.look();
    assert_eq!(bench.nodes(), all(&[("n1>n3", 1)]));
    assert_eq!(
        bench.zones_are(),
        all(&[("west>west", 4), ("west>east", 1)])
    );
    // It comes again, and begins at zero.
    bench.pod(2, "a", Some("n2"));
    bench.talk(1, 2);
    assert_eq!(bench.nodes(), all(&[("n1>n2", 1), ("n1>n3", 1)]));
    assert_eq!(
        bench.zones_are(),
        all(&[("west>west", 5), ("west>east", 1)])
    );
}

#[test]
fn a_node_in_another_zone_begins_another_series() {
    let bench = Bench::new(BOTH, &maps());
    cluster(&bench);
    bench.talk(1, 2);
    bench.talk(1, 4);
    let generation = bench.model.generation();
    bench.zones(&[("n1", "west"), ("n2", "north"), ("n3", "east")]);
    assert_ne!(bench.model.generation(), generation, "flows look again");
    bench.talk(1, 2);
    let zones = [("west>west", 1), ("west>north", 1), ("west>east", 1)];
    assert_eq!(bench.zones_are(), all(&zones));
    assert_eq!(bench.nodes(), all(&[("n1>n2", 2), ("n1>n3", 1)]));
    // This node moves. What was counted before stays where it was, until the old zone is gone.
    bench.zones(&[("n1", "south"), ("n2", "north"), ("n3", "east")]);
    assert_eq!(bench.zones_are(), all(&zones));
    bench.talk(1, 2);
    bench.look();
    assert_eq!(bench.zones_are(), all(&[("south>north", 1)]));
    assert_eq!(bench.nodes(), all(&[("n1>n2", 3), ("n1>n3", 1)]));
    // Without a label the zone is unknown, which is no zone's name by default.
    bench.zones(&[("n1", "south")]);
    bench.talk(1, 2);
    assert_eq!(bench.zones_are()["south>unknown"], 1);
}

#[test]
fn what_was_counted_before_the_level_is_not_in_it() {
    let tables = maps();
    let bench = Bench::new(Levels::default(), &tables);
    cluster(&bench);
    bench.talk(1, 2);
    assert_eq!(bench.nodes(), all(&[]), "the level is off");
    drop(bench);
    let bench = Bench::new(BOTH, &tables);
    cluster(&bench);
    assert_eq!(bench.nodes(), all(&[]));
    bench.talk(1, 2);
    assert_eq!(bench.nodes(), all(&[("n1>n2", 1)]));
    assert_eq!(bench.zones_are(), all(&[("west>west", 1)]));
    let namespaces = bench.model.rtt().by_labels;
    let counts: u64 = namespaces.values().map(Counts::count).sum();
    assert_eq!(counts, 2, "the namespaces have both");
}

#[test]
fn nodes_beyond_the_cap_share_one_series() {
    let levels = Levels { top: 2, ..BOTH };
    let bench = Bench::new(levels, &maps());
    cluster(&bench);
    for remote in [2, 3, 4] {
        bench.talk(1, remote);
    }
    let nodes = bench.nodes();
    assert_eq!(nodes.values().sum::<u64>(), 3, "{nodes:?}");
    assert!(nodes.contains_key("n1>overflow"), "{nodes:?}");
}

/// Nobody can hide round trips by the name of the namespace for what is gone.
#[test]
fn a_namespace_with_the_reserved_name_has_none() {
    let bench = Bench::new(BOTH, &maps());
    cluster(&bench);
    bench.pod(7, crate::identity::GONE_NAMESPACE, Some("n2"));
    bench.talk(1, 7);
    let labels: Vec<_> = bench.model.rtt().by_labels.into_keys().collect();
    assert_eq!(labels.len(), 1, "{labels:?}");
    assert_eq!(&*labels[0].0.peer_namespace, "");
    assert_eq!(bench.nodes(), all(&[("n1>unknown", 1)]));
}
