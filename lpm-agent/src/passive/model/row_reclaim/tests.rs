//! Tests of row reclaim, with maps in memory.

use std::{sync::Arc, time::Duration};

use lpm_common::layout::{Echo, Family, Leg, NameId, NameValue, PeerKind, Vantage};

use super::*;
use crate::{
    identity::{Levels, Name, merge::Delta},
    kernel::maps::memory::Memory,
    passive::{
        NameIds,
        flow::tests::fill,
        model::tests::{model_of, observe},
    },
};

/// A model that tells pods and remote ends apart by workload, over maps that a test can still
/// write.
struct Bench {
    model: Model,
    tables: Arc<Memory>,
}

impl Bench {
    fn new(rows: usize) -> Self {
        let levels = Levels {
            workload: true,
            service: true,
            ..Levels::default()
        };
        let tables = Arc::new(Memory::new(8, rows, 2));
        tables.control.next_row.store(1, Ordering::Relaxed);
        tables.control.clock_ktime_ns.store(1, Ordering::Relaxed);
        let ids = Arc::new(NameIds::new(levels, Arc::default()));
        let model = Model::new(Arc::clone(&tables) as _, ids, Duration::from_secs(30));
        Self {
            model: model.expect("a model"),
            tables,
        }
    }

    /// Sets the owner of `198.18.0.n`. None: it has no owner.
    fn name(&self, n: u8, who: Option<(&str, &str, Option<&str>)>) {
        let name = who.map(|(namespace, workload, service)| {
            Arc::new(Name {
                namespace: Some(namespace.into()),
                workload: Some(workload.into()),
                service: service.map(Into::into),
                kind: crate::identity::names_file::Kind::Pod,
                ..Name::default()
            })
        });
        let change: Delta = (std::net::IpAddr::from([198, 18, 0, n]).into(), name);
        self.model.registry().apply(std::slice::from_ref(&change));
        let ids = self.model.ids();
        ids.follow(&*self.tables, &[change]).expect("follow");
    }

    fn value(&self, n: u8) -> NameValue {
        let names = self.tables.names.lock().expect("names");
        let of = names.iter().find(|(key, _)| key.address[15] == n);
        of.expect("a name").1
    }

    /// The row of a pair as the kernel would give it, with one sample in it.
    fn talk(&self, local: u8, remote: u8) -> usize {
        let vantage = Vantage::Pod as u8;
        let pair = PairKey::new(vantage, self.value(local), self.value(remote));
        let control = &self.tables.control;
        let free = control.free_row.load(Ordering::Relaxed) as usize;
        let known = self.model.labelled().find(|(_, label)| *label == pair);
        let row = if let Some((row, _)) = known {
            row
        } else if free == 0 {
            control.next_row.fetch_add(1, Ordering::Relaxed) as usize
        } else {
            let next = self.tables.rows[free].pair.load(Ordering::Relaxed);
            let next = (next & 0xffff) as u32;
            control.free_row.store(next, Ordering::Relaxed);
            free
        };
        self.tables.rows[row].pair.store(pair.0, Ordering::Relaxed);
        observe(&self.tables, row, Leg::Remote, Echo::Prompt as usize, 1000);
        self.tables.rows[row].retransmitted[0].fetch_add(1, Ordering::Relaxed);
        row
    }

    /// Samples between namespaces, by workload (`web>`) and by service (`>pg`).
    fn counts(&self) -> Vec<(String, u64)> {
        let found = self.model.rtt();
        let mut all = vec![("samples".to_owned(), found.samples)];
        for ((labels, ..), counts) in &found.by_labels {
            let pair = format!("{}-{}", labels.namespace, labels.peer_namespace);
            all.push((pair, counts.count()));
        }
        for ((labels, ..), counts) in &found.levelled.workloads {
            let pair = format!("{}>{}", labels.workload.name, labels.peer_workload.name);
            all.push((pair, counts.count()));
        }
        for ((labels, ..), counts) in &found.levelled.services {
            all.push((format!(">{}", labels.service), counts.count()));
        }
        all
    }

