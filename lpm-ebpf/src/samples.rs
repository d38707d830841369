//! Sends samples to watchers through the ring buffer.

use core::sync::atomic::Ordering::Relaxed;

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    maps::ring_buf::RingBufEntry,
};
use lpm_common::{
    atomic::AtomicU32,
    counter::Counter,
    layout::{Leg, Sample},
    pipeline::Interfaces,
    query::{self, Query},
    table,
};

use crate::{env::count, maps::SAMPLES, store::Store};

/// Number of unread bytes of samples at which the reader is woken.
const WAKE_BYTES: u64 = 1 << 16;

global! {
    /// Writes the sample to the ring buffer. `id_and_what`: the id in the upper half,
    /// method, leg and echo in the lower one.
    pub(crate) fn lpm_stream(fingerprint: u64, now_ns: u64, rtt_ns: u64, id_and_what: u64) {
        let what = id_and_what as u32;
        let Some(entry) = table::find(&Store, fingerprint) else {
            return 0;
        };
        let Some(mut record) = SAMPLES.reserve::<Sample>(0) else {
            count(Counter::SamplesFull, 1);
            return 0;
        };
        let cold = &entry.cold;
        let leg = what >> 8 & 1;
        let (src, dst) = if leg == Leg::Remote as u32 {
            (&cold.local, &cold.remote)
        } else {
            (&cold.remote, &cold.local)
        };
        let (local_port, remote_port) = (
            cold.local_port.load(Relaxed),
            cold.remote_port.load(Relaxed),
        );
        let (sport, dport) = if leg == Leg::Remote as u32 {
            (local_port, remote_port)
        } else {
            (remote_port, local_port)
        };
        let address = |from: &[AtomicU32; 4]| {
            [
                from[0].load(Relaxed),
                from[1].load(Relaxed),
                from[2].load(Relaxed),
                from[3].load(Relaxed),
            ]
        };
        record.write(Sample {
            time_ns: now_ns,
            rtt_ns,
            src: address(src),
            dst: address(dst),
            id: (id_and_what >> 32) as u32,
            ifindex: cold.ifindex.load(Relaxed),
            segment: cold.segment.load(Relaxed),
            sport,
            dport,
            leg: leg as u8,
            echo: what as u8,
            method: (what >> 16) as u8,
            vantage: cold.vantage(),
            outer_vni: cold.outer_vni(),
        });
        submit(record);
        0
    }
}

/// Writes the sample of an answered query to the ring buffer.
#[inline(never)]
pub(crate) fn stream_answer(query: &Query, sample: &query::Sample) {
    let vantage = Store
        .config(sample.ifindex)
        .map_or(0, |config| config.vantage);
    let Some(mut record) = SAMPLES.reserve::<Sample>(0) else {
        count(Counter::SamplesFull, 1);
        return;
    };
    record.write(query::record(query, sample, vantage));
    submit(record);
}

/// Submits a sample. Waking the reader costs microseconds. The reader looks by
/// itself every 20 ms, and is woken only for a ring that fills up faster.
#[inline(always)]
fn submit(record: RingBufEntry<Sample>) {
    let unread = SAMPLES.query(u64::from(BPF_RB_AVAIL_DATA));
    let wake = if unread < WAKE_BYTES {
        BPF_RB_NO_WAKEUP
    } else {
        BPF_RB_FORCE_WAKEUP
    };
    record.submit(u64::from(wake));
}
