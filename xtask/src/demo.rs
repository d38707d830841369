//! `cargo xtask run`.

/// Build, lay out the demo overlay, drive traffic and show its latency live.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// The command `cargo xtask run`.
pub(crate) fn main(_args: &Args) -> anyhow::Result<()> {
    anyhow::bail!("the demo is not written yet")
}
