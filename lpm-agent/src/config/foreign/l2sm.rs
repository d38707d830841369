//! L2S-M LPM's configuration of a node, and the values of its chart.

use std::{borrow::Cow, net::IpAddr, str::FromStr as _, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, de::IgnoredAny};
use serde_saphyr::Spanned;

use super::{Imported, Note, base, everywhere};
use crate::{
    config::{Allowed, Export, Probes, Reflector, Share, Target},
    yaml,
};

/// The port at which its collectors' metrics are scraped.
const METRICS_PORT: u16 = 8090;

/// Longest interval, as that of our own targets.
const LONGEST: i64 = 24 * 60;

/// `config.json`. Other spellings are those of its own Go types and of its chart.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "Nodename", alias = "NodeName", alias = "nodename")]
    node: Spanned<String>,
    #[serde(rename = "spreadFactor", alias = "SpreadFactor", default)]
    spread_factor: Option<Spanned<String>>,
    #[serde(rename = "probeInterface", alias = "ProbeInterface", default)]
    probe_interface: Option<String>,
    #[serde(rename = "ipAddress", alias = "IpAddress", default)]
    address: Option<Spanned<String>>,
    #[serde(
        rename = "MetricsNeighbourNodes",
        alias = "metricsNeighbourNodes",
        default
    )]
    neighbours: Vec<Neighbour>,
}

/// A node that is measured from this one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Neighbour {
    name: Spanned<String>,
    ip: Spanned<String>,
    #[serde(default)]
    rtt_interval: Interval,
    #[serde(default)]
    jitter_interval: Interval,
    #[serde(default)]
    throughput_interval: Interval,
    #[serde(default)]
    otd_interval: Interval,
}

/// Minutes. None and -1: it is not measured.
type Interval = Option<Spanned<i64>>;

