//! Brings the kernel object into the kernel and hands out its programs and maps.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader, TestRun,
    maps::{Map, MapData, MapError},
    programs::{ProgramError, SchedClassifier, TestRunOptions},
};
use lpm_common::{
    hash::SEEDS,
    layout::{Control, FlowEntry, Histogram, Row},
    table::WAYS,
};
use thiserror::Error;

use super::{
    interfaces::Layer,
    mmap::{MmapArray, MmapError, Shared},
    privileges::{self, Need},
};

/// The object that build.rs put in; empty if it had not been built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lpm.bpf.o"));

/// Whether this binary holds the kernel programs.
#[must_use]
pub fn object_is_embedded() -> bool {
    !OBJECT.is_empty()
}

/// Sizes and constants that are fixed when the programs are loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadSettings {
    /// Entries of the flow table, 256 bytes each; a power of two.
    pub flow_entries: u32,
    /// Rows of histograms: pairs of namespaces, and one for what does not fit.
    pub rows: u32,
    /// Copies of each row's histograms against contention between CPUs; a power of two.
    pub stripes: u32,
    /// Secrets of the flow hash, so that nobody can aim for collisions.
    pub seeds: [u32; SEEDS],
    /// Seconds without a packet after which a flow may lose its entry.
    pub idle_seconds: u32,
    /// Addresses and ranges with a name.
    pub names: u32,
    /// Bytes of the ring buffer of samples; a power of two and of pages.
    pub samples_bytes: u32,
    /// For test runs: the programs take each packet's `tstamp` for the time.
    pub packet_clock: bool,
}

impl LoadSettings {
    /// The defaults with a fresh secret: 64 Ki flows (16 MiB).
    #[must_use]
    pub fn new() -> Self {
        Self {
            flow_entries: 1 << 16,
            rows: 512,
            stripes: 2,
            seeds: random(),
            idle_seconds: 60,
            names: 65_536,
            samples_bytes: 1 << 20,
            packet_clock: false,
        }
    }
}

impl Default for LoadSettings {
    fn default() -> Self {
        Self::new()
    }
}

/// What nobody outside can guess: the keys of std's hash maps come from the kernel.
fn random() -> [u32; SEEDS] {
    use std::hash::{BuildHasher, RandomState};
    let state = RandomState::new();
    #[expect(clippy::cast_possible_truncation, reason = "32 of 64 random bits")]
    std::array::from_fn(|i| state.hash_one(i) as u32)
}

/// Jiffies per second: the kernel's coarse clock ticks with them.
#[must_use]
pub fn jiffies_per_second() -> u32 {
    let tick = nix::time::clock_getres(nix::time::ClockId::CLOCK_MONOTONIC_COARSE);
    let tick = tick.map_or(4_000_000, |tick| tick.tv_nsec().max(1));
    u32::try_from((1_000_000_000 + tick / 2) / tick).unwrap_or(250)
}

