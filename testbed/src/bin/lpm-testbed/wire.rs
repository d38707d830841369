//! The wire's settings on the command line.

use anyhow::ensure;
use clap::{Args, Parser};
use humantime::Duration;
use lpm_testbed::testbed::wire::{DelayLine, Direction, Impairment, Jitter, Loss, Reorder};

/// What the wire does to packets, in each direction.
#[derive(Debug, Clone, Args)]
pub(crate) struct WireArgs {
    /// One-way delay, for example 5ms or 200us.
    #[arg(long, default_value = "0s")]
    delay: Duration,
    /// One-way delay of the way back, if it differs.
    #[arg(long)]
    delay_back: Option<Duration>,
    /// Standard deviation of the delay.
    #[arg(long)]
    jitter: Option<Duration>,
    /// Mean of a Pareto tail on top of the delay, instead of --jitter.
    #[arg(long, conflicts_with = "jitter")]
    tail: Option<Duration>,
    /// Share of packets lost, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Loses every n-th packet instead.
    #[arg(long, conflicts_with = "loss", value_name = "N")]
    loss_every: Option<u64>,
    /// Bits per second.
    #[arg(long)]
    rate: Option<u64>,
    /// Packets that may wait on the wire.
    #[arg(long, default_value_t = 100_000)]
    queue: usize,
    /// Share of packets held back by --reorder-by, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    reorder: f64,
    /// How long packets are held back.
    #[arg(long, default_value = "1ms")]
    reorder_by: Duration,
    /// Share of packets sent twice, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    duplicate: f64,
    /// DSCP written into each packet, 0 to 63.
    #[arg(long, value_parser = clap::value_parser!(u8).range(..64))]
    dscp: Option<u8>,
    /// Seed of the random decisions.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// New settings, typed while the testbed runs.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    wire: WireArgs,
}

impl WireArgs {
    /// Reads settings from a line of flags.
    pub(crate) fn from_line(line: &str) -> anyhow::Result<Self> {
        let wire = Line::try_parse_from(line.split_whitespace())?.wire;
        wire.check()?;
        Ok(wire)
    }

    /// Refuses shares beyond 1.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        for (name, share) in [
            ("loss", self.loss),
            ("reorder", self.reorder),
            ("duplicate", self.duplicate),
        ] {
            ensure!(
                (0.0..=1.0).contains(&share),
                "--{name} {share}: give a share from 0 to 1"
            );
        }
        Ok(())
    }

    /// What one direction does.
    pub(crate) fn impairment(&self, direction: Direction) -> Impairment {
        let delay = match direction {
            Direction::Forward => self.delay,
            Direction::Backward => self.delay_back.unwrap_or(self.delay),
        };
        let jitter = match (self.jitter, self.tail) {
            (Some(sigma), _) => Jitter::Normal(sigma.into()),
            (_, Some(mean)) => Jitter::Pareto(mean.into()),
            _ => Jitter::None,
        };
        let loss = match self.loss_every {
            Some(n) => Loss::EveryNth(n),
            None if self.loss > 0.0 => Loss::Random(self.loss),
            None => Loss::None,
        };
        let reorder = (self.reorder > 0.0).then(|| Reorder {
            probability: self.reorder,
            extra: self.reorder_by.into(),
        });
        Impairment {
            delay: delay.into(),
            jitter,
            loss,
            rate_bits_per_second: self.rate,
            queue_packets: self.queue,
            reorder,
            duplicate: self.duplicate,
            dscp: self.dscp,
            seed: self.seed,
            ..Impairment::default()
        }
    }

    /// Sets both directions of a wire.
    pub(crate) fn apply(&self, wire: &DelayLine) {
        for direction in [Direction::Forward, Direction::Backward] {
            wire.set(direction, self.impairment(direction));
        }
    }
}
