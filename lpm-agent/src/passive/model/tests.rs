//! Tests of the model, with maps in memory.

use std::{net::IpAddr, path::Path};

use lpm_common::{
    counter::Counter,
    histogram::{SUM_WORD, bucket},
    layout::{NameId, NameValue},
    matcher::state,
    query::{self, Query},
};

use super::*;
use crate::{
    identity::{Levels, PrefixMap, labels::Chosen},
    kernel::{
        blind::Reason,
        maps::{FlowMaps as _, memory::Memory},
    },
    passive::flow::tests::fill,
};

pub(super) const A: u16 = 1;
pub(super) const B: u16 = 2;

pub(super) fn name(namespace: u16, kind: PeerKind, own: u8) -> NameValue {
    NameValue {
        own,
        ..NameValue::new(NameId::new(namespace, 0), kind)
    }
}

/// Maps whose rows have these label sets (row 0 is the overflow row). Each row has one sample of 1
/// ms in its remote leg, echo `prompt`.
pub(crate) fn tables(pairs: &[PairKey]) -> Memory {
    let tables = Memory::new(8, (pairs.len() + 1).next_multiple_of(8), 2);
    for (row, pair) in (1..).zip(pairs) {
        tables.rows[row].pair.store(pair.0, Ordering::Relaxed);
        observe(&tables, row, Leg::Remote, Echo::Prompt as usize, 1_000_000);
    }
    let next = u32::try_from(pairs.len() + 1).expect("few rows");
    tables.control.next_row.store(next, Ordering::Relaxed);
    tables.control.clock_ktime_ns.store(1, Ordering::Relaxed);
    tables
}

/// Counts as the kernel does, in the last stripe.
pub(crate) fn observe(tables: &Memory, row: usize, leg: Leg, echo: usize, ns: u64) {
    let at = place(
        tables.rows.len(),
        tables.stripes() - 1,
        row,
        leg as usize,
        echo,
    );
    let words = &tables.histograms[at].words;
    words[bucket(ns)].fetch_add(1, Ordering::Relaxed);
    words[SUM_WORD].fetch_add(ns, Ordering::Relaxed);
}

/// A model with the namespaces `a` (1) and `b` (2).
pub(crate) fn model(tables: Memory) -> Model {
    let ids = NameIds::default();
    let names = "- {cidr: 198.18.4.0/23, namespace: a}\n- {cidr: 198.18.9.0/24, namespace: b}\n";
    let names = PrefixMap::parse(names, Path::new("names.yaml")).expect("names");
    ids.registry().replace(&names, &[]);
    ids.follow_all(&tables).expect("follow");
    // Ids are given out in the order of the prefixes' lengths.
    assert_eq!(ids.namespace(A).as_deref(), Some("a"));
    model_of(tables, ids)
}

/// A model with these names.
pub(crate) fn model_of(tables: Memory, ids: NameIds) -> Model {
    Model::new(Arc::new(tables), Arc::new(ids), Duration::from_secs(30)).expect("a model")
}

fn labels(namespace: &str, peer_namespace: &str, peer_kind: PeerKind) -> Labels {
    Labels {
        namespace: namespace.into(),
        peer_namespace: peer_namespace.into(),
        peer_kind,
    }
}

#[test]
fn a_flow_is_counted_at_one_vantage() {
    let (a, b) = (name(A, PeerKind::Pod, 0), name(B, PeerKind::Pod, 0));
    let host = name(A, PeerKind::Node, 1);
    let pair = |vantage: Vantage, local| PairKey::new(vantage as u8, local, b);
    let model = model(tables(&[
        pair(Vantage::Pod, a),
        pair(Vantage::Node, a),
        pair(Vantage::Overlay, a),
        pair(Vantage::Bridge, a),
        pair(Vantage::Nic, a),
        pair(Vantage::Nic, host),
    ]));
    let rtt = model.rtt();
    let key = (labels("a", "b", PeerKind::Pod), Leg::Remote, Echo::Prompt);
    assert_eq!(rtt.by_labels.len(), 1, "{rtt:?}");
    assert_eq!(
        rtt.by_labels[&key].count(),
        3,
        "pod, node, and the host's own socket at the NIC"
    );
    assert_eq!(rtt.samples, 6, "all of them are samples");
}

