//! The maps of the loaded object, through memory and through the model's trait.

use std::{
    fs,
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use lpm_agent::{
    identity::{Name, merge::Delta, names_file::Kind},
    kernel::{
        load::{Kernel, LoadError, LoadSettings},
        maps::{FlowMaps as _, NameMaps as _},
        mmap::MmapError,
        rules::Rules,
        tables::KernelTables,
    },
    passive::NameIds,
};
use lpm_common::layout::{Control, NameId, NameKey, NameValue, PeerKind};

use crate::support::kernel::{Agent, Datagrams, SETTINGS, kernel_is_usable, native, node_with_pod};

#[test]
fn sizes_are_as_asked_for() {
    if !kernel_is_usable() {
        return;
    }
    let settings = LoadSettings {
        flow_entries: 4096,
        rows: 10,
        stripes: 4,
        ..SETTINGS
    };
    let tables = KernelTables::new(Kernel::load(&settings).expect("load")).expect("maps");
    assert_eq!(tables.flow_count(), 4096);
    assert_eq!((tables.row_count(), tables.stripes()), (10, 4));
    assert!(tables.flow(4095).is_some() && tables.flow(4096).is_none());
    assert!(tables.histogram(319).is_some() && tables.histogram(320).is_none());
}

#[test]
fn what_the_kernel_writes_is_seen_without_a_call() {
    if !kernel_is_usable() {
        return;
    }
    let tables = KernelTables::new(Kernel::load(&SETTINGS).expect("load")).expect("maps");
    assert_eq!(tables.control().clock_ktime_ns.load(Relaxed), 0);
    tables.run_clock().expect("test-run lpm_clock");
    let first = tables.control().clock_ktime_ns.load(Relaxed);
    assert_ne!(first, 0);
    assert_ne!(tables.control().clock_jiffies.load(Relaxed), 0);
    tables.run_clock().expect("test-run lpm_clock");
    assert!(tables.control().clock_ktime_ns.load(Relaxed) > first);
    // And what we write stays.
    tables.control().generation.store(7, Relaxed);
    assert_eq!(tables.control().generation.load(Relaxed), 7);
}

#[test]
fn names_without_room_are_counted_and_come_in_later() {
    if !kernel_is_usable() {
        return;
    }
    let settings = LoadSettings {
        names: 4,
        ..SETTINGS
    };
    let tables = KernelTables::new(Kernel::load(&settings).expect("load")).expect("maps");
    assert_eq!(tables.name_count(), 4);
    let ids = NameIds::default();
    let name = |last: u8, namespace: &str| -> Delta {
        let name = Name {
            kind: Kind::Pod,
            namespace: Some(namespace.into()),
            ..Name::default()
        };
        (
            IpAddr::from([198, 18, 0, last]).into(),
            Some(Arc::new(name)),
        )
    };
    let gone = |last: u8| -> Delta { (IpAddr::from([198, 18, 0, last]).into(), None) };
    let apply = |changes: &[Delta]| {
        ids.registry().apply(changes);
        ids.follow(&tables, changes).expect("follow");
        (ids.names_wanted(), ids.names_refused())
    };
    let six: Vec<Delta> = (1..=6).map(|last| name(last, "a")).collect();
    assert_eq!(apply(&six), (6, 2));
    // A full one takes another value for what is there, before Linux 6.13 only by way of nothing.
    assert_eq!(apply(&[name(1, "b")]), (6, 2));
    assert_eq!(apply(&[gone(2), gone(3)]), (4, 2), "there is room for all");
    assert_eq!(apply(&[name(7, "a")]), (5, 3), "and not for one more");
}

#[test]
fn claims_are_exclusive() {
    if !kernel_is_usable() {
        return;
    }
    let tables = KernelTables::new(Kernel::load(&SETTINGS).expect("load")).expect("maps");
    assert!(tables.claim(3).expect("claim"));
    assert!(!tables.claim(3).expect("claim"), "somebody holds it");
    assert!(tables.claim(4).expect("claim"), "another set");
    tables.release(3).expect("release");
    assert!(tables.claim(3).expect("claim"));
}

#[test]
fn names_come_and_go() {
    if !kernel_is_usable() {
        return;
    }
    let tables = KernelTables::new(Kernel::load(&SETTINGS).expect("load")).expect("maps");
    let key = NameKey {
        prefix_len: 120,
        address: [0xfd; 16],
    };
    let value = NameValue::new(NameId::new(1, 0), PeerKind::Pod);
    tables.set_name(key, value).expect("set");
    tables.set_name(key, value).expect("set again");
    tables.remove_name(key).expect("remove");
    tables
        .remove_name(key)
        .expect("one that is not there is no error");
}

#[test]
fn packets_are_counted() {
    if !kernel_is_usable() {
        return;
    }
    let (node, pod) = node_with_pod("va");
    let agent = Agent::start(&node, Rules::default(), native());
    let Agent {
        hotplug, kernel, ..
    } = agent;
    let tables = KernelTables::new(kernel).expect("maps");
    let total = || tables.counters().expect("counters").iter().sum::<u64>();
    let before = total();
    Datagrams::new(&node, &pod).send(1);
    assert!(total() > before);
    drop(hotplug);
}

#[test]
fn an_array_is_read_as_what_it_is() {
    if !kernel_is_usable() {
        return;
    }
    let kernel = Kernel::load(&SETTINGS).expect("load");
    let error = kernel.mapped::<Control>("FLOWS").expect_err("another size");
    assert!(
        matches!(error, LoadError::Mmap(MmapError::Layout { .. })),
        "{error}"
    );
    let error = kernel
        .mapped::<Control>("COUNTERS")
        .expect_err("no plain array");
    assert!(matches!(error, LoadError::Missing { .. }), "{error}");
}

#[test]
fn settings_that_cannot_work_are_refused() {
    if !kernel_is_usable() {
        return;
    }
    for (name, settings) in [
        (
            "flow_entries",
            LoadSettings {
                flow_entries: 1000,
                ..SETTINGS
            },
        ),
        (
            "flow_entries",
            LoadSettings {
                flow_entries: 2,
                ..SETTINGS
            },
        ),
        (
            "rows",
            LoadSettings {
                rows: 0,
                ..SETTINGS
            },
        ),
        (
            "stripes",
            LoadSettings {
                stripes: 3,
                ..SETTINGS
            },
        ),
        (
            "samples_bytes",
            LoadSettings {
                samples_bytes: 5000,
                ..SETTINGS
            },
        ),
    ] {
        let error = Kernel::load(&settings).expect_err(name);
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn another_object_is_refused() {
    if !kernel_is_usable() {
        return;
    }
    assert!(matches!(
        Kernel::load_object(&[], &SETTINGS),
        Err(LoadError::NoObject)
    ));
    // An ELF file, but no kernel object.
    let own = fs::read("/proc/self/exe").expect("this binary");
    let error = Kernel::load_object(&own, &SETTINGS).expect_err("not for the kernel");
    assert!(matches!(error, LoadError::Object { .. }), "{error}");
}
