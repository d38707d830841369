//! A sweep: STAMP to one reflector from many source ports, so that probes take many of the paths
//! that routers choose by a hash of a packet's header (equal-cost multipath, ECMP).
//!
//! Over IPv6 each port also has a flow label of its own, since some routers and Linux's default hash
//! policy count the label and not the ports. Which path a port takes is not known; that a port stays
//! on one path is the routers' promise.

pub mod judge;
pub mod spread;

use std::{
    io,
    net::{SocketAddr, SocketAddrV6},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};

use self::judge::{Grounds, Path};
use super::{
    chance::Share,
    clock::Clock,
    plan::Plan,
    report::{Report, Sources},
    sender::{Sender, Turn},
    statistics::Distribution,
    summary::{Figures, Session},
};

/// Most paths of a sweep: each takes three descriptors.
pub const MOST: u16 = 256;

/// Ports that nobody has by name (RFC 6335 section 6) begin here.
const DYNAMIC: u16 = 49_152;

/// The packets of one source port.
#[derive(Debug)]
pub struct Flow {
    /// The source port.
    pub port: u16,
    /// IPv6's flow label, 20 bits. None: the target has an IPv4 address.
    pub label: Option<u32>,
    /// What became of the probes.
    pub session: Session,
    sender: Sender,
    /// When there is something to do. None: all is reported.
    wake: Option<Instant>,
}

/// A sweep to one target.
#[derive(Debug)]
pub struct Sweep {
    flows: Vec<Flow>,
    timeout: Duration,
}

/// What a sweep says of a path, and of all together.
#[derive(Debug)]
pub struct Judged {
    /// The class of stamps whose round trips are compared: that of the most probes. None: nothing
    /// was answered with times.
    pub class: Option<Sources>,
    /// For each path, in the order of [`Sweep::flows`], the figures of that class and the verdict.
    pub paths: Vec<(Option<Figures>, Grounds)>,
    /// All paths' round trips of that class.
    pub round_trips: Distribution,
}

/// Tells the flow label of a source port: the same port has the same one in each sweep, and two
/// ports never share one. It is below 0x80000, which the kernel keeps for labels that it makes
/// (`flowlabel_state_ranges` of ip-sysctl.rst), and never 0.
#[must_use]
pub fn label(port: u16) -> u32 {
    // An odd factor permutes the numbers of 16 bits, so that neighbours differ in many bits.
    u32::from(port.wrapping_mul(40_503)) + 1
}

/// Writes the flow label of a source port into an IPv6 address.
fn labelled(target: SocketAddr, port: u16) -> (SocketAddr, Option<u32>) {
    match target {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_none() => {
            let label = label(port);
            let v6 = SocketAddrV6::new(*v6.ip(), v6.port(), label.to_be(), v6.scope_id());
            (SocketAddr::V6(v6), Some(label))
        }
        _ => (target, None),
    }
}

