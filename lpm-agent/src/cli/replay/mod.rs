//! `lpm replay`: runs captures through the matcher.

mod histograms;
mod output;
mod progress;
mod report;
mod tables;

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use lpm_common::{
    layout::{Methods, TunnelKind, Vantage},
    parse::tunnel::TunnelPorts,
};

use self::{
    output::{Output, Summaries},
    progress::Bar,
};
use crate::{
    config::{Method, Tunnels},
    identity::PrefixMap,
    replay::{
        Anonymizer, Capture, Choice, Input, LocalEnd, Replay as Run, ReplayError, Settings,
        anonymize::Key, order,
    },
};

/// Packets between two updates of the progress bar.
const STRIDE: u64 = 4096;

/// The file that stands for standard input.
const STDIN: &str = "-";

pub(super) const EXAMPLES: &str = "Examples:
  lpm replay trace.pcap                             every round trip
  lpm replay trace.pcapng.gz --summary              one summary per flow
  lpm replay trace.pcap --histograms --format csv   for a spreadsheet
  lpm replay trace.pcap --local 10.0.0.0/8 --format json | jq .rtt_ns
  lpm replay tap.pcapng --join east,west            a tap's two halves
  ssh node tcpdump -i eth0 -s 128 --time-stamp-precision=nano -w - tcp | lpm replay -
  lpm replay trace.pcap --anonymize --format csv > to-share.csv

The local end of a flow is the one that --local contains; else the one that opens the connection;
else, if its opening was not captured, the one with the lower address.

Packets out of order by up to a second are put in order, unless they come through a pipe. Frames
that were recorded twice are measured once. At the end, stderr lists what was odd in the capture.

A truncated or corrupt capture is used up to the damage; then the exit code is 1.";

#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
pub(super) struct Replay {
    /// The capture: pcap or pcapng, also compressed by gzip; `-` is standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Output format. Default: text on a terminal, JSON lines otherwise.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Print a summary of each flow instead of its round trips.
    #[arg(long)]
    summary: bool,
    /// Print the distribution of all round trips by method, leg and echo, instead of each round
    /// trip.
    #[arg(long)]
    histograms: bool,
    /// Addresses (CIDR) of local ends; may be given several times.
    #[arg(long, value_name = "CIDR", value_parser = range)]
    local: Vec<IpNet>,
    /// Only packets of the interface with this name in a pcapng file; may be given several times. A
    /// capture without interface names is shown under this name.
    #[arg(short, long, value_name = "NAME")]
    interface: Vec<String>,
    /// Take these interfaces for one, by name: the two halves of a tap, with one direction each.
    /// May be given several times.
    #[arg(long, value_name = "NAME,NAME", value_parser = join)]
    join: Vec<Vec<String>>,
    /// Vantage of the interfaces: pod, overlay, bridge, nic or node; for one interface only,
    /// NAME=VANTAGE. May be given several times.
    #[arg(long, value_name = "[NAME=]VANTAGE", value_parser = vantage)]
    vantage: Vec<(Option<String>, Vantage)>,
    /// How round trips are measured; all but `request` by default.
    #[arg(long, value_name = "METHOD", value_delimiter = ',', value_parser = method)]
    methods: Vec<Method>,
    /// Measures also the flows inside VxLAN (ports 4789 and 8472) and Geneve (port 6081).
    #[arg(long)]
    inner: bool,
    /// Another tunnel port, such as vxlan=7000; may be given several times.
    #[arg(long, value_name = "KIND=PORT", requires = "inner", value_parser = tunnel)]
    tunnel: Vec<(TunnelKind, u16)>,
    /// Replace all addresses: each by the same other address throughout, with prefixes kept. Ports,
    /// times and interfaces stay.
    #[arg(long, conflicts_with = "names")]
    anonymize: bool,
    /// File with the key for --anonymize: 64 hexadecimal digits. Without it a new key is used, and
    /// nobody can undo the replacement.
    #[arg(long, value_name = "FILE", requires = "anonymize")]
    key: Option<PathBuf>,
    /// Names file: addresses to namespaces, pods, workloads, services, nodes.
    #[arg(long, value_name = "FILE")]
    names: Option<PathBuf>,
    /// Flows tracked at the same time, 256 bytes each; a power of two.
    #[arg(long, value_name = "N", default_value_t = 65_536, value_parser = flows)]
    flows: u32,
    /// Seconds without a packet after which another flow may take a flow's place.
    #[arg(long, value_name = "N", default_value_t = 60)]
    idle: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
    /// Comma-separated values; the first line names the columns, the first column is the schema.
    Csv,
    /// Round trips as ppviz of pping reads them.
    Ppviz,
}