#[test]
fn names_that_are_not_known() {
    let none = name(0, PeerKind::External, 0);
    let (a, pod) = (name(A, PeerKind::Pod, 0), Vantage::Pod as u8);
    let model = model(tables(&[
        PairKey::new(pod, none, a),
        PairKey::new(pod, a, none),
    ]));
    let found: Vec<Labels> = model
        .rtt()
        .by_labels
        .into_keys()
        .map(|(labels, ..)| labels)
        .collect();
    assert_eq!(
        found,
        [
            labels("a", "", PeerKind::External),
            labels(UNKNOWN, "a", PeerKind::Pod)
        ]
    );
}

#[test]
fn what_found_no_row_is_shown_as_overflow() {
    let tables = tables(&[]);
    observe(&tables, 0, Leg::Local, Echo::Data as usize, 5);
    let model = model(tables);
    let rtt = model.rtt().by_labels;
    let (found, leg, echo) = rtt.keys().next().expect("a histogram");
    assert_eq!(
        (&*found.namespace, *leg, *echo),
        (OVERFLOW, Leg::Local, Echo::Data)
    );
    assert_eq!(rtt.len(), 1, "nothing else was measured");
}

#[test]
fn stripes_are_summed_up() {
    let a = name(A, PeerKind::Pod, 0);
    let tables = tables(&[PairKey::new(Vantage::Pod as u8, a, a)]);
    let first = place(
        tables.rows.len(),
        0,
        1,
        Leg::Remote as usize,
        Echo::Prompt as usize,
    );
    tables.histograms[first].words[bucket(1_000_000)].fetch_add(4, Ordering::Relaxed);
    tables.histograms[first].words[SUM_WORD].fetch_add(4_000_000, Ordering::Relaxed);
    let counts = model(tables)
        .rtt()
        .by_labels
        .into_values()
        .next()
        .expect("a histogram");
    assert_eq!(counts.count(), 5);
}

#[test]
fn minima_of_windows_and_of_evicted_flows() {
    let a = name(A, PeerKind::Pod, 0);
    let tables = tables(&[PairKey::new(Vantage::Pod as u8, a, a)]);
    observe(&tables, 1, Leg::Remote, MINIMA, 2_000_000);
    fill(&tables.flows[2], 5, 1);
    tables.flows[2].row.store(1, Ordering::Relaxed);
    tables.flows[2].slots[0]
        .window_min
        .store(1000, Ordering::Relaxed);
    let model = model(tables);
    let key = (labels("a", "a", PeerKind::Pod), Leg::Remote);
    assert_eq!(
        model.flow_rtt()[&key].count(),
        1,
        "the window has not ended"
    );
    model.end_window().expect("end the window");
    assert_eq!(model.flow_rtt()[&key].count(), 2);
}

fn totals(model: &Model, counters: &[u64; COUNTERS]) -> (u64, u64) {
    let clock = model.clock().expect("clocks");
    let Sweep { packets, bytes, .. } = model.sweep(&clock, counters);
    (packets, bytes)
}

#[test]
fn totals_never_go_back() {
    let tables = tables(&[]);
    fill(&tables.flows[2], 5, 1);
    for (way, packets, bytes) in [(0, 10, 0), (1, 0, 700)] {
        let traffic = Traffic { packets, bytes };
        tables.flows[2].hot[way]
            .traffic
            .store(traffic.pack(), Ordering::Relaxed);
    }
    let model = model(tables);
    let mut counters = model.counters().expect("counters");
    assert_eq!(totals(&model, &counters), (10, 700));
    // The flow is evicted, and what it counted has not arrived yet.
    model
        .tables()
        .flow(2)
        .expect("an entry")
        .fingerprint
        .store(0, Ordering::Relaxed);
    assert_eq!(totals(&model, &counters), (10, 700));
    counters[Counter::EvictedPackets as usize] = 12;
    assert_eq!(totals(&model, &counters), (12, 700));
}

