//! Loads the kernel object, and gives access to its programs and maps.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use aya::{
    Ebpf, TestRun,
    maps::{Map, MapData, MapError},
    programs::{Program, SchedClassifier, TestRunOptions},
};
use lpm_common::layout::{Control, FlowEntry, Histogram, QueryEntry, Row};

use super::{
    attach::Mode,
    bpf,
    interfaces::Layer,
    load_error::is_permission,
    mmap::{MmapArray, Shared},
    pins::{Compatibility, Persisted, Pins, netns_of},
    privileges,
    settings::{Constants, check_settings, configure},
};
pub use super::{
    load_error::LoadError,
    settings::{LoadSettings, jiffies_per_second},
};

/// The object that build.rs embedded. Empty if it had not been built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lpm.bpf.o"));

/// True if this binary holds the kernel programs.
#[must_use]
pub fn object_is_embedded() -> bool {
    !OBJECT.is_empty()
}

/// One loaded program that can be attached.
#[derive(Debug)]
pub struct LoadedProgram {
    pub(crate) fd: OwnedFd,
    /// Name of the program in the object.
    pub name: &'static str,
    /// The kernel's id of the program, unique as long as the program lives.
    pub id: u32,
    /// The kernel's hash of its instructions: the same for each load of one object.
    pub tag: u64,
}

impl LoadedProgram {
    /// How often the program ran and how long that took, while the kernel measured it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn run_time(&self) -> io::Result<(u64, Duration)> {
        bpf::run_time(&self.fd)
    }
}

impl AsFd for LoadedProgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Names of the programs that are always loaded, in the order of [`Programs`].
const ALWAYS: [&str; 8] = [
    "lpm_from_local",
    "lpm_to_local",
    "lpm_from_local_l3",
    "lpm_to_local_l3",
    "lpm_node_from",
    "lpm_node_to",
    "lpm_node_to_l3",
    "lpm_node_out",
];

/// Names of the programs that are loaded if the settings want them.
const IF_WANTED: [&str; 4] = [
    "lpm_from_local_inner",
    "lpm_to_local_inner",
    "lpm_xdp",
    "lpm_xdp_inner",
];

/// True if this is the name of one of our programs that are attached.
pub(crate) fn is_program_name(name: &str) -> bool {
    ALWAYS.contains(&name) || IF_WANTED.contains(&name)
}

/// True if a program of this name is a second one on its hook, see [`Programs::node_to`].
pub(crate) fn is_joined(name: &str) -> bool {
    name.starts_with(ALWAYS[5])
}

/// The programs that are attached to interfaces.
#[derive(Debug)]
pub struct Programs {
    always: Vec<LoadedProgram>,
    wanted: Vec<LoadedProgram>,
}

impl Programs {
    /// The program for packets that the local side sends.
    #[must_use]
    pub fn from_local(&self, layer: Layer) -> &LoadedProgram {
        match layer {
            Layer::Ethernet => &self.always[0],
            Layer::Network => &self.always[2],
        }
    }

    /// The program for packets to the local side.
    #[must_use]
    pub fn to_local(&self, layer: Layer) -> &LoadedProgram {
        match layer {
            Layer::Ethernet => &self.always[1],
            Layer::Network => &self.always[3],
        }
    }

    /// The program at the ingress of a pod's veth for the vantage `node`: for what the pod sends.
    #[must_use]
    pub fn node_from(&self) -> &LoadedProgram {
        &self.always[4]
    }

    /// The program at the ingress of any interface while the vantage `node` is in use: for what may
    /// go to such a pod.
    #[must_use]
    pub fn node_to(&self, layer: Layer) -> &LoadedProgram {
        match layer {
            Layer::Ethernet => &self.always[5],
            Layer::Network => &self.always[6],
        }
    }

    /// The program at the egress of a veth that is watched as `node`.
    #[must_use]
    pub fn node_out(&self) -> &LoadedProgram {
        &self.always[7]
    }

    /// All programs.
    pub fn iter(&self) -> impl Iterator<Item = &LoadedProgram> {
        self.always.iter().chain(&self.wanted)
    }

    /// The programs for tunnels: for packets from the local side, and for packets to it. None: they
    /// were not asked for when the object was loaded.
    #[must_use]
    pub fn inner(&self) -> Option<(&LoadedProgram, &LoadedProgram)> {
        Some((self.named(IF_WANTED[0])?, self.named(IF_WANTED[1])?))
    }

    /// The XDP program, for packets that a network card received. None: it was not asked for when
    /// the object was loaded.
    #[must_use]
    pub fn xdp(&self, inner: bool) -> Option<&LoadedProgram> {
        self.named(IF_WANTED[if inner { 3 } else { 2 }])
    }

    fn named(&self, name: &str) -> Option<&LoadedProgram> {
        self.wanted.iter().find(|program| program.name == name)
    }
}

/// The loaded object. Its programs and maps live as long as anybody holds them.
#[derive(Debug)]
pub struct Kernel {
    ebpf: Ebpf,
    settings: LoadSettings,
    kept: Option<Arc<Persisted>>,
    adopted: bool,
}

