//! Captures through the library.

use std::{
    io::{self, Read},
    net::IpAddr,
};

use lpm_agent::{
    passive::{Flow, flow::plain_address},
    replay::{
        Capture, CaptureError, Choice, Flows, Input, LocalEnd, Replay, ReplayError, Settings, Sink,
        engine::Unanswered,
        order::{Disorder, WINDOW_NS},
    },
};
use lpm_common::{
    counter::Counter,
    layout::{Methods, Sample},
    parse::tunnel::TunnelPorts,
};

/// What came out.
#[derive(Debug, Default)]
pub(crate) struct Out {
    pub(crate) samples: Vec<Seen>,
    pub(crate) flows: Flows,
    pub(crate) warnings: Vec<String>,
    pub(crate) error: Option<CaptureError>,
    pub(crate) packets: u64,
    pub(crate) cut: u64,
    pub(crate) steps: u64,
    pub(crate) backwards: u64,
    pub(crate) untimed: u64,
    pub(crate) disorder: Disorder,
    pub(crate) copies: (u64, u64),
    pub(crate) carried: u64,
    pub(crate) optionless: u64,
    pub(crate) zero: u64,
    pub(crate) retransmissions: u64,
    pub(crate) coarse_ns: Option<u64>,
    pub(crate) unanswered: Unanswered,
    pub(crate) counters: Vec<(Counter, u64)>,
}

/// A sample, as far as tests look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) time_ns: u64,
    pub(crate) rtt_ns: u64,
    pub(crate) src: (IpAddr, u16),
    pub(crate) dst: (IpAddr, u16),
    pub(crate) id: u32,
    pub(crate) interface: String,
    pub(crate) leg: u8,
    pub(crate) echo: u8,
    pub(crate) method: u8,
}

impl Sink for Out {
    fn sample(&mut self, sample: &Sample, interface: &str) -> io::Result<()> {
        self.flows.sample(sample);
        self.samples.push(Seen {
            time_ns: sample.time_ns,
            rtt_ns: sample.rtt_ns,
            src: (plain_address(sample.src), sample.sport),
            dst: (plain_address(sample.dst), sample.dport),
            id: sample.id,
            interface: interface.to_owned(),
            leg: sample.leg,
            echo: sample.echo,
            method: sample.method,
        });
        Ok(())
    }

    fn flow(&mut self, flow: &Flow) {
        self.flows.ended(flow);
    }

    fn carry(&mut self, flow: &Flow) -> Option<[u64; 2]> {
        self.flows.carry(flow)
    }

    fn warning(&mut self, text: &str) {
        self.warnings.push(text.to_owned());
    }
}

impl Out {
    /// The value of a counter.
    pub(crate) fn counter(&self, counter: Counter) -> u64 {
        let found = self.counters.iter().find(|(which, _)| *which == counter);
        found.map_or(0, |(_, count)| *count)
    }
}

/// Settings with 198.18.5.1 and its like of IPv6 as the local end.
pub(crate) fn settings() -> Settings {
    let local = ["198.18.5.1/32", "fd00::5:1/128"].map(|range| range.parse().expect("a range"));
    Settings {
        local: LocalEnd::new(local.into()),
        ..undirected()
    }
}

/// Settings that leave the local end to the packets.
pub(crate) fn undirected() -> Settings {
    Settings {
        flow_entries: 64,
        methods: Methods::DEFAULT,
        idle_seconds: 60,
        local: LocalEnd::default(),
        tunnels: TunnelPorts::default(),
        keep_flows: true,
    }
}

/// Replays a capture to its end.
pub(crate) fn replay(bytes: &[u8]) -> Out {
    replay_with(bytes, settings(), Choice::default())
}

pub(crate) fn replay_with(bytes: &[u8], settings: Settings, choice: Choice) -> Out {
    let input = Input::of(io::Cursor::new(bytes.to_vec()), None).expect("memory");
    replay_from(input, settings, choice)
}

pub(crate) fn replay_from(source: impl Read, settings: Settings, choice: Choice) -> Out {
    replay_within(source, settings, choice, WINDOW_NS)
}

/// Holding packets for so long, nanoseconds.
pub(crate) fn replay_within(
    source: impl Read,
    settings: Settings,
    choice: Choice,
    window_ns: u64,
) -> Out {
    let mut out = Out::default();
    let capture = match Capture::new(source) {
        Ok(capture) => capture,
        Err(error) => {
            out.error = Some(error);
            return out;
        }
    };
    let mut run = Replay::new(capture, settings, choice, window_ns);
    match run.run(u64::MAX, &mut out) {
        Ok(ended) => assert!(!ended),
        Err(ReplayError::Capture(error)) => {
            out.error = Some(error);
            run.end(&mut out).expect("memory");
        }
        Err(ReplayError::Output(error)) => panic!("{error}"),
    }
    out.packets = run.seen().packets;
    out.cut = run.seen().cut;
    out.steps = run.places().steps;
    out.backwards = run.backwards();
    out.untimed = run.untimed();
    out.disorder = run.disorder();
    out.copies = run.copies();
    out.carried = run.carried();
    out.optionless = run.optionless();
    out.zero = run.zero();
    out.retransmissions = run.retransmissions();
    let mut places = run.places().all().iter();
    out.coarse_ns = places.find_map(|spot| spot.tick.coarse_ns());
    out.unanswered = run.unanswered();
    out.counters = Counter::ALL
        .iter()
        .map(|counter| (*counter, run.counter(*counter)))
        .collect();
    out
}
