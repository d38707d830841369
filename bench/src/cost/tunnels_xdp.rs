//! What looking into tunnels and XDP cost, and that they cost nobody anything
//! who has not configured them: hot, as in [`super::hot`].

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader, TestRun,
    programs::{Program, SchedClassifier, TestRunOptions, Xdp},
};
use lpm_agent::kernel::load::{Kernel, LoadSettings};
use lpm_common::{
    layout::TunnelKind,
    testing::tunnel::{Around, wrap},
};

use super::{Args, hot, programs::read};

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
struct Packets {
    name: &'static str,
    there: Vec<u8>,
    back: Option<Vec<u8>>,
}

fn packets() -> Vec<Packets> {
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

/// Makes the flow's entry, and lets both ways pass until there is nothing new in them.
fn begin(ebpf: &mut Ebpf, program: &str, packets: &Packets) -> Result<()> {
    let back = if program.ends_with("_inner") {
        "lpm_from_local_inner"
    } else {
        "lpm_from_local"
    };
    for _ in 0..hot::BEFORE {
        run(ebpf, program, &packets.there, 1)?;
        if let Some(packet) = &packets.back {
            run(ebpf, back, packet, 1)?;
        }
    }
    Ok(())
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
            let gross = run(kernel.ebpf_mut(), case.program, packet, REPEAT)?;
            let xdp = case.program.starts_with("lpm_xdp");
            let name = if xdp {
                "bench_xdp_empty"
            } else {
                "bench_empty"
            };
            let empty = run(&mut empty, name, packet, REPEAT)?;
            // The first one warms up.
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

fn run(ebpf: &mut Ebpf, name: &str, packet: &[u8], repeat: u32) -> Result<f64> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(packet);
    options.repeat = repeat;
    let program = ebpf.program_mut(name).with_context(|| name.to_owned())?;
    let run = match program {
        Program::Xdp(program) => <Xdp as TestRun>::test_run(program, options),
        program => <&mut SchedClassifier>::try_from(program)?.test_run(options),
    };
    let run = run.with_context(|| format!("test-run {name}"))?;
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds per packet")]
    Ok(run.duration.as_nanos() as f64)
}
