//! Settings that the agent fixes when it loads the object. They are in
//! read-only data, so the verifier takes them for constants.

use core::{cell::UnsafeCell, ptr::read_volatile};

use aya_ebpf::helpers::bpf_jiffies64;

use lpm_common::{
    env,
    hash::SEEDS,
    layout::TunnelKind,
    parse::tunnel::{PORTS, Tunnels},
};

use crate::maps::Shared;

/// Sets of the flow table minus 1; a power of two minus 1.
#[unsafe(no_mangle)]
pub static LPM_SET_MASK: u32 = 0;
/// Sets of the query table minus 1; a power of two minus 1.
#[unsafe(no_mangle)]
pub static LPM_QUERY_MASK: u32 = 0;
/// Histogram rows per stripe.
#[unsafe(no_mangle)]
pub static LPM_ROWS: u32 = 1;
/// Stripes minus 1; a power of two minus 1.
#[unsafe(no_mangle)]
pub static LPM_STRIPE_MASK: u32 = 0;
/// Jiffies without a packet after which a flow is idle.
#[unsafe(no_mangle)]
pub static LPM_IDLE_JIFFIES: u32 = 60 * 250;
/// Jiffies per second.
#[unsafe(no_mangle)]
pub static LPM_HZ: u32 = 250;
/// Not 0 in test runs: the packet's `tstamp` is then the time.
#[unsafe(no_mangle)]
pub static LPM_PACKET_CLOCK: u32 = 0;
/// Not 0 where the processor may show stores to other CPUs in another order
/// than they were made.
#[unsafe(no_mangle)]
pub static LPM_WEAKLY_ORDERED: u32 = 0;
/// The methods that are on, as in `lpm_common::layout::Methods`.
#[unsafe(no_mangle)]
pub static LPM_METHODS: u32 = u32::MAX;
/// Secrets of the flow hash.
#[unsafe(no_mangle)]
pub static LPM_SEEDS: [u32; SEEDS] = [0; SEEDS];

/// UDP ports of `VxLAN`; 0: none.
#[unsafe(no_mangle)]
pub static LPM_VXLAN_PORTS: [u32; PORTS] = [0; PORTS];
/// UDP ports of Geneve; 0: none.
#[unsafe(no_mangle)]
pub static LPM_GENEVE_PORTS: [u32; PORTS] = [0; PORTS];

macro_rules! setting {
    ($(#[$doc:meta])* $name:ident, $static:ident) => {
        $(#[$doc])*
        #[inline(always)]
        #[must_use]
        pub fn $name() -> u32 {
            // SAFETY: a valid reference; volatile, because the loader writes
            // the value after compilation.
            unsafe { read_volatile(&raw const $static) }
        }
    };
}

setting!(
    /// Whether stores need help to be seen in their order.
    weakly_ordered,
    LPM_WEAKLY_ORDERED
);
setting!(
    /// Sets of the flow table minus 1.
    set_mask,
    LPM_SET_MASK
);
setting!(
    /// Sets of the query table minus 1.
    query_mask,
    LPM_QUERY_MASK
);
setting!(
    /// Histogram rows per stripe.
    rows,
    LPM_ROWS
);
setting!(
    /// Stripes minus 1.
    stripe_mask,
    LPM_STRIPE_MASK
);
setting!(
    /// Jiffies without a packet after which a flow is idle.
    idle_jiffies,
    LPM_IDLE_JIFFIES
);
setting!(
    /// Jiffies per second.
    hz,
    LPM_HZ
);

setting!(
    /// The methods that are on. The verifier removes the code of the others.
    methods,
    LPM_METHODS
);

setting!(
    /// Whether the packet's `tstamp` is the time.
    packet_clock,
    LPM_PACKET_CLOCK
);

/// Secret number `i` in [`LPM_SEEDS`].
#[inline(always)]
#[must_use]
pub(crate) fn seed(i: usize) -> u32 {
    // SAFETY: within the array; volatile, because the loader writes it.
    unsafe { read_volatile((&raw const LPM_SEEDS).cast::<u32>().add(i % SEEDS)) }
}

/// The ports in [`LPM_VXLAN_PORTS`] and [`LPM_GENEVE_PORTS`].
pub struct Ports;

#[inline(always)]
fn has(ports: *const [u32; PORTS], port: u16) -> bool {
    for i in 0..PORTS {
        // SAFETY: within the array; volatile, because the loader writes it. The
        // verifier knows the values, and leaves out what compares with none.
        let known = unsafe { read_volatile(ports.cast::<u32>().add(i)) };
        if known != 0 && known == u32::from(port) {
            return true;
        }
    }
    false
}

impl Tunnels for Ports {
    #[inline(always)]
    fn kind_of(&self, port: u16) -> u32 {
        if has(&raw const LPM_VXLAN_PORTS, port) {
            TunnelKind::Vxlan as u32
        } else if has(&raw const LPM_GENEVE_PORTS, port) {
            TunnelKind::Geneve as u32
        } else {
            0
        }
    }
}

/// Always 0: nobody writes it. The verifier does not know that, because the
/// word is writable, unlike the settings above.
#[unsafe(no_mangle)]
pub static LPM_NOTHING: Shared<UnsafeCell<u32>> = Shared(UnsafeCell::new(0));

/// Returns 0, which neither the compiler nor the verifier knows.
#[inline(always)]
#[must_use]
pub(crate) fn nothing() -> u32 {
    // SAFETY: a valid pointer; volatile, because the compiler must not know
    // the value either.
    unsafe { read_volatile(LPM_NOTHING.0.get()) }
}

/// Jiffies until which the programs work; see `lpm_common::env::is_abandoned`.
/// The agent moves the time on while it lives. It is a word of data, not in a
/// map that is looked up, so its address stands in the code.
#[unsafe(no_mangle)]
pub static LPM_AWAKE_UNTIL: Shared<UnsafeCell<u64>> = Shared(UnsafeCell::new(u64::MAX));

/// Whether the agent has been gone for so long that nothing is measured.
#[inline(always)]
#[must_use]
pub fn abandoned() -> bool {
    // SAFETY: a valid pointer; volatile, because the agent writes it.
    let until = unsafe { read_volatile(LPM_AWAKE_UNTIL.0.get()) };
    // SAFETY: a helper without arguments (inlined by the verifier).
    env::is_abandoned(until, unsafe { bpf_jiffies64() })
}
