//! What looking into tunnels and XDP cost, and that they cost nobody anything
//! who has not configured them: hot, as in [`super::hot`].

use anyhow::{Context, Result};
use aya::Ebpf;
use lpm_agent::kernel::load::LoadSettings;
use lpm_common::{
    layout::TunnelKind,
    testing::tunnel::{Around, wrap},
};

use super::{
    Args, hot,
    play::test_run,
    programs::{load, load_empty, read},
};

/// Packets per run.
const REPEAT: u32 = 200_000;
const ROUNDS: usize = 15;

/// Nanoseconds per packet, by round, of one program and packet.
pub(super) struct Case {
    pub(super) packet: &'static str,
    pub(super) program: &'static str,
    /// Whether the agent loads what such a configuration asks for.
    pub(super) configured: bool,
    pub(super) gross: Vec<f64>,
    /// Nanoseconds per packet of the empty program, at the same hook in the same round.
    pub(super) empty: Vec<f64>,
}

impl Case {
    pub(super) fn new(packet: &'static str, program: &'static str, configured: bool) -> Self {
        Self {
            packet,
            program,
            configured,
            gross: Vec::new(),
            empty: Vec::new(),
        }
    }
}

/// A packet to the local end, and what that end sends; None: it sends nothing.
pub(super) struct Packets {
    pub(super) name: &'static str,
    pub(super) there: Vec<u8>,
    pub(super) back: Option<Vec<u8>>,
}

pub(super) fn packets() -> Vec<Packets> {
    let [there, back] = hot::packets(41140);
    let vxlan = |vni| Around::new(TunnelKind::Vxlan, vni);
    let geneve = Around::new(TunnelKind::Geneve, 7);
    let inside = |name, around: &[Around]| Packets {
        name,
        there: wrap(&there, around),
        back: Some(wrap(&back, around)),
    };
    let [one_way, _] = hot::packets(41141);
    vec![
        inside("VxLAN", &[vxlan(7)]),
        inside("Geneve", &[geneve]),
        inside("VxLAN in VxLAN", &[vxlan(7), vxlan(3)]),
        inside("TCP", &[]),
        Packets {
            name: "TCP, one way only",
            there: one_way,
            back: None,
        },
    ]
}

/// The program for what the local end sends, beside one for what it gets.
pub(super) fn back_of(program: &str) -> &'static str {
    if program.ends_with("_inner") {
        "lpm_from_local_inner"
    } else {
        "lpm_from_local"
    }
}

/// Makes the flow's entry, and lets both ways pass until there is nothing new in them.
fn begin(ebpf: &mut Ebpf, program: &str, packets: &Packets) -> Result<()> {
    let back = back_of(program);
    for _ in 0..hot::BEFORE {
        test_run(ebpf, program, &packets.there, 1)?;
        if let Some(packet) = &packets.back {
            test_run(ebpf, back, packet, 1)?;
        }
    }
    Ok(())
}

/// The settings that ask for tunnels and XDP.
pub(super) fn configured() -> LoadSettings {
    let mut settings = LoadSettings::new();
    settings.tunnels.vxlan[0] = 4789;
    settings.tunnels.geneve[0] = 6081;
    settings.xdp = true;
    settings
}

/// Each packet through each program that may meet it.
pub(super) fn measure(args: &Args) -> Result<Vec<Case>> {
    let object = read(&args.object)?;
    let mut without = load(&object, &LoadSettings::new())?;
    let mut with = load(&object, &configured())?;
    let mut empty = load_empty(&read(&args.bench_object)?)?;
    let mut cases = vec![
        Case::new("TCP", "lpm_to_local", false),
        Case::new("TCP, one way only", "lpm_to_local", false),
        Case::new("TCP", "lpm_to_local", true),
        Case::new("TCP", "lpm_to_local_inner", true),
        Case::new("VxLAN", "lpm_to_local", false),
        Case::new("VxLAN", "lpm_to_local_inner", true),
        Case::new("Geneve", "lpm_to_local_inner", true),
        Case::new("VxLAN in VxLAN", "lpm_to_local_inner", true),
        Case::new("TCP", "lpm_xdp", true),
        Case::new("VxLAN", "lpm_xdp_inner", true),
    ];
    let packets = packets();
    for round in 0..=ROUNDS {
        for case in &mut cases {
            let packets = packets.iter().find(|packets| packets.name == case.packet);
            let packets = packets.context(case.packet)?;
            let packet = &packets.there;
            let kernel = if case.configured {
                &mut with
            } else {
                &mut without
            };
            if round == 0 {
                begin(kernel.ebpf_mut(), case.program, packets)?;
            }
            let gross = test_run(kernel.ebpf_mut(), case.program, packet, REPEAT)?;
            let xdp = case.program.starts_with("lpm_xdp");
            let name = if xdp {
                "bench_xdp_empty"
            } else {
                "bench_empty"
            };
            let empty = test_run(&mut empty, name, packet, REPEAT)?;
            // The first one warms up.
            if round > 0 {
                case.gross.push(gross);
                case.empty.push(empty);
            }
        }
    }
    Ok(cases)
}
