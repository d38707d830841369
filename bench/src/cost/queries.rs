//! What `icmp` and `dns` cost, on and off: hot, as in [`super::hot`]. A pair is
//! a question and its answer, a new one each time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader, TestRun,
    programs::{SchedClassifier, TestRunOptions},
};
use lpm_agent::kernel::load::{Kernel, LoadSettings};
use lpm_common::{
    layout::Method,
    testing::query::{Message, echo},
};

use super::{Args, programs::read, tunnels_xdp::Case};

/// Packets per run of a packet that is nobody's.
const REPEAT: u32 = 200_000;
/// Pairs per round, packet by packet.
const PAIRS: u32 = 2_000;
const ROUNDS: usize = 15;

/// A packet of the pod's and, of a pair, the other end's.
struct Packets {
    name: &'static str,
    sent: Vec<u8>,
    answer: Option<Vec<u8>>,
}

fn packets() -> Vec<Packets> {
    let v4 = [1, 2].map(|last| IpAddr::V4(Ipv4Addr::new(198, 18, 5, last)));
    let v6 = [1, 2].map(|last| IpAddr::V6(Ipv6Addr::new(0xfd00, 0x18, 5, 0, 0, 0, 0, last)));
    let udp = |[src, dst]: [IpAddr; 2], dport| Message::query(7).udp(src, dst, 40_000, dport);
    let [local, remote] = v4;
    vec![
        Packets {
            name: "UDP",
            sent: udp(v4, 5000).bytes(),
            answer: None,
        },
        Packets {
            name: "UDP over IPv6",
            sent: udp(v6, 5000).bytes(),
            answer: None,
        },
        Packets {
            name: "DNS pair",
            sent: udp(v4, 53).bytes(),
            answer: Some(Message::answer(7, 0).udp(remote, local, 53, 40_000).bytes()),
        },
        Packets {
            name: "echo pair",
            sent: echo(local, remote, false, 5, 1).bytes(),
            answer: Some(echo(remote, local, true, 5, 1).bytes()),
        },
    ]
}

/// Each with the methods on and off; of a pair, the mean of both packets.
pub(super) fn measure(args: &Args) -> Result<Vec<Case>> {
    let object = read(&args.object)?;
    let mut settings = LoadSettings::new();
    let mut on = Kernel::load_object(&object, &settings)?;
    settings.methods = [Method::Ts, Method::Seq, Method::Handshake]
        .into_iter()
        .collect();
    let mut off = Kernel::load_object(&object, &settings)?;
    let mut empty = EbpfLoader::new().load(&read(&args.bench_object)?)?;
    let program = empty.program_mut("bench_empty").context("bench_empty")?;
    <&mut SchedClassifier>::try_from(program)?.load()?;
    let packets = packets();
    let cases = packets.iter().flat_map(|packets| {
        [true, false].map(|on| (packets, on, Case::new(packets.name, "lpm_from_local", on)))
    });
    let mut cases: Vec<_> = cases.collect();
    for round in 0..=ROUNDS {
        for (packets, configured, case) in &mut cases {
            let kernel = if *configured { &mut on } else { &mut off };
            let programs = ["lpm_from_local", "lpm_to_local"];
            let gross = run(kernel.ebpf_mut(), programs, packets)?;
            let empty = run(&mut empty, ["bench_empty"; 2], packets)?;
            if round > 0 {
                case.gross.push(gross);
                case.empty.push(empty);
            }
        }
    }
    Ok(cases.into_iter().map(|(_, _, case)| case).collect())
}

/// Nanoseconds per packet.
fn run(ebpf: &mut Ebpf, [from, to]: [&str; 2], packets: &Packets) -> Result<f64> {
    let Some(answer) = &packets.answer else {
        return test_run(ebpf, from, &packets.sent, REPEAT);
    };
    let mut sum = 0.0;
    for _ in 0..PAIRS {
        sum += test_run(ebpf, from, &packets.sent, 1)? + test_run(ebpf, to, answer, 1)?;
    }
    Ok(sum / f64::from(2 * PAIRS))
}

pub(super) fn test_run(ebpf: &mut Ebpf, name: &str, packet: &[u8], repeat: u32) -> Result<f64> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(packet);
    options.repeat = repeat;
    let program = ebpf.program_mut(name).with_context(|| name.to_owned())?;
    let program = <&mut SchedClassifier>::try_from(program)?;
    let run = program.test_run(options);
    let run = run.with_context(|| format!("test-run {name}"))?;
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds per packet")]
    Ok(run.duration.as_nanos() as f64)
}
