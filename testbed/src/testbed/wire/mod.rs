//! A wire between two interfaces, in user space, that delays, loses, limits,
//! reorders, duplicates and marks packets, and keeps a log of each.
//!
//! Each end is one of a veth pair whose other end lies in a namespace of the
//! wire's own. One thread per direction takes frames from a packet socket's
//! ring, each with the kernel's receive timestamp, and sends them when due:
//! it sleeps until shortly before and spins for the rest. The delay counts
//! from the kernel's timestamp, so that the thread's own waking does not add
//! to it. Offloads are off at both ends: what passes is what a real wire
//! would carry, with its checksums.

mod clock;
mod frame;
mod impairment;
mod log;
mod relay;
mod socket;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use nix::sys::eventfd::{EfdFlags, EventFd};

pub use clock::monotonic_ns;
pub use frame::tcp_identity;
pub use impairment::{Impairment, Jitter, Loss, LossPredicate, PacketView, Reorder, VlanAction};
pub use log::{CSV_HEADER, Direction, Fate, Precision, Record, TcpIdentity, write_csv};

use self::{
    relay::{Relay, State},
    socket::PacketSocket,
};
use super::{Error, Netns};

/// One end of a wire: an interface to be made.
#[derive(Debug, Clone, Copy)]
pub struct WireEnd<'a> {
    /// Where the interface will be.
    pub netns: &'a Netns,
    /// What it will be called, for example `eth0`.
    pub interface: &'a str,
}

/// A wire between two interfaces; see the [module](self).
#[derive(Debug)]
pub struct DelayLine {
    shared: Arc<Shared>,
    sides: [Arc<Side>; 2],
    threads: Vec<JoinHandle<()>>,
    sockets: [Arc<PacketSocket>; 2],
    // Last: the namespace goes when nothing uses it any more.
    _netns: Netns,
}

/// What both relays share with the wire.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
}

/// One direction, as the wire's owner sees it.
#[derive(Debug)]
struct Side {
    direction: Direction,
    settings: Mutex<Impairment>,
    /// Counts changes of the settings.
    generation: AtomicU64,
    log: Mutex<Vec<Record>>,
    /// Wakes the relay.
    wake: EventFd,
}

impl DelayLine {
    /// Makes the interfaces of both ends (MTU in bytes; up, without addresses)
    /// and connects them without any impairment.
    pub fn between(first: WireEnd<'_>, second: WireEnd<'_>, mtu: u32) -> Result<Self, Error> {
        let netns = Netns::new("wire")?;
        netns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        let frame_bytes = mtu as usize + 18 + 8;
        let mut sockets = Vec::with_capacity(2);
        for (end, own) in [(first, "first"), (second, "second")] {
            plug(&netns, own, end, mtu)?;
            let opened = netns.run_in(|| PacketSocket::open(own, frame_bytes))?;
            sockets.push(opened.map_err(|source| {
                Error::system(format!("cannot open a packet socket on {own}"), source)
            })?);
        }
        let [(second, second_ring), (first, first_ring)] = [sockets.remove(1), sockets.remove(0)];
        let sockets = [Arc::new(first), Arc::new(second)];
        let shared = Arc::new(Shared::default());
        let sides = [
            Side::new(Direction::Forward)?,
            Side::new(Direction::Backward)?,
        ];
        let mut wire = Self {
            shared,
            sides,
            threads: Vec::with_capacity(2),
            sockets,
            _netns: netns,
        };
        for (index, ring) in [first_ring, second_ring].into_iter().enumerate() {
            let relay = Relay {
                ring,
                receiver: Arc::clone(&wire.sockets[index]),
                sender: Arc::clone(&wire.sockets[1 - index]),
                side: Arc::clone(&wire.sides[index]),
                shared: Arc::clone(&wire.shared),
                state: State::new(),
            };
            let thread = thread::Builder::new()
                .name(format!("wire-{index}"))
                .spawn(move || relay.run())
                .map_err(|source| Error::system("cannot start a wire's thread", source))?;
            wire.threads.push(thread);
        }
        Ok(wire)
    }

    /// Changes what one direction does, from the next packet on; packets on
    /// their way keep their due time.
    pub fn set(&self, direction: Direction, impairment: Impairment) {
        let side = self.side(direction);
        // The relay reads settings inside its round, so once the log's lock was
        // ours the next packet sees the new ones.
        let _round = side.log.lock().unwrap_or_else(PoisonError::into_inner);
        *side.settings.lock().unwrap_or_else(PoisonError::into_inner) = impairment;
        side.generation.fetch_add(1, Ordering::Release);
    }

    /// Changes both directions.
    pub fn set_both(&self, impairment: &Impairment) {
        self.set(Direction::Forward, impairment.clone());
        self.set(Direction::Backward, impairment.clone());
    }

    /// What one direction does now.
    #[must_use]
    pub fn get(&self, direction: Direction) -> Impairment {
        let settings = &self.side(direction).settings;
        settings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The log of both directions so far, in order of arrival. A packet that
    /// still waits is not in it; one that came out at the other end is.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.collect(|log| log.clone())
    }

    /// Like [`DelayLine::records`], and empties the log. Long-running wires
    /// need this now and then: a record takes about 150 bytes.
    #[must_use]
    pub fn take_records(&self) -> Vec<Record> {
        self.collect(std::mem::take)
    }

    /// Packets that came too fast for the relay and are not in the log, since
    /// the last call. A log is complete only if this is 0.
    pub fn missed(&self) -> Result<u64, Error> {
        let mut sum = 0;
        for socket in &self.sockets {
            let missed = socket.missed();
            sum += u64::from(missed.map_err(|e| Error::system("cannot read drop counters", e))?);
        }
        Ok(sum)
    }

    fn collect(&self, read: impl Fn(&mut Vec<Record>) -> Vec<Record>) -> Vec<Record> {
        let mut records = Vec::new();
        for side in &self.sides {
            let part = read(&mut side.log.lock().unwrap_or_else(PoisonError::into_inner));
            records.extend(part);
        }
        records.sort_by_key(|record| record.arrival_ns);
        records
    }

    fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Forward => &self.sides[0],
            Direction::Backward => &self.sides[1],
        }
    }
}

impl Drop for DelayLine {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for side in &self.sides {
            // The counter is far from full, so this cannot block or fail.
            let _ = side.wake.write(1);
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("testbed: a wire's thread panicked");
            }
        }
    }
}

impl Side {
    fn new(direction: Direction) -> Result<Arc<Self>, Error> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = EventFd::from_value_and_flags(0, flags)
            .map_err(|errno| Error::system("cannot make an eventfd", errno))?;
        Ok(Arc::new(Self {
            direction,
            settings: Mutex::default(),
            generation: AtomicU64::new(0),
            log: Mutex::new(Vec::with_capacity(1 << 14)),
            wake,
        }))
    }
}

/// Makes one end: a veth pair into the wire's namespace, without offloads.
fn plug(wire: &Netns, own: &str, end: WireEnd<'_>, mtu: u32) -> Result<(), Error> {
    let WireEnd { netns, interface } = end;
    // The wire's end takes two more tags than the frames of its neighbour.
    let room = mtu + 8;
    wire.veth(own, netns, interface, room)?;
    wire.ip(&format!("link set {own} up"))?;
    netns.output(
        "ethtool",
        &[
            "-K", interface, "tx", "off", "sg", "off", "tso", "off", "gso", "off", "gro", "off",
        ],
    )?;
    netns.ip_batch(&format!("link set {interface} mtu {mtu} up"))
}
