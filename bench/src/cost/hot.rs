//! Measures one packet again and again, through `BPF_PROG_TEST_RUN`: everything
//! is in the cache, so the result shows instructions, not memory.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use lpm_common::testing::frame::Frame;

use super::{Args, live::Series, play::test_run, programs::Contender};

/// Packets per run.
const REPEAT: u32 = 1_000_000;
const ROUNDS: usize = 15;

/// A packet of the flow from this port, and one the other way. They have no payload: the same bytes
/// again would be a retransmission, which is news.
pub(super) fn packets(port: u16) -> [Vec<u8>; 2] {
    let ends = [1, 2].map(|last| IpAddr::V4(Ipv4Addr::new(198, 18, 5, last)));
    let ports = [port, 5301];
    [(0, 1), (1, 0)].map(|(from, to)| {
        let mut frame = Frame::new(ends[from], ends[to], ports[from], ports[to]);
        frame.timestamp = Some((1000, 1000));
        frame.bytes()
    })
}

/// How often each way passes before the measurement: an echo is news until the TSval that it echoes
/// has passed.
pub(super) const BEFORE: usize = 2;

/// A packet of a known flow with nothing new in it, by contender; both
/// directions hold the same.
pub(super) fn measure(args: &Args) -> Result<Vec<Series>> {
    let mut contenders = Contender::load_all(args)?;
    let packets = packets(41140);
    let mut series: Vec<Series> = contenders
        .iter()
        .map(|contender| Series::new(contender.name))
        .collect();
    for contender in &mut contenders {
        for _ in 0..BEFORE {
            for (direction, packet) in packets.iter().enumerate() {
                run(contender, direction, packet, 1)?;
            }
        }
    }
    for round in 0..ROUNDS {
        for (contender, series) in contenders.iter_mut().zip(&mut series) {
            for (direction, packet) in packets.iter().enumerate() {
                let gross = run(contender, direction, packet, REPEAT)?;
                if round > 0 {
                    series.gross[direction].push(gross);
                }
            }
        }
    }
    Ok(series)
}

/// Nanoseconds per packet.
fn run(contender: &mut Contender, direction: usize, packet: &[u8], repeat: u32) -> Result<f64> {
    let name = contender.name_of(direction);
    test_run(contender.ebpf(), name, packet, repeat)
}
