//! `lpm-testbed`: nodes, pods, wires and traffic to play with.

mod cluster;
mod lab;
mod soak;
mod traffic;
mod wire;

use clap::{Parser, Subcommand};
use lpm_testbed::{kubernetes::Cluster, testbed::Netns};

/// Nodes and pods as network namespaces, wires that delay and lose, and traffic. Needs root. The
/// scenes of `overlay`, `pair` and `vlan` last until Ctrl-C and leave nothing behind.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example: two nodes with two pods each, 5 ms apart, and traffic between them:\n  \
                  lpm-testbed overlay --flavour l2sm --pods 2 --delay 5ms --traffic"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Two nodes joined by a `VxLAN` overlay.
    #[command(visible_alias = "overlay-up")]
    Overlay(lab::OverlayArgs),
    /// A pod, its node and a remote machine.
    Pair(lab::PairArgs),
    /// A client and a server with VLAN tags between them.
    Vlan(lab::VlanArgs),
    /// Serve or drive traffic in the current namespace; reports JSON.
    #[command(subcommand)]
    Traffic(traffic::Command),
    /// Two nodes of a real Kubernetes, until a signal (`cargo xtask cluster up` starts it).
    Cluster(cluster::Args),
    /// Agents under mixed load: what they take must not grow, and no sample may be wrong.
    Soak(soak::Args),
    /// Wait until a signal comes, as the first process of a pod does.
    Pause,
    /// Remove what killed testbeds left behind.
    Clean,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Overlay(arguments) => lab::overlay(&arguments),
        Command::Pair(arguments) => lab::pair(&arguments),
        Command::Vlan(arguments) => lab::vlan(&arguments),
        Command::Traffic(command) => traffic::run(command),
        Command::Cluster(arguments) => cluster::main(&arguments),
        Command::Soak(arguments) => soak::main(&arguments),
        Command::Pause => lab::wait_for_end(|_| {}),
        Command::Clean => {
            for name in Netns::remove_stale()? {
                println!("{name}");
            }
            for directory in Cluster::remove_stale()? {
                println!("{}", directory.display());
            }
            Ok(())
        }
    }
}