impl Sweep {
    /// Opens a socket for each of so many paths, [`MOST`] at most. `first` is the first source port;
    /// without it, a random one. A port that somebody has is passed over.
    ///
    /// # Errors
    /// What the kernel refused, or there are not enough free ports.
    pub fn open(plan: &Plan, paths: u16, first: Option<u16>) -> io::Result<Self> {
        let paths = paths.clamp(1, MOST);
        let mut ports = first.unwrap_or_else(|| fastrand::u16(DYNAMIC..u16::MAX - MOST))..=u16::MAX;
        let mut flows = Vec::with_capacity(paths.into());
        while flows.len() < paths.into() {
            let port = ports.next().ok_or(Errno::EADDRINUSE)?;
            match Flow::open(plan, port) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                flow => flows.push(flow?),
            }
        }
        let mut sweep = Self {
            flows,
            timeout: plan.timeout,
        };
        sweep.begin(plan.interval);
        Ok(sweep)
    }

    /// Spreads the probes of all paths evenly over the interval: none waits behind another, and
    /// what happens to the network for a moment happens to all paths alike.
    fn begin(&mut self, interval: Duration) {
        let now = Instant::now();
        let count = u32::try_from(self.flows.len()).unwrap_or(u32::MAX).max(1);
        let gap = interval / count;
        for (place, flow) in (0..).zip(&mut self.flows) {
            let at = now + gap * place;
            flow.sender.begin_at(at);
            flow.wake = Some(at);
        }
    }

    /// The paths, in the order of their source ports.
    #[must_use]
    pub fn flows(&self) -> &[Flow] {
        &self.flows
    }

    /// Sends and receives until all probes are reported, or `end` becomes readable. What was answered
    /// by then counts.
    ///
    /// # Errors
    /// A socket failed.
    pub fn run(&mut self, end: &impl AsFd) -> io::Result<()> {
        loop {
            let now = Instant::now();
            let wakes = self.flows.iter().filter_map(|flow| flow.wake);
            let Some(wake) = wakes.min() else {
                return Ok(());
            };
            let (ready, is_end) = self.wait(end, wake.saturating_duration_since(now))?;
            if is_end {
                return self.flows.iter_mut().try_for_each(Flow::finish);
            }
            let now = Instant::now();
            for (flow, is_ready) in self.flows.iter_mut().zip(ready) {
                if is_ready || flow.wake.is_some_and(|wake| wake <= now) {
                    flow.step()?;
                }
            }
        }
    }

    /// Waits for packets, at most `wait`. Tells which paths have some, and whether the end was asked
    /// for.
    fn wait(&self, end: &impl AsFd, wait: Duration) -> io::Result<(Vec<bool>, bool)> {
        let flows = self.flows.iter().map(|flow| flow.sender.as_fd());
        let mut fds: Vec<PollFd<'_>> = flows
            .chain([end.as_fd()])
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        match ppoll(&mut fds, Some(TimeSpec::from_duration(wait)), None) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok((vec![false; self.flows.len()], false)),
            Err(error) => return Err(error.into()),
        }
        let mut ready: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
        let is_end = ready.pop() == Some(true);
        Ok((ready, is_end))
    }

    /// Judges all paths by what is reported so far.
    #[must_use]
    pub fn judge(&self) -> Judged {
        let mut figures: Vec<Vec<Figures>> =
            (self.flows.iter().map(|flow| flow.session.figures())).collect();
        let class = most_frequent(figures.iter().flatten());
        let mut of_class = Vec::with_capacity(figures.len());
        for all in &mut figures {
            let at = all.iter().position(|one| Some(one.sources) == class);
            of_class.push(at.map(|at| all.swap_remove(at)));
        }
        let late = i64::try_from(self.timeout.as_nanos()).unwrap_or(i64::MAX);
        let paths: Vec<Path> = self
            .flows
            .iter()
            .zip(&of_class)
            .map(|(flow, figures)| flow.path(figures.as_ref(), late))
            .collect();
        let all = of_class.iter().flatten();
        Judged {
            class,
            round_trips: all.flat_map(|figures| figures.round_trips.iter()).collect(),
            paths: of_class.into_iter().zip(judge::judge(&paths)).collect(),
        }
    }
}

