//! Captures at both ends, as tshark reads them.

use std::{
    collections::HashMap,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use lpm_testbed::testbed::{Netns, NsChild};
use nix::sys::signal::Signal;

use super::{
    network::VXLAN,
    peers::{LPM, STAMP_SUITE},
};

/// How long tcpdump may take to begin and to end.
const LIMIT: Duration = Duration::from_secs(20);

/// A capture that has not grown for so long has all packets.
const QUIET: Duration = Duration::from_millis(2500);

/// A running tcpdump.
#[derive(Debug)]
pub(super) struct Capture {
    child: NsChild,
    file: tempfile::NamedTempFile,
}

impl Capture {
    /// Captures what goes over the cable to and from the reflectors, in a tunnel or not. Without
    /// the immediate mode, tcpdump is not woken for each packet: that would count as the wire's time,
    /// since a packet is shown to captures before the device takes it.
    pub(super) fn start(netns: &Netns) -> Result<Self> {
        let file = tempfile::NamedTempFile::new().context("make a file")?;
        let mut command = netns.command("tcpdump");
        command
            .args(["-i", "eth0", "-n", "-U", "-s", "192", "-B", "4096"])
            .args(["--time-stamp-precision=nano", "-Z", "root", "-w"])
            .arg(file.path())
            .arg(format!(
                "udp port {LPM} or udp port {STAMP_SUITE} or udp port {VXLAN}"
            ));
        command.stdin(Stdio::null()).stderr(Stdio::null());
        let child = netns.spawn(&mut command)?;
        let capture = Self { child, file };
        // Its socket stands in the namespace once it captures; the file has its head by then.
        let end = Instant::now() + LIMIT;
        while capture.length()? == 0 || !Self::has_socket(netns)? {
            if Instant::now() > end {
                bail!("tcpdump does not begin");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(capture)
    }

    fn length(&self) -> Result<u64> {
        let metadata = self.file.path().metadata();
        Ok(metadata.context("look at a capture")?.len())
    }

    fn has_socket(netns: &Netns) -> Result<bool> {
        let sockets = netns.output("cat", &["/proc/net/packet"])?;
        Ok(sockets.lines().count() > 1)
    }

    /// Ends the capture, and reads it by tshark: the time of each packet, in nanoseconds.
    pub(super) fn end(self) -> Result<HashMap<Packet, i64>> {
        // tcpdump gets the last packets once the kernel has waited a second for more.
        let (mut length, mut since) = (self.length()?, Instant::now());
        while since.elapsed() < QUIET {
            thread::sleep(Duration::from_millis(50));
            let now = self.length()?;
            if now != length {
                (length, since) = (now, Instant::now());
            }
        }
        self.child.signal(Signal::SIGINT)?;
        self.child.wait(LIMIT)?;
        packets(self.file.path())
    }
}

/// A packet: both ends' ports, its number in the session, and whether it is an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Packet {
    pub(super) server: u16,
    pub(super) port: u16,
    pub(super) number: u32,
    pub(super) is_answer: bool,
}

fn packets(file: &Path) -> Result<HashMap<Packet, i64>> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-n", "-T", "fields"]);
    // Of a tunnel's packet the inner one.
    command.args([
        "-E",
        "occurrence=l",
        "-d",
        &format!("udp.port=={VXLAN},vxlan"),
    ]);
    for field in [
        "frame.time_epoch",
        "udp.srcport",
        "udp.dstport",
        "udp.payload",
    ] {
        command.args(["-e", field]);
    }
    let output = command
        .stderr(Stdio::null())
        .output()
        .context("run tshark")?;
    let text = String::from_utf8(output.stdout).context("read what tshark says")?;
    Ok(text.lines().filter_map(packet).collect())
}

/// Reads a line of tshark.
fn packet(line: &str) -> Option<(Packet, i64)> {
    let mut fields = line.split('\t');
    let time = nanoseconds(fields.next()?)?;
    let (from, to): (u16, u16) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let payload = fields.next()?;
    let is_answer = [LPM, STAMP_SUITE].contains(&from);
    // The sender's number: at the beginning of its packet, behind 24 bytes of the answer.
    let at = if is_answer { 2 * 24 } else { 0 };
    let number = u32::from_str_radix(payload.get(at..at + 8)?, 16).ok()?;
    if !is_answer && ![LPM, STAMP_SUITE].contains(&to) {
        return None;
    }
    let (server, port) = if is_answer { (from, to) } else { (to, from) };
    let packet = Packet {
        server,
        port,
        number,
        is_answer,
    };
    Some((packet, time))
}

/// Reads seconds with nine decimals.
fn nanoseconds(text: &str) -> Option<i64> {
    let (seconds, fraction) = text.split_once('.')?;
    let seconds: i64 = seconds.parse().ok()?;
    let fraction: i64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(fraction)
}

/// What captures say of a packet, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trip {
    pub(super) round_trip: f64,
    pub(super) dwell: f64,
}

/// The round trips of a reflector's packets by the captures at both ends, by the client's port and
/// the number.
pub(super) fn trips(
    reflector: u16,
    client: &HashMap<Packet, i64>,
    server: &HashMap<Packet, i64>,
) -> HashMap<(u16, u32), Trip> {
    let requests = client.iter();
    let requests = requests.filter(|(packet, _)| packet.server == reflector && !packet.is_answer);
    requests
        .filter_map(|(request, sent)| {
            let answer = Packet {
                is_answer: true,
                ..*request
            };
            let whole = client.get(&answer)? - sent;
            let dwell = server.get(&answer)? - server.get(request)?;
            #[expect(clippy::cast_precision_loss, reason = "milliseconds at most")]
            let trip = Trip {
                round_trip: (whole - dwell) as f64,
                dwell: dwell as f64,
            };
            Some(((request.port, request.number), trip))
        })
        .collect()
}

/// The client's ports that a reflector saw, in the order of their first packets.
pub(super) fn ports(reflector: u16, client: &HashMap<Packet, i64>) -> Vec<u16> {
    let mut first: HashMap<u16, i64> = HashMap::new();
    let of_reflector = client
        .iter()
        .filter(|(packet, _)| packet.server == reflector);
    for (packet, time) in of_reflector {
        let first = first.entry(packet.port).or_insert(*time);
        *first = (*first).min(*time);
    }
    let mut ports: Vec<u16> = first.keys().copied().collect();
    ports.sort_by_key(|port| first.get(port).copied());
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_tshark_is_a_packet() {
        let line = "1796066760.844029017\t8620\t40000\t00000009".to_owned()
            + &"00".repeat(20)
            + "0000000700";
        let expected = Packet {
            server: LPM,
            port: 40000,
            number: 7,
            is_answer: true,
        };
        assert_eq!(packet(&line), Some((expected, 1_796_066_760_844_029_017)));
        assert_eq!(nanoseconds("5.25"), Some(5_250_000_000));
        assert_eq!(packet("x"), None);
    }
}
