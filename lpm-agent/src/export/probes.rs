//! Metrics of the agent's own probes. A series appears with its first value, and goes with its
//! target.

use std::{fmt, sync::Arc, time::UNIX_EPOCH};

use super::{collect::Collect, families::Families, sink::LabelSet};
use crate::active::agent::{
    OwnProbing,
    figures::{Estimated, Figures, SessionFigures},
};

/// The metrics of the agent's own probes.
pub(super) struct Probes(pub(super) Arc<Figures>);

/// A session's labels, and its figures as they are at a scrape.
type Session = (LabelSet, SessionFigures);

impl Collect for Probes {
    fn collect(&self, out: &mut Families<'_>) -> fmt::Result {
        let sessions: Vec<Session> = (self.0.sessions().iter())
            .map(|session| {
                let labels = [
                    ("source_node", self.0.node.to_string()),
                    ("target_node", session.target.to_string()),
                    ("protocol", "stamp".to_owned()),
                    ("dscp", session.class.to_string()),
                ];
                (labels.into(), session.figures().clone())
            })
            .collect();
        delays(&sessions, out)?;
        fates(&sessions, out)?;
        self.together(out)
    }
}

/// Labels with one more.
fn with(labels: &LabelSet, name: &'static str, value: &str) -> LabelSet {
    let mut labels = labels.clone();
    labels.push((name, value.to_string()));
    labels
}

