//! Captures, as `lpm replay` reads them.

use std::io::{self, Cursor};

use lpm_agent::{
    passive::Flow,
    replay::{Capture, Choice, Input, LocalEnd, Replay, ReplayError, Settings, Sink, order},
};
use lpm_common::{
    layout::{Method, Sample, UNIT_NS},
    parse::tunnel::TunnelPorts,
};

use crate::packet::TUNNELS;

/// Most packets of a capture that are read: a small gzip file may hold many.
const MOST: u64 = 4096;

#[derive(Default)]
struct Results {
    longest_ns: u64,
    samples: u64,
}

impl Sink for Results {
    fn sample(&mut self, sample: &Sample, _: &str) -> io::Result<()> {
        if std::env::var_os("LPM_FUZZ_SHOW").is_some() {
            println!("{sample:?}");
        }
        self.longest_ns = self.longest_ns.max(sample.rtt_ns);
        self.samples += 1;
        Ok(())
    }

    fn flow(&mut self, _: &Flow) {}

    fn carry(&mut self, _: &Flow) -> Option<[u64; 2]> {
        None
    }

    fn warning(&mut self, text: &str) {
        assert!(
            !text.chars().any(|c| c.is_control() && c != '\n'),
            "{text:?}"
        );
    }
}

/// Any bytes as a capture: pcap, pcapng, or either compressed by gzip. The first byte chooses how it
/// is read.
pub fn capture(data: &[u8]) {
    let Some((way, capture)) = data.split_first() else {
        return;
    };
    let source = Cursor::new(capture.to_vec());
    let input = Input::of(source, Some(capture.len() as u64)).expect("memory can be read");
    let Ok(capture) = Capture::new(input) else {
        return;
    };
    let settings = Settings {
        flow_entries: 16,
        methods: Method::ALL.into_iter().collect(),
        idle_seconds: 30,
        local: LocalEnd::default(),
        tunnels: if way & 1 == 0 {
            TunnelPorts::default()
        } else {
            TUNNELS
        },
        keep_flows: way & 2 != 0,
    };
    let window_ns = if way & 4 == 0 { order::WINDOW_NS } else { 0 };
    let mut replay = Replay::new(capture, settings, Choice::default(), window_ns);
    let mut results = Results::default();
    match replay.run(MOST, &mut results) {
        Ok(_) => {}
        Err(ReplayError::Capture(error)) => {
            assert!(!error.to_string().is_empty());
            replay.end(&mut results).expect("memory can be written");
        }
        Err(ReplayError::Output(error)) => panic!("{error}"),
    }
    let seen = replay.seen();
    assert!(seen.unread + seen.elsewhere <= seen.packets, "{seen:?}");
    match seen.span_ns {
        Some((first, last)) => {
            let span = last - first + UNIT_NS;
            assert!(
                results.longest_ns <= span,
                "{} {seen:?}",
                results.longest_ns
            );
        }
        None => assert_eq!(results.samples, 0),
    }
}
