//! The kernel's `lpm_common::env`: clocks, atomic adds, counters, histograms.

use core::{
    intrinsics::{AtomicOrdering, atomic_xadd},
    sync::atomic::Ordering::Relaxed,
};

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::{bpf_get_smp_processor_id, bpf_jiffies64, bpf_ktime_get_ns},
};
use lpm_common::{
    atomic::{AtomicU32, AtomicU64},
    counter::Counter,
    env::{Env, RawSample, RequestSample, RttSample},
    histogram::{self, SUM_WORD, WORDS},
    layout::{DirectionSlots, Echo, FlowEntry, Leg, Method, Methods, RequestEntry, UNIT_NS},
    matcher,
    query::{self, Query},
    rows, table,
};

use crate::{
    context::Context,
    maps::{CLAIMS, COUNTS, ROWS},
    samples::{lpm_stream, stream_answer},
    settings, sockets,
    store::{Store, control, histogram},
};

/// Place of the minima of evicted flows, after the three echoes.
const MINIMA: u32 = 3;

/// The surroundings of a program in the kernel.
pub struct KernelEnv<C> {
    ctx: C,
    /// Another hook counts packets that are not parsed.
    quiet: bool,
    /// When the packet came, nanoseconds; 0: unknown.
    arrived_ns: u64,
}

impl<C: Context> KernelEnv<C> {
    /// The surroundings of the packet at hand.
    #[inline(always)]
    #[must_use]
    pub fn new(ctx: C) -> Self {
        Self {
            ctx,
            quiet: false,
            arrived_ns: 0,
        }
    }

    /// The surroundings of a packet that came some steps ago, at `arrived_ns`.
    #[inline(always)]
    #[must_use]
    pub fn arrived(ctx: C, arrived_ns: u64) -> Self {
        Self {
            arrived_ns,
            ..Self::new(ctx)
        }
    }

    /// The surroundings of a packet that another program sees, too. That
    /// program counts packets that are not parsed.
    #[inline(always)]
    #[must_use]
    pub fn quiet(ctx: C) -> Self {
        Self {
            quiet: true,
            ..Self::new(ctx)
        }
    }

    /// [`Self::new`] if `quiet` is 0, else [`Self::quiet`].
    #[inline(always)]
    #[must_use]
    pub fn for_one_of(ctx: C, quiet: u32) -> Self {
        if quiet == 0 {
            Self::new(ctx)
        } else {
            Self::quiet(ctx)
        }
    }
}

const NS_PER_SECOND: u64 = 1_000_000_000;

#[inline(always)]
fn add64(to: &AtomicU64, n: u64) {
    // SAFETY: a valid pointer to memory that is only accessed atomically. The
    // result is not used: with it the instruction would need 5.12.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(to.as_ptr(), n) };
}

#[inline(always)]
fn add32(to: &AtomicU32, n: u32) {
    // SAFETY: as in `add64`.
    unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(to.as_ptr(), n) };
}

global! {
    /// Makes other CPUs see the stores before this call before those after it.
    /// On x86 they do anyway. Elsewhere no instruction that 5.10 knows makes
    /// them. Locks do, and each removal from a map takes one: what is stored
    /// before a lock is released is seen before what is stored once the next
    /// one is taken.
    fn lpm_in_order(about: u32) {
        if settings::weakly_ordered() != 0 {
            // The name is nobody's claim, so there is nothing to remove.
            let claim = query::CLAIMS - 1 - (about & 0xff);
            let _ = CLAIMS.remove(claim);
            let _ = CLAIMS.remove(claim);
        }
        0
    }
}

#[inline(always)]
pub(crate) fn count(counter: Counter, n: u64) {
    lpm_count(counter as u32, n);
}

global! {
    /// Adds to a counter. It is a function because it runs rarely, and is
    /// called in many places.
    fn lpm_count(place: u32, n: u64) {
        // SAFETY: this CPU's own value; TC programs do not interrupt each other
        // on one CPU.
        let counts = COUNTS.get_ptr_mut(0).map(|counts| unsafe { &mut *counts });
        if let Some(count) = counts.and_then(|counts| counts.get_mut(place as usize)) {
            *count += n;
        }
        0
    }
}

