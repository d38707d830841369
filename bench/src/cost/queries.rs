//! What `icmp` and `dns` cost, on and off: hot, as in [`super::hot`]. A pair is
//! a question and its answer, a new one each time ([`super::play`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use lpm_agent::kernel::load::LoadSettings;
use lpm_common::{
    layout::Method,
    testing::query::{Message, echo},
};

use super::{
    Args,
    play::{Make, Player, test_run},
    programs::{WAYS, load, load_empty, read},
    tunnels_xdp::Case,
};

/// Packets per run of a packet that is nobody's.
const REPEAT: u32 = 200_000;
const ROUNDS: usize = 15;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 5, 1));
const REMOTE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 5, 2));

/// Datagrams that are nobody's question.
pub(super) fn others() -> [(&'static str, Vec<u8>); 2] {
    let v6 = [1, 2].map(|last| IpAddr::V6(Ipv6Addr::new(0xfd00, 0x18, 5, 0, 0, 0, 0, last)));
    let udp = |[src, dst]: [IpAddr; 2]| Message::query(7).udp(src, dst, 40_000, 5000).bytes();
    [("UDP", udp([LOCAL, REMOTE])), ("UDP over IPv6", udp(v6))]
}

/// The two halves of a number: what a question and its answer have in common.
fn halves(number: u32) -> [u16; 2] {
    let [a, b, c, d] = number.to_be_bytes();
    [[a, b], [c, d]].map(u16::from_be_bytes)
}

/// A DNS query and its answer.
pub(super) fn dns(number: u32) -> [Vec<u8>; 2] {
    let [high, id] = halves(number);
    let port = 40_000 + high % 20_000;
    let query = Message::query(id).udp(LOCAL, REMOTE, port, 53);
    let answer = Message::answer(id, 0).udp(REMOTE, LOCAL, 53, port);
    [query.bytes(), answer.bytes()]
}

/// An echo request and its reply.
pub(super) fn ping(number: u32) -> [Vec<u8>; 2] {
    let [id, sequence] = halves(number);
    let request = echo(LOCAL, REMOTE, false, id, sequence);
    [
        request.bytes(),
        echo(REMOTE, LOCAL, true, id, sequence).bytes(),
    ]
}

/// Each with the methods on and off; of a pair, the mean of both packets.
pub(super) fn measure(args: &Args) -> Result<Vec<Case>> {
    let (object, bench_object) = (read(&args.object)?, read(&args.bench_object)?);
    let pairs: [(&'static str, Make); 2] = [("DNS pair", dns), ("echo pair", ping)];
    let mut empty = load_empty(&bench_object)?;
    let mut idle = Player::new(&bench_object, None)?;
    let mut cases = Vec::new();
    for on in [true, false] {
        let mut settings = LoadSettings::new();
        if !on {
            settings.methods = [Method::Ts, Method::Seq, Method::Handshake]
                .into_iter()
                .collect();
        }
        let mut kernel = load(&object, &settings)?;
        let mut player = Player::new(&bench_object, Some((kernel.ebpf_mut(), WAYS)))?;
        for (name, packet) in others() {
            let mut case = Case::new(name, WAYS[0], on);
            for _ in 0..ROUNDS {
                case.gross
                    .push(test_run(kernel.ebpf_mut(), WAYS[0], &packet, REPEAT)?);
                case.empty
                    .push(test_run(&mut empty, "bench_empty", &packet, REPEAT)?);
            }
            cases.push(case);
        }
        for (name, make) in pairs {
            let mut case = Case::new(name, WAYS[0], on);
            for round in 0..=ROUNDS {
                let (gross, idle) = (player.play(make)?, idle.play(make)?);
                // The first one makes the row.
                if round > 0 {
                    case.gross.push(gross);
                    case.empty.push(idle);
                }
            }
            cases.push(case);
        }
    }
    Ok(cases)
}