/// Seconds of a time in nanoseconds, which may be below zero.
#[expect(
    clippy::cast_precision_loss,
    reason = "nanoseconds below 2^53 are 104 days"
)]
pub(super) fn seconds(nanoseconds: i64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// Bounds and best estimate with their names.
pub(super) fn bounds(estimated: Estimated) -> [(&'static str, i64); 3] {
    [
        ("lower", estimated.bounds.lower),
        ("upper", estimated.bounds.upper),
        ("best", estimated.best),
    ]
}

fn delays(sessions: &[Session], out: &mut Families<'_>) -> fmt::Result {
    let measured = sessions.iter().filter(|(_, of)| !of.round_trips.is_empty());
    out.coarse_histograms(
        "probe_rtt",
        "Round trip of a probe without the time in the reflector: (T4 - T1) - (T3 - T2), from the \
         sender's kernel handing over the packet (T1) to its kernel receiving the answer (T4), less \
         the reflector's kernel receiving the packet (T2) to its kernel handing over the answer \
         (T3). Packets that lack a kernel time are left out",
        measured.map(|(labels, of)| (labels.clone(), of.round_trips.clone())),
    )?;
    let ways = sessions.iter().filter_map(|(labels, of)| {
        let [forward, backward] = of.ways?;
        let of_way = |way, estimated| {
            let labels = with(labels, "direction", way);
            let with_bound = move |(bound, value)| (with(&labels, "bound", bound), seconds(value));
            bounds(estimated).map(with_bound)
        };
        Some([of_way("forward", forward), of_way("backward", backward)])
    });
    out.gauges(
        "probe_one_way_delay_seconds",
        "Mean delay each way in the last train that was answered: forward from T1 to T2, backward \
         from T3 to T4. The truth lies between lower and upper whatever the clocks claim; best is an \
         estimate",
        ways.flatten().flatten(),
    )?;
    out.gauges(
        "probe_jitter_seconds",
        "Interarrival jitter of the forward way (RFC 3550 section 6.4.1), by T2 - T1 of packets in a \
         row of one train",
        sessions.iter().filter_map(|(labels, of)| Some((labels.clone(), of.jitter? / 1e9))),
    )?;
    out.gauges(
        "probe_hops",
        "Routers on the way to the reflector, by the TTL with which the last packet arrived",
        sessions
            .iter()
            .filter_map(|(labels, of)| Some((labels.clone(), f64::from(of.hops?)))),
    )
}

fn fates(sessions: &[Session], out: &mut Families<'_>) -> fmt::Result {
    let outcomes = sessions.iter().flat_map(|(labels, of)| {
        let outcomes = of.outcomes.iter();
        outcomes.map(|(outcome, count)| (with(labels, "result", outcome.as_str()), *count))
    });
    out.counters(
        "probe_packets",
        "Probes by result: ok, clock (answered, but a clock was set meanwhile or left its rate), \
         impossible (answered with times that cannot be), late (answered after the timeout), \
         lost_forward, lost_backward, lost (on an unknown way), suppressed (lost, but the target had not answered for long: a \
         dead host is no lossy network), unreachable (refused by the network \
         or this machine); and duplicate for each further answer",
        None,
        outcomes,
    )?;
    let reordered = sessions.iter().flat_map(|(labels, of)| {
        let ways = ["forward", "backward"].into_iter().zip(of.reordered);
        let ways = ways.filter(|(_, count)| *count > 0);
        ways.map(|(way, count)| (with(labels, "direction", way), count))
    });
    out.counters(
        "probe_reordered_packets",
        "Packets of probes that a later one overtook (RFC 4737 section 3.3)",
        None,
        reordered,
    )?;
    let answered = sessions.iter().filter_map(|(labels, of)| {
        let since = of.answered?.duration_since(UNIX_EPOCH).ok()?;
        Some((labels.clone(), since.as_secs_f64()))
    });
    out.gauges(
        "probe_last_success_timestamp_seconds",
        "When the last answer to a probe came, in seconds since 1970",
        answered,
    )?;
    let failures = sessions.iter().flat_map(|(labels, of)| {
        let failures = of.failures.iter();
        failures.map(|(reason, count)| (with(labels, "reason", reason), *count))
    });
    out.counters(
        "probe_failures",
        "How often a target could not be probed at all, by reason: name (unknown host), interface \
         (there is none of this name), address (it is not this machine's), ports (none of probes.ports is free), socket",
        None,
        failures,
    )
}

impl Probes {
    fn together(&self, out: &mut Families<'_>) -> fmt::Result {
        let together = self.0.together().clone();
        let node = vec![("source_node", self.0.node.to_string())];
        let dwells = (!together.dwells.is_empty()).then(|| (node.clone(), together.dwells));
        out.coarse_histograms(
            "probe_dwell",
            "How long reflectors kept probes, from their kernel receiving the packet (T2) to their \
             kernel handing over the answer (T3), over all targets",
            dwells,
        )?;
        let stamps = together.stamps.iter().map(|((stage, source), count)| {
            let labels = with(&node, "stage", &format!("t{stage}"));
            (with(&labels, "source", source.as_str()), *count)
        });
        out.counters(
            "probe_timestamps",
            "Times of answered probes by where they come from: hardware, kernel, user (the kernel's \
             is missing), peer (the reflector does not say)",
            None,
            stamps,
        )?;
        let late = (together.late_timers > 0).then(|| (node.clone(), together.late_timers));
        out.counters(
            "probe_late_timers",
            "Times at which the agent did something for its probes more than 1 ms late",
            None,
            late,
        )?;
        own_probing(&together.own, &node, out)?;
        let left_out = together.left_out.iter();
        out.gauges(
            "probe_targets_left_out",
            "Targets that are not probed, by reason: itself (this node), name (the list of targets \
             has one of this name), address (another target has it), no_address (of the node), \
             family (of probes.from), not_a_node (this node has no such name in the cluster), ports \
             (too few), sessions (too many)",
            left_out.map(|(reason, count)| {
                #[expect(clippy::cast_precision_loss, reason = "far below 2^53 nodes")]
                let count = *count as f64;
                (with(&node, "reason", reason.as_str()), count)
            }),
        )?;
        out.gauges(
            "probe_interval_stretch_ratio",
            "How many times longer than asked for the intervals of nodes are, so that all probes fit \
             probes.packets_per_second",
            together.stretch.map(|stretch| (node.clone(), stretch)),
        )
    }
}

/// Whether the agent probes at all, over all targets.
fn own_probing(own: &OwnProbing, node: &LabelSet, out: &mut Families<'_>) -> fmt::Result {
    out.counters(
        "probe_sent_packets",
        "Probes sent to all targets, those included that the network or this machine refused. Each \
         is counted once it is answered or its timeout is over",
        None,
        (own.sent > 0).then(|| (node.clone(), own.sent)),
    )?;
    let errors = own.errors.iter();
    out.counters(
        "probe_errors",
        "Probes to all targets that were refused, by cause: port (nobody listens), host, network (no \
         way there), prohibited (by a filter here or there), too_big (for the MTU), no_buffers and \
         interface (of this machine), other",
        None,
        errors.map(|(cause, count)| (with(node, "cause", cause), *count)),
    )?;
    let last = own
        .last_train
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    out.gauges(
        "probe_last_train_timestamp_seconds",
        "When the last train of probes to any target ended, answered or not, in seconds since 1970",
        last.map(|since| (node.clone(), since.as_secs_f64())),
    )
}

/// Figures with every value, for the lists of metrics.
#[cfg(test)]
pub(super) fn everything() -> Arc<Figures> {
    use std::time::Duration;

    use crate::active::{
        agent::{
            LeftOut,
            figures::{Link, Outcome},
        },
        offset::Bounds,
        report::At,
        verdict::{Grounds, Verdict},
    };
    let figures = Figures::new("n1".into());
    let estimated = Estimated {
        bounds: Bounds {
            lower: -1_000,
            upper: 2_000,
        },
        best: 500,
    };
    let shown = figures.show([("n2".into(), 46)].into_iter());
    shown[0].tag(Arc::new([("rack".to_owned(), "01".to_owned())].into()));
    figures.group_by(vec!["rack".into()]);
    let mut of = shown[0].figures();
    of.round_trips.observe(Duration::from_micros(100));
    of.outcomes.insert(Outcome::Answered, 3);
    (of.ways, of.jitter, of.hops) = (Some([estimated; 2]), Some(1_500.0), Some(1));
    (of.reordered, of.offset) = ([1, 0], Some(estimated));
    of.answered = Some(UNIX_EPOCH + Duration::from_hours(500_000));
    of.failures.insert("name", 1);
    drop(of);
    let mut together = figures.together();
    together.dwells.observe(Duration::from_micros(10));
    together.stamps.insert((1, At::Kernel), 3);
    (together.late_timers, together.refuted) = (1, 1);
    together.own.sent = 4;
    together.own.errors.insert("port", 1);
    together.own.last_train = Some(UNIX_EPOCH + Duration::from_hours(500_000));
    together.left_out.insert(LeftOut::Itself, 1);
    together.stretch = Some(2.0);
    drop(together);
    let link = Link {
        verdict: Verdict::Ok,
        since: UNIX_EPOCH,
        grounds: Grounds::default(),
    };
    figures.set_links([("n2".into(), link)].into());
    Arc::new(figures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        active::agent::{Answers, figures::Outcome},
        export::{Metrics, collect::Collectors, negotiate::Format},
    };

    fn page(figures: &Arc<Figures>) -> String {
        let sources = Collectors::default().and_probes(figures, &Arc::<Answers>::default());
        let page = Metrics::new(sources).encode(Format::Text).expect("metrics");
        String::from_utf8(page).expect("text")
    }

    /// Series of one session, in text.
    fn series(page: &str) -> Vec<&str> {
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        lines
            .filter(|line| line.contains("target_node=") && line.contains("dscp="))
            .collect()
    }

    #[test]
    fn what_was_not_measured_has_no_series() {
        let figures = Arc::new(Figures::new("n1".into()));
        assert!(!page(&figures).contains("lpm_probe"), "{}", page(&figures));
        let shown = figures.show([("n2".into(), 0)].into_iter());
        assert!(!page(&figures).contains("lpm_probe"), "{}", page(&figures));
        shown[0].figures().outcomes.insert(Outcome::Lost, 2);
        let page_of_losses = page(&figures);
        assert_eq!(
            series(&page_of_losses),
            [
                "lpm_probe_packets_total{source_node=\"n1\",target_node=\"n2\",protocol=\"stamp\",dscp=\"0\",result=\"lost\"} 2"
            ]
        );
        figures.show(std::iter::empty());
        assert!(
            !page(&figures).contains("lpm_probe"),
            "it went with its target"
        );
    }

    #[test]
    fn values_are_in_seconds_and_bounds_have_names() {
        let text = page(&everything());
        let labels = "source_node=\"n1\",target_node=\"n2\",protocol=\"stamp\",dscp=\"46\"";
        for wanted in [
            format!(
                "lpm_probe_one_way_delay_seconds{{{labels},direction=\"backward\",bound=\"upper\"}} 0.000002"
            ),
            format!("lpm_probe_jitter_seconds{{{labels}}} 0.0000015"),
            format!("lpm_probe_rtt_seconds_count{{{labels}}} 1"),
            "lpm_clock_offset_seconds{target_node=\"n2\",bound=\"lower\"} -0.000001".to_owned(),
            "lpm_clock_claims_refuted_total 1".to_owned(),
            "lpm_probe_sent_packets_total{source_node=\"n1\"} 4".to_owned(),
            "lpm_probe_errors_total{source_node=\"n1\",cause=\"port\"} 1".to_owned(),
            "lpm_probe_timestamps_total{source_node=\"n1\",stage=\"t1\",source=\"kernel\"} 3"
                .to_owned(),
        ] {
            assert!(
                text.lines().any(|line| line == wanted),
                "{wanted} in {text}"
            );
        }
    }

    /// A target in one class has at most 12 series with native histograms and 30 with classic ones,
    /// and one more for each further thing that went wrong.
    #[test]
    fn a_target_has_few_series() {
        let figures = everything();
        let shown = figures.sessions();
        let mut of = shown[0].figures();
        of.outcomes.insert(Outcome::LostForward, 1);
        of.failures.clear();
        of.reordered = [0; 2];
        drop(of);
        let text = page(&figures);
        let classic = series(&text);
        let of_histogram = classic
            .iter()
            .filter(|line| line.starts_with("lpm_probe_rtt_seconds"));
        let native = classic.len() - of_histogram.count() + 1;
        assert!(native <= 12, "{native}: {classic:#?}");
        assert!(classic.len() <= 30, "{}: {classic:#?}", classic.len());
    }
}
