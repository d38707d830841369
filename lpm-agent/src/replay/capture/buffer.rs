//! The part of a capture that is in memory: one buffer, whatever the capture's size.

use std::io::{self, Read};

use super::CaptureError;

/// Longest record that is accepted, bytes. Wireshark has the same limit for a block of pcapng.
pub(super) const LONGEST: usize = 16 << 20;

/// Bytes per read of the source.
const READ: usize = 256 << 10;

/// A view of a source of bytes that moves forward only.
pub(super) struct Buffer<R> {
    source: R,
    held: Vec<u8>,
    start: usize,
    end: usize,
    /// Offset of `start` in the source, bytes.
    offset: u64,
    ended: bool,
}

impl<R: Read> Buffer<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            held: vec![0; READ],
            start: 0,
            end: 0,
            offset: 0,
            ended: false,
        }
    }

    /// Offset of the view's beginning in the source, bytes.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The bytes in the view.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.held[self.start..self.end]
    }

    /// Extends the view to at least this many bytes, unless the source ends before. Returns the
    /// number of bytes in the view.
    ///
    /// # Errors
    /// The source cannot be read, or its compression is corrupt.
    pub(super) fn want(&mut self, bytes: usize) -> Result<usize, CaptureError> {
        while self.end - self.start < bytes && !self.ended {
            self.make_room(bytes);
            match self.source.read(&mut self.held[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(self.end - self.start)
    }

    /// Extends the view to the next record's first bytes. It is an error if the source ends before.
    pub(super) fn need(&mut self, bytes: usize) -> Result<(), CaptureError> {
        let have = self.want(bytes)?;
        if have < bytes {
            return Err(CaptureError::Truncated {
                offset: self.offset,
                need: bytes as u64,
                have: have as u64,
            });
        }
        Ok(())
    }

    /// Moves the view forward. The bytes that it leaves may be read until the next [`Self::want`].
    pub(super) fn pass(&mut self, bytes: usize) {
        self.start += bytes;
        self.offset += bytes as u64;
    }

    /// The `len` bytes that end `behind` bytes before the view.
    pub(super) fn passed(&self, behind: usize, len: usize) -> &[u8] {
        let end = self.start - behind;
        &self.held[end - len..end]
    }

    fn make_room(&mut self, bytes: usize) {
        if self.start > 0 && self.held.len() - self.start < bytes.max(READ / 4) {
            self.held.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.held.len() < bytes {
            self.held.resize(bytes.next_multiple_of(READ), 0);
        }
        if self.end == self.held.len() {
            self.held.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// Converts an error. Those of the decompressor concern the file, not the system.
    fn failed(&self, error: io::Error) -> CaptureError {
        let have = (self.end - self.start) as u64;
        match error.kind() {
            io::ErrorKind::UnexpectedEof => CaptureError::Truncated {
                offset: self.offset,
                need: have + 1,
                have,
            },
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                CaptureError::corrupt(self.offset + have, format!("gzip: {error}"))
            }
            _ => CaptureError::Io {
                offset: self.offset + have,
                source: error,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source that gives a few bytes at a time, as a pipe may.
    struct Slow(Vec<u8>, usize);

    impl Read for Slow {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let len = to.len().min(7).min(self.0.len() - self.1);
            to[..len].copy_from_slice(&self.0[self.1..self.1 + len]);
            self.1 += len;
            Ok(len)
        }
    }

    #[test]
    fn every_byte_passes_once_and_the_buffer_stays() {
        let all: Vec<u8> = (0..2_000_000_u32).map(|i| (i % 251) as u8).collect();
        let mut window = Buffer::new(Slow(all.clone(), 0));
        let mut seen = Vec::new();
        let mut len = 1;
        while window.want(len).expect("bytes") >= len {
            window.pass(len);
            seen.extend_from_slice(window.passed(0, len));
            len = len % 3_000 + 1;
        }
        let rest = window.bytes().to_vec();
        seen.extend(rest);
        assert!(seen == all);
        assert_eq!(window.held.len(), READ);
    }

    #[test]
    fn a_long_record_fits() {
        let bytes = vec![1_u8; 1 << 20];
        let mut window = Buffer::new(&bytes[..]);
        window.need(1000).expect("there");
        window.pass(1000);
        window.need(900_000).expect("there");
        let error = window.need(2 << 20).expect_err("it ends");
        let CaptureError::Truncated { offset, need, have } = error else {
            panic!("{error}");
        };
        assert_eq!((offset, need, have), (1000, 2 << 20, (1 << 20) - 1000));
    }
}