/// The values of the chart, as far as they say who measures whom.
#[derive(Debug, Deserialize)]
struct Values {
    global: Global,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Global {
    nodes: Vec<ChartNode>,
    #[serde(default)]
    network: Option<Spanned<IgnoredAny>>,
    #[serde(default)]
    namespace: Option<Spanned<String>>,
    #[serde(default)]
    spread_factor: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChartNode {
    name: Spanned<String>,
    ip: Spanned<String>,
    #[serde(default)]
    metrics: ChartMetrics,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ChartMetrics {
    #[serde(rename = "rttInterval")]
    rtt: Interval,
    #[serde(rename = "jitterInterval")]
    jitter: Interval,
    #[serde(rename = "throughputInterval")]
    throughput: Interval,
    #[serde(rename = "otdInterval")]
    otd: Interval,
}

/// Leaves out the commas before a closing brace or bracket, which its documented example has, and
/// makes tabs between values spaces. Lines stay as they are. A text that is no JSON object stays.
pub(super) fn mend(text: &str) -> Cow<'_, str> {
    if !text.trim_start().starts_with('{') {
        return text.into();
    }
    let mut mended = String::with_capacity(text.len());
    let mut rest = text.chars();
    let (mut is_text, mut is_escaped) = (false, false);
    while let Some(one) = rest.next() {
        match one {
            _ if is_text => {
                is_text = is_escaped || one != '"';
                is_escaped = !is_escaped && one == '\\';
                mended.push(one);
                continue;
            }
            '"' => is_text = true,
            ',' if rest.as_str().trim_start().starts_with(['}', ']']) => {
                mended.push(' ');
                continue;
            }
            _ => {}
        }
        mended.push(if one == '\t' { ' ' } else { one });
    }
    mended.into()
}

/// Reads the configuration of a node, [mended](mend).
///
/// # Errors
/// What is wrong, with its line.
pub(super) fn node(text: &str) -> Result<Imported, String> {
    // YAML takes more than JSON does, and its reader knows the line of each value.
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| format!("it is no JSON: {error}"))?;
    let file: File = yaml::read(text)?;
    let spread = spread(file.spread_factor.as_ref())?;
    let address = file.address.as_ref().map(address).transpose()?;
    let interface = file.probe_interface.filter(|name| !name.is_empty());
    let from = interface.or_else(|| address.map(|address| address.to_string()));
    imported(
        &file.node,
        address,
        from,
        spread,
        &file.neighbours,
        Vec::new(),
    )
}

/// Reads the values of the chart: the configuration of each of its nodes.
///
/// # Errors
/// What is wrong, with its line.
pub(super) fn chart(text: &str) -> Result<Vec<Imported>, String> {
    let Values { global } = yaml::read(text)?;
    let mut all = Vec::new();
    for (at, node) in global.nodes.iter().enumerate() {
        let mut notes = Vec::new();
        if let Some(network) = &global.network {
            let text = "network: attach the pod to the network by its annotation, as before";
            notes.push(note(network, text));
        }
        if let Some(namespace) = &global.namespace {
            notes.push(note(namespace, "namespace: deploy the agent there"));
        }
        let spread = spread(global.spread_factor.as_ref())?;
        let others = global.nodes.iter().enumerate();
        let others = others.filter(|(other, _)| *other != at);
        let neighbours: Vec<_> = others.map(|(_, other)| other.neighbour()).collect();
        let own = address(&node.ip)?;
        let from = Some(own.to_string());
        all.push(imported(
            &node.name,
            Some(own),
            from,
            spread,
            &neighbours,
            notes,
        )?);
    }
    if all.is_empty() {
        return Err("global.nodes is empty: give each node with its name and ip".to_owned());
    }
    Ok(all)
}

impl ChartNode {
    /// The node as its neighbours measure it.
    fn neighbour(&self) -> Neighbour {
        let metrics = self.metrics.clone();
        Neighbour {
            name: self.name.clone(),
            ip: self.ip.clone(),
            rtt_interval: metrics.rtt,
            jitter_interval: metrics.jitter,
            throughput_interval: metrics.throughput,
            otd_interval: metrics.otd,
        }
    }
}

/// The configuration of a node with these neighbours.
fn imported(
    node: &Spanned<String>,
    own: Option<IpAddr>,
    from: Option<String>,
    spread_factor: Share,
    neighbours: &[Neighbour],
    mut notes: Vec<Note>,
) -> Result<Imported, String> {
    if node.value.is_empty() {
        return Err(format!("line {}: Nodename is empty", line(node)));
    }
    let (mut targets, mut allow) = (Vec::new(), vec![Allowed::Local]);
    for neighbour in neighbours {
        let address = address(&neighbour.ip)?;
        if neighbour.name.value == node.value || Some(address) == own {
            let text = format!("{} is this node itself: left out", neighbour.name.value);
            notes.push(note(&neighbour.name, &text));
            continue;
        }
        allow.push(Allowed::Range(IpNet::from(address)));
        targets.extend(neighbour.target(address, &mut notes)?);
    }
    let config = crate::config::Config {
        node_name: Some(node.value.clone()),
        export: Export {
            listen: Some(everywhere(METRICS_PORT)),
            l2sm_series: true,
        },
        reflector: Reflector {
            listen: vec![everywhere(Probes::default().port)],
            allow,
            ..Reflector::default()
        },
        probes: Probes {
            targets,
            spread_factor,
            from,
            ..Probes::default()
        },
        ..base()
    };
    notes.sort_by_key(|note| note.line);
    Ok(Imported {
        node: Some(node.value.clone()),
        config,
        notes,
    })
}

impl Neighbour {
    /// The target. None: nothing of it is measured.
    fn target(&self, address: IpAddr, notes: &mut Vec<Note>) -> Result<Option<Target>, String> {
        let name = &self.name.value;
        if name.is_empty() {
            return Err(format!(
                "line {}: a neighbour's name is empty",
                line(&self.name)
            ));
        }
        if let Some(throughput) = minutes("throughputInterval", self.throughput_interval.as_ref())?
        {
            let text = format!(
                "throughputInterval: the throughput to {name} (every {throughput} min) is not \
                 measured yet"
            );
            notes.extend(self.throughput_interval.iter().map(|of| note(of, &text)));
        }
        let measured = [
            ("rttInterval", &self.rtt_interval),
            ("jitterInterval", &self.jitter_interval),
            ("otdInterval", &self.otd_interval),
        ];
        let mut intervals = Vec::new();
        for (key, interval) in measured {
            intervals.extend(minutes(key, interval.as_ref())?);
        }
        let Some(shortest) = intervals.iter().copied().min() else {
            let text = format!("{name} has no interval: it is answered, and not probed");
            notes.push(note(&self.name, &text));
            return Ok(None);
        };
        if intervals.iter().any(|one| *one != shortest) {
            let text = format!(
                "the packets that measure one figure of {name} measure all: each is measured every \
                 {shortest} min, the shortest of its intervals"
            );
            notes.push(note(&self.name, &text));
        }
        Ok(Some(Target {
            address: address.to_string(),
            name: Some(name.clone()),
            interval: Some(Duration::from_mins(shortest)),
            ..Target::default()
        }))
    }
}

/// The minutes of an interval. None: it is not measured.
fn minutes(key: &str, interval: Option<&Spanned<i64>>) -> Result<Option<u64>, String> {
    let Some(interval) = interval else {
        return Ok(None);
    };
    match interval.value {
        -1 => Ok(None),
        // Within u64, since it is positive.
        minutes @ 1..=LONGEST => Ok(Some(minutes.unsigned_abs())),
        other => Err(format!(
            "line {}: {key} is {other}: give minutes, 1 to {LONGEST}, or -1 for what is not measured",
            line(interval)
        )),
    }
}

/// The share by which intervals vary. The chart writes it as a text, and an empty one where it has
/// none: then it is our own default.
fn spread(factor: Option<&Spanned<String>>) -> Result<Share, String> {
    let Some(factor) = factor.filter(|factor| !factor.value.is_empty()) else {
        return Ok(Probes::default().spread_factor);
    };
    let share = f64::from_str(&factor.value).ok().map(Share::try_from);
    share.and_then(Result::ok).ok_or_else(|| {
        format!(
            "line {}: spreadFactor is {}: give 0 to 1",
            line(factor),
            factor.value
        )
    })
}

/// An address, with or without the length of its prefix.
fn address(text: &Spanned<String>) -> Result<IpAddr, String> {
    let address = text.value.split('/').next().unwrap_or_default();
    let is_address = text.value.parse::<IpNet>().is_ok() || !text.value.contains('/');
    let parsed = address.parse::<IpAddr>().ok().filter(|_| is_address);
    parsed.ok_or_else(|| {
        format!(
            "line {}: {:?} is no address: give one such as 10.0.0.2",
            line(text),
            text.value
        )
    })
}

fn line<T>(of: &Spanned<T>) -> u64 {
    of.referenced.line()
}

fn note<T>(of: &Spanned<T>, text: &str) -> Note {
    Note {
        line: Some(line(of)),
        text: text.to_owned(),
    }
}