fn range(text: &str) -> Result<IpNet, String> {
    let range = text
        .parse()
        .or_else(|_| text.parse().map(|address: std::net::IpAddr| address.into()));
    range.map_err(|_| "give an address or a range such as 10.0.0.0/8 or fd00::/8".to_owned())
}

fn join(text: &str) -> Result<Vec<String>, String> {
    let names: Vec<String> = text.split(',').map(str::to_owned).collect();
    let mut each = names.clone();
    each.sort_unstable();
    each.dedup();
    if names.len() < 2 || names.iter().any(String::is_empty) || each.len() < names.len() {
        return Err("give the names of two interfaces or more, such as east,west".to_owned());
    }
    Ok(names)
}

fn vantage(text: &str) -> Result<(Option<String>, Vantage), String> {
    let (name, word) = match text.rsplit_once('=') {
        Some((name, word)) => (Some(name.to_owned()), word),
        None => (None, text),
    };
    let vantage = (1..=5)
        .filter_map(Vantage::from_raw)
        .find(|vantage| vantage.as_str() == word);
    vantage
        .map(|vantage| (name, vantage))
        .ok_or_else(|| "give pod, overlay, bridge, nic or node".to_owned())
}

fn tunnel(text: &str) -> Result<(TunnelKind, u16), String> {
    let parsed = text.split_once('=').and_then(|(word, port)| {
        let mut kinds = [TunnelKind::Vxlan, TunnelKind::Geneve].into_iter();
        let kind = kinds.find(|kind| kind.as_str() == word)?;
        Some((kind, port.parse().ok().filter(|port| *port != 0)?))
    });
    parsed.ok_or_else(|| "give vxlan=PORT or geneve=PORT, 1 to 65535".to_owned())
}

fn method(text: &str) -> Result<Method, String> {
    let mut all = Method::ALL.into_iter();
    all.find(|method| method.as_str() == text)
        .ok_or_else(|| "give ts, seq, handshake, icmp, dns or request".to_owned())
}

fn flows(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(flows) if flows.is_power_of_two() && (4..=1 << 26).contains(&flows) => Ok(flows),
        _ => Err("give a power of two, 4 to 67108864".to_owned()),
    }
}

impl Replay {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let shown = self.shown();
        let format = self.format.unwrap_or_else(|| {
            if io::stdout().is_terminal() {
                Format::Text
            } else {
                Format::Json
            }
        });
        self.check(format)?;
        let file = shown.display();
        let input = Input::open(&self.file).with_context(|| format!("{file} cannot be opened"));
        let input = input.map_err(|error| anyhow!("{error:#}; give a capture, or - for stdin"))?;
        let tunnels = self.tunnels()?;
        let progress = input.progress();
        let mut output = self.output(format)?;
        let capture = Capture::new(input).map_err(|error| anyhow!("{file} {error}"))?;
        let live = self.is_live();
        // A pipe may carry packets that pass now, so they are not held back.
        let window_ns = if live { 0 } else { order::WINDOW_NS };
        let mut run = Run::new(capture, self.settings(tunnels), self.choice(), window_ns);