/// The class of stamps of the most round trips.
fn most_frequent<'a>(all: impl Iterator<Item = &'a Figures>) -> Option<Sources> {
    let mut counts = std::collections::BTreeMap::new();
    for figures in all {
        *counts.entry(figures.sources).or_insert(0) += figures.round_trips.count();
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    most.map(|(sources, _)| sources)
}

impl Flow {
    fn open(plan: &Plan, port: u16) -> io::Result<Self> {
        let (target, label) = labelled(plan.target, port);
        let mut plan = plan.clone();
        plan.target = target;
        if plan.key.is_none() {
            plan.session = fastrand::u16(1..);
        }
        Ok(Self {
            port,
            label,
            session: Session::default(),
            sender: Sender::at_port(plan, Clock::start()?, port)?,
            wake: None,
        })
    }

    /// Answers that belong to no packet of this path.
    #[must_use]
    pub fn foreign(&self) -> u64 {
        self.sender.foreign()
    }

    /// Probes that got no answer, neither in time nor late. Refused ones are not among them.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let lost = self.session.losses();
        lost.forward + lost.backward + lost.unknown
    }

    fn step(&mut self) -> io::Result<()> {
        let session = &mut self.session;
        let turn = self.sender.step(&mut |report: Report| {
            session.take(&report);
            Ok(())
        })?;
        self.wake = match turn {
            Turn::Wait(until) => Some(until),
            Turn::Done => None,
        };
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        let session = &mut self.session;
        self.wake = None;
        self.sender.finish(&mut |report: Report| {
            session.take(&report);
            Ok(())
        })
    }

    /// What the rule looks at. A late answer took at least the timeout.
    fn path(&self, figures: Option<&Figures>, late: i64) -> Path {
        let session = &self.session;
        let round_trips = figures.into_iter().flat_map(|one| one.round_trips.iter());
        let late = (0..session.late).map(|_| late);
        Path {
            lost: Share {
                bad: self.lost() + session.unreachable,
                all: session.sent,
            },
            round_trips: round_trips.chain(late).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, net::UdpSocket, sync::Arc, thread};

    use ipnet::IpNet;
    use nix::unistd::pipe;

    use super::*;
    use crate::active::{
        fate::Counts,
        plan::Train,
        reflector::{Reflector, Settings},
        schedule::when::Rhythm,
    };

    #[test]
    fn each_port_has_a_label_of_its_own() {
        let labels: HashSet<u32> = (0..=u16::MAX).map(label).collect();
        assert_eq!(labels.len(), 65_536);
        assert!(labels.iter().all(|label| (1..0x8_0000).contains(label)));
        let v4: SocketAddr = "198.18.0.1:862".parse().expect("an address");
        assert_eq!(labelled(v4, 50_000), (v4, None));
        let mapped: SocketAddr = "[::ffff:198.18.0.1]:862".parse().expect("an address");
        assert_eq!(labelled(mapped, 50_000).1, None);
        let v6: SocketAddr = "[fd00::1%3]:862".parse().expect("an address");
        let (labelled, of_port) = labelled(v6, 50_000);
        let SocketAddr::V6(labelled) = labelled else {
            panic!("{labelled}")
        };
        assert_eq!(labelled.flowinfo(), label(50_000).to_be());
        assert_eq!((of_port, labelled.scope_id()), (Some(label(50_000)), 3));
    }

    fn plan(target: SocketAddr) -> Plan {
        Plan {
            target,
            from: None,
            interface: None,
            ports: None,
            count: Some(5),
            interval: Duration::from_millis(20),
            rhythm: Rhythm::Even,
            train: Train::SINGLE,
            size: 0,
            dscp: 0,
            ecn: 0,
            timeout: Duration::from_secs(5),
            session: 1,
            key: None,
        }
    }

    /// On the loopback device, over both families: all ports have all answers, and a taken port is
    /// passed over.
    #[test]
    fn a_sweep_has_an_answer_to_each_probe() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let address: SocketAddr = address.parse().expect("an address");
            let settings = Settings {
                allow: vec![IpNet::from(address.ip())].into(),
                rate: 1_000_000,
                keys: std::collections::HashMap::new(),
            };
            let mut reflector = Reflector::bind(address, false, settings).expect("a reflector");
            let target = reflector.address().expect("an address");
            let (readable, end) = pipe().expect("a pipe");
            let serve = move || reflector.serve(&Arc::new(Counts::default()), &readable);
            let serving = thread::spawn(serve);
            let taken = UdpSocket::bind((address.ip(), 0)).expect("a socket");
            let taken = taken.local_addr().expect("an address").port();
            let first = taken.min(u16::MAX - 300);
            let mut sweep = Sweep::open(&plan(target), 16, Some(first)).expect("a sweep");
            let (never, _end) = pipe().expect("a pipe");
            sweep.run(&never).expect("a sweep");
            drop(end);
            serving.join().expect("a thread").expect("a reflector");
            let ports: HashSet<u16> = sweep.flows().iter().map(|flow| flow.port).collect();
            assert_eq!(ports.len(), 16);
            let judged = sweep.judge();
            for (flow, (figures, grounds)) in sweep.flows().iter().zip(&judged.paths) {
                let session = &flow.session;
                assert_eq!((session.sent, session.received), (5, 5), "{flow:?}");
                assert_eq!(flow.label.is_some(), address.is_ipv6());
                assert!(figures.is_some() && grounds.loss.is_none());
            }
            assert!(judged.round_trips.count() <= 80);
        }
    }
}
