//! LLAMA's configuration, in its full form and in the older one (addresses, each with its tags).

mod naming;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{Imported, Note, base, everywhere};
use crate::{
    config::{Config, Probes, Target, Train},
    yaml,
};
use naming::Naming;

/// The port of its reflectors, where the file gives none.
const PORT: u16 = 8100;

/// What the older form sends, which names no test: its collector's defaults.
const LEGACY: Cycle = Cycle {
    interval: Duration::from_millis(250),
    packets: 4,
};

/// Shortest time between two trains to a target.
const SHORTEST: Duration = Duration::from_millis(100);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Full {
    #[serde(default)]
    summarization: Option<Spanned<Summarization>>,
    #[serde(default)]
    api: Option<Api>,
    ports: BTreeMap<String, Spanned<Port>>,
    port_groups: BTreeMap<String, Spanned<Vec<GroupedPort>>>,
    rate_limits: BTreeMap<String, RateLimit>,
    tests: Vec<Test>,
    targets: BTreeMap<String, Vec<Spanned<ItsTarget>>>,
}

/// How often figures are made, and by how many threads.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the keys are known, and have no counterpart")]
struct Summarization {
    interval: Option<f64>,
    handlers: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Api {
    bind: Spanned<String>,
}

/// Where packets are sent from, and how.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Port {
    #[serde(default)]
    ip: String,
    #[serde(rename = "port", default)]
    number: u16,
    #[serde(default)]
    tos: u8,
    /// Milliseconds.
    timeout: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupedPort {
    port: Spanned<String>,
    count: Spanned<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RateLimit {
    /// Cycles per second. In each, every port of a group sends one packet to every target.
    cps: Spanned<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    targets: Spanned<String>,
    port_group: Spanned<String>,
    rate_limit: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ItsTarget {
    ip: String,
    port: u16,
    #[serde(default)]
    tags: Option<ItsTags>,
}

/// Values by name. What looks like a number stays the text that it is.
type ItsTags = BTreeMap<String, String>;

/// Packets that follow each other, and how often.
#[derive(Clone, Copy, Debug)]
struct Cycle {
    interval: Duration,
    packets: u16,
}

/// What a test sends to each of its targets.
#[derive(Debug)]
struct Sending {
    cycle: Cycle,
    classes: BTreeSet<u8>,
    timeout: Duration,
    from: Option<String>,
}

/// Reads the full form.
///
/// # Errors
/// What is wrong, with its line.
pub(super) fn full(text: &str) -> Result<Imported, String> {
    let file: Full = yaml::read(text)?;
    if file.tests.is_empty() {
        return Err("`tests` is empty, so nothing would be probed: give one".to_owned());
    }
    let mut notes = Vec::new();
    let mut naming = Naming::default();
    let mut targets = Vec::new();
    for test in &file.tests {
        let sending = file.sending(test, &mut notes)?;
        for target in named("targets", &file.targets, &test.targets)? {
            let line = target.referenced.line();
            let ItsTarget { ip, port, tags } = &target.value;
            let tags = tags.clone().unwrap_or_default();
            let named = naming.target(line, (ip, *port), tags, &mut notes);
            targets.push(sending.target(named));
        }
    }
    if let Some(summarization) = &file.summarization {
        notes.push(Note {
            line: Some(summarization.referenced.line()),
            text: "summarization: counts and histograms are never reset, so whoever reads them \
                   chooses the interval, as in rate(...[30s])"
                .to_owned(),
        });
    }
    let listen = file
        .api
        .as_ref()
        .and_then(|api| listen(&api.bind, &mut notes));
    Ok(imported(targets, &naming, listen, notes))
}

/// Reads the older form.
///
/// # Errors
/// What is wrong, with its line.
pub(super) fn legacy(text: &str) -> Result<Imported, String> {
    let file: BTreeMap<String, Spanned<Option<ItsTags>>> = yaml::read(text)?;
    let sending = Sending {
        cycle: LEGACY,
        classes: [0].into(),
        timeout: Duration::from_secs(1),
        from: None,
    };
    let mut naming = Naming::default();
    let (mut notes, mut targets) = (Vec::new(), Vec::new());
    for (address, tags) in file {
        let line = tags.referenced.line();
        if address.parse::<IpAddr>().is_err() {
            return Err(format!(
                "line {line}: {address:?} is no address, as the other keys are"
            ));
        }
        let tags = tags.value.unwrap_or_default();
        let named = naming.target(line, (&address, PORT), tags, &mut notes);
        targets.push(sending.target(named));
    }
    notes.push(general(&ports(LEGACY.packets.into())));
    Ok(imported(targets, &naming, None, notes))
}

fn imported(
    targets: Vec<Target>,
    naming: &Naming,
    listen: Option<SocketAddr>,
    mut notes: Vec<Note>,
) -> Imported {
    notes.push(general(
        "LLAMA's reflectors speak another protocol: on each target run `lpm reflect --listen \
         [::]:8100 --allow RANGE` in place of one, or an agent with `reflector`",
    ));
    notes.sort_by_key(|note| note.line);
    notes.dedup();
    let mut config = Config {
        node_name: naming.source(),
        probes: Probes {
            targets,
            ..Probes::default()
        },
        ..base()
    };
    config.export.listen = listen;
    Imported {
        node: config.node_name.clone(),
        config,
        notes,
    }
}

impl Full {
    /// What a test sends.
    fn sending(&self, test: &Test, notes: &mut Vec<Note>) -> Result<Sending, String> {
        let group = named("port_groups", &self.port_groups, &test.port_group)?;
        let rate = named("rate_limits", &self.rate_limits, &test.rate_limit)?;
        let group_line = group.referenced.line();
        let (mut of_class, mut timeout, mut froms) = (BTreeMap::new(), 0, BTreeSet::new());
        for grouped in &group.value {
            let port = named("ports", &self.ports, &grouped.port)?;
            port.value.note(port.referenced.line(), notes);
            if grouped.count.value == 0 {
                let line = grouped.count.referenced.line();
                return Err(format!("line {line}: count is 0: give 1 or more"));
            }
            let count = of_class.entry(port.value.tos >> 2).or_insert(0_u32);
            *count += u32::from(grouped.count.value);
            timeout = timeout.max(port.value.timeout);
            froms.insert(port.value.from());
        }
        let Some(packets) = of_class.values().copied().max() else {
            return Err(format!("line {group_line}: the port group is empty"));
        };
        if froms.len() > 1 {
            return Err(format!(
                "line {group_line}: its ports send from different addresses: give each a test of its own"
            ));
        }
        if packets > 1 {
            notes.push(Note {
                line: Some(group_line),
                text: format!("count: {}", ports(packets)),
            });
        }
        Ok(Sending {
            cycle: Cycle::new(&rate.cps, packets)?,
            classes: of_class.into_keys().collect(),
            timeout: Duration::from_millis(timeout),
            from: froms.pop_first().flatten(),
        })
    }
}

impl Port {
    /// The address to send from. None: the routing chooses.
    fn from(&self) -> Option<String> {
        let is_any = self.ip.is_empty()
            || (self.ip.parse::<IpAddr>()).is_ok_and(|address| address.is_unspecified());
        (!is_any).then(|| self.ip.clone())
    }

    fn note(&self, line: u64, notes: &mut Vec<Note>) {
        let mut note = |text: &str| {
            notes.push(Note {
                line: Some(line),
                text: text.to_owned(),
            });
        };
        if self.number != 0 {
            note("port: the system chooses the port to send from");
        }
        if self.tos & 3 != 0 {
            note(
                "tos: its two last bits are ECN's, and are sent as 0; the others are the class (DSCP)",
            );
        }
    }
}

impl Cycle {
    /// A train of all packets of a cycle. Cycles that follow each other faster than trains can are
    /// put together.
    fn new(cps: &Spanned<f64>, packets: u32) -> Result<Self, String> {
        let wrong = || {
            let line = cps.referenced.line();
            format!(
                "line {line}: cps is {}: give cycles per second, from one a day to 1000",
                cps.value
            )
        };
        let is_good = (1.0 / 86_400.0..=1000.0).contains(&cps.value);
        let one = Duration::try_from_secs_f64(1.0 / cps.value).ok();
        let one = one.filter(|_| is_good).ok_or_else(wrong)?;
        let mut cycles = 1;
        while one * cycles < SHORTEST {
            cycles += 1;
        }
        let packets = u16::try_from(packets.saturating_mul(cycles)).map_err(|_| wrong())?;
        Ok(Self {
            interval: one * cycles,
            packets,
        })
    }
}

impl Sending {
    /// A target as the test probes it.
    fn target(&self, named: Target) -> Target {
        let Cycle { interval, packets } = self.cycle;
        let spacing = Train::default().spacing;
        Target {
            interval: Some(interval),
            train: Some(Train {
                packets,
                spacing: spacing.min(interval / u32::from(packets).max(1)),
            }),
            classes: Some(self.classes.iter().copied().collect()),
            timeout: Some(self.timeout),
            from: self.from.clone(),
            ..named
        }
    }
}

/// The thing of this name, to which something refers.
fn named<'a, T>(
    what: &str,
    all: &'a BTreeMap<String, T>,
    name: &Spanned<String>,
) -> Result<&'a T, String> {
    all.get(&name.value).ok_or_else(|| {
        let line = name.referenced.line();
        let name = &name.value;
        format!("line {line}: {name:?} is not among `{what}`: add it there, or give one of those")
    })
}

/// The listener in place of its API.
fn listen(bind: &Spanned<String>, notes: &mut Vec<Note>) -> Option<SocketAddr> {
    let text = &bind.value;
    let port = text.strip_prefix(':').and_then(|port| port.parse().ok());
    let listen = text.parse().ok().or_else(|| port.map(everywhere));
    notes.push(Note {
        line: Some(bind.referenced.line()),
        text: match listen {
            Some(_) => "bind: /metrics is served there; there is no /influxdata and no /status yet",
            None => "bind: give an address and a port; /metrics is not served there",
        }
        .to_owned(),
    });
    listen
}

/// What becomes of several source ports.
fn ports(packets: u32) -> String {
    format!(
        "{packets} packets in a row of one source port are sent in place of one from each of \
         {packets} ports, so all take one path where paths are chosen by ports (ECMP); `lpm probe --protocol \
         udp-sweep` probes by many ports"
    )
}

fn general(text: &str) -> Note {
    Note {
        line: None,
        text: text.to_owned(),
    }
}
