//! A device of any link type.

use std::{
    fs::{File, OpenOptions},
    os::fd::AsRawFd,
};

/// A tap device that claims a link type; gone when the file is closed.
pub fn tap_of_type(name: &str, link_type: libc::c_ulong) -> File {
    tap(name, link_type, 0)
}

/// A tap device for Ethernet. Of a frame that is written in pieces (`writev`) only the first one
/// becomes the packet's linear part.
pub fn tap_in_pieces(name: &str) -> File {
    tap(
        name,
        libc::c_ulong::from(libc::ARPHRD_ETHER),
        libc::IFF_NAPI | libc::IFF_NAPI_FRAGS,
    )
}

fn tap(name: &str, link_type: libc::c_ulong, flags: libc::c_int) -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .expect("/dev/net/tun");
    // SAFETY: an ifreq is plain numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_TAP | libc::IFF_NO_PI | flags).expect("flags");
    // SAFETY: TUNSETIFF reads and writes an ifreq, TUNSETLINK takes a number; the file is open.
    let (made, typed) = unsafe {
        (
            libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request),
            libc::ioctl(file.as_raw_fd(), libc::TUNSETLINK, link_type),
        )
    };
    assert_eq!((made, typed), (0, 0), "{}", std::io::Error::last_os_error());
    file
}
