//! What a packet costs a reflector: the time on CPUs of its process by packets answered, under a load
//! that keeps as many packets on their way as there are sessions.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use lpm_agent::active::socket::{BATCH, Inbox, KeepStamping, Outbox, Outgoing, StampedSocket};
use lpm_common::stamp::{
    ErrorEstimate, Format, Mode, ReflectorPacket, SenderPacket, Timestamp,
    agent::AgentInfo,
    tlv::{Writer, kind},
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd as _;

use super::{
    Args, Programs,
    network::{Network, Way},
    peers::{self, Server},
};

/// Sessions that send at the same time. Each has one packet on its way.
const SESSIONS: u16 = 128;

/// Sessions of the run that only looks at the memory: as many as `lpm reflect` keeps.
const MANY: u16 = 4096;

/// Packets that are lost if no answer comes for so long.
const PATIENCE: u16 = 50;

/// A kind of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// Base packets of 44 bytes.
    Bare,
    /// Packets of 88 bytes as `lpm probe` sends them. They ask for the time of sending of the last
    /// answer, so `lpm reflect` asks the kernel for the time of each.
    Probe,
}

impl Load {
    pub(super) const ALL: [Self; 2] = [Self::Bare, Self::Probe];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Bare => "44 bytes, no TLV",
            Self::Probe => "88 bytes, TLVs of `lpm probe`",
        }
    }
}

/// What one reflector took.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) name: String,
    pub(super) load: Load,
    /// Packets answered per second of CPU, by round.
    pub(super) rates: Vec<f64>,
    /// Packets answered in all, and those sent again.
    pub(super) answered: u64,
    pub(super) lost: u64,
    /// T3 - T2 as the answers tell, in nanoseconds.
    pub(super) dwell: Vec<f64>,
    /// Anonymous memory, KiB: at the beginning, under this load, with [`MANY`] sessions.
    pub(super) memory: [u64; 3],
}

struct Reflector {
    name: String,
    at: SocketAddr,
    server: Server,
}

pub(super) fn measure(args: &Args, programs: &Programs) -> Result<Vec<Measured>> {
    let network = Network::new()?;
    let mut all = Vec::new();
    for load in Load::ALL {
        let reflectors = start(&network, programs)?;
        let mut measured = Vec::new();
        for reflector in &reflectors {
            let memory = reflector.server.anonymous()?;
            measured.push(Measured {
                name: reflector.name.clone(),
                load,
                rates: Vec::new(),
                answered: 0,
                lost: 0,
                dwell: Vec::new(),
                memory: [memory; 3],
            });
        }
        for round in 0..args.rounds {
            let share = args.seconds / f64::from(u32::try_from(args.rounds)?);
            let time = Duration::from_secs_f64(share);
            for at in 0..reflectors.len() {
                // Each comes first in its turn.
                let at = (at + round) % reflectors.len();
                turn(&network, &reflectors[at], &mut measured[at], time)?;
            }
        }
        for (reflector, measured) in reflectors.iter().zip(&mut measured) {
            measured.memory[1] = reflector.server.anonymous()?;
            let mut generator = Generator::new(&network, reflector.at, load, MANY)?;
            generator.run(Duration::from_secs(1))?;
            measured.memory[2] = reflector.server.anonymous()?;
        }
        all.extend(measured);
    }
    Ok(all)
}

fn start(network: &Network, programs: &Programs) -> Result<Vec<Reflector>> {
    let to: IpAddr = Way::Veth.server();
    let mut reflectors = vec![Reflector {
        name: "lpm reflect".to_owned(),
        at: SocketAddr::new(to, peers::LPM),
        server: Server::lpm(&network.server, &programs.lpm, to)?,
    }];
    for (port, program) in (peers::STAMP_SUITE..).zip(&programs.stamp_suite) {
        let at = SocketAddr::new(to, port);
        reflectors.push(Reflector {
            name: name(program),
            at,
            server: Server::stamp_suite(&network.server, program, at)?,
        });
    }
    Ok(reflectors)
}

fn name(program: &Path) -> String {
    let name = program.file_name().unwrap_or(program.as_os_str());
    name.to_string_lossy().into_owned()
}

fn turn(
    network: &Network,
    reflector: &Reflector,
    measured: &mut Measured,
    time: Duration,
) -> Result<()> {
    let mut generator = Generator::new(network, reflector.at, measured.load, SESSIONS)?;
    // The first packets begin the sessions.
    generator.run(Duration::from_millis(50))?;
    let (answered, cpu) = (generator.answered, reflector.server.cpu()?);
    generator.run(time)?;
    let cpu = reflector.server.cpu()?.saturating_sub(cpu).as_secs_f64();
    let answered = generator.answered - answered;
    if answered == 0 {
        bail!("{} does not answer", reflector.name);
    }
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 packets")]
    measured.rates.push(answered as f64 / cpu);
    measured.answered += answered;
    measured.lost += generator.lost;
    measured.dwell.append(&mut generator.dwell);
    Ok(())
}

