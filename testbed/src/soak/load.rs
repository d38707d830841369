//! The traffic: connections with and without timestamps, short ones, pings and DNS.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Stdio,
    thread,
    time::Duration,
};

use super::{
    Error,
    site::{CHANGING, Site},
};
use crate::{
    testbed::{NsChild, Pair},
    traffic::{
        Background, Control, Limit, ManyConfig, ManyReport, PORT, PacedConfig, PacedReport,
        PacedSize, Server, many, paced,
    },
};

/// How long a socket waits before it looks whether it should end.
const LOOK: Duration = Duration::from_millis(200);

/// From one DNS query to the next.
const QUERIES: Duration = Duration::from_millis(100);

/// All traffic. Dropping it ends it.
pub(super) struct Load {
    crowds: Vec<Background<ManyReport>>,
    segments: Vec<Background<PacedReport>>,
    dns: [Background<u64>; 2],
    pings: NsChild,
    _server: Server,
}

/// What the traffic came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    /// TCP connections that were opened.
    pub connections: u64,
    /// Requests over TCP that were answered.
    pub requests: u64,
    /// DNS queries that were answered.
    pub queries: u64,
}

impl Load {
    /// Starts traffic of both pods to the remote machine.
    pub(super) fn start(site: &Site) -> Result<Self, Error> {
        let far = Pair::SERVER[0];
        let server = Server::start(&site.pair.server, PORT)?;
        let mut crowds = Vec::new();
        let mut segments = Vec::new();
        for pod in [&site.pair.client, &site.plain] {
            // Long connections; short ones; and some to the address that changes hands.
            for (to, connections, rate, each) in [
                (far, 20, 80.0, None),
                (far, 6, 18.0, Some(1)),
                (IpAddr::from(CHANGING), 2, 8.0, Some(4)),
            ] {
                let config = ManyConfig {
                    requests_per_connection: each,
                    ..ManyConfig::new(SocketAddr::new(to, PORT), connections, rate)
                };
                crowds.push(Background::start(pod, move |c| many(&config, c))?);
            }
            let config = PacedConfig {
                target: SocketAddr::new(far, PORT),
                size: PacedSize::Segments(4),
                period: Duration::from_millis(50),
                limit: Limit::default(),
            };
            segments.push(Background::start(pod, move |c| paced(&config, c))?);
        }
        let resolver = SocketAddr::new(far, 53);
        let bind = || UdpSocket::bind(resolver);
        let socket = site.pair.server.run_in(bind)?;
        let socket = socket.map_err(Error::io("answer DNS"))?;
        let answers = Background::start(&site.pair.server, move |c| answer(&socket, c))?;
        let asks = Background::start(&site.pair.client, move |c| ask(resolver, c))?;
        let mut ping = site.pair.client.command("ping");
        ping.args(["-q", "-i", "0.2", &far.to_string()]);
        ping.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Self {
            crowds,
            segments,
            dns: [asks, answers],
            pings: site.pair.client.spawn(&mut ping)?,
            _server: server,
        })
    }

    /// Ends the traffic. An error if any of it had ended before.
    pub(super) fn stop(self) -> Result<Traffic, Error> {
        let mut traffic = Traffic::default();
        for crowd in self.crowds {
            let report = crowd.stop().map_err(Error::io("send requests"))?;
            traffic.connections += report.connections;
            traffic.requests += report.requests;
        }
        for segments in self.segments {
            segments.stop().map_err(Error::io("send segments"))?;
            traffic.connections += 1;
        }
        let [asks, answers] = self.dns;
        traffic.queries = asks.stop().map_err(Error::io("ask for names"))?;
        answers.stop().map_err(Error::io("answer for names"))?;
        let ended = self.pings.try_wait().map_err(Error::io("look at ping"))?;
        match ended {
            None => Ok(traffic),
            Some(status) => Err(Error::Broken(format!("ping ended: {status}"))),
        }
    }
}

/// Asks for the address of a name, again and again; how many answers came.
fn ask(resolver: SocketAddr, control: &Control) -> io::Result<u64> {
    let mut answered = 0;
    let mut id = 0_u16;
    while !control.stopped() {
        // A port of its own, as resolvers have.
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(LOOK))?;
        socket.connect(resolver)?;
        id = id.wrapping_add(1);
        socket.send(&query(id))?;
        match socket.recv(&mut [0; 512]) {
            Ok(_) => answered += 1,
            Err(error) if timed_out(&error) => {}
            Err(error) => return Err(error),
        }
        thread::sleep(QUERIES);
    }
    Ok(answered)
}

/// A query (RFC 1035, section 4.1): one question for an A record of `a.b`.
fn query(id: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    bytes.extend([1, b'a', 1, b'b', 0, 0, 1, 0, 1]);
    bytes
}

/// Answers each query with its question and no record; how many.
fn answer(socket: &UdpSocket, control: &Control) -> io::Result<u64> {
    socket.set_read_timeout(Some(LOOK))?;
    let mut answered = 0;
    let mut bytes = [0; 512];
    while !control.stopped() {
        match socket.recv_from(&mut bytes) {
            Ok((length, from)) => {
                // The bit QR.
                bytes[2] |= 0x80;
                socket.send_to(&bytes[..length], from)?;
                answered += 1;
            }
            Err(error) if timed_out(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(answered)
}

fn timed_out(error: &io::Error) -> bool {
    use io::ErrorKind::{TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut)
}
