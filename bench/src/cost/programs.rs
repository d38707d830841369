//! The programs that are compared, each from both ends of an interface.

use std::path::Path;

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    programs::{
        LinkOrder, ProgramInfo, SchedClassifier, TcAttachType, Xdp,
        tc::{SchedClassifierLinkId, TcAttachOptions},
    },
};
use lpm_agent::kernel::load::{Kernel, LoadSettings};
use lpm_common::layout::{InterfaceConfig, Vantage};

/// Run time of a program as the kernel counts it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Run {
    pub(super) nanoseconds: u64,
    pub(super) packets: u64,
}

impl Run {
    /// Reads the run time of the program behind the descriptor of `info`
    /// (`/proc/self/fdinfo`, from `bpf_prog_show_fdinfo` in the kernel).
    pub(super) fn of(info: &ProgramInfo) -> Result<Self> {
        use std::os::fd::{AsFd, AsRawFd};
        let fd = info.fd().context("open the program")?;
        let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let field = |name: &str| -> Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let value = line.with_context(|| format!("{path} has no {name}"))?;
            Ok(value.trim().parse()?)
        };
        Ok(Self {
            nanoseconds: field("run_time_ns:")?,
            packets: field("run_cnt:")?,
        })
    }

    /// What was counted since.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            nanoseconds: self.nanoseconds - before.nanoseconds,
            packets: self.packets - before.packets,
        }
    }

    /// Nanoseconds per packet; None: there was none.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    pub(super) fn per_packet(self) -> Option<f64> {
        (self.packets > 0).then(|| self.nanoseconds as f64 / self.packets as f64)
    }
}

/// A loaded pair of programs: what enters the host from the pod, what leaves
/// it towards the pod.
pub(super) struct Contender {
    pub(super) name: &'static str,
    loaded: Loaded,
    programs: [&'static str; 2],
}

enum Loaded {
    Plain(Ebpf),
    Lpm(Box<Kernel>),
}

impl Contender {
    /// Everything to compare: empty, minimal, LPM, and another LPM if asked.
    pub(super) fn load_all(args: &super::Args) -> Result<Vec<Self>> {
        let plain = |name, program: &'static str| -> Result<Self> {
            let object = read(&args.bench_object)?;
            let mut ebpf = EbpfLoader::new().load(&object)?;
            classifier(&mut ebpf, program)?.load()?;
            Ok(Self {
                name,
                loaded: Loaded::Plain(ebpf),
                programs: [program; 2],
            })
        };
        let lpm = |name, path: &Path| -> Result<Self> {
            let kernel = load(&read(path)?, &LoadSettings::new())?;
            Ok(Self {
                name,
                loaded: Loaded::Lpm(Box::new(kernel)),
                programs: WAYS,
            })
        };
        let mut all = vec![
            plain("empty", "bench_empty")?,
            plain("minimal", "bench_minimal")?,
            lpm("lpm", &args.object)?,
        ];
        if let Some(other) = &args.beside {
            all.push(lpm("beside", other)?);
        }
        Ok(all)
    }

    pub(super) fn ebpf(&mut self) -> &mut Ebpf {
        match &mut self.loaded {
            Loaded::Plain(ebpf) => ebpf,
            Loaded::Lpm(kernel) => kernel.ebpf_mut(),
        }
    }

    /// Name of the program of a direction.
    pub(super) fn name_of(&self, direction: usize) -> &'static str {
        self.programs[direction]
    }

    /// The program of a direction: 0 from the pod, 1 to the pod.
    pub(super) fn program(&mut self, direction: usize) -> Result<&mut SchedClassifier> {
        let name = self.programs[direction];
        classifier(self.ebpf(), name)
    }

    /// Tells LPM what the interface is, as the agent does.
    pub(super) fn configure(&mut self, ifindex: u32) -> Result<()> {
        if let Loaded::Lpm(kernel) = &mut self.loaded {
            let map = kernel
                .ebpf_mut()
                .map_mut("INTERFACES")
                .context("no map INTERFACES")?;
            let mut map = aya::maps::HashMap::<_, u32, [u8; 8]>::try_from(map)?;
            let config = InterfaceConfig {
                vantage: Vantage::Pod as u8,
                ..InterfaceConfig::default()
            };
            map.insert(ifindex, [config.vantage, 0, 0, 0, 0, 0, 0, 0], 0)?;
        }
        Ok(())
    }

    /// Attaches one direction with TCX, before all others.
    pub(super) fn attach(
        &mut self,
        interface: &str,
        direction: usize,
    ) -> Result<SchedClassifierLinkId> {
        let way = [TcAttachType::Ingress, TcAttachType::Egress][direction];
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let program = self.program(direction)?;
        Ok(program.attach_with_options(interface, way, options)?)
    }

    /// What the kernel has counted of a direction's program. Where one
    /// program serves both, attach one direction at a time.
    pub(super) fn run(&mut self, direction: usize) -> Result<Run> {
        Run::of(&self.program(direction)?.info()?)
    }
}

/// Loads LPM's object with names, as the agent does: flows keep their rows.
pub(super) fn load(object: &[u8], settings: &LoadSettings) -> Result<Kernel> {
    let kernel = Kernel::load_object(object, settings)?;
    let control = kernel.control()?;
    let control = control.get(0).context("CONTROL is empty")?;
    control
        .generation
        .store(1, std::sync::atomic::Ordering::Relaxed);
    Ok(kernel)
}

/// LPM's programs at TC, by direction.
pub(super) const WAYS: [&str; 2] = ["lpm_from_local", "lpm_to_local"];

/// The empty programs.
pub(super) fn load_empty(bench_object: &[u8]) -> Result<Ebpf> {
    let mut empty = EbpfLoader::new().load(bench_object)?;
    classifier(&mut empty, "bench_empty")?.load()?;
    let xdp = empty.program_mut("bench_xdp_empty");
    <&mut Xdp>::try_from(xdp.context("no program bench_xdp_empty")?)?.load()?;
    Ok(empty)
}

pub(super) fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}

/// A kernel object's bytes, where aya can read them as the structures they
/// are.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| {
        format!(
            "read the kernel object {}: run `cargo xtask build` first",
            path.display()
        )
    })
}