        let bar = Bar::new(progress, self.summary || self.histograms);
        let ended = drive(&mut run, &mut output, &bar, live);
        bar.clear();
        let ended = match ended {
            Ok(()) => Ok(()),
            Err(ReplayError::Output(error)) => return Err(error.into()),
            Err(ReplayError::Capture(error)) => {
                run.end(&mut output)?;
                Err(anyhow!("{file} {error}"))
            }
        };
        output.finish(run.places())?;
        // A report that cannot be written is no failure.
        let _ = io::stderr().write_all(report::text(&shown, &run, &output).as_bytes());
        ended?;
        if run.unreadable() {
            bail!(
                "{file} has no packet of a link type that lpm reads; {}",
                crate::replay::link::REMEDY
            );
        }
        Ok(())
    }

    /// Refuses options that exclude one another.
    fn check(&self, format: Format) -> anyhow::Result<()> {
        if (self.summary || self.histograms) && format == Format::Ppviz {
            bail!("--format ppviz is for round trips; give text, json or csv");
        }
        if self.summary && self.histograms && format == Format::Csv {
            bail!("--summary and --histograms print two tables; for CSV give only one of them");
        }
        let mut joined: Vec<_> = self.join.iter().flatten().collect();
        joined.sort_unstable();
        if let Some([twice, _]) = joined.array_windows().find(|[one, other]| one == other) {
            bail!("--join names {twice} twice; an interface can be in one join only");
        }
        Ok(())
    }

    /// True if packets may be passing now: standard input is not a file.
    fn is_live(&self) -> bool {
        let is_file = || {
            let stdin = io::stdin().as_fd().try_clone_to_owned()?;
            Ok::<_, io::Error>(fs::File::from(stdin).metadata()?.is_file())
        };
        self.file == Path::new(STDIN) && !is_file().unwrap_or(false)
    }

    /// The name of the capture in messages.
    fn shown(&self) -> PathBuf {
        if self.file == Path::new(STDIN) {
            PathBuf::from("standard input")
        } else {
            self.file.clone()
        }
    }

    fn output(&self, format: Format) -> anyhow::Result<Output> {
        let anonymizer = if self.anonymize {
            Some(Anonymizer::new(self.key()?))
        } else {
            None
        };
        let names = match &self.names {
            Some(path) => PrefixMap::read(path)?,
            None => PrefixMap::default(),
        };
        let summaries = Summaries {
            flows: self.summary,
            histograms: self.histograms,
        };
        Ok(Output::new(format, summaries, anonymizer, names)?)
    }

    fn key(&self) -> anyhow::Result<Key> {
        let Some(path) = &self.key else {
            return Key::random().context("the system gave no random key");
        };
        let text = fs::read_to_string(path)
            .map_err(|error| anyhow!("the key {} cannot be read: {error}", path.display()))?;
        Key::parse(&text).ok_or_else(|| {
            anyhow!(
                "{} is not a key: give 64 hexadecimal digits with two different halves, such as \
                 `openssl rand -hex 32` prints",
                path.display()
            )
        })
    }

    /// The ports of the tunnels to look into.
    fn tunnels(&self) -> anyhow::Result<TunnelPorts> {
        if !self.inner {
            return Ok(TunnelPorts::default());
        }
        let mut tunnels = Tunnels::default();
        for (kind, port) in &self.tunnel {
            match kind {
                TunnelKind::Vxlan => tunnels.vxlan.push(*port),
                TunnelKind::Geneve => tunnels.geneve.push(*port),
            }
        }
        tunnels.check()?;
        Ok(tunnels.ports())
    }

    fn settings(&self, tunnels: TunnelPorts) -> Settings {
        Settings {
            flow_entries: self.flows,
            methods: if self.methods.is_empty() {
                Methods::DEFAULT
            } else {
                self.methods.iter().map(|method| method.layout()).collect()
            },
            idle_seconds: self.idle.into(),
            local: LocalEnd::new(self.local.clone()),
            tunnels,
            keep_flows: self.summary,
        }
    }

    fn choice(&self) -> Choice {
        Choice {
            only: self.interface.clone(),
            vantages: self.vantage.clone(),
            joins: self.join.clone(),
        }
    }
}

/// Replays the capture to its end. `live`: results are shown at once.
fn drive(
    run: &mut Run<Input>,
    output: &mut Output,
    bar: &Bar,
    live: bool,
) -> Result<(), ReplayError> {
    let packets = if live { 1 } else { STRIDE };
    while run.run(packets, output)? {
        if live {
            output.flush().map_err(ReplayError::Output)?;
        }
        bar.show();
    }
    Ok(())
}
