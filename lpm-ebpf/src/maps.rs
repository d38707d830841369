//! The maps. Sizes marked "load" are set by the agent.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_sock_tuple},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use lpm_common::{
    counter::COUNTERS,
    layout::{
        BackendKey, Control, FlowEntry, Histogram, InterfaceConfig, MOST_BACKENDS, NameValue,
        QueryEntry, RequestEntry, Row, VlanPair,
    },
};

use crate::slow_path::Scratch;

/// Memory that all CPUs and the agent share.
#[repr(transparent)]
pub struct Shared<T>(pub T);

// SAFETY: the values are words that are read and written whole; no reference
// to anything narrower or wider is ever made.
unsafe impl<T> Sync for Shared<T> {}

/// Elements that stand in the object until the agent sets the true number.
const LOAD: u32 = 1;

/// The flow table (load: sets times ways).
#[map]
pub static FLOWS: Array<Shared<FlowEntry>> = Array::with_max_entries(LOAD, BPF_F_MMAPABLE);

/// The request at hand of each flow (load: as many as flows; one if the method
/// is off).
#[map]
pub static REQUESTS: Array<Shared<RequestEntry>> = Array::with_max_entries(LOAD, BPF_F_MMAPABLE);

/// Questions that wait for their answers (load: sets times ways).
#[map]
pub static QUERIES: Array<Shared<QueryEntry>> = Array::with_max_entries(LOAD, BPF_F_MMAPABLE);

/// Histograms (load): `((stripe * rows) + row) * 8 + leg * 4 + echo`, with
/// the window minima of evicted flows in place 3 of each leg; for rows of
/// questions see `lpm_common::layout::Family`.
#[map]
pub static HISTOGRAMS: Array<Shared<Histogram>> = Array::with_max_entries(LOAD, BPF_F_MMAPABLE);

/// Label sets of the histogram rows (load).
#[map]
pub static ROWS: Array<Shared<Row>> = Array::with_max_entries(LOAD, BPF_F_MMAPABLE);

/// The control block.
#[map]
pub static CONTROL: Array<Shared<Control>> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Events, coverage, losses.
#[map(name = "COUNTERS")]
pub static COUNTS: PerCpuArray<[u64; COUNTERS]> = PerCpuArray::with_max_entries(1, 0);

/// Interface index to settings.
#[map]
pub static INTERFACES: HashMap<u32, InterfaceConfig> =
    HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Addresses of the pods whose packets are measured at joined hooks, to the
/// interface that they come in by.
#[map]
pub static HOMES: HashMap<[u32; 4], u32> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// By interface of such a pod: packets that came out of it by the ordinary way
/// though a joined hook had seen them. The agent makes the elements.
#[map]
pub static FORWARDED: HashMap<u32, u64> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// In which VLANs the same ends were seen (load: an eighth of the flows). What
/// was not asked for the longest makes room.
#[map]
pub static VLAN_PAIRS: LruHashMap<u64, VlanPair> = LruHashMap::with_max_entries(1024, 0);

/// Address to name (load).
#[map]
pub static NAMES: LpmTrie<[u8; 16], NameValue> =
    LpmTrie::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Whose a connection is whose remote address stands for others: the id, as the
/// agent hears it from connection tracking.
#[map]
pub static BACKENDS: HashMap<BackendKey, u32> =
    HashMap::with_max_entries(MOST_BACKENDS, BPF_F_NO_PREALLOC);

/// Pair of names to row (load: as many as rows).
#[map]
pub static PAIRS: HashMap<u64, u32> = HashMap::with_max_entries(LOAD, 0);

/// Claims: sets whose entries, or rows that, are being given out.
#[map]
pub static CLAIMS: HashMap<u32, u32> = HashMap::with_max_entries(1024, 0);

/// Samples, while somebody watches (load: bytes).
#[map]
pub static SAMPLES: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Each CPU's packet, between the steps.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Each CPU's ends of a flow, while a socket is looked for.
#[map]
pub static TUPLE: PerCpuArray<bpf_sock_tuple> = PerCpuArray::with_max_entries(1, 0);
