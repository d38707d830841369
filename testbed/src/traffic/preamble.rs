//! The first bytes of each connection, by which the client orders a service.

use std::{io, time::Duration};

const MAGIC: [u8; 4] = *b"LPMT";

/// Length of a preamble, in bytes.
pub(super) const PREAMBLE_BYTES: usize = 20;

/// What the client wants of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Preamble {
    /// Read to the end; then answer with the byte count and the checksum, or
    /// with 0 as checksum if it is not wanted.
    Sink {
        /// Whether the checksum is wanted.
        checksum: bool,
    },
    /// Answer each request after a while.
    Respond {
        /// Bytes of a request.
        request: u32,
        /// Bytes of an answer.
        response: u32,
        /// How long to think first.
        think: Duration,
    },
}

impl Preamble {
    pub(super) fn encode(self) -> [u8; PREAMBLE_BYTES] {
        let words = match self {
            Self::Sink { checksum } => [1, u32::from(checksum), 0, 0],
            Self::Respond {
                request,
                response,
                think,
            } => {
                let think = u32::try_from(think.as_micros()).unwrap_or(u32::MAX);
                [2, request, response, think]
            }
        };
        let mut bytes = [0; PREAMBLE_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        for (place, word) in bytes[4..].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8; PREAMBLE_BYTES]) -> io::Result<Self> {
        let (magic, rest) = bytes.split_at(4);
        let mut words = [0; 4];
        for (word, place) in words.iter_mut().zip(rest.chunks_exact(4)) {
            *word = place
                .iter()
                .fold(0_u32, |sum, byte| (sum << 8) | u32::from(*byte));
        }
        match words {
            [1, checksum, ..] if magic == MAGIC => Ok(Self::Sink {
                checksum: checksum != 0,
            }),
            [2, request, response, think] if magic == MAGIC => {
                let think = Duration::from_micros(think.into());
                Ok(Self::Respond {
                    request,
                    response,
                    think,
                })
            }
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not a testbed's client",
            )),
        }
    }
}

/// FNV-1a: whoever sends and whoever receives agree on it however the bytes
/// are cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checksum(u64);

impl Checksum {
    pub(super) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(super) fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_survives_the_wire() {
        let think = Duration::from_millis(30);
        for preamble in [
            Preamble::Sink { checksum: true },
            Preamble::Respond {
                request: 1,
                response: 70_000,
                think,
            },
        ] {
            assert_eq!(
                Preamble::decode(&preamble.encode()).expect("it is one"),
                preamble
            );
        }
        assert!(Preamble::decode(&[0; PREAMBLE_BYTES]).is_err());
    }
}