/// Why the programs could not be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The binary was built without the object.
    #[error(
        "this lpm was built without its kernel programs: run `cargo xtask build`, then build lpm again"
    )]
    NoObject,
    /// A setting that makes no sense.
    #[error("{setting} is {value}: {remedy}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// Its value.
        value: u32,
        /// What it may be.
        remedy: &'static str,
    },
    /// Capabilities are missing.
    #[error("loading kernel programs is not permitted: this process lacks {}; run lpm as root, or grant them (in Kubernetes: securityContext.capabilities.add)", list(.missing))]
    NotPermitted {
        /// Which.
        missing: Vec<Need>,
    },
    /// The kernel or a security module forbids `bpf(2)` though the capabilities are there.
    #[error(
        "loading kernel programs is not permitted although the capabilities are there ({source}): a seccomp profile, kernel lockdown or a security module forbids bpf(2); `lpm check` tells more"
    )]
    Forbidden {
        /// What aya said.
        source: Box<EbpfError>,
    },
    /// The object did not load.
    #[error("load the kernel programs: {source}{}", no_btf_hint())]
    Object {
        /// What aya said.
        source: Box<EbpfError>,
    },
    /// The verifier, or an earlier step, refused a program.
    #[error("load the kernel program {program}: {}{}", chain(.source), no_btf_hint())]
    Program {
        /// Its name.
        program: String,
        /// What the kernel said, the verifier's log included.
        source: Box<ProgramError>,
    },
    /// The object is not the one this agent was written for.
    #[error(
        "the kernel object has no {what} {name}: it does not fit this agent; run `cargo xtask build` and build lpm again"
    )]
    Missing {
        /// `map` or `program`.
        what: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A map is of another type than expected.
    #[error(
        "the map {name} of the kernel object is not as expected: {source}; run `cargo xtask build` and build lpm again"
    )]
    MapType {
        /// Its name.
        name: &'static str,
        /// What aya said.
        source: MapError,
    },
    /// An array could not be mapped.
    #[error(transparent)]
    Mmap(#[from] MmapError),
    /// A descriptor could not be duplicated.
    #[error("duplicate the descriptor of the program {program}: {source}")]
    Descriptor {
        /// The program.
        program: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn list(missing: &[Need]) -> String {
    missing
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Said with a failure, because it is the likeliest reason where it holds.
fn no_btf_hint() -> &'static str {
    match Btf::from_sys_fs() {
        Ok(_) => "",
        Err(_) => {
            "; note that this kernel shows no BTF at /sys/kernel/btf/vmlinux: use a kernel with CONFIG_DEBUG_INFO_BTF"
        }
    }
}

/// One loaded program that can be attached.
#[derive(Debug)]
pub struct LoadedProgram {
    pub(crate) fd: OwnedFd,
    /// Its name in the object.
    pub name: &'static str,
    /// The kernel's number of it, unique as long as it lives.
    pub id: u32,
    /// The kernel's hash of its instructions: the same for each load of one object.
    pub tag: u64,
}

impl AsFd for LoadedProgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Names of the programs that are attached, in the order of [`Programs`].
pub(crate) const PROGRAM_NAMES: [&str; 4] = [
    "lpm_from_local",
    "lpm_to_local",
    "lpm_from_local_l3",
    "lpm_to_local_l3",
];

/// The programs that are attached to interfaces.
#[derive(Debug)]
pub struct Programs([LoadedProgram; 4]);

impl Programs {
    /// The program for packets that the local side sends.
    #[must_use]
    pub fn from_local(&self, layer: Layer) -> &LoadedProgram {
        match layer {
            Layer::Ethernet => &self.0[0],
            Layer::Network => &self.0[2],
        }
    }

    /// The program for packets to the local side.
    #[must_use]
    pub fn to_local(&self, layer: Layer) -> &LoadedProgram {
        match layer {
            Layer::Ethernet => &self.0[1],
            Layer::Network => &self.0[3],
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &LoadedProgram> {
        self.0.iter()
    }
}

/// The loaded object. Its programs and maps live as long as anybody holds them.
#[derive(Debug)]
pub struct Kernel {
    ebpf: Ebpf,
}

impl Kernel {
    /// Loads the embedded object.
    pub fn load(settings: &LoadSettings) -> Result<Self, LoadError> {
        Self::load_object(OBJECT, settings)
    }

    /// Loads an object file's bytes, aligned to 8.
    pub fn load_object(object: &[u8], settings: &LoadSettings) -> Result<Self, LoadError> {
        if object.is_empty() {
            return Err(LoadError::NoObject);
        }
        let missing = privileges::missing();
        if !missing.is_empty() {
            return Err(LoadError::NotPermitted { missing });
        }
        check_settings(settings)?;
        let constants = Constants::new(settings);
        let ebpf = configure(settings, &constants)
            .load(object)
            .map_err(|source| {
                let source = Box::new(source);
                if is_permission(&*source) {
                    LoadError::Forbidden { source }
                } else {
                    LoadError::Object { source }
                }
            })?;
        let mut kernel = Self { ebpf };
        for (name, program) in kernel.ebpf.programs_mut() {
            let name = name.to_owned();
            let loaded = <&mut SchedClassifier>::try_from(program).and_then(SchedClassifier::load);
            loaded.map_err(|source| LoadError::Program {
                program: name,
                source: Box::new(source),
            })?;
        }
        Ok(kernel)
    }

    /// The programs to attach; they stay loaded as long as the result (or a hook) holds them.
    pub fn programs(&self) -> Result<Programs, LoadError> {
        let [a, b, c, d] = PROGRAM_NAMES;
        Ok(Programs([
            self.loaded(a)?,
            self.loaded(b)?,
            self.loaded(c)?,
            self.loaded(d)?,
        ]))
    }

    fn loaded(&self, name: &'static str) -> Result<LoadedProgram, LoadError> {
        let program = self.classifier(name)?;
        let failed = |source| LoadError::Program {
            program: name.to_owned(),
            source: Box::new(source),
        };
        let info = program.info().map_err(failed)?;
        let fd = program
            .fd()
            .map_err(failed)?
            .as_fd()
            .try_clone_to_owned()
            .map_err(|source| LoadError::Descriptor {
                program: name,
                source,
            })?;
        Ok(LoadedProgram {
            fd,
            name,
            id: info.id(),
            tag: info.tag(),
        })
    }

    fn classifier(&self, name: &'static str) -> Result<&SchedClassifier, LoadError> {
        self.ebpf
            .program(name)
            .and_then(|program| program.try_into().ok())
            .ok_or(LoadError::Missing {
                what: "program",
                name,
            })
    }

    /// Lets the kernel write its clock and its jiffies into the control block: the pair that
    /// turns jiffies into time.
    pub fn run_clock(&self) -> Result<(), LoadError> {
        const NAME: &str = "lpm_clock";
        // The shortest frame that the kernel takes for a test run: an Ethernet header.
        let frame = [0; 14];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        self.classifier(NAME)?
            .test_run(options)
            .map(drop)
            .map_err(|source| LoadError::Program {
                program: NAME.to_owned(),
                source: Box::new(source),
            })
    }

    /// The flow table.
    pub fn flows(&self) -> Result<MmapArray<FlowEntry>, LoadError> {
        self.mapped("FLOWS")
    }

    /// The histograms.
    pub fn histograms(&self) -> Result<MmapArray<Histogram>, LoadError> {
        self.mapped("HISTOGRAMS")
    }

    /// The control block: an array of one.
    pub fn control(&self) -> Result<MmapArray<Control>, LoadError> {
        self.mapped("CONTROL")
    }

    /// The label sets of the histogram rows.
    pub fn rows(&self) -> Result<MmapArray<Row>, LoadError> {
        self.mapped("ROWS")
    }

    /// A memory-mapped view of an array by name.
    pub fn mapped<T: Shared>(&self, name: &'static str) -> Result<MmapArray<T>, LoadError> {
        match self.ebpf.map(name) {
            Some(Map::Array(map)) => Ok(MmapArray::new(map)?),
            _ => Err(LoadError::Missing {
                what: "array",
                name,
            }),
        }
    }

    /// Takes a map out, to own it: `kernel.take::<LpmTrie<MapData, K, V>>("NAMES")`.
    pub fn take<T>(&mut self, name: &'static str) -> Result<T, LoadError>
    where
        T: TryFrom<Map, Error = MapError>,
    {
        let map = self
            .ebpf
            .take_map(name)
            .ok_or(LoadError::Missing { what: "map", name })?;
        T::try_from(map).map_err(|source| LoadError::MapType { name, source })
    }

    /// The settings of the interfaces, as the hotplug thread wants them.
    pub fn interfaces(&mut self) -> Result<aya::maps::HashMap<MapData, u32, [u8; 4]>, LoadError> {
        self.take("INTERFACES")
    }

    /// The rest of aya's view: logging, other maps.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

fn check_settings(settings: &LoadSettings) -> Result<(), LoadError> {
    let power_of_two = "must be a power of two";
    for (setting, value, fits, remedy) in [
        (
            "flow_entries",
            settings.flow_entries,
            settings.flow_entries.is_power_of_two() && settings.flow_entries >= WAYS,
            "must be a power of two, at least 4",
        ),
        (
            "stripes",
            settings.stripes,
            settings.stripes.is_power_of_two(),
            power_of_two,
        ),
        (
            "rows",
            settings.rows,
            (1..=65_535).contains(&settings.rows),
            "must be 1 to 65535",
        ),
        (
            "samples_bytes",
            settings.samples_bytes,
            settings.samples_bytes.is_power_of_two() && settings.samples_bytes >= 4096,
            "must be a power of two, at least 4096",
        ),
    ] {
        if !fits {
            return Err(LoadError::Setting {
                setting,
                value,
                remedy,
            });
        }
    }
    Ok(())
}

/// The object's constants, by the names they have in it.
struct Constants {
    words: [(&'static str, u32); 6],
    seeds: [u32; SEEDS],
}

impl Constants {
    fn new(settings: &LoadSettings) -> Self {
        let hz = jiffies_per_second();
        let words = [
            ("LPM_SET_MASK", settings.flow_entries / WAYS - 1),
            ("LPM_ROWS", settings.rows),
            ("LPM_STRIPE_MASK", settings.stripes - 1),
            ("LPM_IDLE_JIFFIES", settings.idle_seconds.saturating_mul(hz)),
            ("LPM_HZ", hz),
            ("LPM_PACKET_CLOCK", u32::from(settings.packet_clock)),
        ];
        Self {
            words,
            seeds: settings.seeds,
        }
    }
}

fn configure<'a>(settings: &LoadSettings, constants: &'a Constants) -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries("FLOWS", settings.flow_entries)
        .map_max_entries("HISTOGRAMS", settings.rows * settings.stripes * 8)
        .map_max_entries("ROWS", settings.rows)
        .map_max_entries("PAIRS", settings.rows)
        .map_max_entries("NAMES", settings.names)
        .map_max_entries("SAMPLES", settings.samples_bytes);
    for (name, value) in &constants.words {
        loader.override_global(name, value, true);
    }
    loader.override_global("LPM_SEEDS", constants.seeds.as_slice(), true);
    loader
}

/// Whether EPERM or EACCES lies at the bottom of an error.
fn is_permission(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.kind() == io::ErrorKind::PermissionDenied;
        }
        next = error.source();
    }
    false
}