    /// Runs a pass: names that are not there now are gone.
    fn look(&self) {
        self.model.recycle(Instant::now()).expect("recycle");
    }

    #[track_caller]
    fn counts_are(&self, wanted: &[(&str, u64)]) {
        let wanted: Vec<_> = wanted.iter().map(|(s, n)| ((*s).to_owned(), *n)).collect();
        assert_eq!(self.counts(), wanted);
    }
}

#[test]
fn what_lives_never_goes_backwards() {
    let bench = Bench::new(16);
    bench.name(1, Some(("a", "web", None)));
    bench.name(2, Some(("a", "api", None)));
    bench.name(9, Some(("b", "db", Some("pg"))));
    let (web, api) = (bench.talk(1, 9), bench.talk(2, 9));
    bench.talk(2, 9);
    bench.counts_are(&[
        ("samples", 3),
        ("a-b", 3),
        ("api>db", 2),
        ("web>db", 1),
        (">pg", 3),
    ]);
    bench.name(1, None);
    bench.look();
    // The workload's series ends. Those of the service and the namespaces go on.
    let after = [("samples", 3), ("a-b", 3), ("api>db", 2), (">pg", 3)];
    bench.counts_are(&after);
    let forgotten = bench.tables.forgotten.lock().expect("forgotten").clone();
    assert_eq!(forgotten.len(), 1, "the kernel finds it no more");
    // A workload that comes again begins at zero, in a row of its own.
    bench.name(1, Some(("a", "web", None)));
    assert_ne!(bench.talk(1, 9), web);
    bench.counts_are(&[
        ("samples", 4),
        ("a-b", 4),
        ("api>db", 2),
        ("web>db", 1),
        (">pg", 4),
    ]);
    // Both are gone: of two rows one is left, and is free for others.
    bench.name(1, None);
    bench.name(2, None);
    bench.name(3, Some(("a", "new", None)));
    let flow = &bench.tables.flows[3];
    fill(flow, 77, 1);
    let word = |row: usize| 0x0009_0000 | u32::try_from(row).expect("a row");
    flow.row.store(word(api), Ordering::Relaxed);
    for _ in 0..3 {
        bench.look();
        bench.counts_are(&[("samples", 4), ("a-b", 4), (">pg", 4)]);
    }
    let told = flow.row.load(Ordering::Relaxed);
    assert_eq!(told, u32::try_from(web).expect("a row"), "of no generation");
    bench.look();
    bench.counts_are(&[("samples", 4), ("a-b", 4), (">pg", 4)]);
    assert_eq!(bench.tables.control.free_row.load(Ordering::Relaxed), 2);
    assert_eq!(bench.talk(3, 9), api);
    bench.counts_are(&[("samples", 5), ("a-b", 5), ("new>db", 1), (">pg", 5)]);
    let retransmitted: u64 = bench.model.retransmitted().values().sum();
    assert_eq!(retransmitted, 5, "they go along");
}

#[test]
fn a_row_that_is_named_is_not_emptied() {
    let bench = Bench::new(16);
    bench.name(9, Some(("b", "db", None)));
    for n in [1, 2] {
        bench.name(n, Some(("a", ["", "web", "api"][usize::from(n)], None)));
        bench.talk(n, 9);
        bench.name(n, None);
    }
    bench.name(3, Some(("a", "new", None)));
    let query = &bench.tables.queries[1];
    query.row.store(2, Ordering::Relaxed);
    query.state.store(Phase::Open as u32, Ordering::Relaxed);
    for _ in 0..9 {
        bench.look();
    }
    let free = || bench.tables.control.free_row.load(Ordering::Relaxed);
    assert_eq!(free(), 0, "its answer would be counted in the row");
    query.state.store(Phase::Answered as u32, Ordering::Relaxed);
    bench.look();
    assert_eq!(free(), 2);
    assert!(
        bench
            .tables
            .histograms
            .iter()
            .skip(2 * PER_ROW)
            .take(PER_ROW)
            .all(|histogram| {
                histogram
                    .words
                    .iter()
                    .all(|word| word.load(Ordering::Relaxed) == 0)
            })
    );
}

