//! `lpm probe`: the round trip to a reflector, as ping shows it, and more.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    path::Path,
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use lpm_common::stamp::PORT;

use self::{json::Json, text::Text};
use super::signals::BlockedSignals;
use crate::{
    active::{
        mac,
        plan::{LONGEST, Plan, Train},
        report::Report,
        schedule::when::Rhythm,
        sender::Sender,
        summary::Session,
        sweep::MOST as MOST_PATHS,
    },
    kernel::netns::Netns,
};

mod hops;
mod icmp;
mod json;
mod mtu;
mod path;
mod sweep;
mod tcp;
mod text;

pub(super) const EXAMPLES: &str = "Examples:
  lpm probe node-2                               until Ctrl-C, once a second
  lpm probe -c 20 -i 0.01 198.18.9.2:8620        20 packets, 10 ms apart, another port
  lpm probe -c 5 --format json node-2 | jq .rtt_ns
  lpm probe --train 20 -i 5 node-2               20 packets, 1 ms apart, every 5 seconds
  lpm probe --protocol icmp 198.18.9.2           a machine without a reflector
  lpm probe --protocol tcp 198.18.9.2:443        a port of it, by SYN
  lpm probe --mtu node-2                         the longest packet that the path takes
  lpm probe --hops --protocol icmp 198.18.9.2    the routers on the way
  lpm probe --protocol udp-sweep -c 50 -i 0.1 node-2
                                                 16 source ports: which of the paths are bad
The other end runs `lpm reflect` or another STAMP reflector. Exit status: 0 with an answer, 1 without
any, 2 on an error.";

/// Options of `lpm probe`.
#[derive(Debug, Args)]
pub(super) struct Probe {
    /// The reflector: a name or an address, and a port if it is not 862.
    #[arg(value_name = "TARGET[:PORT]")]
    target: String,
    /// How many probes, or trains of them; without it, until Ctrl-C.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// Seconds between two probes, or from train to train, from 0.0001 to 86400.
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// Probes to send at each interval, and the seconds between two of them (0.001 if not given).
    #[arg(long, value_name = "N[:SECONDS]", value_parser = train)]
    train: Option<Train>,
    /// Bytes of a packet behind the UDP header, as far as it is not longer anyway; of ICMP the bytes of
    /// data [default there: 56].
    #[arg(short, long, value_name = "BYTES", default_value_t = 0, value_parser = size)]
    size: usize,
    /// DSCP of the packets, and asked for of the answers.
    #[arg(short = 'Q', long, value_name = "DSCP", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..64))]
    dscp: u8,
    /// ECN of the packets: 0, or 1 to 3 to see whether it arrives.
    #[arg(long, value_name = "ECN", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..4))]
    ecn: u8,
    /// The interface to send by, or the address to send from.
    #[arg(short = 'I', long, value_name = "INTERFACE|ADDRESS")]
    from: Option<String>,
    /// Seconds after which a packet without an answer is lost.
    #[arg(short = 'W', long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    timeout: Duration,
    /// The session's number and its key, as hexadecimal digits in a file.
    #[arg(long, value_name = "SSID:FILE")]
    key: Option<Key>,
    /// Source ports of a sweep, 2 to 256 [default: 16]. Counts and intervals hold for each of them.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=i64::from(MOST_PATHS)))]
    paths: Option<u16>,
    /// First source port of a sweep, so that it takes the paths of an earlier one; without it, a
    /// random one from 49152 on. Ports that are taken are passed over.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    source_port: Option<u16>,
    /// What to send. ICMP echo and TCP SYN need no reflector, and tell the round trip only. A sweep
    /// probes by many source ports, and names the bad ones.
    #[arg(long, value_enum, default_value_t = Protocol::Stamp)]
    protocol: Protocol,
    /// Find the longest packet that the path takes in one piece, and what stands against a longer one.
    #[arg(long)]
    mtu: bool,
    /// List the routers on the way, by packets whose TTL ends there; -c counts those of each TTL [default
    /// there: 3].
    #[arg(long, conflicts_with = "mtu")]
    hops: bool,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protocol {
    /// STAMP (RFC 8762), which a reflector answers.
    Stamp,
    /// ICMP echo, over IPv4 or IPv6, which the kernel of any machine answers.
    Icmp,
    /// TCP SYN, which the port of any machine answers. Nothing is completed.
    Tcp,
    /// STAMP from many source ports (and flow labels), so by many of the paths between two ends.
    UdpSweep,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people, as ping does.
    Text,
    /// A JSON object per line, for programs.
    Json,
}

fn seconds(text: &str) -> Option<Duration> {
    let seconds = text.parse::<f64>().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

fn interval(text: &str) -> Result<Duration, String> {
    let range = Duration::from_micros(100)..=Duration::from_hours(24);
    seconds(text)
        .filter(|interval| range.contains(interval))
        .ok_or_else(|| "give seconds from 0.0001 to 86400".to_owned())
}

/// Most probes of a train.
const MOST: u32 = 1_000;

fn train(text: &str) -> Result<Train, String> {
    let (probes, spacing) = text.split_once(':').unwrap_or((text, "0.001"));
    let probes = probes
        .parse()
        .ok()
        .filter(|probes| (1..=MOST).contains(probes));
    let probes = probes.ok_or_else(|| format!("give 1 to {MOST} probes"))?;
    let spacing = interval(spacing)?;
    Ok(Train { probes, spacing })
}

fn size(text: &str) -> Result<usize, String> {
    let size = text.parse().ok().filter(|size| *size <= LONGEST);
    size.ok_or_else(|| format!("give bytes from 0 to {LONGEST}"))
}

/// A session's key.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) session: u16,
    pub(super) key: mac::Key,
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (session, file) = text.split_once(':').ok_or("give SSID:FILE")?;
        // 0 stands for senders that know no number (RFC 8762 has none).
        let session = session.parse().ok();
        let session = session.ok_or("the SSID is a number from 0 to 65535")?;
        let key = mac::Key::read(Path::new(file)).map_err(|error| error.to_string())?;
        Ok(Self { session, key })
    }
}

