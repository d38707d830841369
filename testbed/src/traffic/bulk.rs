//! One connection as fast as it goes.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Instant,
};

use serde::Serialize;

use super::{
    Control, Limit, PATIENCE,
    preamble::{Checksum, Preamble},
};

/// What [`bulk`] sends.
#[derive(Debug, Clone, Copy)]
pub struct BulkConfig {
    /// The server.
    pub target: SocketAddr,
    /// When it ends; `count` is in bytes.
    pub limit: Limit,
    /// Whether the server's checksum is compared with the client's. It costs
    /// time at many gigabits.
    pub verify: bool,
}

/// What [`bulk`] did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BulkReport {
    /// Bytes sent, and received by the server.
    pub bytes: u64,
    /// From the first byte to the server's receipt for the last.
    pub seconds: f64,
    /// Payload rate.
    pub bits_per_second: f64,
    /// Whether the data arrived as sent; None if not verified.
    pub intact: Option<bool>,
}

/// Sends random data and waits for the server's receipt. An error if the
/// server received another number of bytes.
pub fn bulk(config: &BulkConfig, control: &Control) -> io::Result<BulkReport> {
    let mut stream = TcpStream::connect_timeout(&config.target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(
        &Preamble::Sink {
            checksum: config.verify,
        }
        .encode(),
    )?;
    control.ready();
    let mut data = vec![0; 1 << 18];
    fastrand::Rng::with_seed(7).fill(&mut data);
    let mut checksum = Checksum::new();
    let start = Instant::now();
    let mut sent = 0_u64;
    while !control.stopped() && !config.limit.reached(start, sent) {
        // Another place of the data each time, so that lost or swapped pieces
        // change the checksum.
        let offset = usize::try_from(sent / 4096 % 17).unwrap_or(0) * 1021;
        let left = config.limit.count.map_or(u64::MAX, |limit| limit - sent);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(1 << 16);
        let piece = &data[offset..offset + length];
        stream.write_all(piece)?;
        if config.verify {
            checksum.add(piece);
        }
        sent += length as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut receipt = [[0; 8]; 2];
    for word in &mut receipt {
        stream.read_exact(word)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let [received, theirs] = receipt.map(u64::from_be_bytes);
    if received != sent {
        return Err(io::Error::other(format!(
            "the client sent {sent} bytes, but the server got {received}"
        )));
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate needs no more than 52 bits"
    )]
    let bits_per_second = sent as f64 * 8.0 / seconds;
    let intact = config.verify.then(|| theirs == checksum.value());
    Ok(BulkReport {
        bytes: sent,
        seconds,
        bits_per_second,
        intact,
    })
}
