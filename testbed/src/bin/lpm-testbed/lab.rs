//! Topologies that last until Ctrl-C.

use std::{
    fs::File,
    io::{BufRead, BufWriter},
    path::PathBuf,
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use lpm_testbed::{
    testbed::{
        DelayLine, Direction, Flavour, Impairment, Netns, Overlay, OverlayConfig, Pair, PairConfig,
        VlanPair,
        wire::{Precision, Record, write_csv},
    },
    traffic::Demo,
};
use serde_json::{Value, json};

use crate::wire::WireArgs;

/// Options of all topologies.
#[derive(Debug, Args)]
pub(crate) struct CommonArgs {
    #[command(flatten)]
    wire: WireArgs,
    /// Drives requests through it at a moderate pace.
    #[arg(long)]
    traffic: bool,
    /// Writes the wire's log, one line per packet, as CSV at the end.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// TCP without timestamps.
    #[arg(long)]
    no_timestamps: bool,
}

/// Flavours of the overlay.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum FlavourName {
    /// Bridge br1 with pods and `VxLAN` as ports, UDP 7000, MTU 1400.
    L2sm,
    /// Bridge cni0 and a routed flannel.1, UDP 8472, MTU 1450.
    Flannel,
    /// Bridge cni0 and a routed gpe0 without Ethernet headers, MTU 1450.
    Layer3,
}

#[derive(Debug, Args)]
pub(crate) struct OverlayArgs {
    /// How the nodes are joined.
    #[arg(long, value_enum, default_value = "l2sm")]
    flavour: FlavourName,
    /// Pods on each node.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=250))]
    pods: u8,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PairArgs {
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct VlanArgs {
    /// VLAN ids, the outermost first.
    #[arg(long, value_delimiter = ',', default_value = "100")]
    ids: Vec<u16>,
    #[command(flatten)]
    common: CommonArgs,
}

pub(crate) fn overlay(arguments: &OverlayArgs) -> anyhow::Result<()> {
    let common = &arguments.common;
    common.wire.check()?;
    let flavour = match arguments.flavour {
        FlavourName::L2sm => Flavour::L2sm,
        FlavourName::Flannel => Flavour::Flannel,
        FlavourName::Layer3 => Flavour::Layer3,
    };
    let overlay = Overlay::new(&OverlayConfig {
        flavour,
        pods_per_node: arguments.pods,
        wire: Impairment::default(),
        timestamps: !common.no_timestamps,
    })?;
    let pods: Vec<Value> = overlay
        .pods
        .iter()
        .map(|pod| {
            json!({"name": pod.name, "namespace": pod.netns.name(), "interface": pod.interface,
                   "v4": pod.v4, "v6": pod.v6})
        })
        .collect();
    println!(
        "{}",
        json!({"nodes": overlay.nodes.each_ref().map(Netns::name), "bridge": flavour.bridge(),
               "vxlan": flavour.vxlan(), "pods": pods})
    );
    let _traffic = common
        .traffic
        .then(|| Demo::on_overlay(&overlay))
        .transpose()?;
    stay(&overlay.wire, common)
}

pub(crate) fn pair(arguments: &PairArgs) -> anyhow::Result<()> {
    let common = &arguments.common;
    common.wire.check()?;
    let timestamps = !common.no_timestamps;
    let pair = Pair::new(&PairConfig {
        timestamps,
        ..PairConfig::default()
    })?;
    println!(
        "{}",
        json!({"client": pair.client.name(), "node": pair.node.name(),
               "server": pair.server.name(), "server_addresses": Pair::SERVER,
               "interface": Pair::POD_INTERFACE})
    );
    let _traffic = common
        .traffic
        .then(|| Demo::between(&pair.client, &pair.server, &Pair::SERVER))
        .transpose()?;
    stay(pair.wire(), common)
}

pub(crate) fn vlan(arguments: &VlanArgs) -> anyhow::Result<()> {
    let common = &arguments.common;
    common.wire.check()?;
    let vlan = VlanPair::new(&arguments.ids)?;
    vlan.client.set_tcp_timestamps(!common.no_timestamps)?;
    println!(
        "{}",
        json!({"client": vlan.client.name(), "node": vlan.node.name(),
               "server": vlan.server.name(), "server_addresses": VlanPair::server_addresses(),
               "interface": VlanPair::CLIENT_INTERFACE})
    );
    let _traffic = common
        .traffic
        .then(|| Demo::between(&vlan.client, &vlan.server, &VlanPair::server_addresses()))
        .transpose()?;
    // The tags are the wires' settings too: only what comes on top may change.
    let far = common.wire.impairment(Direction::Forward);
    vlan.set(&Impairment::default(), &far);
    eprintln!("Ctrl-C ends it.");
    wait_for_end(|_| eprintln!("the wires of a VLAN testbed cannot be changed"))?;
    finish(&vlan.far, common)
}

/// Applies the wire's settings, and those that are typed, until Ctrl-C.
fn stay(wire: &DelayLine, common: &CommonArgs) -> anyhow::Result<()> {
    common.wire.apply(wire);
    eprintln!("Ctrl-C ends it. New wire settings: type flags, such as: --delay 20ms --loss 0.01");
    wait_for_end(|line| match WireArgs::from_line(line) {
        Ok(settings) => {
            settings.apply(wire);
            eprintln!("set; so far {}", describe(&wire.records()));
        }
        Err(error) => eprintln!("{error}"),
    })?;
    finish(wire, common)
}

/// Hands over each line typed, until SIGINT or SIGTERM.
pub(crate) fn wait_for_end(mut typed: impl FnMut(&str)) -> anyhow::Result<()> {
    let (lines, mut next) = tokio::sync::mpsc::unbounded_channel();
    // Not joined: it ends with the process, or with its input.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                break;
            }
        }
    });
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            loop {
                tokio::select! {
                    _ = interrupt.recv() => return Ok(()),
                    _ = terminate.recv() => return Ok(()),
                    Some(line) = next.recv() => typed(line.trim()),
                }
            }
        })
}

/// Prints how precise the wire was, and writes its log.
fn finish(wire: &DelayLine, common: &CommonArgs) -> anyhow::Result<()> {
    let records = wire.take_records();
    eprintln!("wire: {}; {} missed", describe(&records), wire.missed()?);
    if let Some(path) = &common.log {
        let file = File::create(path)
            .with_context(|| format!("cannot write the log {}", path.display()))?;
        write_csv(BufWriter::new(file), &records)?;
    }
    Ok(())
}

fn describe(records: &[Record]) -> String {
    let lost = records
        .iter()
        .filter(|record| record.departure_ns.is_none())
        .count();
    match Precision::of(records) {
        None => format!("0 packets, {lost} lost"),
        Some(precision) => format!("{precision}; {lost} lost"),
    }
}
