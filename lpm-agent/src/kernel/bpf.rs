//! The few `bpf(2)` calls that aya has no door for.
//!
//! aya attaches by interface *name*, resolved at the time of the call: a rename in between would
//! hook the wrong interface. We attach by index, and own the link as a plain file descriptor.

use std::{
    io,
    mem::{self, MaybeUninit},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info};

/// `BPF_F_BEFORE`: with no program to be before, the head of the chain.
const BPF_F_BEFORE: u32 = 1 << 3;

/// Attaches a classifier at the head of an interface's TCX chain (Linux 6.6).
///
/// The interface is looked up in the network namespace of the calling thread. Closing the
/// returned link detaches the program.
pub(crate) fn tcx_attach_first(
    program: impl AsFd,
    interface: u32,
    direction: Direction,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = fd_number(&program)?;
    attr.link_create.__bindgen_anon_2.target_ifindex = interface;
    attr.link_create.attach_type = match direction {
        Direction::Ingress => bpf_attach_type::BPF_TCX_INGRESS,
        Direction::Egress => bpf_attach_type::BPF_TCX_EGRESS,
    } as u32;
    attr.link_create.flags = BPF_F_BEFORE;
    let fd = call(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
    // SAFETY: BPF_LINK_CREATE returned this descriptor to us and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches an XDP program to an interface (links to XDP: Linux 5.9); `flags` choose the mode.
/// Another program there is never replaced. Looked up and detached as for [`tcx_attach_first`].
pub(crate) fn xdp_attach(program: impl AsFd, interface: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = fd_number(&program)?;
    attr.link_create.__bindgen_anon_2.target_ifindex = interface;
    attr.link_create.attach_type = bpf_attach_type::BPF_XDP as u32;
    attr.link_create.flags = flags;
    let fd = call(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
    // SAFETY: BPF_LINK_CREATE returned this descriptor to us and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The interface an XDP link holds on to: 0 once that interface has gone.
pub(crate) fn xdp_link_interface(link: impl AsFd) -> io::Result<u32> {
    let info = link_info(link)?;
    // SAFETY: every member of the union is plain numbers, and the link is an XDP link.
    Ok(unsafe { info.__bindgen_anon_1.xdp.ifindex })
}

/// The interface a TCX link holds on to: 0 once that interface has gone.
pub(crate) fn tcx_link_interface(link: impl AsFd) -> io::Result<u32> {
    let info = link_info(link)?;
    // SAFETY: every member of the union is plain numbers, and the link is a TCX link.
    Ok(unsafe { info.__bindgen_anon_1.tcx.ifindex })
}

fn link_info(link: impl AsFd) -> io::Result<bpf_link_info> {
    // SAFETY: bpf_link_info is plain numbers and unions of them; all zero is a value of it.
    let mut info: bpf_link_info = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut attr = zeroed_attr();
    attr.info.bpf_fd = fd_number(&link)?;
    attr.info.info = (&raw mut info) as u64;
    attr.info.info_len = u32::try_from(mem::size_of::<bpf_link_info>()).unwrap_or(u32::MAX);
    call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// Which way packets pass a hook, as the interface sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Packets that the interface received.
    Ingress,
    /// Packets that the interface is about to send.
    Egress,
}

impl std::fmt::Display for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

fn zeroed_attr() -> bpf_attr {
    // SAFETY: bpf_attr is a union of plain numbers, and the kernel demands zeroes in all that a
    // command does not use.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

fn fd_number(fd: &impl AsFd) -> io::Result<u32> {
    u32::try_from(fd.as_fd().as_raw_fd()).map_err(io::Error::other)
}

fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: attr lives across the call and is as large as we say; what it points to is owned by
    // the caller for that time.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as u32,
            &raw mut *attr,
            mem::size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}