#[test]
fn namespaces_that_are_gone_are_shown_nowhere() {
    let bench = Bench::new(64);
    bench.name(9, Some(("b", "db", None)));
    for n in 1..=40 {
        bench.name(1, Some((&format!("run-{n}"), "job", None)));
        bench.talk(1, 9);
        bench.name(1, None);
        bench.look();
        bench.look();
        bench.look();
    }
    bench.counts_are(&[("samples", 40)]);
    let used = bench.tables.control.next_row.load(Ordering::Relaxed);
    assert!(used <= 4, "{used} rows for one at a time");
    let order: Vec<u64> = (1..used as usize)
        .map(|row| bench.tables.rows[row].pair.load(Ordering::Relaxed))
        .collect();
    assert!(
        order.iter().any(|label| label & PairKey::FREE != 0),
        "{order:?}"
    );
}

#[test]
fn free_rows_are_in_order() {
    let tables = Memory::new(8, 16, 1);
    tables.control.next_row.store(16, Ordering::Relaxed);
    let model = model_of(tables, NameIds::default());
    for row in [7, 3, 12, 5] {
        model.give_back(row).expect("free");
    }
    let mut order = vec![model.tables.control().free_row.load(Ordering::Relaxed)];
    while let Some(row) = model.tables.row(order[order.len() - 1] as usize)
        && order[order.len() - 1] != 0
    {
        let label = row.pair.load(Ordering::Relaxed);
        assert_ne!(label & PairKey::FREE, 0);
        order.push((label & 0xffff) as u32);
    }
    assert_eq!(order, [3, 5, 7, 12, 0]);
    let unused = NameValue::new(NameId::new(1, 0), PeerKind::Pod);
    let dns = PairKey::new(Vantage::Pod as u8, unused, unused).with(Family::Dns);
    assert_eq!(dns.gone().family(), Some(Family::Dns));
    assert!(model.ids().is_reduced(dns.gone()));
}

#[test]
fn what_was_counted_before_a_level_was_switched_on_is_not_in_it() {
    let tables = Arc::new(Memory::new(8, 16, 2));
    tables.control.next_row.store(1, Ordering::Relaxed);
    tables.control.clock_ktime_ns.store(1, Ordering::Relaxed);
    let agent = |levels: Levels| {
        let ids = NameIds::new(levels, Arc::default());
        ids.resume(&*tables).expect("resume");
        let idle = Duration::from_secs(30);
        let model = Model::new(Arc::clone(&tables) as _, Arc::new(ids), idle);
        let model = model.expect("a model");
        model.begin_levels().expect("begin");
        Bench {
            model,
            tables: Arc::clone(&tables),
        }
    };
    let name = |bench: &Bench| {
        bench.name(1, Some(("a", "web", None)));
        bench.name(2, Some(("b", "db", None)));
    };
    let before = agent(Levels::default());
    name(&before);
    let old = before.talk(1, 2);
    before.counts_are(&[("samples", 1), ("a-b", 1)]);
    let on = Levels {
        workload: true,
        ..Levels::default()
    };
    let after = agent(on.clone());
    after.counts_are(&[("samples", 1), ("a-b", 1)]);
    name(&after);
    assert_ne!(after.talk(1, 2), old);
    after.counts_are(&[("samples", 2), ("a-b", 2), ("web>db", 1)]);
    // The next agent knows that the levels were on. All goes on, and older counts stay out.
    agent(on).counts_are(&[("samples", 2), ("a-b", 2), ("web>db", 1)]);
    // The levels were off in between.
    let off = agent(Levels::default());
    name(&off);
    off.talk(1, 2);
    let on = Levels {
        workload: true,
        service: true,
        ..Levels::default()
    };
    agent(on).counts_are(&[("samples", 3), ("a-b", 3), ("web>db", 1)]);
}
