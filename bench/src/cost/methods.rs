//! What `ts`, `seq` and `handshake` cost where they make a sample, on and off:
//! hot, as in [`super::hot`]. A pair is a packet of the pod's and its answer,
//! a new one each time ([`super::play`]).

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::Ordering::Relaxed,
};

use anyhow::{Result, ensure};
use lpm_agent::kernel::load::{Kernel, LoadSettings};
use lpm_common::{layout::Method, packet::flag, testing::frame::Frame};

use super::{
    Args,
    play::{Make, Player},
    programs::{WAYS, load, read},
    tunnels_xdp::Case,
};

const ROUNDS: usize = 15;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 5, 1));
const REMOTE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 5, 2));

/// A segment with its acknowledgement.
fn exchange(number: u32, stamped: bool) -> [Vec<u8>; 2] {
    let mut data = Frame::new(LOCAL, REMOTE, 41_140, 5301);
    data.payload = 60;
    data.seq = 1000_u32.wrapping_add(number.wrapping_mul(60));
    data.ack = 1;
    let mut ack = Frame::new(REMOTE, LOCAL, 5301, 41_140);
    ack.seq = 1;
    ack.ack = data.seq.wrapping_add(60);
    if stamped {
        data.timestamp = Some((1000 + number, 2000 + number));
        ack.timestamp = Some((2001 + number, 1000 + number));
    }
    [data.bytes(), ack.bytes()]
}

/// A segment and its acknowledgement with timestamps.
pub(super) fn stamped(number: u32) -> [Vec<u8>; 2] {
    exchange(number, true)
}

/// A segment and its acknowledgement without timestamps.
pub(super) fn bare(number: u32) -> [Vec<u8>; 2] {
    exchange(number, false)
}

/// A SYN and the SYN-ACK to it, the same connection again and again.
pub(super) fn opening(number: u32) -> [Vec<u8>; 2] {
    let mut syn = Frame::new(LOCAL, REMOTE, 41_141, 5301);
    syn.flags = flag::SYN;
    syn.seq = number.wrapping_mul(100_000);
    syn.mss = Some(1460);
    let mut answer = Frame::new(REMOTE, LOCAL, 5301, 41_141);
    answer.flags = flag::SYN | flag::ACK;
    answer.seq = 7;
    answer.ack = syn.seq.wrapping_add(1);
    answer.mss = Some(1460);
    [syn.bytes(), answer.bytes()]
}

/// Each with its method on and off; the mean of both packets.
pub(super) fn measure(args: &Args) -> Result<Vec<Case>> {
    let makes: [(&'static str, Method, Make); 3] = [
        ("data and ACK, timestamps", Method::Ts, stamped),
        ("data and ACK, none", Method::Seq, bare),
        ("SYN and SYN-ACK", Method::Handshake, opening),
    ];
    let object = read(&args.object)?;
    let bench_object = read(&args.bench_object)?;
    let mut empty = Player::new(&bench_object, None)?;
    let mut cases = Vec::new();
    for (packet, method, make) in makes {
        for on in [true, false] {
            let mut settings = LoadSettings::new();
            settings.methods = on.then_some(method).into_iter().collect();
            let mut kernel = load(&object, &settings)?;
            let mut case = Case::new(packet, method.as_str(), on);
            let mut player = Player::new(&bench_object, Some((kernel.ebpf_mut(), WAYS)))?;
            for round in 0..=ROUNDS {
                let (gross, idle) = (player.play(make)?, empty.play(make)?);
                // The first one makes the flow's entry.
                if round > 0 {
                    case.gross.push(gross);
                    case.empty.push(idle);
                }
            }
            let made = makes_samples(&kernel)?;
            ensure!(made == on, "{packet}: samples {made}, {method:?} {on}");
            cases.push(case);
        }
    }
    Ok(cases)
}

/// Whether the flow has any. A handshake begins its flow anew.
fn makes_samples(kernel: &Kernel) -> Result<bool> {
    let flows = kernel.flows()?;
    let entries = (0..flows.len()).filter_map(|index| flows.get(index));
    let mut legs = entries.flat_map(|entry| &entry.slots);
    Ok(legs.any(|leg| leg.samples.load(Relaxed) > 0))
}
