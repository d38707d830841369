//! The ring of samples (map `SAMPLES`), read by the agent.

use std::{io, mem::size_of, os::fd::AsFd, time::Duration};

use aya::maps::{MapData, RingBuf};
use lpm_common::layout::Sample;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::export::stream::Ring;

/// Reader of map `SAMPLES`.
pub(super) struct SampleRing {
    ring: RingBuf<MapData>,
}

impl SampleRing {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }
}

impl Ring for SampleRing {
    fn wait(&mut self, at_most: Duration, take: &mut dyn FnMut(Sample)) -> io::Result<()> {
        let timeout = PollTimeout::try_from(at_most).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(self.ring.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        while let Some(record) = self.ring.next() {
            if record.len() >= size_of::<Sample>() {
                // SAFETY: the record is at least as long as a sample, which is plain numbers
                // without padding: every bit pattern is one; the read needs no alignment.
                take(unsafe { record.as_ptr().cast::<Sample>().read_unaligned() });
            }
        }
        Ok(())
    }
}
