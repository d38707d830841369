//! What looking into tunnels and XDP cost, and that they cost nobody anything
//! who has not configured them: hot, as in [`super::hot`].

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader, TestRun,
    programs::{Program, SchedClassifier, TestRunOptions, Xdp},
};
use lpm_agent::kernel::load::{Kernel, LoadSettings};
use lpm_common::{
    layout::TunnelKind,
    testing::{
        frame::Frame,
        tunnel::{Around, wrap},
    },
};

use super::{Args, programs::read};

/// Packets per run: the kernel divides the time by them.
const REPEAT: u32 = 200_000;
const ROUNDS: usize = 15;

/// Nanoseconds per packet, by round, of one program and packet.
pub(super) struct Case {
    pub(super) packet: &'static str,
    pub(super) program: &'static str,
    /// Whether the agent loads what such a configuration asks for.
    pub(super) configured: bool,
    pub(super) gross: Vec<f64>,
    /// Of the empty program at the same hook in the same round.
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

fn packets() -> Vec<(&'static str, Vec<u8>)> {
    let mut frame = Frame::new(
        IpAddr::V4(Ipv4Addr::new(198, 18, 5, 1)),
        IpAddr::V4(Ipv4Addr::new(198, 18, 5, 2)),
        41140,
        5301,
    );
    frame.timestamp = Some((1000, 1000));
    let plain = frame.bytes();
    let vxlan = |vni| Around::new(TunnelKind::Vxlan, vni);
    let geneve = Around::new(TunnelKind::Geneve, 7);
    let inside = |around: &[Around]| wrap(&plain, around);
    vec![
        ("VxLAN", inside(&[vxlan(7)])),
        ("Geneve", inside(&[geneve])),
        ("VxLAN in VxLAN", inside(&[vxlan(7), vxlan(3)])),
        ("TCP", plain),
    ]
}

/// Each packet through each program that may meet it.
pub(super) fn measure(args: &Args) -> Result<Vec<Case>> {
    let object = read(&args.object)?;
    let mut settings = LoadSettings::new();
    let mut without = Kernel::load_object(&object, &settings)?;
    settings.tunnels.vxlan[0] = 4789;
    settings.tunnels.geneve[0] = 6081;
    settings.xdp = true;
    let mut with = Kernel::load_object(&object, &settings)?;
    let mut empty = EbpfLoader::new().load(&read(&args.bench_object)?)?;
    for name in ["bench_empty", "bench_xdp_empty"] {
        load(empty.program_mut(name).context(name)?)?;
    }
    let mut cases = vec![
        Case::new("TCP", "lpm_to_local", false),
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
            let packet = packets.iter().find(|(name, _)| *name == case.packet);
            let (_, packet) = packet.context(case.packet)?;
            let kernel = if case.configured {
                &mut with
            } else {
                &mut without
            };
            let gross = run(kernel.ebpf_mut(), case.program, packet)?;
            let xdp = case.program.starts_with("lpm_xdp");
            let name = if xdp {
                "bench_xdp_empty"
            } else {
                "bench_empty"
            };
            let empty = run(&mut empty, name, packet)?;
            // The first one makes the flow's entry.
            if round > 0 {
                case.gross.push(gross);
                case.empty.push(empty);
            }
        }
    }
    Ok(cases)
}

fn load(program: &mut Program) -> Result<()> {
    match program {
        Program::Xdp(program) => program.load()?,
        program => <&mut SchedClassifier>::try_from(program)?.load()?,
    }
    Ok(())
}

fn run(ebpf: &mut Ebpf, name: &str, packet: &[u8]) -> Result<f64> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(packet);
    options.repeat = REPEAT;
    let program = ebpf.program_mut(name).with_context(|| name.to_owned())?;
    let run = match program {
        Program::Xdp(program) => <Xdp as TestRun>::test_run(program, options),
        program => <&mut SchedClassifier>::try_from(program)?.test_run(options),
    };
    let run = run.with_context(|| format!("test-run {name}"))?;
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds per packet")]
    Ok(run.duration.as_nanos() as f64)
}
