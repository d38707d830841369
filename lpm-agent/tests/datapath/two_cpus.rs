//! Both directions of one flow, each on a CPU of its own, at the same time:
//! what is counted twice or not at all, and no false sample.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use lpm_common::testing::frame::Frame;
use lpm_testbed::{
    testbed::wire::monotonic_ns,
    truth::{Leg, Monitor, Sample},
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::support::kernel::{kernel_is_usable, node_with_pod, raw::Raw};

/// A new TSval this often, on both sides in the same moment.
const TICK_NS: u64 = 200_000;
const TIME: Duration = Duration::from_secs(3);
/// Slots of both directions: stamps may still wait in them at the end.
const SLOTS: u64 = 6;

/// What one side sent.
#[derive(Default)]
struct Log {
    packets: u64,
    bytes: u64,
    /// Of each TSval: before its first packet was sent.
    stamped: HashMap<u32, u64>,
    /// Of each TSecr: after its first packet was sent.
    echoed: HashMap<u32, u64>,
}

/// Sends as fast as it goes from a CPU of its own.
fn blast(
    socket: &Raw,
    cpu: usize,
    (from, to): ((IpAddr, u16), (IpAddr, u16)),
    own: &AtomicU32,
    other: &AtomicU32,
) -> Log {
    let mut set = CpuSet::new();
    set.set(cpu).expect("a CPU");
    sched_setaffinity(Pid::from_raw(0), &set).expect("pin a thread");
    let mut log = Log::default();
    let mut frame = Frame::new(from.0, to.0, from.1, to.1);
    frame.payload = 100;
    let begun = Instant::now();
    while begun.elapsed() < TIME {
        let now = monotonic_ns();
        let tick = u32::try_from(now / TICK_NS % (1 << 31)).expect("31 bits");
        let echo = other.load(Ordering::Acquire);
        frame.timestamp = Some((tick, echo));
        let bytes = frame.bytes();
        log.stamped.entry(tick).or_insert(now);
        if socket.send(&bytes).is_err() {
            continue;
        }
        log.packets += 1;
        log.bytes += bytes.len() as u64;
        // Only what is out may be echoed.
        own.store(tick, Ordering::Release);
        log.echoed.entry(echo).or_insert_with(monotonic_ns);
    }
    log
}

/// Two CPUs that this process may use.
fn cpus() -> Option<[usize; 2]> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("the CPUs");
    let mut cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    Some([cpus.next()?, cpus.next()?])
}

#[test]
fn nothing_is_false_when_two_cpus_share_a_flow() {
    if !kernel_is_usable() {
        return;
    }
    let Some(cpus) = cpus() else {
        println!("LPM-SKIP two-cpus: this machine has one CPU");
        return;
    };
    let (node, pod) = node_with_pod("va");
    let lpm = Path::new(env!("CARGO_BIN_EXE_lpm"));
    let monitor = Monitor::start(lpm, &node, &["-i", "va"]).expect("an agent");
    // From the pod: the ingress of its veth. To the pod: the egress.
    let sockets = [Raw::open(&pod, "eth0"), Raw::open(&node, "va")];
    let ends: [(IpAddr, u16); 2] = [
        ([198, 18, 9, 2].into(), 4000),
        ([198, 18, 9, 200].into(), 5000),
    ];
    let ticks = [AtomicU32::new(0), AtomicU32::new(0)];
    let logs = thread::scope(|scope| {
        let there = scope.spawn(|| {
            blast(
                &sockets[0],
                cpus[0],
                (ends[0], ends[1]),
                &ticks[0],
                &ticks[1],
            )
        });
        let back = scope.spawn(|| {
            blast(
                &sockets[1],
                cpus[1],
                (ends[1], ends[0]),
                &ticks[1],
                &ticks[0],
            )
        });
        [there, back].map(|thread| thread.join().expect("it sends"))
    });
    monitor.settle().expect("all samples");

    let flows = monitor.list("flows?all=true").expect("flows");
    assert_eq!(flows.len(), 1, "one flow has one entry: {flows:?}");
    let count = |what: &str, direction: &str| flows[0][what][direction].as_u64().expect("a number");
    for (log, direction) in logs.iter().zip(["from_local", "to_local"]) {
        let (packets, bytes) = (count("packets", direction), count("bytes", direction));
        let off = |found: u64, sent: u64| i128::from(found) - i128::from(sent);
        println!(
            "{direction}: {packets} of {} packets counted ({:+}), bytes {:+}",
            log.packets,
            off(packets, log.packets),
            off(bytes, log.bytes)
        );
        assert_eq!((packets, bytes), (log.packets, log.bytes), "{direction}");
    }
    judge(&monitor, &logs);
}

/// Each sample is of a packet that was sent, comes once, and is not longer than
/// it can have been.
fn judge(monitor: &Monitor, logs: &[Log; 2]) {
    let samples = monitor.samples();
    let (mut seen, mut doubled, mut impossible) = (HashSet::new(), 0_u64, Vec::new());
    for sample in &samples {
        if !seen.insert((sample.leg, sample.id)) {
            doubled += 1;
        }
        if !possible(sample, logs) {
            impossible.push(sample);
        }
    }
    let stamps = |result: &str| {
        let series = format!("lpm_stamps_total{{result=\"{result}\"}}");
        monitor.counter(&series).expect("a counter")
    };
    let (stored, passed, expired) = (stamps("stored"), stamps("passed"), stamps("expired"));
    let all = samples.len() as u64;
    let gone = stored.saturating_sub(all + passed + expired);
    println!(
        "{stored} stamps: {all} samples, {passed} passed by a later echo, {gone} neither (up to \
         {SLOTS} still wait); {doubled} doubled, {} false",
        impossible.len()
    );
    println!(
        "stamps not stored: {} slots full, {} spaced",
        stamps("slots_full"),
        stamps("spaced")
    );
    assert!(all > 200, "{all} samples prove nothing");
    assert_eq!(
        monitor.in_histograms().expect("a count"),
        all,
        "stream and histograms"
    );
    assert_eq!(impossible, Vec::<&Sample>::new(), "false samples");
    // A slot is taken by two CPUs at once only if both see it before either is done.
    let rare = all / 1000 + 1;
    assert!(doubled <= rare, "{doubled} of {all} samples are doubled");
    assert!(gone <= SLOTS + rare, "{gone} of {stored} stamps are lost");
}

fn possible(sample: &Sample, logs: &[Log; 2]) -> bool {
    let (sender, answerer) = match sample.leg {
        Leg::Remote => (&logs[0], &logs[1]),
        Leg::Local => (&logs[1], &logs[0]),
    };
    let times = (
        sender.stamped.get(&sample.id),
        answerer.echoed.get(&sample.id),
    );
    let (Some(begun), Some(ended)) = times else {
        return false;
    };
    // Both ends are cut to 64 ns.
    sample.rtt_ns <= ended.saturating_sub(*begun) + 128
}
