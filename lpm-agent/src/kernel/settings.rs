//! Load settings: sizes and constants that are fixed when the programs are loaded.

use aya::EbpfLoader;
use lpm_common::{
    hash::SEEDS,
    layout::{Method, Methods},
    parse::tunnel::{PORTS, TunnelPorts},
    table::WAYS,
};

use super::load_error::LoadError;

/// Prefix of the names of the XDP programs.
const XDP: &str = "lpm_xdp";

/// Suffix of the names of the programs for tunnels.
pub(super) const INNER: &str = "_inner";

/// Sizes and constants that are fixed when the programs are loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadSettings {
    /// Entries of the flow table, 256 bytes each; a power of two.
    pub flow_entries: u32,
    /// Entries of the table of queries (ICMP echo, DNS) that wait for their answers, 32 bytes each;
    /// a power of two.
    pub query_entries: u32,
    /// Rows of histograms: pairs of namespaces, and one for what does not fit.
    pub rows: u32,
    /// Copies of each row's histograms against contention between CPUs; a power of two.
    pub stripes: u32,
    /// Secrets of the flow hash, so that nobody can aim for collisions.
    pub seeds: [u32; SEEDS],
    /// Seconds without a packet after which a flow may lose its entry.
    pub idle_seconds: u32,
    /// Number of addresses and ranges with a name.
    pub names: u32,
    /// Bytes of the ring buffer of samples; a power of two and of pages.
    pub samples_bytes: u32,
    /// Ports of the tunnels that are looked into. None: the programs for tunnels are not loaded.
    pub tunnels: TunnelPorts,
    /// True: an interface is watched by XDP. False: the XDP programs are not loaded.
    pub xdp: bool,
    /// For test runs: the programs take each packet's `tstamp` (by XDP, its metadata) as the time.
    pub packet_clock: bool,
    /// True: this machine's CPUs may see each other's stores in another order than that in which
    /// they were made. It holds for any CPU but x86.
    pub weakly_ordered: bool,
    /// The methods that are on.
    pub methods: Methods,
}

impl LoadSettings {
    /// Entries of the table of requests, 32 bytes each: one per flow if the method is on.
    fn request_entries(&self) -> u32 {
        if self.methods.has(Method::Request) {
            self.flow_entries
        } else {
            1
        }
    }

    /// True if a program of the object is needed. Programs that are not needed cost nothing.
    pub(super) fn wants(&self, program: &str) -> bool {
        let inner = !program.ends_with(INNER) || self.tunnels != TunnelPorts::default();
        inner && (!program.starts_with(XDP) || self.xdp)
    }

    /// The defaults with a fresh secret: 64 Ki flows (16 MiB).
    #[must_use]
    pub fn new() -> Self {
        Self {
            flow_entries: 1 << 16,
            query_entries: 1 << 14,
            rows: 512,
            stripes: 2,
            seeds: random(),
            idle_seconds: 60,
            names: 65_536,
            samples_bytes: 1 << 20,
            tunnels: TunnelPorts::default(),
            xdp: false,
            packet_clock: false,
            weakly_ordered: cfg!(not(target_arch = "x86_64")),
            methods: Methods::DEFAULT,
        }
    }
}

impl Default for LoadSettings {
    fn default() -> Self {
        Self::new()
    }
}

/// Random secrets that nobody outside can guess. The keys of std's hash maps come from the kernel.
fn random() -> [u32; SEEDS] {
    use std::hash::{BuildHasher, RandomState};
    let state = RandomState::new();
    #[expect(clippy::cast_possible_truncation, reason = "32 of 64 random bits")]
    std::array::from_fn(|i| state.hash_one(i) as u32)
}

/// Number of jiffies per second. The kernel's coarse clock ticks with them.
#[must_use]
pub fn jiffies_per_second() -> u32 {
    let tick = nix::time::clock_getres(nix::time::ClockId::CLOCK_MONOTONIC_COARSE);
    let tick = tick.map_or(4_000_000, |tick| tick.tv_nsec().max(1));
    u32::try_from((1_000_000_000 + tick / 2) / tick).unwrap_or(250)
}

/// Page size, in which the ring buffer is measured: 4 KiB on x86, up to 64 KiB on arm64.
fn page_bytes() -> usize {
    usize::try_from(procfs::page_size()).unwrap_or(usize::MAX)
}

/// Refuses settings that the object or the kernel could not take.
pub(super) fn check_settings(settings: &LoadSettings) -> Result<(), LoadError> {
    let power_of_two = "must be a power of two";
    for (setting, value, fits, remedy) in [
        (
            "flow_entries",
            settings.flow_entries,
            settings.flow_entries.is_power_of_two() && settings.flow_entries >= WAYS,
            "must be a power of two, at least 4",
        ),
        (
            "query_entries",
            settings.query_entries,
            settings.query_entries.is_power_of_two() && settings.query_entries >= WAYS,
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
            settings.samples_bytes.is_power_of_two()
                && usize::try_from(settings.samples_bytes).is_ok_and(|bytes| bytes >= page_bytes()),
            "must be a power of two, and one page at least",
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

/// The object's constants, by their names in the object.
pub(super) struct Constants {
    words: [(&'static str, u32); 9],
    ports: [(&'static str, [u32; PORTS]); 2],
    seeds: [u32; SEEDS],
}

impl Constants {
    pub(super) fn new(settings: &LoadSettings) -> Self {
        let hz = jiffies_per_second();
        let words = [
            ("LPM_SET_MASK", settings.flow_entries / WAYS - 1),
            ("LPM_QUERY_MASK", settings.query_entries / WAYS - 1),
            ("LPM_ROWS", settings.rows),
            ("LPM_STRIPE_MASK", settings.stripes - 1),
            ("LPM_IDLE_JIFFIES", settings.idle_seconds.saturating_mul(hz)),
            ("LPM_HZ", hz),
            ("LPM_PACKET_CLOCK", u32::from(settings.packet_clock)),
            ("LPM_WEAKLY_ORDERED", u32::from(settings.weakly_ordered)),
            ("LPM_METHODS", settings.methods.0),
        ];
        let ports = [
            ("LPM_VXLAN_PORTS", settings.tunnels.vxlan.map(u32::from)),
            ("LPM_GENEVE_PORTS", settings.tunnels.geneve.map(u32::from)),
        ];
        Self {
            words,
            ports,
            seeds: settings.seeds,
        }
    }
}

/// Number of VLAN pairs that are known at a time, some 100 bytes each. Only flows with a tag need
/// one, and only until both directions were seen in one VLAN.
fn vlan_pairs(flow_entries: u32) -> u32 {
    (flow_entries / 8).max(1024)
}

/// A loader with the object's constants and map sizes set.
pub(super) fn configure<'a>(settings: &LoadSettings, constants: &'a Constants) -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries("FLOWS", settings.flow_entries)
        .map_max_entries("REQUESTS", settings.request_entries())
        .map_max_entries("QUERIES", settings.query_entries)
        .map_max_entries("HISTOGRAMS", settings.rows * settings.stripes * 8)
        .map_max_entries("ROWS", settings.rows)
        .map_max_entries("PAIRS", settings.rows)
        .map_max_entries("VLAN_PAIRS", vlan_pairs(settings.flow_entries))
        .map_max_entries("NAMES", settings.names)
        .map_max_entries("SAMPLES", settings.samples_bytes);
    for (name, value) in &constants.words {
        loader.override_global(name, value, true);
    }
    for (name, ports) in &constants.ports {
        loader.override_global(name, ports.as_slice(), true);
    }
    loader.override_global("LPM_SEEDS", constants.seeds.as_slice(), true);
    loader
}