#[test]
fn a_link_that_goes_takes_its_flows_but_no_count() {
    let tables = tables(&[]);
    fill(&tables.flows[2], 5, 1);
    let traffic = Traffic {
        packets: 10,
        bytes: 0,
    };
    tables.flows[2].hot[0]
        .traffic
        .store(traffic.pack(), Ordering::Relaxed);
    let model = model(tables);
    let link = Link {
        name: "va".to_owned(),
        vantage: Vantage::Pod,
        mode: "tcx",
    };
    model.link_attached(7, link);
    assert_eq!(model.link_detached(7).expect("detach"), 1);
    assert!(model.links().is_empty());
    let counters = model.counters().expect("counters");
    assert_eq!(totals(&model, &counters), (10, 0));
    let clock = model.clock().expect("clocks");
    assert!(model.flows(&clock).is_empty());
}

/// A level is summed over what it does not tell apart. What lost its row shows as overflow.
#[test]
fn levels_tell_apart_within_namespaces() {
    let levels = Levels {
        workload: true,
        service: true,
        pod: true,
        top: 100,
        ..Levels::default()
    };
    let ids = NameIds::new(levels, Arc::default());
    let empty = tables(&[]);
    let names = "- {address: 198.18.4.1, namespace: a, workload: web, pod: web-1}\n\
                 - {address: 198.18.9.1, namespace: b, workload: db}\n\
                 - {address: 198.18.9.9, namespace: b, service: db}\n";
    let names = PrefixMap::parse(names, Path::new("names.yaml")).expect("names");
    ids.registry().replace(&names, &[]);
    ids.follow_all(&empty).expect("follow");
    let put = |last: [u8; 4]| {
        let names = empty.names.lock().expect("names");
        let mut found = names.iter().filter(|(key, _)| key.address[12..] == last);
        found.next().expect("a name").1
    };
    let (db, service) = (put([198, 18, 9, 1]), put([198, 18, 9, 9]));
    let here = names.lookup("198.18.4.1".parse().expect("an address"));
    let web = NameValue::new(ids.id_here(&empty, here.expect("a name")), PeerKind::Pod);
    let pair = |remote| PairKey::new(Vantage::Pod as u8, web, remote);
    let pairs = [pair(db), pair(service), pair(db).whole()];
    let tables = Arc::new(tables(&pairs));
    let model = Model::new(
        Arc::clone(&tables) as _,
        Arc::new(ids),
        Duration::from_secs(30),
    );
    let model = model.expect("a model");
    let pods = |model: &Model| {
        let pods = model.rtt().levelled.pods.into_iter();
        let mut found: Vec<_> = pods
            .map(|((of, ..), n)| (of.pod.to_string(), n.count()))
            .collect();
        found.sort_unstable();
        found
    };
    let web = || ("web-1".to_owned(), 1);
    assert_eq!(
        pods(&model),
        [web(), web()],
        "whose the third is nobody tells"
    );
    tables.counters.lock().expect("counters")[Counter::RowsFull as usize] = 1;
    assert_eq!(pods(&model), [(OVERFLOW.to_owned(), 1), web(), web()]);
    let rtt = model.rtt();
    let all: u64 = rtt.by_labels.values().map(Counts::count).sum();
    assert_eq!((all, rtt.by_labels.len()), (3, 2), "two kinds of peers");
    let workloads = rtt.levelled.workloads.keys();
    let mut found: Vec<_> = workloads
        .map(|(of, ..)| (&*of.workload.name, &*of.peer_workload.name))
        .collect();
    found.sort_unstable();
    assert_eq!(found, [(OVERFLOW, OVERFLOW), ("web", ""), ("web", "db")]);
    let services = rtt.levelled.services.keys();
    let found: Vec<_> = services
        .map(|(of, ..)| (&*of.labels.peer_namespace, &*of.service))
        .collect();
    assert_eq!(found, [("b", "db")]);
}

