//! Somebody's program that comes before ours when ours is there already.

use std::{
    collections::BTreeMap,
    io,
    os::{fd::OwnedFd, linux::net::SocketAddrExt, unix::net},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use aya::maps::{Map, PerCpuArray};
use lpm_agent::kernel::{
    Direction::{self, Egress, Ingress},
    attach::Mode,
    blind::{Blind, Reason},
    hotplug::{Event, Hotplug, Settings},
    load::Kernel,
    netns,
    one_sided::{DirectionCounts, Evidence},
    rules::Rules,
};
use lpm_common::counter::{COUNTERS, Counter};
use lpm_testbed::testbed::Netns;

use crate::support::kernel::{
    Agent, Datagrams, SETTINGS, comes_to, eventually, filters, has_tcx, kernel_is_usable, modes,
    neighbour::Neighbour, node_with_pod, path_of, tcx_chain,
};

/// `TC_ACT_OK`: what is behind it never runs. And `TC_ACT_UNSPEC`: on to the next.
const ENDS: i32 = 0;
const GOES_ON: i32 = -1;

/// A neighbour in front of whatever there is.
fn in_front(
    node: &Netns,
    mode: Mode,
    direction: Direction,
    verdict: i32,
) -> (Neighbour, Option<OwnedFd>) {
    let neighbour = Neighbour::load("neighbour", verdict);
    let link = match mode {
        Mode::Netlink => {
            neighbour.add_filter(node, "va", direction, 1, 1);
            None
        }
        _ => Some(neighbour.add_tcx_first(node, "va", direction).expect("TCX")),
    };
    (neighbour, link)
}

/// Deletes the filter of the one in front.
fn delete_theirs(node: &Netns) {
    let theirs = "filter del dev va ingress prio 1 handle 1 bpf";
    let theirs: Vec<&str> = theirs.split(' ').collect();
    node.output("tc", &theirs).expect("delete their filter");
}

/// Ids of the programs of a hook of `va`, first to last.
fn chain(node: &Netns, mode: Mode, direction: Direction) -> Vec<u32> {
    match mode {
        Mode::Netlink => filters(node, "va", direction)
            .iter()
            .filter_map(|filter| u32::try_from(filter.program?).ok())
            .collect(),
        _ => tcx_chain(node, "va", direction),
    }
}

/// Datagrams that our programs have seen.
fn datagrams(agent: &mut Agent) -> u64 {
    let map = agent
        .kernel
        .ebpf_mut()
        .map_mut("COUNTERS")
        .expect("COUNTERS");
    let Map::PerCpuArray(_) = &*map else {
        panic!("another kind of map")
    };
    let counters = PerCpuArray::<_, [u64; COUNTERS]>::try_from(&*map).expect("counters");
    let values = counters.get(&0, 0).expect("read");
    let of = |cpu: &[u64; COUNTERS]| cpu[Counter::SkippedNotTcp as usize];
    values.iter().map(of).sum()
}

/// The next thing that is told of blindness.
fn blind(events: &Receiver<Event>) -> Option<Blind> {
    let begun = Instant::now();
    loop {
        let left = crate::support::kernel::LIMIT.saturating_sub(begun.elapsed());
        let event = events.recv_timeout(left);
        if let Event::Blind { blind, .. } = event.expect("something about blindness") {
            return blind;
        }
    }
}

/// The same, after as many looks as it takes.
fn blind_after(events: &Receiver<Event>, look: impl Fn()) -> Option<Blind> {
    let mut told = None;
    eventually("something about blindness", || {
        look();
        let blind = |event| match event {
            Event::Blind { blind, .. } => Some(blind),
            _ => None,
        };
        told = events.try_iter().find_map(blind);
        told.is_some()
    });
    told.flatten()
}

/// How often ours was put in front so far.
fn overtaken(events: &Receiver<Event>) -> usize {
    let told = events.try_iter();
    told.filter(|event| matches!(event, Event::Overtaken { .. }))
        .count()
}

#[test]
fn ours_is_put_in_front_again() {
    if !kernel_is_usable() {
        return;
    }
    for &mode in modes() {
        for direction in [Ingress, Egress] {
            let (node, pod) = node_with_pod("va");
            let agent = Agent::start(&node, Rules::default(), mode);
            let ours = chain(&node, mode, direction);
            let (neighbour, _link) = in_front(&node, mode, direction, ENDS);
            let behind = chain(&node, mode, direction);
            assert_eq!((behind.len(), behind[1]), (2, ours[0]), "{mode:?}");
            agent.hotplug.resync();
            let told = agent.wait_for("what was done", |event| match event {
                Event::Overtaken {
                    interface,
                    direction,
                    others,
                } => Some((interface, direction, others)),
                Event::Detached { .. } => panic!("it stays attached"),
                _ => None,
            });
            assert_eq!((told.0.as_str(), told.1), ("va", direction));
            assert_eq!(told.2[0].program, Some(behind[0]));
            assert!(told.2[0].to_string().contains("neighbour"), "{}", told.2[0]);
            eventually("ours to be first", || {
                chain(&node, mode, direction) == [ours[0], behind[0]]
            });
            // The other one still runs.
            if direction == Ingress {
                let before = neighbour.count();
                Datagrams::new(&node, &pod).send(1);
                assert_eq!(neighbour.count(), before + 1);
            }
            agent.hotplug.stop();
            comes_to(
                "theirs stays",
                || chain(&node, mode, direction),
                &[behind[0]],
            );
        }
    }
}

#[test]
fn no_packet_is_seen_twice_meanwhile() {
    if !kernel_is_usable() {
        return;
    }
    for &mode in modes() {
        let (node, pod) = node_with_pod("va");
        let traffic = Datagrams::new(&node, &pod);
        let mut agent = Agent::start(&node, Rules::default(), mode);
        let before = datagrams(&mut agent);
        let (neighbour, _link) = in_front(&node, mode, Ingress, GOES_ON);
        let (stop, stopped) = mpsc::channel::<()>();
        let passed = AtomicU64::new(0);
        let sent = thread::scope(|scope| {
            let (traffic, passed) = (&traffic, &passed);
            let sender = scope.spawn(move || {
                while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                    traffic.send(passed.load(Relaxed));
                    passed.fetch_add(1, Relaxed);
                }
                passed.load(Relaxed)
            });
            // It happens among packets, not before them.
            eventually("packets", || passed.load(Relaxed) > 1000);
            agent.hotplug.resync();
            agent.wait_for("the move", |event| {
                matches!(event, Event::Overtaken { .. }).then_some(())
            });
            drop(stop);
            sender.join().expect("the sender")
        });
        assert!(neighbour.count() >= sent && sent > 0, "it saw all of them");
        // The one that is between both gates at the instant of the move may be missed.
        let seen = datagrams(&mut agent) - before;
        assert!(
            seen == sent || seen + 1 == sent,
            "{mode:?}: {seen} of {sent}"
        );
    }
}