/// What sends the load.
struct Generator {
    socket: StampedSocket,
    to: SocketAddr,
    load: Load,
    /// The number of each session's next packet; None: the session waits for an answer.
    ready: Vec<u16>,
    sequences: Vec<u32>,
    inbox: Inbox,
    outbox: Outbox,
    answered: u64,
    lost: u64,
    dwell: Vec<f64>,
    _keep: KeepStamping,
}

impl Generator {
    fn new(network: &Network, to: SocketAddr, load: Load, sessions: u16) -> Result<Self> {
        let open =
            || StampedSocket::bind_reflector("0.0.0.0:0".parse()?, false).context("a socket");
        Ok(Self {
            socket: network.client.run_in(open)??,
            to,
            load,
            ready: (0..sessions).collect(),
            sequences: vec![0; usize::from(sessions)],
            inbox: Inbox::new(256),
            outbox: Outbox::new(256),
            answered: 0,
            lost: 0,
            dwell: Vec::new(),
            _keep: KeepStamping::start()?,
        })
    }

    /// Keeps one packet of each session on its way.
    fn run(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.send()?;
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(PATIENCE))? == 0 {
                self.send_again();
            }
            self.receive()?;
        }
        Ok(())
    }

    fn send_again(&mut self) {
        let sessions = u16::try_from(self.sequences.len()).unwrap_or(u16::MAX);
        self.lost += u64::from(sessions) - self.ready.len() as u64;
        self.ready = (0..sessions).collect();
    }

    fn send(&mut self) -> Result<()> {
        while !self.ready.is_empty() {
            for _ in 0..BATCH {
                let Some(session) = self.ready.pop() else {
                    break;
                };
                let sequence = &mut self.sequences[usize::from(session)];
                let length = write(self.outbox.room(), self.load, session + 1, *sequence);
                *sequence = sequence.wrapping_add(1);
                let how = Outgoing::default();
                let outbox = &mut self.outbox;
                self.socket.enclose(outbox, length, self.to, how, false);
            }
            let mut sent = 0;
            while sent < self.outbox.len() {
                sent += self.socket.send_box(&mut self.outbox, sent)?;
            }
            self.outbox.clear();
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        loop {
            let count = self.socket.receive_all(&mut self.inbox)?;
            for at in 0..count {
                let Some((_, bytes)) = self.inbox.packet(at) else {
                    continue;
                };
                let answer = ReflectorPacket::read(bytes, Mode::Unauthenticated);
                let answer = answer.context("an answer is cut")?;
                self.answered += 1;
                if self.answered.is_multiple_of(64) {
                    self.dwell.extend(dwell(&answer));
                }
                self.ready.push(answer.session - 1);
            }
            if count < BATCH {
                return Ok(());
            }
        }
    }
}

/// T3 - T2, in nanoseconds, as the answer itself says.
fn dwell(answer: &ReflectorPacket) -> Option<f64> {
    let fixed = answer.timestamp.0.checked_sub(answer.receive.0)?;
    #[expect(clippy::cast_precision_loss, reason = "milliseconds at most")]
    let seconds = fixed as f64 / 2_f64.powi(32);
    Some(seconds * 1e9)
}

/// Writes a packet. Returns its length.
fn write(bytes: &mut [u8], load: Load, session: u16, sequence: u32) -> usize {
    let mode = Mode::Unauthenticated;
    let length = match load {
        Load::Bare => mode.base(),
        Load::Probe => 88,
    };
    let Some(bytes) = bytes.get_mut(..length) else {
        return 0;
    };
    bytes.fill(0);
    let packet = SenderPacket {
        sequence,
        timestamp: Timestamp(1 << 32 | u64::from(sequence)),
        error: ErrorEstimate::new(false, Format::Ntp, 1_000_000),
        session,
    };
    packet.write(mode, bytes);
    if load == Load::Probe {
        let mut writer = Writer::new(bytes, mode.base());
        // 88 bytes have room for these.
        let _ = writer.push(kind::FOLLOW_UP_TELEMETRY, &[0; 16]);
        let _ = writer.push(kind::CLASS_OF_SERVICE, &[0; 4]);
        let _ = writer.push(kind::AGENT, &AgentInfo::question());
    }
    length
}
