//! `lpm reflect`: a STAMP reflector.

use std::{
    collections::HashMap,
    io::{self, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    thread,
};

use anyhow::Context as _;
use clap::Args;
use ipnet::IpNet;
use lpm_common::stamp::PORT;

use super::{
    probe::{Key, enter},
    signals::BlockedSignals,
};
use crate::active::{
    fate::{Counts, Fate},
    reflector::{Reflector, Settings},
};

pub(super) const EXAMPLES: &str = "Examples:
  lpm reflect --allow 198.18.0.0/15              answer these clients at port 862 of every address
  lpm reflect --listen 198.18.9.2:8620 --allow 198.18.9.1
Without --allow, only this machine's own probes are answered. The ports below 1024 need root or the
capability NET_BIND_SERVICE.";

/// Options of `lpm reflect`.
#[derive(Debug, Args)]
pub(super) struct Reflect {
    /// Address and port to answer at; may be given several times.
    #[arg(long, value_name = "ADDR:PORT", default_values_t = [SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT))])]
    listen: Vec<SocketAddr>,
    /// Sockets per address, each with a thread of its own. The kernel gives a session to one of them.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
    /// Clients that get answers: an address or a range; may be given several times.
    #[arg(long, value_name = "CIDR", value_parser = range, default_values_t = ["127.0.0.0/8", "::1/128"].map(loopback))]
    allow: Vec<IpNet>,
    /// Answers per second and client.
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: u32,
    /// Key of a session, as hexadecimal digits in a file; may be given several times. With any,
    /// only authenticated packets of these sessions are answered.
    #[arg(long, value_name = "SSID:FILE")]
    key: Vec<Key>,
}

fn loopback(text: &str) -> IpNet {
    text.parse().expect("a range that stands here")
}

/// Reads an address or a range.
fn range(text: &str) -> Result<IpNet, String> {
    let net = text.parse::<IpNet>();
    net.or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "give an address or a range, such as 198.18.0.0/15".to_owned())
}

impl Reflect {
    pub(super) fn execute(self, netns: Option<&String>) -> anyhow::Result<()> {
        enter(netns)?;
        // Before any thread starts, so that none is ended by a signal.
        let signals = BlockedSignals::new().context("cannot wait for signals")?;
        let keys: HashMap<_, _> = self
            .key
            .into_iter()
            .map(|key| (key.session, key.key))
            .collect();
        let settings = Settings {
            allow: self.allow.clone().into(),
            rate: self.rate,
            keys,
        };
        let counts = Arc::new(Counts::default());
        let bind = |address: &SocketAddr| {
            let sockets = usize::from(self.threads);
            Reflector::bind_several(*address, sockets, &settings).with_context(|| {
                format!(
                    "cannot answer at {address}: give another address with --listen; ports below \
                     1024 need root or the capability NET_BIND_SERVICE"
                )
            })
        };
        let groups = self.listen.iter().map(bind);
        let groups = groups.collect::<anyhow::Result<Vec<_>>>()?;
        let mut out = io::stderr();
        for reflector in groups.iter().filter_map(|group| group.first()) {
            let allowed: Vec<String> = self.allow.iter().map(ToString::to_string).collect();
            let allowed = allowed.join(", ");
            writeln!(out, "lpm: answering {allowed} at {}", reflector.address()?)?;
        }
        let mut reflectors: Vec<_> = groups.into_iter().flatten().collect();
        let last = reflectors
            .pop()
            .context("no address to answer at: give --listen")?;
        let others: Vec<_> = (reflectors.into_iter())
            .map(|reflector| serve(reflector, &counts, signals.try_clone()?))
            .collect::<io::Result<_>>()?;
        let mut last = last;
        let served = last.serve(&counts, &signals);
        for other in others {
            if let Ok(done) = other.join() {
                done?;
            }
        }
        served?;
        for fate in Fate::ALL.into_iter().filter(|fate| counts.of(*fate) > 0) {
            writeln!(out, "lpm: {} packets {}", counts.of(fate), fate.as_str())?;
        }
        Ok(())
    }
}

/// Serves a further socket in a thread.
fn serve(
    mut reflector: Reflector,
    counts: &Arc<Counts>,
    signals: BlockedSignals,
) -> io::Result<thread::JoinHandle<io::Result<()>>> {
    let counts = Arc::clone(counts);
    let name = "lpm-reflect".to_owned();
    thread::Builder::new()
        .name(name)
        .spawn(move || reflector.serve(&counts, &signals))
}
