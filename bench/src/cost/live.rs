//! Real traffic on a real interface, the programs in turn.

use std::{
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::sys::{Stats, enable_stats};

use super::{Args, Traffic, programs::Contender};
use lpm_testbed::{
    testbed::{NsChild, Pair, PairConfig},
    traffic::{Background, ManyConfig, PORT, Server, many},
};

/// Packets that each program sees before it is measured, so that its maps
/// know the flows.
const WARM: u64 = 4_000;
/// iperf3's own.
const IPERF_PORT: u16 = 5201;
const PATIENCE: Duration = Duration::from_secs(20);

/// Nanoseconds per packet of one contender, by direction and round.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) gross: [Vec<f64>; 2],
    /// Packets that a direction's program saw in all rounds.
    pub(super) packets: [u64; 2],
}

impl Series {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            gross: [Vec::new(), Vec::new()],
            packets: [0; 2],
        }
    }
}

/// Lays out a pod, its node and a remote machine, drives `flows` connections
/// through, and measures at the node's end of the pod's veth.
pub(super) fn measure(args: &Args, flows: usize) -> Result<Vec<Series>> {
    let pair = Pair::new(&PairConfig {
        wire: None,
        ..PairConfig::default()
    })?;
    let _stats = enable_stats(Stats::RunTime).context("switch the kernel's run statistics on")?;
    match args.traffic {
        Traffic::Requests => {
            let _server = Server::start(&pair.server, PORT)?;
            let target = SocketAddr::new(Pair::SERVER[0], PORT);
            let config = ManyConfig::new(target, flows, args.rate);
            let traffic = Background::start(&pair.client, move |control| many(&config, control))?;
            traffic.wait_ready(PATIENCE)?;
            let series = pair.node.run_in(|| rounds(args, flows))??;
            traffic.stop()?;
            Ok(series)
        }
        Traffic::Streams => {
            let _streams = streams(&pair, flows)?;
            pair.node.run_in(|| rounds(args, flows))?
        }
    }
}

/// Bulk from the pod to the remote machine; ends when dropped.
fn streams(pair: &Pair, flows: usize) -> Result<[NsChild; 2]> {
    let quiet = |command: &mut Command| {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
    };
    let mut server = pair.server.command("iperf3");
    quiet(server.args(["--server"]));
    let server = pair.server.spawn(&mut server)?;
    let address = Pair::SERVER[0];
    serves(pair, SocketAddr::new(address, IPERF_PORT))?;
    let mut client = pair.client.command("iperf3");
    quiet(client.args(["--time", "86400", "--client", &address.to_string()]));
    quiet(client.args(["--parallel", &flows.to_string()]));
    let client = pair.client.spawn(&mut client)?;
    Ok([server, client])
}

/// Waits until somebody listens.
fn serves(pair: &Pair, address: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while pair
        .client
        .run_in(|| TcpStream::connect(address).is_err())?
    {
        ensure!(
            Instant::now() < deadline,
            "nobody serves {address} even after {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn rounds(args: &Args, flows: usize) -> Result<Vec<Series>> {
    let interface = Pair::POD_INTERFACE;
    let ifindex = nix::net::if_::if_nametoindex(interface)?;
    let mut contenders = Contender::load_all(args)?;
    for contender in &mut contenders {
        contender.configure(ifindex)?;
    }
    let mut series: Vec<Series> = contenders
        .iter()
        .map(|contender| Series::new(contender.name))
        .collect();
    if let Some(peer) = &args.peer {
        series.push(Series::new(&peer.name));
    }
    let warm = WARM.max(flows as u64 * 4);
    for round in 0..args.rounds() {
        for place in 0..series.len() {
            // Another one first in each round.
            let place = (place + round) % series.len();
            let measured = match contenders.get_mut(place) {
                Some(contender) => turn(args, contender, interface, warm)?,
                None => match &args.peer {
                    Some(peer) => peer.turn(interface, warm, args.milliseconds)?,
                    None => continue,
                },
            };
            for (direction, run) in measured.into_iter().enumerate() {
                let per_packet = run.per_packet();
                let per_packet = per_packet.context("no packets: the traffic has stopped")?;
                series[place].gross[direction].push(per_packet);
                series[place].packets[direction] += run.packets;
            }
        }
    }
    Ok(series)
}

/// One contender, one direction after the other, as both may be one program.
/// LPM has both attached all the time: its flow table needs both.
fn turn(
    args: &Args,
    contender: &mut Contender,
    interface: &str,
    warm: u64,
) -> Result<[super::programs::Run; 2]> {
    let shared = contender.program(0)?.info()?.id() == contender.program(1)?.info()?.id();
    let mut runs = [super::programs::Run::default(); 2];
    if shared {
        for (direction, run) in runs.iter_mut().enumerate() {
            let link = contender.attach(interface, direction)?;
            wait_for(contender, direction, warm)?;
            let before = contender.run(direction)?;
            std::thread::sleep(Duration::from_millis(args.milliseconds));
            *run = contender.run(direction)?.since(before);
            contender.program(direction)?.detach(link)?;
        }
    } else {
        let links = [
            contender.attach(interface, 0)?,
            contender.attach(interface, 1)?,
        ];
        wait_for(contender, 0, warm)?;
        wait_for(contender, 1, warm)?;
        let before = [contender.run(0)?, contender.run(1)?];
        std::thread::sleep(Duration::from_millis(args.milliseconds * 2));
        for (direction, run) in runs.iter_mut().enumerate() {
            *run = contender.run(direction)?.since(before[direction]);
        }
        for (direction, link) in links.into_iter().enumerate() {
            contender.program(direction)?.detach(link)?;
        }
    }
    Ok(runs)
}

/// Waits until the program has seen so many packets.
fn wait_for(contender: &mut Contender, direction: usize, packets: u64) -> Result<()> {
    let start = contender.run(direction)?;
    let deadline = Instant::now() + PATIENCE;
    while contender.run(direction)?.since(start).packets < packets {
        ensure!(
            Instant::now() < deadline,
            "{} saw fewer than {packets} packets in {PATIENCE:?}",
            contender.name
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