#[test]
fn a_program_that_comes_again_and_again_is_no_tug_of_war() {
    if !kernel_is_usable() {
        return;
    }
    for &mode in modes() {
        let (node, _pod) = node_with_pod("va");
        let agent = Agent::start(&node, Rules::default(), mode);
        let ours = chain(&node, mode, Ingress)[0];
        let mut kept = Vec::new();
        let mut come = |handle| {
            let neighbour = Neighbour::load("neighbour", ENDS);
            match mode {
                Mode::Netlink => neighbour.add_filter(&node, "va", Ingress, 1, handle),
                _ => kept.push(neighbour.add_tcx_first(&node, "va", Ingress).expect("TCX")),
            }
            chain(&node, mode, Ingress)
        };
        for round in 1..=4 {
            come(round);
            agent.hotplug.resync();
            eventually("ours to be first", || {
                let all = chain(&node, mode, Ingress);
                all.len() == round as usize + 1 && all[0] == ours
            });
        }
        let mut moves = 0;
        let found = agent.wait_for("that it is told", |event| match event {
            Event::Overtaken { .. } => {
                moves += 1;
                None
            }
            Event::Blind { blind, .. } => blind,
            _ => None,
        });
        assert_eq!(
            (found.reason, found.direction),
            (Reason::Contested, Ingress)
        );
        assert!(found.to_string().contains("neighbour"), "{found}");
        assert_eq!(moves, 3);
        // From now on it waits, whoever comes.
        let before = come(9);
        for _ in 0..3 {
            agent.hotplug.resync();
            agent.wait_for("the resync", |event| {
                matches!(event, Event::Resynced).then_some(())
            });
        }
        assert_eq!(chain(&node, mode, Ingress), before, "{mode:?}");
        agent.hotplug.stop();
        comes_to("theirs stay", || chain(&node, mode, Ingress).len(), &5);
    }
}

