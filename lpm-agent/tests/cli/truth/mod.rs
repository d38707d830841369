//! What the active half says of clocks and ways, beside the truth: real sockets and the kernel's own
//! times, across the testbed's delay line, with clocks that the test bends.
//!
//! Namespaces share the machine's clock, so a bend is the whole truth of an offset. The same against
//! a machine with a clock of its own is `guest_clock`.

mod clocks;
mod impaired;
mod lines;

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    thread,
    time::Duration,
};

use lpm_agent::active::{
    Stamps,
    clock::{Clock, bend::Bend, real},
    fate::Counts,
    plan::{Plan, Train},
    reflector::{Reflector, Settings},
    report::Report,
    schedule::when::Rhythm,
    sender::Sender,
    summary::Session,
};
use lpm_testbed::testbed::{Impairment, Netns, Pair, PairConfig};
use nix::unistd::pipe;

/// A reflector of this process beyond the wire. Dropping it ends it.
struct Beyond {
    address: SocketAddr,
    end: Option<OwnedFd>,
    thread: Option<thread::JoinHandle<io::Result<()>>>,
}

impl Beyond {
    fn start(netns: &Netns, address: SocketAddr, bend: &Bend) -> Self {
        let settings = Settings {
            allow: vec!["198.18.0.0/15".parse().expect("a range")].into(),
            rate: 1_000_000,
            keys: std::collections::HashMap::new(),
        };
        let clock = Clock::bent(bend).expect("a timer");
        let open = || Reflector::with_clock(address, false, settings, clock);
        let mut reflector = netns.run_in(open).expect("enter").expect("a reflector");
        let address = reflector.address().expect("an address");
        let (readable, end) = pipe().expect("a pipe");
        let serve = move || reflector.serve(&Arc::new(Counts::default()), &readable);
        let thread = thread::Builder::new().name("reflector".to_owned());
        Self {
            address,
            end: Some(end),
            thread: Some(thread.spawn(serve).expect("a thread")),
        }
    }
}

impl Drop for Beyond {
    fn drop(&mut self) {
        // The other end of the pipe becomes readable.
        drop(self.end.take());
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(Ok(())))));
    }
}

/// Two ends with clocks that bend.
struct Scene {
    /// The sender's clock.
    here: Bend,
    /// The reflector's clock.
    there: Bend,
    reflector: Beyond,
    pair: Pair,
}

impl Scene {
    /// `wire` is what it does there and back. None: a plain veth pair. `bend` has the sender's clock
    /// and the reflector's, before either end starts.
    fn new(wire: Option<[Impairment; 2]>, bend: impl FnOnce(&Bend, &Bend)) -> Self {
        let config = PairConfig {
            wire: wire.as_ref().map(|_| Impairment::default()),
            ..PairConfig::default()
        };
        let pair = Pair::new(&config).expect("two ends");
        if let Some([there, back]) = wire {
            use lpm_testbed::testbed::Direction::{Backward, Forward};
            pair.wire().set(Forward, there);
            pair.wire().set(Backward, back);
            drop(pair.wire().take_records());
        }
        let (here, there) = (Bend::default(), Bend::default());
        here.claims(None);
        there.claims(None);
        bend(&here, &there);
        let address = "198.18.2.2:8620".parse().expect("an address");
        Self {
            reflector: Beyond::start(&pair.server, address, &there),
            here,
            there,
            pair,
        }
    }

    fn plan(&self, trains: u32, train: Train, interval: Duration) -> Plan {
        Plan {
            target: self.reflector.address,
            from: None,
            interface: None,
            ports: None,
            count: Some(trains),
            interval,
            rhythm: Rhythm::Even,
            train,
            size: 0,
            dscp: 0,
            ecn: 0,
            timeout: Duration::from_millis(300),
            session: 7,
            key: None,
        }
    }

    /// Sends trains, hands each report to `take`, and gives the sums.
    fn send(&self, plan: Plan, mut take: impl FnMut(&Report)) -> (Session, Sender) {
        let clock = Clock::bent(&self.here).expect("a timer");
        let open = || Sender::with_clock(plan, clock);
        let mut sender = self
            .pair
            .client
            .run_in(open)
            .expect("enter")
            .expect("a sender");
        let (readable, _end) = pipe().expect("a pipe");
        let mut session = Session::default();
        let result = sender.run(&readable.as_fd(), |report| {
            session.take(&report);
            take(&report);
            Ok(())
        });
        result.expect("the sender's socket");
        (session, sender)
    }

    /// The true delays of a packet that was sent after `since`, there and back, in nanoseconds. More
    /// than one, if a clock was set back over a time.
    fn truths(&self, stamps: &Stamps, since: i64) -> Vec<[i64; 2]> {
        let now = real();
        let moments = |bend: &Bend, said| {
            let all = bend.moments(said);
            all.into_iter().filter(move |at| (since..=now).contains(at))
        };
        let mut truths = Vec::new();
        for sent in moments(&self.here, stamps.sent) {
            for there in moments(&self.there, stamps.reflector_received) {
                for back in moments(&self.there, stamps.reflector_sent) {
                    for received in moments(&self.here, stamps.received) {
                        let in_order = sent <= there && there <= back && back <= received;
                        if in_order {
                            truths.push([there - sent, received - back]);
                        }
                    }
                }
            }
        }
        truths
    }
}

/// Writes nanoseconds as milliseconds.
fn ms(nanoseconds: i64) -> String {
    let micros = nanoseconds / 1_000;
    let sign = if micros < 0 { "-" } else { "" };
    format!(
        "{sign}{}.{:03} ms",
        micros.abs() / 1_000,
        micros.abs() % 1_000
    )
}

/// The middle of some numbers.
fn median(mut all: Vec<i64>) -> i64 {
    all.sort_unstable();
    all[all.len() / 2]
}