/// The addresses to ask names for include connections too short to be open at the moment of a look.
#[test]
fn addresses_of_flows_that_ended_just_now() {
    const JIFFIES: u32 = 1_000_000;
    let tables = tables(&[]);
    let now = crate::passive::clock::monotonic_ns().expect("a clock");
    tables.control.clock_ktime_ns.store(now, Ordering::Relaxed);
    let jiffies = u64::from(JIFFIES);
    tables
        .control
        .clock_jiffies
        .store(jiffies, Ordering::Relaxed);
    let clock = Clock::now(&tables).expect("a clock");
    // In order: open; closed now; closed at least eight seconds ago, whatever HZ is.
    let flows = [(false, 0), (true, 0), (true, 8_000)];
    for (at, (closed, ticks)) in (1_u8..).zip(flows) {
        let entry = &tables.flows[usize::from(at)];
        fill(entry, u64::from(at), at);
        entry.last_seen.store(JIFFIES - ticks, Ordering::Relaxed);
        if closed {
            for way in &entry.hot {
                way.state.store(state::FIN, Ordering::Relaxed);
            }
        }
    }
    // One more address was only pinged, once.
    let pinged = std::net::Ipv4Addr::new(198, 18, 77, 7).to_ipv6_mapped();
    let mut query = Query::default();
    for (word, bytes) in query.key.remote.iter_mut().zip(pinged.octets().chunks(4)) {
        *word = u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
    }
    query::note(&query, &tables.control);
    let model = model(tables);
    let addresses = [
        [198, 18, 5, 1],
        [198, 18, 5, 2],
        [198, 18, 9, 1],
        [198, 18, 77, 7],
    ];
    let addresses = addresses.map(IpAddr::from);
    assert_eq!(model.addresses(&clock), addresses);
    assert_eq!(model.addresses(&clock), addresses[..3]);
}

/// A model that measured something by every method and at every level, and that knows something of
/// interfaces and of Kubernetes: each metric that is made of a model has a series.
pub(crate) fn everything() -> Model {
    const INTERFACE: u32 = 7;
    const JIFFIES: u32 = 1_000_000;
    let levels = Levels {
        workload: true,
        service: true,
        pod: true,
        node: true,
        zone: true,
        top: 100,
    };
    let chosen = Chosen::new(&["team".to_owned()]);
    let registry = Registry::on_node(Some("n1".into()), chosen);
    let ids = NameIds::new(levels, Arc::new(registry));
    let names = "- {address: 198.18.4.1, namespace: a, workload: web, pod: web-1, node: n1}\n\
                 - {address: 198.18.9.9, namespace: b, service: db}\n";
    let names = PrefixMap::parse(names, Path::new("names.yaml")).expect("names");
    let empty = tables(&[]);
    ids.registry().replace(&names, &[]);
    ids.follow_all(&empty).expect("follow");
    let value = |address: [u8; 4], kind| {
        let name = names.lookup(address.into()).expect("a name");
        NameValue::new(ids.id_here(&empty, name), kind)
    };
    let (web, db) = (
        value([198, 18, 4, 1], PeerKind::Pod),
        value([198, 18, 9, 9], PeerKind::Service),
    );
    let pair = PairKey::new(Vantage::Pod as u8, web, db);
    let families = [Family::Tcp, Family::Icmp, Family::Dns, Family::Request];
    let tables = tables(&families.map(|family| pair.with(family)));
    observe(&tables, 1, Leg::Remote, MINIMA, 1_000_000);
    tables.counters.lock().expect("counters")[Counter::SampledRequest as usize] = 1;
    // One flow, seen at two places, now.
    let now = crate::passive::clock::monotonic_ns().expect("a clock");
    let control = &tables.control;
    control.clock_ktime_ns.store(now, Ordering::Relaxed);
    let jiffies = u64::from(JIFFIES);
    control.clock_jiffies.store(jiffies, Ordering::Relaxed);
    for (at, vantage, min) in [(2, Vantage::Pod, 2000), (3, Vantage::Nic, 1000)] {
        let entry = &tables.flows[at];
        fill(entry, at as u64, 1);
        entry.cold.set_birth(vantage as u8, false);
        entry.slots[0].window_min.store(min, Ordering::Relaxed);
        entry.last_seen.store(JIFFIES, Ordering::Relaxed);
    }
    let address = IpAddr::from([198, 18, 4, 1]);
    let here = (address.into(), names.lookup(address).cloned());
    let change = [here];
    ids.registry().apply(&change);
    ids.follow(&tables, &change).expect("follow");
    ids.registry().status().know_everything();
    let model = model_of(tables, ids);
    model.end_window().expect("end the window");
    let (name, vantage) = ("va".to_owned(), Vantage::Pod);
    let link = Link {
        name: name.clone(),
        vantage,
        mode: "tcx",
    };
    model.link_attached(INTERFACE, link);
    model.set_one_sided(INTERFACE, Some(true));
    let reason = Reason::Behind;
    let blind = BlindLink {
        name,
        vantage,
        reason,
    };
    model.set_blind(INTERFACE, Some(blind));
    model
}