#[test]
fn one_that_comes_and_goes_is_told_before_many_inspections() {
    if !kernel_is_usable() {
        return;
    }
    for &mode in modes() {
        let (node, _pod) = node_with_pod("va");
        let agent = Agent::start(&node, Rules::default(), mode);
        let ours = chain(&node, mode, Ingress);
        let mut begun = None;
        for round in 0..4 {
            let (_neighbour, link) = in_front(&node, mode, Ingress, ENDS);
            if round == 0 {
                agent.hotplug.resync();
            }
            eventually("ours to be first", || {
                let all = chain(&node, mode, Ingress);
                all.len() == 2 && all[0] == ours[0]
            });
            begun.get_or_insert_with(Instant::now);
            drop(link);
            if mode == Mode::Netlink {
                delete_theirs(&node);
            }
        }
        let found = blind(&agent.events).expect("it is told");
        assert_eq!(
            (found.reason, found.direction),
            (Reason::Contested, Ingress)
        );
        // Three more inspections would have taken 15 s at least.
        let took = begun.expect("four rounds").elapsed();
        assert!(took < Duration::from_secs(15), "{mode:?}: {took:?}");
        agent.hotplug.stop();
        eventually("an empty hook", || chain(&node, mode, Ingress).is_empty());
    }
}

#[test]
fn one_that_cannot_be_passed_and_comes_and_goes_is_told() {
    if !kernel_is_usable() || !has_tcx() {
        return;
    }
    let (node, _pod) = node_with_pod("va");
    let agent = Agent::start(&node, Rules::default(), Mode::Netlink);
    let mut told = Vec::new();
    for _ in 0..4 {
        let (_neighbour, link) = in_front(&node, Mode::Tcx, Ingress, ENDS);
        agent.hotplug.resync();
        told.extend(blind(&agent.events).map(|blind| blind.reason));
        drop(link);
        agent.hotplug.resync();
        told.extend(blind(&agent.events).map(|blind| blind.reason));
    }
    // It is told that the first three have gone; of the last one, that there will be another.
    let mut expected = vec![Reason::Behind; 4];
    expected.push(Reason::Contested);
    assert_eq!(told, expected);
}

#[test]
fn two_agents_do_not_fight() {
    if !kernel_is_usable() {
        return;
    }
    for &mode in modes() {
        let (node, _pod) = node_with_pod("va");
        let first = Agent::start(&node, Rules::default(), mode);
        let second = Agent::start(&node, Rules::default(), mode);
        let before = chain(&node, mode, Ingress);
        assert_eq!(before.len(), 2);
        for agent in [&first, &second] {
            agent.hotplug.resync();
            agent.wait_for("the resync", |event| {
                matches!(event, Event::Resynced).then_some(())
            });
            // A second one is answered only when the look after the first one is over.
            agent.hotplug.resync();
            agent.wait_for("another", |event| {
                matches!(event, Event::Resynced).then_some(())
            });
        }
        assert_eq!(chain(&node, mode, Ingress), before);
        assert_eq!(overtaken(&first.events) + overtaken(&second.events), 0);
    }
}

#[test]
fn where_ours_cannot_be_first_it_is_said() {
    if !kernel_is_usable() || !has_tcx() {
        return;
    }
    let (node, pod) = node_with_pod("va");
    let traffic = Datagrams::new(&node, &pod);
    // The TCX chain comes before all filters.
    let agent = Agent::start(&node, Rules::default(), Mode::Netlink);
    let ends = Neighbour::load("ends", ENDS);
    let link = ends.add_tcx(&node, "va", Ingress).expect("TCX");
    agent.hotplug.resync();
    let found = blind(&agent.events).expect("it is told");
    assert_eq!((found.reason, found.direction), (Reason::Behind, Ingress));
    let id = tcx_chain(&node, "va", Ingress)[0].to_string();
    let said = found.to_string();
    assert!(said.contains(&id) && said.contains("ends"), "{said}");
    traffic.send(1);
    agent.hotplug.resync();
    drop(link);
    agent.hotplug.resync();
    assert_eq!(blind(&agent.events), None, "nobody is in front");
    // One that goes on takes nothing from us, which the first packet shows.
    let goes_on = Neighbour::load("goes_on", GOES_ON);
    let _link = goes_on.add_tcx(&node, "va", Ingress).expect("TCX");
    agent.hotplug.resync();
    let found = blind(&agent.events).expect("nothing has been seen behind it");
    assert_eq!(found.reason, Reason::Behind);
    let told = blind_after(&agent.events, || {
        traffic.send(2);
        agent.hotplug.resync();
    });
    assert_eq!(told, None);
    let ours = filters(&node, "va", Ingress);
    assert_eq!(
        ours[0].program,
        Some(agent.id("lpm_from_local").into()),
        "no detour stays"
    );
}

