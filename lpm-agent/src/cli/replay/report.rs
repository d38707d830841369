//! The report of a replay on stderr: what was seen of a capture, and what was not measured and why.

use std::{fmt::Write as _, io::Read, path::Path, time::Duration};

use lpm_common::counter::Counter;

use super::{super::show, output::Output};
use crate::replay::{Replay, order};

/// The report, a few lines.
pub(super) fn text<R: Read>(file: &Path, run: &Replay<R>, output: &Output) -> String {
    let mut text = headline(file, run, output);
    let mut line = |what: &str, reasons: Vec<(String, u64)>| {
        let reasons: Vec<String> = reasons
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        if !reasons.is_empty() {
            // Writing to a string does not fail.
            let _ = writeln!(text, "lpm: {what}: {}", reasons.join(", "));
        }
    };
    line("packets not measured", not_measured(run));
    line("flows not measured", labelled(run, "map_drops"));
    line("flows in more than one VLAN", vlans(file, run));
    line("capture", of_capture(run));
    line("order", of_order(file, run));
    line("copies", of_copies(file, run));
    line("seen", of_queries(run));
    line(
        "summary",
        vec![(
            "parts of flows are not listed".to_owned(),
            output.left_out(),
        )],
    );
    if let Some(clock) = of_clock(run) {
        let _ = writeln!(text, "lpm: clock: {clock}");
    }
    for name in run.places().missed() {
        let _ = writeln!(
            text,
            "lpm: --join names {name}, but the capture has no packet of that interface"
        );
    }
    text
}

/// The file, and how much is in it.
fn headline<R: Read>(file: &Path, run: &Replay<R>, output: &Output) -> String {
    let seen = run.seen();
    let span = seen
        .span_ns
        .map(|(first, last)| Duration::from_nanos(last - first));
    format!(
        "lpm: {}: {} packets, {}B in {}; {} samples\n",
        file.display(),
        seen.packets,
        show::count(precise(seen.bytes)),
        span.map_or_else(|| "no time".to_owned(), |span| show::time(nanos(span))),
        output.times.count(),
    )
}

/// Retransmissions, and queries without an answer.
fn of_queries<R: Read>(run: &Replay<R>) -> Vec<(String, u64)> {
    let unanswered = run.unanswered();
    vec![
        ("retransmissions".to_owned(), run.retransmissions()),
        ("unanswered DNS queries".to_owned(), unanswered.dns),
        (
            "DNS queries that may have been answered in packets that were not captured or could \
             not be read to the end"
                .to_owned(),
            unanswered.unknown,
        ),
        ("unanswered echo requests".to_owned(), unanswered.icmp),
        (
            "answers to queries or echo requests that were sent more than once: no samples"
                .to_owned(),
            run.counter(Counter::DnsAmbiguous) + run.counter(Counter::IcmpAmbiguous),
        ),
    ]
}

fn of_capture<R: Read>(run: &Replay<R>) -> Vec<(String, u64)> {
    let beyond = run.disorder().beyond;
    vec![
        ("packets cut by the snap length".to_owned(), run.seen().cut),
        (
            "packets with cut TCP options: measured by handshake and sequence numbers only"
                .to_owned(),
            run.optionless(),
        ),
        (
            "timestamps with a fraction of more than a second: carried over".to_owned(),
            run.carried(),
        ),
        (
            "steps of the clock (or a direction of a flow is out of order by more than 10 ms: \
             `reordercap` helps): flows were started again"
                .to_owned(),
            run.places().steps.saturating_sub(beyond),
        ),
        (
            "echoes that come before the packet they answer: no samples".to_owned(),
            run.backwards(),
        ),
    ]
}

