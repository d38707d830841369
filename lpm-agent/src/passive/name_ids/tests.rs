//! Names and ids over tables in memory.

use std::path::Path;

use super::*;
use crate::kernel::maps::memory::Memory;

/// Makes these all the names, here and in the kernel.
fn update(ids: &NameIds, tables: &Memory, names: &PrefixMap, own: &[IpAddr]) {
    ids.registry().replace(names, own);
    ids.follow_all(tables).expect("follow");
}

fn names(text: &str) -> PrefixMap {
    PrefixMap::parse(text, Path::new("names.yaml")).expect("a names file")
}

#[test]
fn the_kernel_follows_the_names() {
    let tables = Memory::new(4, 2, 1);
    let ids = NameIds::default();
    let first = names("- {cidr: 198.18.0.0/16, namespace: a}\n");
    update(&ids, &tables, &first, &[]);
    assert_eq!(tables.control.generation.load(Ordering::Relaxed), 1);
    update(&ids, &tables, &first, &[]);
    assert_eq!(
        tables.control.generation.load(Ordering::Relaxed),
        1,
        "nothing changed"
    );

    let second = names("- {cidr: 198.19.0.0/16, namespace: b}\n");
    update(&ids, &tables, &second, &[]);
    assert_eq!(tables.control.generation.load(Ordering::Relaxed), 2);
    let kernel = tables.names.lock().expect("names").clone();
    assert_eq!(kernel.len(), 1);
    assert_eq!(kernel[0].0.prefix_len, 112);
    assert_eq!(
        kernel[0].1.id,
        NameId::new(2, 0),
        "the id of a is not given out again"
    );
    assert_eq!(ids.namespace(1).as_deref(), Some("a"));
    assert_eq!(ids.namespace(2).as_deref(), Some("b"));
    assert_eq!(ids.namespace(0), None);
    assert_eq!(ids.namespace(3), None);
}

#[test]
fn own_addresses_are_the_host_unless_named() {
    let tables = Memory::new(4, 2, 1);
    let ids = NameIds::default();
    let own = [IpAddr::from([198, 18, 0, 1]), IpAddr::from([198, 18, 0, 2])];
    let names = names(
        "- {cidr: 198.18.0.0/16, namespace: a}\n- {address: 198.18.0.2, namespace: edge, node: n}\n",
    );
    update(&ids, &tables, &names, &own);
    let namespace = |address| {
        ids.registry()
            .lookup(address)
            .and_then(|name| name.namespace.clone())
    };
    assert_eq!(namespace(own[0]).as_deref(), Some(crate::identity::HOST));
    assert_eq!(namespace(own[1]).as_deref(), Some("edge"));
    assert_eq!(
        namespace(IpAddr::from([198, 18, 0, 3])).as_deref(),
        Some("a")
    );
    let kernel = tables.names.lock().expect("names");
    assert_eq!(kernel.iter().filter(|(_, value)| value.own == 1).count(), 2);
}

fn workloads(top: u16) -> NameIds {
    let levels = Levels {
        workload: true,
        top,
        ..Levels::default()
    };
    NameIds::new(levels, Arc::default())
}

const THREE: &str = "- {address: 198.18.0.1, namespace: a, workload: web}\n\
     - {address: 198.18.0.2, namespace: a, workload: db}\n\
     - {address: 198.18.0.3, namespace: b, workload: web}\n";

fn told_apart(ids: &NameIds, tables: &Memory) -> Vec<(u8, Option<String>)> {
    let kernel = tables.names.lock().expect("names");
    let mut all: Vec<_> = kernel
        .iter()
        .map(|(key, value)| {
            let member = ids.member(value.id);
            let workload = member.and_then(|member| Some(member.workload.as_deref()?.to_owned()));
            (key.address[15], workload)
        })
        .collect();
    all.sort();
    all
}

#[test]
fn a_few_are_told_apart_at_once() {
    let (tables, ids) = (Memory::new(4, 2, 1), workloads(3));
    update(&ids, &tables, &names(THREE), &[]);
    let name = |name: &str| Some(name.to_owned());
    let all = [(1, name("web")), (2, name("db")), (3, name("web"))];
    assert_eq!(told_apart(&ids, &tables), all);
}

#[test]
fn of_many_those_with_the_most_packets() {
    let (tables, ids) = (Memory::new(4, 2, 1), workloads(1));
    update(&ids, &tables, &names(THREE), &[]);
    assert_eq!(told_apart(&ids, &tables), [(1, None), (2, None), (3, None)]);
    let generation = || tables.control.generation.load(Ordering::Relaxed);
    let before = generation();
    let packets = [(1, 5), (2, 7), (9, 100)]
        .map(|(last, packets)| (IpAddr::from([198, 18, 0, last]), packets));
    ids.tell_apart(&tables, &packets.into()).expect("update");
    let apart = [(1, None), (2, Some("db".to_owned())), (3, None)];
    assert_eq!(told_apart(&ids, &tables), apart);
    assert_eq!(generation(), before + 1, "flows are named anew");
    ids.tell_apart(&tables, &packets.into()).expect("update");
    assert_eq!(generation(), before + 1, "nobody is left to be told apart");
    update(&ids, &tables, &names(THREE), &[]);
    assert_eq!(
        told_apart(&ids, &tables),
        apart,
        "who was told apart stays so"
    );
}

#[test]
fn the_next_agent_knows_the_ids() {
    let (tables, apart) = (Memory::new(4, 2, 1), workloads(1));
    let web = "- {address: 198.18.0.1, namespace: a, workload: web}\n";
    update(&apart, &tables, &names(web), &[]);
    let id = apart.id_here(
        &tables,
        &Name {
            namespace: Some("a".into()),
            workload: Some("web".into()),
            ..Name::default()
        },
    );
    assert_ne!(id.member(), 0);
    let first =
        names("- {cidr: 198.18.0.0/16, namespace: a}\n- {cidr: 198.19.0.0/16, namespace: b}\n");
    let then = NameIds::default();
    then.resume(&tables).expect("resume");
    update(&then, &tables, &first, &[]);
    let next = NameIds::default();
    next.resume(&tables).expect("resume");
    let member = next.member(id).expect("a member");
    assert_eq!(member.workload.as_deref(), Some("web"));
    let second =
        names("- {cidr: 198.19.0.0/16, namespace: c}\n- {address: 198.19.0.1, namespace: b}\n");
    update(&next, &tables, &second, &[]);
    let of = |id| next.namespace(id);
    assert_eq!(
        of(1).as_deref(),
        Some("a"),
        "though it names nothing any more"
    );
    assert_eq!(of(2).as_deref(), Some("b"));
    assert_eq!(of(3).as_deref(), Some("c"));
    let kernel = tables.names.lock().expect("names").clone();
    let mut found: Vec<_> = kernel
        .iter()
        .map(|(key, value)| (key.prefix_len, value.id.namespace()))
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [(112, 3), (128, 2)],
        "the first agent's ranges are gone"
    );
}

#[test]
fn generations_skip_zero() {
    let tables = Memory::new(4, 2, 1);
    tables.control.generation.store(0xffff, Ordering::Relaxed);
    next_generation(&tables);
    assert_eq!(tables.control.generation.load(Ordering::Relaxed), 1);
}