impl<C: Context> Env for KernelEnv<C> {
    #[inline(always)]
    fn hide_from_verifier(&self, x: u32) -> u32 {
        x ^ settings::nothing()
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // The setting is constant when the verifier sees it, so that this is not
        // even loaded but in test runs.
        if settings::packet_clock() != 0 {
            return self.ctx.packet_ns();
        }
        if self.arrived_ns != 0 {
            return self.arrived_ns;
        }
        // SAFETY: a helper without arguments.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn jiffies(&self) -> u32 {
        if settings::packet_clock() != 0 {
            let jiffy = NS_PER_SECOND
                .checked_div(u64::from(settings::hz()))
                .unwrap_or(0);
            return self.ctx.packet_ns().checked_div(jiffy).unwrap_or(0) as u32;
        }
        // SAFETY: a helper without arguments (inlined by the verifier).
        unsafe { bpf_jiffies64() as u32 }
    }

    #[inline(always)]
    fn hz(&self) -> u32 {
        settings::hz()
    }

    #[inline(always)]
    fn methods(&self) -> Methods {
        Methods(settings::methods())
    }

    #[inline(always)]
    fn add64(&self, to: &AtomicU64, n: u64) {
        add64(to, n);
    }

    #[inline(always)]
    fn count(&self, counter: Counter, n: u64) {
        if !self.quiet || !counter.is_of_skipped() {
            count(counter, n);
        }
    }

    #[inline(always)]
    fn raw(&self, entry: &FlowEntry, raw: &RawSample) {
        (C::SAMPLES.raw)(
            self.ctx,
            entry.fingerprint.load(Relaxed),
            raw.now_ns,
            u64::from(raw.units) << 32 | u64::from(raw.id),
            raw.pack(),
        );
    }

    #[inline(always)]
    fn sample(&self, entry: &FlowEntry, sample: &RttSample) {
        let what =
            u32::from(sample.method) << 16 | u32::from(sample.leg) << 8 | u32::from(sample.echo);
        (C::SAMPLES.record)(
            self.ctx,
            entry.fingerprint.load(Relaxed),
            sample.now_ns,
            u64::from(sample.units) << 32 | u64::from(sample.id),
            what,
        );
    }

    #[inline(always)]
    fn request(&self, entry: &FlowEntry, _: &RequestEntry, sample: &RequestSample) {
        (C::SAMPLES.request)(
            self.ctx,
            entry.fingerprint.load(Relaxed),
            sample.now_ns,
            sample.rtt_ns,
            u64::from(sample.leg) << 32 | u64::from(sample.id),
        );
    }

    #[inline(always)]
    fn retransmitted(&self, entry: &FlowEntry, direction: u8, segments: u32) {
        let fingerprint = entry.fingerprint.load(Relaxed);
        (C::SAMPLES.retransmitted)(self.ctx, fingerprint, u32::from(direction), segments);
    }

    #[inline(always)]
    fn unanswered(&self, row: u32, place: u32, _: u64) {
        if let Some(histogram) = histogram(row, place & 7, 0) {
            add64(&histogram.words[0], 1);
        }
    }

    #[inline(always)]
    fn retire(&self, entry: &FlowEntry) {
        retire(entry);
    }

    #[inline(always)]
    fn vacate(&self, from: &AtomicU64) {
        from.store(0, Relaxed);
        lpm_in_order(0);
    }

    #[inline(always)]
    fn publish(&self, to: &AtomicU64, fingerprint: u64) {
        // This is a call, so that the compiler, too, keeps earlier stores
        // before it.
        lpm_in_order(fingerprint as u32);
        to.store(fingerprint, Relaxed);
    }

    #[inline(always)]
    fn sent_here(&self, address: [u32; 4], port: u16) -> bool {
        self.ctx.sent_by(address, port)
    }

    #[inline(always)]
    fn asked_here(&self, address: [u32; 4], port: u16) -> bool {
        self.ctx.asked_by(address, port)
    }

    #[inline(always)]
    fn has_socket(&self, entry: &FlowEntry) -> bool {
        sockets::local(self.ctx, entry) != 0
    }

