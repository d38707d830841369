//! Metrics of the agent's reflector: what became of the packets that it got.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use super::{collect::Collect, families::Families};
use crate::active::{
    agent::Answers,
    fate::{Fate, Taken},
    report::At,
    socket::Source,
};

/// The metrics of the reflector.
pub(super) struct Reflector(pub(super) Arc<Answers>);

impl Collect for Reflector {
    fn collect(&self, out: &mut Families<'_>) -> fmt::Result {
        let counts = &self.0.counts;
        let fates = Fate::ALL.into_iter().filter_map(|fate| {
            let count = counts.of(fate);
            let result = result(fate)?;
            (count > 0).then(|| (vec![("result", result.to_owned())], count))
        });
        out.counters(
            "reflector_packets",
            "Packets at the agent's reflector by result: answered, not_allowed (not in \
             reflector.allow), rate (above reflector.rate), short, long, forged (no key or a wrong \
             HMAC), replayed, not_sent (the answer could not be sent), crowded (too many sessions)",
            None,
            fates,
        )?;
        let flags = [("m", Fate::Malformed), ("i", Fate::Doubtful)];
        let flagged = flags.into_iter().filter_map(|(flag, fate)| {
            let count = counts.of(fate);
            (count > 0).then(|| (vec![("flag", flag.to_owned())], count))
        });
        out.counters(
            "reflector_flagged_packets",
            "Packets that the agent's reflector answered with a flag of RFC 8972: m (a malformed TLV), \
             i (TLVs whose HMAC is wrong or missing)",
            None,
            flagged,
        )?;
        let stages = [("t2", Taken::Arrival), ("t3", Taken::Sending)];
        let sources = [Source::Hardware, Source::Kernel, Source::User];
        let times = stages.into_iter().flat_map(|(stage, taken)| {
            sources.into_iter().filter_map(move |source| {
                let count = counts.times(taken, source);
                let labels = vec![
                    ("stage", stage.to_owned()),
                    ("source", At::of(source).as_str().to_owned()),
                ];
                (count > 0).then_some((labels, count))
            })
        });
        out.counters(
            "reflector_timestamps",
            "Times that the agent's reflector took, by where they come from: t2 when a packet arrived, \
             t3 when an answer left whose sender asked for it; hardware, kernel, user (the kernel's is \
             missing)",
            None,
            times,
        )?;
        let failures = self.0.failures.load(Ordering::Relaxed);
        out.counters(
            "reflector_failures",
            "How often an address of reflector.listen could not be had, or its socket failed",
            None,
            (failures > 0).then_some((Vec::new(), failures)),
        )
    }
}

/// The label of what became of a packet. None: it says how a packet was answered, not whether.
fn result(fate: Fate) -> Option<&'static str> {
    Some(match fate {
        Fate::Answered => "answered",
        Fate::NotAllowed => "not_allowed",
        Fate::Rate => "rate",
        Fate::Short => "short",
        Fate::Long => "long",
        Fate::Forged => "forged",
        Fate::Replayed => "replayed",
        Fate::NotSent => "not_sent",
        Fate::Crowded => "crowded",
        Fate::NoReceiveTime | Fate::NoSendTime | Fate::Malformed | Fate::Doubtful => return None,
    })
}

/// Counts with every value, for the lists of metrics.
#[cfg(test)]
pub(super) fn everything() -> Arc<Answers> {
    let answers = Answers::default();
    for fate in Fate::ALL {
        answers.counts.add(fate);
    }
    answers.counts.add_time(Taken::Arrival, Source::Kernel);
    answers.failures.fetch_add(1, Ordering::Relaxed);
    Arc::new(answers)
}
