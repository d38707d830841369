//! Whether a flow is of a socket of this host, and not of a pod whose packets
//! got the host's address on their way (masquerade).

use core::{ffi::c_void, mem::size_of, sync::atomic::Ordering::Relaxed};

use aya_ebpf::{
    bindings::{
        __sk_buff, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp},
};
use lpm_common::{
    layout::{FlowCold, FlowEntry},
    packet::MAPPED,
    shared::{AtomicU16, AtomicU32},
};

use crate::context::Context;

/// `BPF_TCP_LISTEN` of `linux/bpf.h`.
const LISTEN: u32 = 10;

/// `BPF_F_CURRENT_NETNS`: that of the packet's interface.
const CURRENT_NETNS: u64 = u64::MAX;

/// Whether the packet comes from a socket with this address and port.
#[inline(always)]
pub(crate) fn sent_by(skb: *mut __sk_buff, address: [u32; 4], port: u16) -> bool {
    // SAFETY: the hook's context; TC programs may read this field.
    let socket = unsafe { (*skb).__bindgen_anon_2.sk };
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

/// Likewise for a question, whose socket may be bound to no address, and if the
/// port is 0 (ICMP) has none.
#[inline(always)]
pub(crate) fn asked_by(skb: *mut __sk_buff, address: [u32; 4], port: u16) -> bool {
    // SAFETY: the hook's context; TC programs may read this field.
    let socket = unsafe { (*skb).__bindgen_anon_2.sk };
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

/// Not 0: a socket of the interface's network namespace has the flow's addresses
/// and ports. One that only listens does not.
#[inline(never)]
pub(crate) fn local(skb: impl Context, entry: &FlowEntry) -> u32 {
    let cold = &entry.cold;
    let (mut tuple, length) = if is_mapped(words(&cold.local)) {
        let length = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>();
        (v4(cold), length)
    } else {
        (v6(cold), size_of::<bpf_sock_tuple>())
    };
    // SAFETY: the tuple is initialised to this length; a socket that is found is
    // given back.
    unsafe {
        let socket = bpf_skc_lookup_tcp(
            skb.as_ptr(),
            &raw mut tuple,
            length as u32,
            CURRENT_NETNS,
            0,
        );
        if socket.is_null() {
            return 0;
        }
        let state = (*socket).state;
        bpf_sk_release(socket.cast::<c_void>());
        u32::from(state != LISTEN)
    }
}

#[inline(always)]
fn words(address: &[AtomicU32; 4]) -> [u32; 4] {
    [
        address[0].load(Relaxed),
        address[1].load(Relaxed),
        address[2].load(Relaxed),
        address[3].load(Relaxed),
    ]
}

#[inline(always)]
fn port(port: &AtomicU16) -> u16 {
    port.load(Relaxed).to_be()
}

/// As a packet to the local end has them.
#[inline(always)]
fn v4(cold: &FlowCold) -> bpf_sock_tuple {
    let mut tuple = v6(cold);
    tuple.__bindgen_anon_1.ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
        saddr: cold.remote[3].load(Relaxed),
        daddr: cold.local[3].load(Relaxed),
        sport: port(&cold.remote_port),
        dport: port(&cold.local_port),
    };
    tuple
}

#[inline(always)]
fn v6(cold: &FlowCold) -> bpf_sock_tuple {
    bpf_sock_tuple {
        __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 {
            ipv6: bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
                saddr: words(&cold.remote),
                daddr: words(&cold.local),
                sport: port(&cold.remote_port),
                dport: port(&cold.local_port),
            },
        },
    }
}
