//! Measures one packet again and again, through `BPF_PROG_TEST_RUN`: everything
//! is in the cache, so the result shows instructions, not memory.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use aya::{TestRun, programs::TestRunOptions};
use lpm_common::testing::frame::Frame;

use super::{Args, live::Series, programs::Contender};

/// Packets per run: the kernel divides the time by them.
const REPEAT: u32 = 1_000_000;
const ROUNDS: usize = 15;

/// A packet of a known flow with nothing new in it, by contender; both
/// directions hold the same.
pub(super) fn measure(args: &Args) -> Result<Vec<Series>> {
    let mut contenders = Contender::load_all(args)?;
    let mut frame = Frame::new(
        IpAddr::V4(Ipv4Addr::new(198, 18, 5, 1)),
        IpAddr::V4(Ipv4Addr::new(198, 18, 5, 2)),
        41140,
        5301,
    );
    // Without payload: the same bytes again would be a retransmission, which is news.
    frame.payload = 0;
    frame.timestamp = Some((1000, 1000));
    let frame = frame.bytes();
    let mut series: Vec<Series> = contenders
        .iter()
        .map(|contender| Series::new(contender.name))
        .collect();
    for round in 0..ROUNDS {
        for (contender, series) in contenders.iter_mut().zip(&mut series) {
            for direction in 0..2 {
                let mut options = TestRunOptions::new();
                options.data_in = Some(&frame);
                options.repeat = REPEAT;
                let run = contender.program(direction)?.test_run(options);
                let run = run.with_context(|| format!("test-run {}", contender.name))?;
                #[expect(clippy::cast_precision_loss, reason = "nanoseconds per packet")]
                if round > 0 {
                    series.gross[direction].push(run.duration.as_nanos() as f64);
                }
            }
        }
    }
    Ok(series)
}