/// Computes what must be compatible with the agent whose pins are to be adopted: this build's maps,
/// these settings, the mode of attaching, and the network namespace (a name or path; `None`: the
/// caller's). `version` replaces the version of the layout, for tests of upgrades.
///
/// # Errors
/// The embedded object cannot be read.
pub fn agreement(
    settings: &LoadSettings,
    mode: Mode,
    netns: Option<&str>,
    version: Option<u32>,
) -> Result<Compatibility, LoadError> {
    if OBJECT.is_empty() {
        return Err(LoadError::NoObject);
    }
    Compatibility::new(OBJECT, settings, mode.resolve(), &netns_of(netns), version)
}

impl Kernel {
    /// Loads the embedded object.
    pub fn load(settings: &LoadSettings) -> Result<Self, LoadError> {
        Self::load_object(OBJECT, settings)
    }

    /// Loads the embedded object over pinned maps: those that the last agent left, or new ones that
    /// are pinned now.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load_pinned(settings: &LoadSettings, pins: &Pins) -> Result<Self, LoadError> {
        let mut kernel = Self::prepare_over(OBJECT, settings, Some(pins))?;
        kernel.load_programs()?;
        Ok(kernel)
    }

    /// Loads an object file's bytes, aligned to 8.
    pub fn load_object(object: &[u8], settings: &LoadSettings) -> Result<Self, LoadError> {
        let mut kernel = Self::prepare(object, settings)?;
        kernel.load_programs()?;
        Ok(kernel)
    }

    /// Creates the maps of an object, with the settings in them, and loads none of its programs.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn prepare(object: &[u8], settings: &LoadSettings) -> Result<Self, LoadError> {
        Self::prepare_over(object, settings, None)
    }

    fn prepare_over(
        object: &[u8],
        settings: &LoadSettings,
        pins: Option<&Pins>,
    ) -> Result<Self, LoadError> {
        if object.is_empty() {
            return Err(LoadError::NoObject);
        }
        let missing = privileges::missing();
        if !missing.is_empty() {
            return Err(LoadError::NotPermitted { missing });
        }
        check_settings(settings)?;
        let mut settings = settings.clone();
        let left = pins.and_then(Pins::kept).cloned();
        if let Some(left) = &left {
            settings.seeds = left.seeds();
        }
        let constants = Constants::new(&settings);
        let mut loader = configure(&settings, &constants);
        let names = pins.map_or(Vec::new(), Pins::maps);
        for name in &names {
            let path = pins.map(|pins| pins.map(name)).unwrap_or_default();
            loader.map_pin_path(name, path);
        }
        let ebpf = loader.load(object).map_err(|source| {
            let source = Box::new(source);
            if is_permission(&*source) {
                LoadError::Forbidden { source }
            } else {
                LoadError::Object { source }
            }
        })?;
        let adopted = left.is_some();
        let kept = match (left, pins) {
            (Some(left), _) => Some(left),
            (None, Some(pins)) => Some(pins.complete(&settings.seeds)?),
            (None, None) => None,
        };
        Ok(Self {
            ebpf,
            settings,
            kept,
            adopted,
        })
    }

    fn load_programs(&mut self) -> Result<(), LoadError> {
        for (name, program) in self.ebpf.programs_mut() {
            if !self.settings.wants(name) {
                continue;
            }
            let name = name.to_owned();
            let loaded = match program {
                Program::Xdp(program) => program.load(),
                program => {
                    <&mut SchedClassifier>::try_from(program).and_then(SchedClassifier::load)
                }
            };
            loaded.map_err(|source| LoadError::Program {
                program: name,
                source: Box::new(source),
            })?;
        }
        Ok(())
    }

    /// The programs to attach. They stay loaded as long as the result (or a hook) holds them.
    pub fn programs(&self) -> Result<Programs, LoadError> {
        let load_all = |names: &[&'static str]| -> Result<Vec<LoadedProgram>, LoadError> {
            let wanted = names.iter().filter(|name| self.settings.wants(name));
            wanted.map(|name| self.loaded(name)).collect()
        };
        Ok(Programs {
            always: load_all(&ALWAYS)?,
            wanted: load_all(&IF_WANTED)?,
        })
    }

    fn loaded(&self, name: &'static str) -> Result<LoadedProgram, LoadError> {
        let program = self.ebpf.program(name).ok_or(LoadError::Missing {
            what: "program",
            name,
        })?;
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

    /// Makes the kernel write its clock and its jiffies into the control block: the pair that
    /// converts jiffies into time.
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

    /// The table of queries.
    pub fn queries(&self) -> Result<MmapArray<QueryEntry>, LoadError> {
        self.mapped("QUERIES")
    }

    /// The histograms.
    pub fn histograms(&self) -> Result<MmapArray<Histogram>, LoadError> {
        self.mapped("HISTOGRAMS")
    }

    /// The control block: an array with one element.
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

    /// Number of names that map `NAMES` has room for.
    #[must_use]
    pub fn name_count(&self) -> usize {
        self.settings.names as usize
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

    /// The settings of the interfaces, for the hotplug thread.
    pub fn interfaces(&mut self) -> Result<aya::maps::HashMap<MapData, u32, [u8; 8]>, LoadError> {
        self.take("INTERFACES")
    }

    /// The state that agents leave to one another. None: the maps end with this agent.
    pub(crate) fn kept(&self) -> Option<&Arc<Persisted>> {
        self.kept.as_ref()
    }

    /// True if an earlier agent filled the maps.
    #[must_use]
    pub fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// The object as aya sees it, for logging and for other maps.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}