    #[inline(always)]
    fn segment_size(&self) -> u32 {
        self.ctx.segment_size()
    }
}

// These functions take a fingerprint instead of an entry, and find the entry
// again: a function that is verified once can only be given numbers. If
// another flow has the entry by then, it is not found, and should not be.

/// Makes the sample of a stamp and its echo.
#[inline(always)]
fn raw<C: Context>(ctx: C, fingerprint: u64, now_ns: u64, units_and_id: u64, packed: u64) {
    let Some(entry) = table::find(&Store, fingerprint) else {
        return;
    };
    let raw = RawSample::unpack(now_ns, units_and_id, packed);
    let echo = matcher::classify(entry, &raw);
    let what = packed as u32 & 0xff_0100 | echo as u32;
    record(ctx, entry, fingerprint, now_ns, units_and_id, what);
}

/// Takes a sample of a flow.
#[inline(always)]
fn sample<C: Context>(ctx: C, fingerprint: u64, now_ns: u64, units_and_id: u64, what: u32) {
    if let Some(entry) = table::find(&Store, fingerprint) {
        record(ctx, entry, fingerprint, now_ns, units_and_id, what);
    }
}

/// Counts a sample in the statistics of its leg and in its histogram, and sends
/// it to watchers. `what` is method, leg and echo.
#[inline(always)]
fn record<C: Context>(
    ctx: C,
    entry: &FlowEntry,
    fingerprint: u64,
    now_ns: u64,
    units_and_id: u64,
    what: u32,
) {
    let units = (units_and_id >> 32) as u32;
    let (leg, echo) = (what >> 8 & 1, what & 3);
    let slots = &entry.slots[leg as usize & 1];
    matcher::update_statistics(slots, units);
    add32(&slots.samples, 1);
    let row = match rows::known(entry, &Store) {
        Some(row) => row,
        None => (C::SAMPLES.resolve)(ctx, fingerprint),
    };
    // This comes before the histogram. The agent reads the histograms first,
    // and takes samples that these counters do not count for samples of `ts`.
    let method = (what >> 16) as u8;
    if method == Method::Seq as u8 {
        count(Counter::SampledSeq, 1);
    } else if method == Method::Handshake as u8 {
        count(Counter::SampledHandshake, 1);
    }
    observe(row, leg * 4 + echo, u64::from(units) * UNIT_NS);
    if control().is_some_and(|control| control.watch.load(Relaxed) != 0) {
        let id_and_what = units_and_id << 32 | u64::from(what);
        lpm_stream(fingerprint, now_ns, u64::from(units) * UNIT_NS, id_and_what);
    }
}

/// Counts a request and its answer in the histogram, and sends the sample to
/// watchers.
#[inline(always)]
fn request<C: Context>(ctx: C, fingerprint: u64, now_ns: u64, rtt_ns: u64, leg_and_id: u64) {
    let Some((entry, request)) = table::find_request(&Store, fingerprint) else {
        return;
    };
    let leg = (leg_and_id >> 32) as u32 & 1;
    let row = rows::of_request(entry, request, &Store, &KernelEnv::new(ctx));
    if row != rows::OVERFLOW {
        observe(row, leg * 4, rtt_ns);
    }
    count(Counter::SampledRequest, 1);
    if control().is_some_and(|control| control.watch.load(Relaxed) != 0) {
        let what = u32::from(Method::Request as u8) << 16 | leg << 8 | Echo::Data as u32;
        lpm_stream(
            fingerprint,
            now_ns,
            rtt_ns,
            leg_and_id << 32 | u64::from(what),
        );
    }
}

/// Counts retransmitted segments in the flow's row.
#[inline(always)]
fn retransmitted<C: Context>(ctx: C, fingerprint: u64, direction: u32, segments: u32) {
    let row = (C::SAMPLES.resolve)(ctx, fingerprint);
    if let Some(row) = ROWS.get(row) {
        let counts = &row.0.retransmitted;
        add64(&counts[direction as usize & 1], u64::from(segments));
    }
}

