//! The system call `bpf(2)` itself. The tests that load programs of their own include this file,
//! too.

use std::{
    io,
    mem::{self, MaybeUninit},
    os::fd::{FromRawFd as _, OwnedFd},
};

use aya_obj::generated::{bpf_attr, bpf_cmd};

/// A `bpf_attr` of zeroes: the kernel wants zeroes in all fields that a command does not use.
pub(crate) fn zeroed_attr() -> bpf_attr {
    // SAFETY: bpf_attr is a union of plain numbers; all zero is a value of it.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Calls the kernel with a command and returns its answer: 0 or a descriptor.
///
/// # Errors
/// The kernel's.
pub(crate) fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
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

/// Calls the kernel with a command that creates something: a program, a map, a link, BTF.
///
/// # Errors
/// The kernel's.
pub(crate) fn create(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = call(command, attr)?;
    // SAFETY: the kernel returned this descriptor to us and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