/// Packets that were out of order, and the remedy.
fn of_order<R: Read>(file: &Path, run: &Replay<R>) -> Vec<(String, u64)> {
    let disorder = run.disorder();
    let furthest = show::time(disorder.furthest_ns);
    let sorts = format!("`reordercap {} SORTED` puts all in order", file.display());
    let live = run.window_ns() == 0;
    let kept = if live {
        format!(
            "packets out of order by up to {furthest}, measured as they came through the pipe: \
             give the file, or `reordercap FILE SORTED` puts them in order"
        )
    } else {
        format!("packets out of order by up to {furthest}: put in order")
    };
    let beyond = if live {
        "times packets were out of order by more than 10 ms, so that flows were started again: \
         give the file, or `reordercap FILE SORTED` puts them in order"
            .to_owned()
    } else {
        let window = show::time(run.window_ns());
        format!(
            "times packets were out of order by more than {window}, or than {} packets or {} MiB \
             of them, so that flows were started again: {sorts}",
            order::MOST_PACKETS,
            order::MOST_BYTES >> 20
        )
    };
    vec![(kept, disorder.packets), (beyond, disorder.beyond)]
}

fn of_copies<R: Read>(file: &Path, run: &Replay<R>) -> Vec<(String, u64)> {
    let (copies, unsure) = run.copies();
    vec![
        (
            "frames recorded twice: the first was measured".to_owned(),
            copies,
        ),
        (
            format!(
                "ambiguous frames, either recorded twice or sent again: measured as sent again; \
                 `editcap -d {} ONCE` removes copies",
                operand(file, run)
            ),
            unsure,
        ),
    ]
}

/// What the resolution of the capture's clock makes impossible.
fn of_clock<R: Read>(run: &Replay<R>) -> Option<String> {
    let ticks = run.places().all().iter();
    let coarse = ticks.filter_map(|spot| spot.tick.coarse_ns()).max();
    let zero = run.zero();
    let short = format!("{zero} samples of 0 ns: shorter than the capture's clock can resolve");
    match coarse.map(show::time) {
        Some(tick) if zero > 0 => Some(format!("it ticks every {tick}; {short}")),
        Some(tick) => Some(format!(
            "it ticks every {tick}, so round trips are multiples of that"
        )),
        None => (zero > 0).then_some(short),
    }
}

fn not_measured<R: Read>(run: &Replay<R>) -> Vec<(String, u64)> {
    let seen = run.seen();
    let mut reasons = labelled(run, "parse_skipped");
    reasons.extend([
        (
            "of a link type that lpm does not read".to_owned(),
            seen.unread,
        ),
        (
            "of interfaces that were not selected".to_owned(),
            seen.elsewhere.saturating_sub(run.places().beyond),
        ),
        (
            "of interfaces beyond 65,535".to_owned(),
            run.places().beyond,
        ),
        ("without a time".to_owned(), run.untimed()),
    ]);
    reasons
}

/// Flows whose two directions have different VLAN tags, or a tag one way only.
fn vlans<R: Read>(file: &Path, run: &Replay<R>) -> Vec<(String, u64)> {
    let file = operand(file, run);
    let count = |counter| run.counter(counter);
    vec![
        (
            "whose directions are in different VLANs: taken for one flow".to_owned(),
            count(Counter::VlanFlowJoined),
        ),
        (
            "answers in another VLAN than their query or echo request".to_owned(),
            count(Counter::VlanQuestionJoined),
        ),
        (
            format!(
                "not measured, because several VLANs may carry the other direction (extract the \
                 VLANs that belong together with `tshark -r {file} -Y 'vlan.id in {{ID, ID}}' -w \
                 PART`; `tshark -r {file} -T fields -e vlan.id | sort -u` lists the ids. Or remove \
                 the tags with `tcprewrite --enet-vlan=del`. Then replay the result)"
            ),
            count(Counter::VlanFlowAmbiguous) + count(Counter::VlanQuestionAmbiguous),
        ),
    ]
}

/// The capture as an operand of another tool. A capture from a pipe has no name.
fn operand<R: Read>(file: &Path, run: &Replay<R>) -> String {
    if run.window_ns() == 0 {
        "FILE".to_owned()
    } else {
        file.display().to_string()
    }
}

/// The counters of one metric, by their label.
fn labelled<R: Read>(run: &Replay<R>, metric: &str) -> Vec<(String, u64)> {
    let counters = Counter::ALL
        .iter()
        .map(|counter| (counter.metric(), *counter));
    counters
        .filter(|((name, _), _)| *name == metric)
        .map(|((_, label), counter)| (label.to_owned(), run.counter(counter)))
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn precise(count: u64) -> f64 {
    count as f64
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