/// Counts an answered query in the histogram, and sends the sample to watchers.
#[inline(always)]
pub(crate) fn answered(query: &Query, sample: &query::Sample) {
    if sample.row != rows::OVERFLOW {
        observe(sample.row, u32::from(query.head.place) & 7, sample.rtt_ns);
    }
    if control().is_some_and(|control| control.watch.load(Relaxed) != 0) {
        stream_answer(query, sample);
    }
}

/// Resolves the flow's row: once per flow, and again when names change.
#[inline(always)]
fn resolve(ctx: impl Context, fingerprint: u64) -> u32 {
    match table::find(&Store, fingerprint) {
        Some(entry) => rows::of_flow(entry, &Store, &KernelEnv::new(ctx)),
        None => rows::OVERFLOW,
    }
}

/// The functions of one kind of context that samples need.
pub struct Samples<C> {
    raw: extern "C" fn(C, u64, u64, u64, u64) -> u32,
    record: extern "C" fn(C, u64, u64, u64, u32) -> u32,
    retransmitted: extern "C" fn(C, u64, u32, u32) -> u32,
    resolve: extern "C" fn(C, u64) -> u32,
    request: extern "C" fn(C, u64, u64, u64, u64) -> u32,
}

macro_rules! samples {
    ($name:ident, $context:ty: $raw:ident $record:ident $retransmitted:ident $resolve:ident $request:ident) => {
        global! {
            /// The global function for a raw sample. Packets without a sample
            /// need not step over its code.
            fn $raw(
                ctx: $context,
                fingerprint: u64,
                now_ns: u64,
                units_and_id: u64,
                packed: u64,
            ) {
                raw(ctx, fingerprint, now_ns, units_and_id, packed);
                0
            }
        }
        global! {
            fn $record(
                ctx: $context,
                fingerprint: u64,
                now_ns: u64,
                units_and_id: u64,
                what: u32,
            ) {
                sample(ctx, fingerprint, now_ns, units_and_id, what);
                0
            }
        }
        global! {
            fn $retransmitted(
                ctx: $context,
                fingerprint: u64,
                direction: u32,
                segments: u32,
            ) {
                retransmitted(ctx, fingerprint, direction, segments);
                0
            }
        }
        global! {
            fn $request(
                ctx: $context,
                fingerprint: u64,
                now_ns: u64,
                rtt_ns: u64,
                leg_and_id: u64,
            ) {
                if settings::methods() & Method::Request.bit() != 0 {
                    request(ctx, fingerprint, now_ns, rtt_ns, leg_and_id);
                }
                0
            }
        }
        global! {
            fn $resolve(ctx: $context, fingerprint: u64) {
                resolve(ctx, fingerprint)
            }
        }
        pub(crate) const $name: Samples<$context> = Samples {
            raw: $raw,
            record: $record,
            retransmitted: $retransmitted,
            resolve: $resolve,
            request: $request,
        };
    };
}

samples!(OF_SKB, *mut __sk_buff: lpm_echoed lpm_record lpm_retransmitted lpm_resolve lpm_requested);
samples!(OF_XDP, *mut xdp_md: lpm_echoed_xdp lpm_record_xdp lpm_retransmitted_xdp lpm_resolve_xdp lpm_requested_xdp);

#[inline(always)]
fn observe(row: u32, place: u32, ns: u64) {
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    if let Some(histogram) = histogram(row, place, cpu) {
        add64(&histogram.words[histogram::bucket(ns) & (WORDS - 1)], 1);
        add64(&histogram.words[SUM_WORD], ns);
    }
}

/// Keeps the window's minima that the agent has not taken yet.
#[inline(always)]
fn retire(entry: &FlowEntry) {
    retire_leg(entry, &entry.slots[0], Leg::Remote);
    retire_leg(entry, &entry.slots[1], Leg::Local);
}

/// Keeps the minimum of one leg, under the names that held when it was
/// measured. To resolve them here would take more stack than there is.
#[inline(always)]
fn retire_leg(entry: &FlowEntry, slots: &DirectionSlots, leg: Leg) {
    let min = slots.window_min.load(Relaxed);
    if min != u32::MAX {
        let row = rows::last(entry);
        observe(row, leg as u32 * 4 + MINIMA, u64::from(min) * UNIT_NS);
    }
}
