//! A few bytes every now and then, one way.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use nix::sys::socket::{getsockopt, sockopt};
use serde::Serialize;

use super::{Control, Limit, PATIENCE, preamble::Preamble};

/// How much [`paced`] sends at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacedSize {
    /// This many bytes.
    Bytes(usize),
    /// This many full segments, of the size the connection has.
    Segments(usize),
}

/// What [`paced`] sends.
#[derive(Debug, Clone, Copy)]
pub struct PacedConfig {
    /// The server.
    pub target: SocketAddr,
    /// How much at once; it leaves at once (`TCP_NODELAY`).
    pub size: PacedSize,
    /// How often.
    pub period: Duration,
    /// When it ends; `count` is in messages.
    pub limit: Limit,
}

/// What [`paced`] did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PacedReport {
    /// How often it sent.
    pub messages: u64,
    /// Bytes of one message.
    pub message_bytes: usize,
    /// From the first to the server's receipt for the last.
    pub seconds: f64,
}

/// Sends to a server that never answers before the end.
pub fn paced(config: &PacedConfig, control: &Control) -> io::Result<PacedReport> {
    let mut stream = TcpStream::connect_timeout(&config.target, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&Preamble::Sink { checksum: false }.encode())?;
    let message_bytes = match config.size {
        PacedSize::Bytes(bytes) => bytes,
        PacedSize::Segments(count) => count * getsockopt(&stream, sockopt::TcpMaxSeg)? as usize,
    };
    let message = vec![0x55; message_bytes];
    let _ = nix::sys::prctl::set_timerslack(1);
    control.ready();
    let start = Instant::now();
    let mut messages = 0;
    let mut next = start;
    while !config.limit.reached(start, messages) {
        stream.write_all(&message)?;
        messages += 1;
        next += config.period;
        let wake = config.limit.end(start).map_or(next, |end| next.min(end));
        if control.sleep_until(wake) {
            break;
        }
    }
    stream.shutdown(Shutdown::Write)?;
    stream.read_exact(&mut [0; 16])?;
    Ok(PacedReport {
        messages,
        message_bytes,
        seconds: start.elapsed().as_secs_f64(),
    })
}
