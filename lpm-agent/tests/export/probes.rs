//! Probes of an agent to the reflector of another one, across a wire whose own log is the truth.

use std::{fs, net::UdpSocket, time::Duration};

use lpm_testbed::testbed::{
    Direction, Impairment, Netns, Pair, PairConfig,
    wire::{Fate, Loss, Record},
};
use nix::sys::signal::Signal;

use crate::support::{
    lpm::{Agent, eventually, kernel_is_usable, value},
    prom,
};

/// Bytes of a probe's frame: Ethernet, IPv4, UDP and 88 bytes of STAMP.
const FRAME: u32 = 14 + 20 + 8 + 88;

/// An agent and its configuration file.
pub(crate) struct Configured {
    pub(crate) agent: Agent,
    file: String,
    _directory: tempfile::TempDir,
}

impl Configured {
    pub(crate) fn start(node: &Netns, text: &str) -> Self {
        Self::start_with(node, text, "n1")
    }

    fn start_with(node: &Netns, text: &str, name: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("lpm.yaml").display().to_string();
        fs::write(&file, text).expect("write");
        let environment = [("NODE_NAME", name)];
        let agent = Agent::start_with(node, &["-c", &file], &environment);
        Self {
            agent,
            file,
            _directory: directory,
        }
    }

    /// Gives it another configuration, and waits until it is applied.
    pub(crate) fn reload(&self, text: &str) {
        let applied = || {
            self.agent
                .lpm
                .said()
                .matches("names and rules are applied")
                .count()
        };
        let before = applied();
        fs::write(&self.file, text).expect("write");
        self.agent.lpm.child.signal(Signal::SIGHUP).expect("signal");
        eventually("it is applied", || applied() > before);
    }

    pub(crate) fn value(&self, name: &str, target: &str, more: &str) -> Option<f64> {
        self.agent.value(&series(name, target, more))
    }
}

fn series(name: &str, target: &str, more: &str) -> String {
    format!(
        "lpm_probe_{name}{{source_node=\"n1\",target_node=\"{target}\",protocol=\"stamp\",dscp=\"0\"{more}}}"
    )
}

pub(crate) fn pair(forward: Impairment, backward: Impairment) -> Pair {
    let pair = Pair::new(&PairConfig::default()).expect("a wire");
    pair.wire().set(Direction::Forward, forward);
    pair.wire().set(Direction::Backward, backward);
    drop(pair.wire().take_records());
    pair
}

/// A reflector in an agent of its own, beyond the wire.
pub(crate) fn reflector(pair: &Pair) -> Configured {
    let text = "reflector: {listen: [\"[::]:8620\"], allow: [198.18.1.0/24]}\n";
    let reflector = Configured::start_with(&pair.server, text, "n2");
    let said = "answers probes at [::]:8620";
    reflector.agent.lpm.wait_for(said);
    reflector
}

/// The records of probes on the wire, one way.
pub(crate) fn on_wire(pair: &Pair, direction: Direction) -> Vec<Record> {
    let records = pair.wire().records().into_iter();
    records
        .filter(|record| record.direction == direction && record.frame_bytes == FRAME)
        .collect()
}

fn mean(delays: &[u64]) -> f64 {
    let sum: u64 = delays.iter().sum();
    let count = u32::try_from(delays.len()).expect("few");
    Duration::from_nanos(sum).as_secs_f64() / f64::from(count)
}

