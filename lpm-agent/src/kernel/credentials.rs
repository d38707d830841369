//! Credentials of the process at the other end of a Unix socket.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// Groups of a process for which there is room at first.
const FIRST: usize = 64;

/// Groups that a process can have (`NGROUPS_MAX` in limits.h).
const MOST: usize = 65_536;

/// The supplementary groups that the process had when it connected (`SO_PEERGROUPS`, Linux 4.13 and
/// later). `SO_PEERCRED` tells its first group only.
///
/// # Errors
/// The kernel's.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; FIRST];
    loop {
        let room = groups.len() * mem::size_of::<u32>();
        let mut length = libc::socklen_t::try_from(room).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open, and both pointers are to values of this frame that live
        // across the call. The kernel writes no more than `length` bytes, as many as the vector has.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let needed = length as usize / mem::size_of::<u32>();
        if result == 0 {
            groups.truncate(needed);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        let is_too_small = error.raw_os_error() == Some(libc::ERANGE);
        if !is_too_small || needed <= groups.len() || needed > MOST {
            return Err(error);
        }
        groups.resize(needed, 0);
    }
}