/// No flow at all.
struct Nothing;

impl Evidence for Nothing {
    fn look(&mut self) -> BTreeMap<u32, DirectionCounts> {
        BTreeMap::new()
    }

    fn join(&mut self, _: u32) -> io::Result<()> {
        Ok(())
    }

    fn part(&mut self, _: u32) -> io::Result<()> {
        Ok(())
    }
}

/// An agent that sees no flow, and what it tells.
fn without_flows(node: &Netns, mode: Mode) -> (Hotplug, Receiver<Event>, Kernel) {
    let mut kernel = Kernel::load(&SETTINGS).expect("load");
    let table = kernel.interfaces().expect("map INTERFACES");
    let settings = Settings {
        mode,
        netns: Some(netns::Netns::open(&path_of(node)).expect("open")),
        evidence: Some(Box::new(Nothing)),
        ..Settings::new(Rules::default())
    };
    let (sender, events) = mpsc::channel();
    let programs = Arc::new(kernel.programs().expect("programs"));
    let hotplug = Hotplug::start(settings, programs, table, move |event| {
        drop(sender.send(event));
    });
    (hotplug.expect("start"), events, kernel)
}

/// Lets so many packets pass, and the agent look.
fn look(hotplug: &Hotplug, traffic: &Datagrams, packets: u64) {
    (0..packets).for_each(|number| traffic.send(number));
    let before = hotplug.resyncs();
    hotplug.resync();
    eventually("a look", || hotplug.resyncs() > before);
}

#[test]
fn an_interface_without_flows_is_not_blind() {
    if !kernel_is_usable() {
        return;
    }
    for &mode in modes() {
        let (node, pod) = node_with_pod("va");
        let traffic = Datagrams::new(&node, &pod);
        let (hotplug, events, _kernel) = without_flows(&node, mode);
        let ours = chain(&node, mode, Ingress);
        // On a busy machine packets may pass after the look that was meant to see them.
        eventually("packets to be counted at the hook", || {
            look(&hotplug, &traffic, 30);
            chain(&node, mode, Ingress) != ours
        });
        eventually("the detour to end", || {
            look(&hotplug, &traffic, 30);
            chain(&node, mode, Ingress) == ours
        });
        hotplug.stop();
        let told = |event: &Event| matches!(event, Event::Blind { .. } | Event::Overtaken { .. });
        assert_eq!(events.try_iter().filter(told).count(), 0, "{mode:?}");
    }
}

#[test]
fn packets_that_never_reach_us_are_noticed() {
    if !kernel_is_usable() {
        return;
    }
    for &mode in modes() {
        let (node, pod) = node_with_pod("va");
        let traffic = Datagrams::new(&node, &pod);
        let (hotplug, events, _kernel) = without_flows(&node, mode);
        // A program that gives itself out for an agent's, which go on to the next, and does not.
        let (_liar, link) = in_front(&node, mode, Ingress, ENDS);
        let id = chain(&node, mode, Ingress)[0];
        let sign = node.run_in(|| {
            let name = format!("lpm-agent/1/1/{id}");
            net::UnixDatagram::bind_addr(&net::SocketAddr::from_abstract_name(name)?)
        });
        let _sign = sign.expect("enter").expect("a sign");
        let found = blind_after(&events, || look(&hotplug, &traffic, 30));
        let found = found.expect("it is told");
        assert_eq!((found.reason, found.direction), (Reason::Silent, Ingress));
        drop(link);
        if mode == Mode::Netlink {
            delete_theirs(&node);
        }
        eventually("the end of blindness", || {
            blind_after(&events, || look(&hotplug, &traffic, 1)).is_none()
        });
        hotplug.stop();
        eventually("an empty hook", || chain(&node, mode, Ingress).is_empty());
    }
}