/// 2 ms there and 10 ms back, and every thirteenth packet is lost there: the agent's figures are
/// those of the wire's log, and the mean round trip is beside ping's.
#[test]
fn an_agents_figures_are_the_wires() {
    if !kernel_is_usable() {
        return;
    }
    let lossy = Impairment {
        loss: Loss::EveryNth(13),
        ..Impairment::delay(Duration::from_millis(2))
    };
    let pair = pair(lossy, Impairment::delay(Duration::from_millis(10)));
    let reflector = reflector(&pair);
    let agent = Configured::start(
        &pair.client,
        "probes: {interval: 200ms, timeout: 300ms, targets: [{name: n2, address: 198.18.2.2}]}\n",
    );
    eventually("losses are counted", || {
        let lost = agent.value("packets_total", "n2", ",result=\"lost_forward\"");
        lost.is_some_and(|lost| lost >= 30.0)
    });
    let ping = pair
        .client
        .output("ping", &["-q", "-c", "20", "-i", "0.02", "198.18.2.2"]);
    // No target any more: what is under way ends, and nothing more is counted.
    let page = agent.agent.metrics();
    agent.reload("{}\n");
    let of = |name: &str, more: &str| value(&page, &series(name, "n2", more));
    let answered = of("packets_total", ",result=\"ok\"").expect("answers");
    let mean_of_agent =
        of("rtt_seconds_sum", "").expect("a sum") / of("rtt_seconds_count", "").expect("a count");
    let [there, back] = [Direction::Forward, Direction::Backward].map(|way| {
        let delays = on_wire(&pair, way)
            .iter()
            .filter_map(Record::delay_ns)
            .collect::<Vec<_>>();
        mean(&delays)
    });
    eprintln!(
        "mean of {answered} probes {mean_of_agent} s, of the wire {}; {ping:?}",
        there + back
    );
    assert!(
        mean_of_agent >= there + back - 0.000_05,
        "{mean_of_agent} below {}",
        there + back
    );
    assert!(
        mean_of_agent < there + back + 0.002,
        "{mean_of_agent} beside {}",
        there + back
    );
    // The bounds contain the truth, and so does the histogram's sum of counts.
    for (way, truth) in [("forward", there), ("backward", back)] {
        let bound = |bound| {
            let more = format!(",direction=\"{way}\",bound=\"{bound}\"");
            of("one_way_delay_seconds", &more).expect("a bound")
        };
        let (lower, upper, best) = (bound("lower"), bound("upper"), bound("best"));
        assert!(
            lower <= truth + 0.002 && truth - 0.002 <= upper,
            "{way}: {lower} {upper} {truth}"
        );
        assert!(
            (lower..=upper).contains(&best),
            "{way}: {lower} {best} {upper}"
        );
    }
    assert_eq!(of("hops", ""), Some(1.0));
    assert!(
        of("jitter_seconds", "").is_some() && of("last_success_timestamp_seconds", "").is_some()
    );
    assert_eq!(of("packets_total", ",result=\"lost_backward\""), None);
    // What the wire lost there was never counted by the reflector.
    let wire = on_wire(&pair, Direction::Forward);
    let lost = wire
        .iter()
        .filter(|record| record.fate == Fate::Lost)
        .count();
    let told = of("packets_total", ",result=\"lost_forward\"").expect("losses");
    let lost = f64::from(u32::try_from(lost).expect("few"));
    // Some were no probes but fetched a time, some may still be answered late, and some were lost
    // between the page and the end.
    assert!(told <= lost && told >= 0.5 * lost, "{told} of {lost}");
    let arrived = f64::from(u32::try_from(wire.len()).expect("few")) - lost;
    eventually("the reflector has counted what arrived", || {
        reflector
            .agent
            .value("lpm_reflector_packets_total{result=\"answered\"}")
            == Some(arrived)
    });
    let kernel = |stage: &str| {
        format!(
            "lpm_probe_timestamps_total{{source_node=\"n1\",stage=\"{stage}\",source=\"kernel\"}}"
        )
    };
    for stage in ["t1", "t2", "t4"] {
        assert!(
            value(&page, &kernel(stage)).is_some_and(|count| count >= answered),
            "{stage}: {page}"
        );
    }
    assert!(value(&page, "lpm_probe_dwell_seconds_count{source_node=\"n1\"}").is_some());
    assert!(
        !agent.agent.metrics().contains("target_node=\"n2\""),
        "it went with its target"
    );
}

/// A target that goes away costs the others nothing, and neither does another list of targets.
#[test]
fn targets_come_and_go_and_the_others_go_on() {
    if !kernel_is_usable() {
        return;
    }
    let pair = pair(Impairment::default(), Impairment::default());
    let reflector = reflector(&pair);
    let target = |name: &str, rest: &str| format!("{{name: {name}, address: {rest}}}");
    let configuration = |targets: &[String]| {
        format!(
            "probes: {{interval: 100ms, timeout: 100ms, train: {{packets: 3}}, targets: [{}]}}\n",
            targets.join(", ")
        )
    };
    let two = target("n2", "198.18.2.2");
    let silent = target("closed", "\"198.18.2.2:99\"");
    let agent = Configured::start(&pair.client, &configuration(&[two.clone(), silent.clone()]));
    let ok = || agent.value("packets_total", "n2", ",result=\"ok\"");
    let more_than = |least: f64| ok().is_some_and(|count| count > least);
    eventually("the reflector answers", || more_than(30.0));
    eventually("a closed port is told", || {
        agent
            .value("packets_total", "closed", ",result=\"unreachable\"")
            .is_some()
    });
    assert_eq!(
        agent.value("rtt_seconds_count", "closed", ""),
        None,
        "not measured is not 0"
    );
    // Another target: the first one's counts go on, and its session too.
    let before = ok().expect("answers");
    let third = target("third", "\"198.18.2.2:8620\"");
    agent.reload(&configuration(&[two.clone(), third]));
    assert!(ok().is_some_and(|count| count >= before), "it began anew");
    eventually("the other target answers", || {
        agent
            .value("packets_total", "third", ",result=\"ok\"")
            .is_some()
    });
    assert_eq!(
        agent.value("packets_total", "closed", ",result=\"unreachable\""),
        None
    );
    eventually("the first target goes on", || more_than(before));
    assert_eq!(agent.value("packets_total", "n2", ",result=\"lost\""), None);
    // Both reflectors' process goes.
    reflector.agent.stop();
    // The kernel there sends few ICMP errors a second, and another target may get them all.
    eventually("what is not answered is told", || {
        ["unreachable", "lost"].into_iter().any(|result| {
            let more = format!(",result=\"{result}\"");
            agent.value("packets_total", "n2", &more).is_some()
        })
    });
    let at = agent
        .value("last_success_timestamp_seconds", "n2", "")
        .expect("a time");
    assert!(at > 1_700_000_000.0);
    let before = ok().expect("answers");
    let _next = self::reflector(&pair);
    eventually("it answers again", || more_than(before));
}

