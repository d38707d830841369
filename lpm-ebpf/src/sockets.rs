//! Looks for sockets of this host. They tell the host's own flows from those of
//! pods whose packets got the host's address on their way (masquerade).

use core::{ffi::c_void, mem::size_of, sync::atomic::Ordering::Relaxed};

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1},
    helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp},
};
use lpm_common::{
    layout::{FlowCold, FlowEntry},
    packet::MAPPED,
};

use crate::{context::Context, maps::TUPLE};

/// `BPF_TCP_LISTEN` of `linux/bpf.h`.
const LISTEN: u32 = 10;

/// `BPF_F_CURRENT_NETNS`: the network namespace of the packet's interface.
const CURRENT_NETNS: u64 = u64::MAX;

/// Whether the packet comes from a socket with this address and port.
#[inline(always)]
pub(crate) fn sent_by(ctx: *mut __sk_buff, address: [u32; 4], port: u16) -> bool {
    // SAFETY: the hook's context; TC programs may read this field.
    let socket = unsafe { (*ctx).__bindgen_anon_2.sk };
    if socket.is_null() {
        return false;
    }
    // SAFETY: the verifier knows what the pointer is; every kind of socket has
    // these fields.
    unsafe {
        if (*socket).src_port != u32::from(port) {
            return false;
        }
        if is_mapped(address) {
            return (*socket).src_ip4 == address[3];
        }
        (*socket).src_ip6[0] == address[0]
            && (*socket).src_ip6[1] == address[1]
            && (*socket).src_ip6[2] == address[2]
            && (*socket).src_ip6[3] == address[3]
    }
}

/// Whether the query comes from a socket with this address and port. The socket
/// may be bound to no address, and has no port if `port` is 0 (ICMP).
#[inline(always)]
pub(crate) fn asked_by(ctx: *mut __sk_buff, address: [u32; 4], port: u16) -> bool {
    // SAFETY: the hook's context; TC programs may read this field.
    let socket = unsafe { (*ctx).__bindgen_anon_2.sk };
    if socket.is_null() {
        return false;
    }
    // SAFETY: as above.
    unsafe {
        if port != 0 && (*socket).src_port != u32::from(port) {
            return false;
        }
        if is_mapped(address) {
            let own = (*socket).src_ip4;
            return own == 0 || own == address[3];
        }
        let mut differs = 0;
        let mut bound = 0;
        differs |= (*socket).src_ip6[0] ^ address[0];
        differs |= (*socket).src_ip6[1] ^ address[1];
        differs |= (*socket).src_ip6[2] ^ address[2];
        differs |= (*socket).src_ip6[3] ^ address[3];
        bound |= (*socket).src_ip6[0] | (*socket).src_ip6[1];
        bound |= (*socket).src_ip6[2] | (*socket).src_ip6[3];
        bound == 0 || differs == 0
    }
}

#[inline(always)]
fn is_mapped(address: [u32; 4]) -> bool {
    address[0] == 0 && address[1] == 0 && address[2] == MAPPED
}

/// Returns not 0 if a socket of the interface's network namespace has the
/// flow's addresses and ports. A socket that only listens does not count.
#[inline(never)]
pub(crate) fn local(ctx: impl Context, entry: &FlowEntry) -> u32 {
    let cold = &entry.cold;
    // Not on the stack: this is the end of the deepest chain of calls.
    let Some(tuple) = TUPLE.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own value, which nobody else uses.
    let tuple = unsafe { &mut *tuple };
    let length = if is_v4(cold) {
        v4(tuple, cold)
    } else {
        v6(tuple, cold)
    };
    // SAFETY: the tuple is initialised to this length; a socket that is found is
    // given back.
    unsafe {
        let socket = bpf_skc_lookup_tcp(ctx.as_ptr(), tuple, length, CURRENT_NETNS, 0);
        if socket.is_null() {
            return 0;
        }
        let state = (*socket).state;
        bpf_sk_release(socket.cast::<c_void>());
        u32::from(state != LISTEN)
    }
}

#[inline(always)]
fn is_v4(cold: &FlowCold) -> bool {
    let [a, b, c, _] = &cold.local;
    a.load(Relaxed) == 0 && b.load(Relaxed) == 0 && c.load(Relaxed) == MAPPED
}

/// Fills in the ends as an IPv4 packet to the local one has them. Returns the
/// length.
#[inline(always)]
fn v4(tuple: &mut bpf_sock_tuple, cold: &FlowCold) -> u32 {
    tuple.__bindgen_anon_1.ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
        saddr: cold.remote[3].load(Relaxed),
        daddr: cold.local[3].load(Relaxed),
        sport: cold.remote_port.load(Relaxed).to_be(),
        dport: cold.local_port.load(Relaxed).to_be(),
    };
    size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>() as u32
}

/// Fills in the ends as an IPv6 packet to the local one has them. Returns the
/// length. The code goes word by word, so that no word has to wait on the
/// stack.
#[inline(always)]
fn v6(tuple: &mut bpf_sock_tuple, cold: &FlowCold) -> u32 {
    // SAFETY: all of the union is words.
    let ends = unsafe { &mut tuple.__bindgen_anon_1.ipv6 };
    for (to, from) in ends.saddr.iter_mut().zip(&cold.remote) {
        *to = from.load(Relaxed);
    }
    for (to, from) in ends.daddr.iter_mut().zip(&cold.local) {
        *to = from.load(Relaxed);
    }
    ends.sport = cold.remote_port.load(Relaxed).to_be();
    ends.dport = cold.local_port.load(Relaxed).to_be();
    size_of::<bpf_sock_tuple>() as u32
}
