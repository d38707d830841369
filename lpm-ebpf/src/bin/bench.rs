//! Programs for the benchmark to compare with: an empty program, and the least
//! that a monitor does on a kernel hash map. One more plays many packets to a
//! program in a single test run. A further program is for the testbed: a CNI's
//! program that redirects packets into pods.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::{TC_ACT_UNSPEC, xdp_action::XDP_PASS},
    helpers::{bpf_ktime_get_ns, generated::bpf_redirect_peer},
    macros::{classifier, map, xdp},
    maps::{Array, HashMap, ProgramArray},
    programs::{TcContext, XdpContext},
};
use lpm_common::bytes::Prefix;
use lpm_ebpf::packet::DirectAccess;

/// Key of a flow in a kernel hash map: canonical, IPv4 only.
#[repr(C)]
#[derive(Clone, Copy)]
struct Key {
    low: u32,
    high: u32,
    ports: u32,
    ifindex: u32,
}

/// What each packet updates.
#[repr(C)]
#[derive(Clone, Copy)]
struct Value {
    last_seen_ns: u64,
    packets: u64,
    bytes: u64,
}

#[map]
static BENCH_FLOWS: HashMap<Key, Value> = HashMap::with_max_entries(65_536, 0);

/// Where a pod is: the node's end of its veth, and the MAC address of the pod's
/// own end.
#[repr(C)]
#[derive(Clone, Copy)]
struct Place {
    ifindex: u32,
    mac: [u8; 6],
    reserved: [u8; 2],
}

/// Places of pods by address; IPv4 is mapped.
#[map]
static TESTBED_PODS: HashMap<[u8; 16], Place> = HashMap::with_max_entries(256, 0);

/// Redirects like Cilium's and Calico's eBPF host routing. A packet to a pod of
/// this node goes from the ingress of wherever it entered straight into the
/// pod, past the node's end of its veth.
#[classifier]
pub fn testbed_redirect(ctx: TcContext) -> i32 {
    redirect(&ctx).unwrap_or(TC_ACT_UNSPEC)
}

#[inline(always)]
fn redirect(ctx: &TcContext) -> Option<i32> {
    const PACKET_HOST: u32 = 0;
    let mut address = [0; 16];
    match u16::from_be(ctx.load(12).ok()?) {
        0x0800 => {
            let v4: [u8; 4] = ctx.load(30).ok()?;
            address[10] = 0xff;
            address[11] = 0xff;
            address[12..].copy_from_slice(&v4);
        }
        0x86dd => address = ctx.load(38).ok()?,
        _ => return None,
    }
    // SAFETY: copied at once; the testbed sets it before any packet comes.
    let place = *unsafe { TESTBED_PODS.get(address) }?;
    ctx.store(0, &place.mac, 0).ok()?;
    ctx.change_type(PACKET_HOST).ok()?;
    // SAFETY: a helper; it sends the packet, or drops it.
    #[allow(clippy::cast_possible_truncation, reason = "an action's number")]
    let action = unsafe { bpf_redirect_peer(place.ifindex, 0) } as i32;
    Some(action)
}

/// Does nothing: shows what calling a program costs.
#[classifier]
pub fn bench_empty(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// Does nothing, at XDP.
#[xdp]
pub fn bench_xdp_empty(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Parses, looks up a kernel hash map, reads the clock and updates the value,
/// without matching.
#[classifier]
pub fn bench_minimal(ctx: TcContext) -> i32 {
    minimal(&ctx);
    TC_ACT_UNSPEC
}

#[inline(always)]
fn minimal(ctx: &TcContext) {
    let bytes = DirectAccess::new(ctx.skb.skb);
    if !bytes.covers(54) || bytes.be16(12) != 0x0800 || bytes.byte(14) != 0x45 {
        return;
    }
    if bytes.byte(23) != 6 {
        return;
    }
    let (src, dst) = (bytes.be32(26), bytes.be32(30));
    let (sport, dport) = (bytes.be16(34), bytes.be16(36));
    let forward = src < dst || (src == dst && sport < dport);
    // SAFETY: the hook's context.
    let (len, ifindex) = unsafe { ((*ctx.skb.skb).len, (*ctx.skb.skb).ifindex) };
    let (low, high, first, second) = if forward {
        (src, dst, sport, dport)
    } else {
        (dst, src, dport, sport)
    };
    let key = Key {
        low,
        high,
        ports: u32::from(first) << 16 | u32::from(second),
        ifindex,
    };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(value) = BENCH_FLOWS.get_ptr_mut(key) {
        // SAFETY: a valid element; races lose counts, as in many a monitor.
        unsafe {
            (*value).last_seen_ns = now;
            (*value).packets += 1;
            (*value).bytes += u64::from(len);
        }
    } else {
        let value = Value {
            last_seen_ns: now,
            packets: 1,
            bytes: u64::from(len),
        };
        let _ = BENCH_FLOWS.insert(key, value, 0);
    }
}

/// Packets to play, one after the other. The benchmark fills it.
#[map]
static BENCH_PACKETS: Array<[u8; 128]> = Array::with_max_entries(2048, 0);

/// The programs that take the packets in turn.
#[map]
static BENCH_TURNS: ProgramArray = ProgramArray::with_max_entries(2, 0);

/// Makes the packet at hand the next one of [`BENCH_PACKETS`], and hands it to
/// the program whose turn it is. A test run repeats with one packet, whose mark
/// begins with 0 and counts the repetitions here.
#[classifier]
pub fn bench_play(ctx: TcContext) -> i32 {
    // SAFETY: the hook's context.
    let mark = unsafe { (*ctx.skb.skb).mark };
    ctx.set_mark(mark.wrapping_add(1));
    if let Some(packet) = BENCH_PACKETS.get(mark) {
        // It fails if the packet at hand is too short: the benchmark checks that
        // what it plays makes samples.
        let _ = ctx.store(0, packet, 0);
    }
    // SAFETY: nothing here needs to be dropped.
    unsafe { BENCH_TURNS.tail_call(&ctx, mark & 1) };
    TC_ACT_UNSPEC
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