/// What cannot be probed is named and counted, and the other target goes on.
#[test]
fn what_cannot_be_probed_is_named() {
    if !kernel_is_usable() {
        return;
    }
    let pair = pair(Impairment::default(), Impairment::default());
    let taken = pair
        .server
        .run_in(|| UdpSocket::bind("198.18.2.2:8621").expect("a socket"))
        .expect("run");
    let reflector = Configured::start_with(
        &pair.server,
        "reflector: {listen: [\"198.18.2.2:8620\", \"198.18.2.2:8621\"], allow: [0.0.0.0/0]}\n",
        "n2",
    );
    let agent = Configured::start(
        &pair.client,
        "probes: {interval: 100ms, train: {packets: 2}, targets: [{name: good, address: 198.18.2.2}, \
         {address: no.such.host.invalid}, {name: late, address: \"198.18.2.2\", from: late0}, \
         {name: elsewhere, address: 198.18.2.2, from: 198.18.99.9}, \
         {name: far, address: 192.0.2.1, timeout: 100ms}]}\n",
    );
    pair.client
        .ip("route add unreachable 192.0.2.0/24")
        .expect("a route");
    for (target, reason) in [
        ("no.such.host.invalid", "name"),
        ("late", "interface"),
        ("elsewhere", "address"),
    ] {
        eventually(target, || {
            let more = format!(",reason=\"{reason}\"");
            agent.value("failures_total", target, &more).is_some()
        });
    }
    for words in [
        "there is no interface late0",
        "198.18.99.9 is no address of this machine",
        "the name is not known",
    ] {
        agent.agent.lpm.wait_for(words);
    }
    eventually("what has no route is told", || {
        agent
            .value("packets_total", "far", ",result=\"unreachable\"")
            .is_some()
    });
    eventually("the other target answers", || {
        agent
            .value("packets_total", "good", ",result=\"ok\"")
            .is_some()
    });
    // The port that somebody else has.
    reflector
        .agent
        .lpm
        .wait_for("no probe is answered at 198.18.2.2:8621: Address already in use");
    assert!(
        reflector
            .agent
            .value("lpm_reflector_failures_total")
            .is_some_and(|count| count >= 1.0)
    );
    drop(taken);
    reflector
        .agent
        .lpm
        .wait_for("answers probes at 198.18.2.2:8621");
    // The interface comes late, and the session begins.
    pair.client
        .ip("link add late0 type veth peer name late1")
        .expect("an interface");
    pair.client.ip("link set late0 up").expect("up");
    agent.agent.lpm.wait_for("the target is probed");
    // It goes again, and the session notices.
    let before = agent.value("failures_total", "late", ",reason=\"interface\"");
    pair.client.ip("link del late0").expect("delete");
    eventually("its end is counted", || {
        agent.value("failures_total", "late", ",reason=\"interface\"") > before
    });
}

/// Debian's Prometheus reads the round trips as classic histograms from text, and as native ones
/// from protobuf. The median is in the bucket of the wire's 12 ms.
#[test]
fn prometheus_reads_the_round_trips_in_both_forms() {
    if !kernel_is_usable() {
        return;
    }
    let delay = |ms| Impairment::delay(Duration::from_millis(ms));
    let pair = pair(delay(2), delay(10));
    let _reflector = reflector(&pair);
    let agent = Configured::start(
        &pair.client,
        "probes: {interval: 200ms, targets: [{name: n2, address: 198.18.2.2}]}\n",
    );
    let (_, target) = agent.agent.url.split_once("//").expect("a URL");
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: lpm\n  static_configs: [{{targets: [\"{target}\"]}}]\n"
    );
    for (arguments, query, within) in [
        (&[][..], "lpm_probe_rtt_seconds_bucket", 0.0078..0.0157),
        (
            &["--enable-feature=native-histograms"][..],
            "lpm_probe_rtt_seconds",
            0.0110..0.0145,
        ),
    ] {
        let Some(prometheus) = prom::tool("prometheus") else {
            return;
        };
        let directory = tempfile::tempdir().expect("a directory");
        let (_prometheus, address) = prom::start(
            &pair.server,
            prometheus,
            directory.path(),
            &config,
            arguments,
        );
        let median = format!("histogram_quantile(0.5, rate({query}{{target_node=\"n2\"}}[10s]))");
        let mut last = None;
        eventually(&median, || {
            let results = prom::ask(&address, &median).unwrap_or_default();
            last = results
                .iter()
                .find_map(prom::value)
                .filter(|value| !value.is_nan());
            last.is_some()
        });
        let last = last.expect("a median");
        eprintln!("{query}: median {last} s");
        assert!(within.contains(&last), "{last}");
    }
}