/// Moves into the network namespace that the command line names.
pub(super) fn enter(netns: Option<&String>) -> anyhow::Result<()> {
    if let Some(netns) = netns {
        Netns::open(netns)?.enter()?;
    }
    Ok(())
}

/// What prints.
trait Printer {
    fn begin(&mut self, plan: &Plan) -> io::Result<()>;
    fn packet(&mut self, report: &Report) -> io::Result<()>;
    fn end(&mut self, session: &Session, sender: &Sender) -> io::Result<()>;
}

impl Probe {
    pub(super) fn execute(self, netns: Option<&String>) -> anyhow::Result<ExitCode> {
        if self.protocol != Protocol::UdpSweep || self.mtu || self.hops {
            self.refuse_sweep_options()?;
        }
        if self.mtu {
            return self.execute_mtu(netns);
        }
        if self.hops {
            return self.execute_hops(netns);
        }
        match self.protocol {
            Protocol::Stamp => {}
            Protocol::Icmp => return self.execute_icmp(netns),
            Protocol::Tcp => return self.execute_tcp(netns),
            Protocol::UdpSweep => return self.execute_sweep(netns),
        }
        enter(netns)?;
        let signals = BlockedSignals::new().context("cannot wait for signals")?;
        let plan = self.plan()?;
        let target = plan.target;
        let mut printer: Box<dyn Printer> = match self.format {
            Format::Text => Box::new(Text::new(io::stdout())),
            Format::Json => Box::new(Json::new(io::stdout(), target)),
        };
        let mut session = Session::default();
        let mut sender = Sender::open(plan.clone()).with_context(|| match &self.from {
            Some(from) => format!(
                "cannot send from {from}: give an interface (`ip link`) or an address of this \
                 machine with -I"
            ),
            None => format!("cannot open a socket to {target}"),
        })?;
        printer.begin(&plan)?;
        sender.run(&signals, |report| {
            session.take(&report);
            printer.packet(&report)
        })?;
        printer.end(&session, &sender)?;
        Ok(if session.received + session.late > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    /// Refuses options that a probe would ignore: whether each is given, what it is about, its name.
    fn refuse(&self, probe: &str, options: &[(bool, &str, &str)]) -> anyhow::Result<()> {
        match options.iter().find(|(is_given, ..)| *is_given) {
            Some((_, what, name)) => bail!(
                "{probe} to {} knows no {what}: leave out {name}",
                self.target
            ),
            None => Ok(()),
        }
    }

    /// Finds the target by `resolve`, and reads where to send from.
    fn ends(
        &self,
        resolve: impl Fn(&str, Option<IpAddr>) -> anyhow::Result<SocketAddr>,
    ) -> anyhow::Result<Ends> {
        let (mut from, mut interface) = (None, None);
        if let Some(text) = &self.from {
            match text.parse::<IpAddr>() {
                Ok(address) => from = Some(address),
                Err(_) => interface = Some(text.clone()),
            }
        }
        let target = resolve(&self.target, from)?;
        if from.is_some_and(|from| from.is_ipv4() != target.is_ipv4()) {
            bail!(
                "-I and {} are of different families of addresses",
                self.target
            );
        }
        Ok(Ends {
            target,
            from,
            interface,
        })
    }

    fn plan(&self) -> anyhow::Result<Plan> {
        let Ends {
            target,
            from,
            interface,
        } = self.ends(resolve)?;
        let train = self.train.unwrap_or(Train::SINGLE);
        if self.train.is_some() && self.interval < train.length() {
            bail!(
                "a train of {} probes takes {:?}, longer than the interval of {:?}: give a longer \
                 one with -i, or a shorter train",
                train.probes,
                train.length(),
                self.interval
            );
        }
        Ok(Plan {
            target,
            train,
            ecn: self.ecn,
            from,
            interface,
            ports: None,
            count: self.count,
            interval: self.interval,
            rhythm: Rhythm::Even,
            size: self.size,
            dscp: self.dscp,
            timeout: self.timeout,
            session: (self.key.as_ref()).map_or_else(|| fastrand::u16(1..), |key| key.session),
            key: self.key.as_ref().map(|key| key.key.clone()),
        })
    }
}

/// The two ends of a session.
struct Ends {
    target: SocketAddr,
    /// The address to send from. None: the routing chooses.
    from: Option<IpAddr>,
    /// The interface to send by. None: the routing chooses.
    interface: Option<String>,
}

/// Finds the address of a target: `host`, `host:port`, `address`, `[address]:port`.
fn resolve(text: &str, from: Option<IpAddr>) -> anyhow::Result<SocketAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, PORT));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => {
            let port = port.parse().ok().filter(|port| *port != 0);
            let port = port.with_context(|| format!("{text}: the port is a number to 65535"))?;
            (host, port)
        }
        None => (text, PORT),
    };
    let mut found = (host, port).to_socket_addrs().with_context(|| {
        format!("cannot find {host}: give an address, or check the name (`getent hosts {host}`)")
    })?;
    found
        .find(|address| from.is_none_or(|from| from.is_ipv4() == address.is_ipv4()))
        .with_context(|| format!("{host} has no address of the family that -I asks for"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_may_have_a_port() {
        let of = |text| resolve(text, None).map(|address| address.to_string()).ok();
        assert_eq!(of("198.18.0.1").as_deref(), Some("198.18.0.1:862"));
        assert_eq!(of("198.18.0.1:8620").as_deref(), Some("198.18.0.1:8620"));
        assert_eq!(of("fd00::1").as_deref(), Some("[fd00::1]:862"));
        assert_eq!(of("[fd00::1]:99").as_deref(), Some("[fd00::1]:99"));
        assert_eq!(of("localhost:0"), None);
        let error = resolve("no.such.host.invalid", None).expect_err("no such host");
        assert!(format!("{error}").contains("no.such.host.invalid"));
    }

    #[test]
    fn a_train_has_probes_and_a_spacing() {
        assert_eq!(train("20"), Ok(Train::default()));
        let spacing = Duration::from_millis(20);
        assert_eq!(train("3:0.02"), Ok(Train { probes: 3, spacing }));
        for wrong in ["0", "1001", "x", "20:", "20:0", "20:31536000", ":1"] {
            assert!(train(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn intervals_and_sizes_have_bounds() {
        assert_eq!(interval("0.2"), Ok(Duration::from_millis(200)));
        for wrong in ["0", "-1", "NaN", "inf", "31536000", "x"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
        assert_eq!(size("9216"), Ok(9216));
        assert!(size("9217").is_err());
    }
}
