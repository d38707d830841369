//! The few `bpf(2)` calls that aya does not offer.
//!
//! aya attaches by interface *name*, resolved at the time of the call: a rename in between would
//! hook the wrong interface. We attach by index, and own the link as a plain file descriptor.

use std::{
    ffi::{CString, c_char},
    io,
    mem::{self, MaybeUninit},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    time::Duration,
};

use aya_obj::generated::{
    bpf_attach_type, bpf_cmd, bpf_link_info, bpf_link_type, bpf_map_type, bpf_prog_info,
    bpf_prog_type,
};

use super::syscall::{call, create, zeroed_attr};

/// Kernel flag `BPF_F_BEFORE`. Without a program to be before, it means the head of the chain.
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
    attr.link_create.attach_type = tcx_type(direction) as u32;
    attr.link_create.flags = BPF_F_BEFORE;
    create(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

fn tcx_type(direction: Direction) -> bpf_attach_type {
    match direction {
        Direction::Ingress => bpf_attach_type::BPF_TCX_INGRESS,
        Direction::Egress => bpf_attach_type::BPF_TCX_EGRESS,
    }
}

/// Ids of the programs of a TCX chain, first to last. Empty on a kernel without TCX.
///
/// # Errors
/// The kernel's; `ENODEV`: the interface has gone.
pub(crate) fn tcx_chain(interface: u32, direction: Direction) -> io::Result<Vec<u32>> {
    // No chain is longer than `BPF_MPROG_MAX`.
    let mut ids = [0_u32; 64];
    let mut attr = zeroed_attr();
    attr.query.__bindgen_anon_1.target_ifindex = interface;
    attr.query.attach_type = tcx_type(direction) as u32;
    attr.query.prog_ids = ids.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.count = u32::try_from(ids.len()).unwrap_or(0);
    match call(bpf_cmd::BPF_PROG_QUERY, &mut attr) {
        Ok(_) => {}
        // Before 6.6 there is no such chain (`EINVAL`). Later `ENOENT` means a chain without
        // programs.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    }
    // SAFETY: both members of the union are the same plain number, which the kernel has set.
    let count = unsafe { attr.query.__bindgen_anon_2.count } as usize;
    Ok(ids.into_iter().take(count).collect())
}

/// The name that a program's loader gave it. None: the program has gone, or the kernel does not
/// tell (looking at another's program takes `CAP_SYS_ADMIN`).
pub(crate) fn program_name(id: u32) -> Option<String> {
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
    let program = create(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attr).ok()?;
    let bytes = program_info(program).ok()?.name.map(c_char::to_ne_bytes);
    let name: Vec<u8> = bytes
        .into_iter()
        .flatten()
        .take_while(|b| *b != 0)
        .collect();
    String::from_utf8(name).ok().filter(|name| !name.is_empty())
}

/// Sets an element of a map with 32-bit keys and values. For a map of programs, the value is a
/// descriptor.
pub(crate) fn map_put(map: impl AsFd, key: u32, value: u32) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_2.map_fd = fd_number(&map)?;
    attr.__bindgen_anon_2.key = (&raw const key) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = (&raw const value) as u64;
    call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Loads a classifier made of these instructions.
pub(crate) fn load_classifier(name: &str, code: &[[u8; 8]]) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    // SAFETY: the member of the union that BPF_PROG_LOAD reads; plain numbers.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
    load.insn_cnt = u32::try_from(code.len()).map_err(io::Error::other)?;
    load.insns = code.as_ptr() as u64;
    load.license = c"Dual MIT/GPL".as_ptr() as u64;
    put_name(&mut load.prog_name, name);
    create(bpf_cmd::BPF_PROG_LOAD, &mut attr)
}

/// Attaches an XDP program to an interface (links to XDP: Linux 5.9). `flags` choose the mode.
/// Another program there is never replaced. The interface is looked up, and the program detached,
/// as for [`tcx_attach_first`].
pub(crate) fn xdp_attach(program: impl AsFd, interface: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = fd_number(&program)?;
    attr.link_create.__bindgen_anon_2.target_ifindex = interface;
    attr.link_create.attach_type = bpf_attach_type::BPF_XDP as u32;
    attr.link_create.flags = flags;
    create(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// The interface that an XDP link is on. 0: the interface has gone.
pub(crate) fn xdp_link_interface(link: impl AsFd) -> io::Result<u32> {
    let info = link_info(link)?;
    // SAFETY: every member of the union is plain numbers, and the link is an XDP link.
    Ok(unsafe { info.__bindgen_anon_1.xdp.ifindex })
}

/// The interface that a TCX link is on. 0: the interface has gone.
pub(crate) fn tcx_link_interface(link: impl AsFd) -> io::Result<u32> {
    let info = link_info(link)?;
    // SAFETY: every member of the union is plain numbers, and the link is a TCX link.
    Ok(unsafe { info.__bindgen_anon_1.tcx.ifindex })
}

/// Replaces the program of a link at once: each packet meets one of both.
pub(crate) fn link_update(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.link_update.link_fd = fd_number(&link)?;
    attr.link_update.__bindgen_anon_1.new_prog_fd = fd_number(&program)?;
    call(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Opens a link by its kernel id. It takes `CAP_SYS_ADMIN`.
pub(crate) fn link_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_6.__bindgen_anon_1.link_id = id;
    create(bpf_cmd::BPF_LINK_GET_FD_BY_ID, &mut attr)
}

/// The place of a link of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkPlace {
    /// The TCX chain of an interface; 0: the interface has gone.
    Tcx(u32, Direction),
    /// The XDP hook of an interface; 0: the interface has gone.
    Xdp(u32),
    /// Any other place: the link is none of ours.
    Other,
}

/// Reads the place of a link.
pub(crate) fn link_place(link: impl AsFd) -> io::Result<LinkPlace> {
    let info = link_info(link)?;
    Ok(if info.type_ == bpf_link_type::BPF_LINK_TYPE_TCX as u32 {
        // SAFETY: every member of the union is plain numbers, and the link is a TCX link.
        let tcx = unsafe { info.__bindgen_anon_1.tcx };
        let ingress = tcx.attach_type == bpf_attach_type::BPF_TCX_INGRESS as u32;
        let direction = if ingress {
            Direction::Ingress
        } else {
            Direction::Egress
        };
        LinkPlace::Tcx(tcx.ifindex, direction)
    } else if info.type_ == bpf_link_type::BPF_LINK_TYPE_XDP as u32 {
        // SAFETY: as above, an XDP link.
        LinkPlace::Xdp(unsafe { info.__bindgen_anon_1.xdp.ifindex })
    } else {
        LinkPlace::Other
    })
}

/// Gives a program, map or link a name in a BPF file system: it lives on without a process.
pub(crate) fn pin(object: impl AsFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = fd_number(&object)?;
    call(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Opens an object by its name in a BPF file system.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    create(bpf_cmd::BPF_OBJ_GET, &mut attr)
}

/// The kernel's id of a program.
pub(crate) fn program_id(program: impl AsFd) -> io::Result<u32> {
    Ok(program_info(program)?.id)
}

/// How often a program ran and how long that took, while the kernel measured it. The descriptor is
/// enough. Looking a program up by its id takes `CAP_SYS_ADMIN`.
pub(crate) fn run_time(program: impl AsFd) -> io::Result<(u64, Duration)> {
    let info = program_info(program)?;
    Ok((info.run_cnt, Duration::from_nanos(info.run_time_ns)))
}

fn program_info(program: impl AsFd) -> io::Result<bpf_prog_info> {
    // SAFETY: bpf_prog_info is plain numbers; all zero is a value of it.
    let mut info: bpf_prog_info = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut attr = zeroed_attr();
    attr.info.bpf_fd = fd_number(&program)?;
    attr.info.info = (&raw mut info) as u64;
    attr.info.info_len = u32::try_from(mem::size_of::<bpf_prog_info>()).unwrap_or(u32::MAX);
    call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// Creates a map that no program uses, for data that one agent leaves to the next.
pub(crate) fn create_map(
    name: &str,
    kind: bpf_map_type,
    [key, value, entries, flags]: [u32; 4],
) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    // SAFETY: the member of the union that BPF_MAP_CREATE reads; plain numbers.
    let want = unsafe { &mut attr.__bindgen_anon_1 };
    want.map_type = kind as u32;
    want.key_size = key;
    want.value_size = value;
    want.max_entries = entries;
    want.map_flags = flags;
    put_name(&mut want.map_name, name);
    create(bpf_cmd::BPF_MAP_CREATE, &mut attr)
}

/// Writes a name, cut to the room there is. The last byte stays 0.
fn put_name(to: &mut [c_char], name: &str) {
    let room = to.len() - 1;
    for (to, from) in to[..room].iter_mut().zip(name.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
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

/// The direction in which packets pass a hook, seen from the interface.
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

fn fd_number(fd: &impl AsFd) -> io::Result<u32> {
    u32::try_from(fd.as_fd().as_raw_fd()).map_err(io::Error::other)
}
