//! The round trip of `lpm probe`, beside captures of the same packets and beside other tools.

use std::{collections::HashMap, net::SocketAddr};

use anyhow::{Context as _, Result, bail};

use super::{
    Args, Programs,
    busy::Busy,
    capture::{self, Capture, Trip},
    network::{Network, Way},
    peers::{self, Server, Turn},
};

/// What is measured on one way, idle or busy.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) way: Way,
    pub(super) is_busy: bool,
    /// The tools' names, and their turns.
    pub(super) tools: Vec<(String, Vec<Turn>)>,
    /// The round trip of each packet of `lpm`, less that by the captures.
    pub(super) above_capture: Vec<f64>,
    pub(super) captured: Vec<Trip>,
    /// What the captures themselves add to a round trip, in nanoseconds: a packet is shown to them
    /// between the device's queue and the device, at both ends.
    pub(super) by_capture: f64,
    /// How long stamp-suite kept its packets, by the captures, in nanoseconds.
    pub(super) suite_dwell: Vec<f64>,
}

/// A tool's name, and what runs one turn of it.
type Tool<'a> = (String, Box<dyn Fn() -> Result<Turn> + 'a>);

pub(super) fn measure(args: &Args, programs: &Programs) -> Result<Vec<Scene>> {
    let network = Network::new()?;
    let mut scenes = Vec::new();
    for way in Way::ALL {
        for is_busy in [false, true] {
            scenes.push(scene(args, programs, &network, way, is_busy)?);
            let busy = if is_busy { "busy" } else { "idle" };
            eprintln!("{}, {busy}: done", way.as_str());
        }
    }
    Ok(scenes)
}

fn scene(
    args: &Args,
    programs: &Programs,
    network: &Network,
    way: Way,
    is_busy: bool,
) -> Result<Scene> {
    let (to, netns) = (way.server(), &network.client);
    let mut servers = vec![Server::lpm(&network.server, &programs.lpm, to)?];
    let mut tools: Vec<Tool<'_>> = vec![
        (
            "lpm probe".to_owned(),
            Box::new(|| peers::lpm(netns, &programs.lpm, to, args.packets)),
        ),
        (
            "ping".to_owned(),
            Box::new(|| peers::ping(netns, to, args.packets)),
        ),
    ];
    if let Some(irtt) = &programs.irtt {
        servers.push(Server::irtt(&network.server, irtt, to)?);
        let turn = || peers::irtt(netns, irtt, to, args.packets);
        tools.push(("irtt".to_owned(), Box::new(turn)));
    }
    if let Some(program) = programs.stamp_suite.first() {
        let at = SocketAddr::new(to, peers::STAMP_SUITE);
        servers.push(Server::stamp_suite(&network.server, program, at)?);
        let turn = || peers::stamp_suite(netns, program, to, args.packets);
        tools.push(("stamp-suite".to_owned(), Box::new(turn)));
    }
    let busy = is_busy.then(Busy::start).transpose()?;
    let without = (tools[0].1)()?
        .queue
        .context("lpm tells the queue's time")?;
    let [at_client, at_server] = [&network.client, &network.server].map(Capture::start);
    let (at_client, at_server) = (at_client?, at_server?);
    let mut turns: Vec<Vec<Turn>> = tools.iter().map(|_| Vec::new()).collect();
    for round in 0..args.rounds {
        // Each tool comes first in its turn.
        for at in 0..tools.len() {
            let at = (at + round) % tools.len();
            let turn = tools[at].1().with_context(|| tools[at].0.clone())?;
            turns[at].push(turn);
        }
    }
    drop(busy);
    let (at_client, at_server) = (at_client.end()?, at_server.end()?);
    let (trips, ports) = (
        capture::trips(peers::LPM, &at_client, &at_server),
        capture::ports(peers::LPM, &at_client),
    );
    let of_suite = capture::trips(peers::STAMP_SUITE, &at_client, &at_server);
    let names = tools.iter().map(|(name, _)| name.clone());
    let ours = turns.first().context("lpm had its turns")?;
    let mut queues: Vec<f64> = ours.iter().filter_map(|turn| turn.queue).collect();
    queues.sort_by(f64::total_cmp);
    let with = queues.get(queues.len() / 2).copied().unwrap_or(without);
    let (above_capture, captured) = beside(ours, &ports, &trips)?;
    Ok(Scene {
        way,
        is_busy,
        tools: names.zip(turns.clone()).collect(),
        above_capture,
        captured,
        by_capture: 2.0 * (with - without),
        suite_dwell: of_suite.values().map(|trip| trip.dwell).collect(),
    })
}

/// Holds each packet of `lpm` against the captures. Each turn has a port of its own, and turns
/// follow one another.
fn beside(
    turns: &[Turn],
    ports: &[u16],
    trips: &HashMap<(u16, u32), Trip>,
) -> Result<(Vec<f64>, Vec<Trip>)> {
    if ports.len() != turns.len() {
        bail!(
            "{} turns have {} ports in the capture",
            turns.len(),
            ports.len()
        );
    }
    let (mut above, mut captured) = (Vec::new(), Vec::new());
    for (turn, port) in turns.iter().zip(ports) {
        for (number, rtt) in (0_u32..).zip(&turn.packets) {
            if let Some(trip) = trips.get(&(*port, number)) {
                above.push(rtt - trip.round_trip);
                captured.push(*trip);
            }
        }
    }
    Ok((above, captured))
}
