//! What the tests of a packet's way through a node share: an agent, traffic, and its samples.

use std::{
    collections::BTreeSet,
    io::Write as _,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use lpm_testbed::{
    testbed::Netns,
    traffic::{
        Background, Limit, PORT, PacedConfig, PacedReport, PacedSize, RequestConfig, RequestReport,
        paced, requests,
    },
    truth::{Echo, Leg, Monitor, Sample, Spread, WireTruth},
};

pub use super::ready::{LIMIT, eventually, kernel_is_usable};

/// A file with this text, gone when dropped.
pub fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("write");
    file
}

/// An agent in a namespace, with a configuration and names.
pub fn agent(netns: &Netns, configuration: &Path, names: &Path) -> Monitor {
    let text = |path: &Path| path.to_str().expect("a path").to_owned();
    let arguments = ["-c", &text(configuration), "--names", &text(names)];
    let lpm = Path::new(env!("CARGO_BIN_EXE_lpm"));
    Monitor::start(lpm, netns, &arguments).expect("an agent")
}

/// Whether the agent watches an interface as this vantage.
pub fn watched_as(monitor: &Monitor, interface: &str, vantage: &str) -> bool {
    let series =
        format!("lpm_interface_attached{{interface=\"{interface}\",vantage=\"{vantage}\"}} 1");
    let metrics = monitor.metrics().expect("metrics");
    metrics.lines().any(|line| line == series)
}

/// The value of a series; `None`: there is no such series.
pub fn value(monitor: &Monitor, series: &str) -> Option<f64> {
    let metrics = monitor.metrics().expect("metrics");
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(line.parse().expect("a number"))
}

/// The observations of `lpm_rtt_seconds` for a pair of namespaces.
pub fn counted(monitor: &Monitor, one: &str, other: &str) -> u64 {
    let series = format!("lpm_rtt_seconds_count{{namespace=\"{one}\",peer_namespace=\"{other}\"");
    let metrics = monitor.metrics().expect("metrics");
    let lines = metrics.lines().filter(|line| line.starts_with(&series));
    let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    values.sum()
}

/// Segments in pairs and requests, until both are through.
pub fn talk(client: &Netns, server: IpAddr, count: u64) {
    let target = SocketAddr::new(server, PORT);
    let (pairs, asking) = speak(client, target, Limit::count(count));
    pairs.join().expect("it ends well");
    asking.join().expect("it ends well");
}

/// Starts segments in pairs and requests, and does not wait for their end.
pub fn speak(
    client: &Netns,
    target: SocketAddr,
    limit: Limit,
) -> (Background<PacedReport>, Background<RequestReport>) {
    let period = Duration::from_millis(7);
    let pairs = PacedConfig {
        target,
        size: PacedSize::Segments(4),
        period,
        limit,
    };
    let asking = RequestConfig {
        limit,
        period,
        ..RequestConfig::new(target)
    };
    let pairs = Background::start(client, move |c| paced(&pairs, c)).expect("a client");
    let asking = Background::start(client, move |c| requests(&asking, c)).expect("a client");
    (pairs, asking)
}

/// The samples that an interface has of the flows between two addresses.
pub fn of<'a>(samples: &'a [Sample], interface: &str, ends: [IpAddr; 2]) -> Vec<&'a Sample> {
    let between = |s: &Sample| [s.src, s.dst] == ends || [s.dst, s.src] == ends;
    let fits = |s: &&Sample| s.interface == interface && between(s);
    samples.iter().filter(fits).collect()
}

/// The interfaces and vantages that have samples.
pub fn seen_at(samples: &[Sample]) -> BTreeSet<(String, String)> {
    let at = |s: &Sample| (s.interface.clone(), s.vantage.clone());
    samples.iter().map(at).collect()
}

pub fn spread(samples: &[&Sample], leg: Leg, echo: Echo) -> Option<Spread> {
    let fits = |s: &&&Sample| s.leg == leg && s.echo == echo;
    Spread::of_times(samples.iter().filter(fits).map(|s| s.rtt_ns))
}

/// Each sample of the remote leg happened, by the wire's log, and is as long as
/// the wire says at least. Returns how many there are.
pub fn true_by(wire: &WireTruth, samples: &[&Sample]) -> usize {
    let remote = samples.iter().filter(|s| s.leg == Leg::Remote);
    let judged = remote.map(|sample| {
        let truth = wire.truth(sample);
        let truth = truth.unwrap_or_else(|| panic!("a false sample: {sample:?}"));
        // Stored in units of 64 ns, both ends.
        assert!(
            sample.rtt_ns + 200 >= truth.beyond_ns && sample.rtt_ns + 200 >= truth.delay_ns,
            "{sample:?} is shorter than {truth:?}"
        );
    });
    judged.count()
}
