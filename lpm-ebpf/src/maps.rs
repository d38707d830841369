//! The maps. The agent sets the sizes that are marked "load".

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

/// Number of elements in the object, until the agent sets the true number.
const LOAD: u32 = 1;

/// The flow table (load: sets times ways).
#[map]
pub static FLOWS: Array<Shared<FlowEntry>> = Array::with_max_entries(LOAD, BPF_F_MMAPABLE);

/// The request entry of each flow (load: as many as flows; one if the method is
/// off).
#[map]
pub static REQUESTS: Array<Shared<RequestEntry>> = Array::with_max_entries(LOAD, BPF_F_MMAPABLE);

/// The query table (load: sets times ways).
#[map]
pub static QUERIES: Array<Shared<QueryEntry>> = Array::with_max_entries(LOAD, BPF_F_MMAPABLE);

/// Histograms (load): `((stripe * rows) + row) * 8 + leg * 4 + echo`. Place 3
/// of each leg holds the window minima of evicted flows. For rows of queries
/// see `lpm_common::layout::Family`.
#[map]
pub static HISTOGRAMS: Array<Shared<Histogram>> = Array::with_max_entries(LOAD, BPF_F_MMAPABLE);

/// Label sets of the histogram rows (load).
#[map]
pub static ROWS: Array<Shared<Row>> = Array::with_max_entries(LOAD, BPF_F_MMAPABLE);

/// The control block.
#[map]
pub static CONTROL: Array<Shared<Control>> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Counters of events, coverage and losses.
#[map(name = "COUNTERS")]
pub static COUNTS: PerCpuArray<[u64; COUNTERS]> = PerCpuArray::with_max_entries(1, 0);

/// Settings by interface index.
#[map]
pub static INTERFACES: HashMap<u32, InterfaceConfig> =
    HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Interfaces of the pods that are measured at the node vantage, by pod
/// address.
#[map]
pub static HOMES: HashMap<[u32; 4], u32> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Number of packets that came out of such a pod's interface although a hook of
/// the node vantage had seen them, by interface. The CNI did not redirect them.
/// The agent makes the elements.
#[map]
pub static FORWARDED: HashMap<u32, u64> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// The VLANs in which the same ends were seen (load: an eighth of the flows). A
/// full map drops the least recently used element.
#[map]
pub static VLAN_PAIRS: LruHashMap<u64, VlanPair> = LruHashMap::with_max_entries(1024, 0);

/// Names by address (load).
#[map]
pub static NAMES: LpmTrie<[u8; 16], NameValue> =
    LpmTrie::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Owners of the backends behind service addresses, by connection: the id, as
/// the agent learns it from connection tracking.
#[map]
pub static BACKENDS: HashMap<BackendKey, u32> =
    HashMap::with_max_entries(MOST_BACKENDS, BPF_F_NO_PREALLOC);

/// Histogram rows by pair of names (load: as many as rows).
#[map]
pub static PAIRS: HashMap<u64, u32> = HashMap::with_max_entries(LOAD, 0);

/// Claims: the sets whose entries are being assigned, or the claim for rows.
#[map]
pub static CLAIMS: HashMap<u32, u32> = HashMap::with_max_entries(1024, 0);

/// Samples, while somebody watches (load: bytes).
#[map]
pub static SAMPLES: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// The packet of each CPU, between the steps.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// The ends of a flow, per CPU, while a socket is looked for.
#[map]
pub static TUPLE: PerCpuArray<bpf_sock_tuple> = PerCpuArray::with_max_entries(1, 0);
