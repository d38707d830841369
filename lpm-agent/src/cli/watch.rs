//! `lpm watch`: prints every sample as a line.

use std::{
    io::{self, Write},
    time::{Duration, UNIX_EPOCH},
};

use anyhow::bail;
use clap::{Args, ValueEnum};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{Measure, client::Agent, here, measuring, output, runtime, show, signals};
use crate::{
    api::{StreamLine, sample::SampleRecord, stream::Watcher, tunnel::place},
    passive::clock::wall_clock,
    session::{Notice, Session},
};

/// Further than any `--seconds`: a year.
const FOREVER: Duration = Duration::from_hours(24 * 365);

#[derive(Debug, Args)]
pub(super) struct Watch {
    #[command(flatten)]
    measure: Measure,
    /// How a sample is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Show what the agent at this URL measures, instead of measuring.
    #[arg(long, value_name = "URL", conflicts_with_all = ["config", "interface", "names", "attach"])]
    agent: Option<String>,
    /// End after this time.
    #[arg(long, value_name = "N")]
    seconds: Option<f64>,
    /// End after this many samples.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
    /// The format that ppviz of pping reads: time, round trip, protocol, flow.
    Ppviz,
}

impl Watch {
    pub(super) fn execute(self, netns: Option<&String>) -> anyhow::Result<()> {
        runtime()?.block_on(self.watch(netns))
    }

    async fn watch(self, netns: Option<&String>) -> anyhow::Result<()> {
        let mut end = signals::End::new(true)?;
        let limit = match self.seconds {
            Some(seconds) => Duration::try_from_secs_f64(seconds)
                .map_err(|error| anyhow::anyhow!("--seconds {seconds}: {error}; give 0 or more"))?,
            None => FOREVER,
        };
        let mut printer = Printer::new(self.format, self.count.unwrap_or(u64::MAX));
        let mut missed = None;
        let here = || here::agent(&self.measure, netns).inspect(|_| output::end_when_stuck());
        let outcome = match self.agent.clone().or_else(here) {
            Some(url) => {
                let lines = Agent::new(&url).watch()?;
                follow_agent(lines, &mut printer, &mut missed, &mut end, limit).await
            }
            None => {
                self.measure(netns, &mut printer, &mut missed, &mut end, limit)
                    .await
            }
        };
        if let Some(missed) = missed {
            let count = printer.count;
            // A summary that cannot be written is no failure.
            let _ = writeln!(io::stderr(), "lpm: {count} samples, {missed} missed");
        }
        outcome
    }

    /// Attaches, prints samples, and detaches.
    async fn measure(
        &self,
        netns: Option<&String>,
        printer: &mut Printer,
        missed: &mut Option<u64>,
        end: &mut signals::End,
        limit: Duration,
    ) -> anyhow::Result<()> {
        let (notify, mut notices) = mpsc::unbounded_channel();
        let options = self.measure.options(netns)?;
        let session = Session::start(options, move |notice| drop(notify.send(notice)))?;
        let mut watcher = measuring(&session)?.hub().watch();
        // The notices come only now, because from now on no sample is lost.
        while let Ok(notice) = notices.try_recv() {
            tell(&notice);
        }
        if session.attached().is_empty() {
            let _ = writeln!(
                io::stderr(),
                "lpm: no interface is watched yet; give one with -i (`lpm check` lists them)"
            );
        }
        let until = Instant::now() + limit;
        let outcome = loop {
            tokio::select! {
                sample = watcher.next() => {
                    let Some(sample) = sample else { break Ok(()) };
                    match printer.samples(&mut watcher, sample) {
                        Ok(true) => {}
                        Ok(false) => break Ok(()),
                        Err(error) => break Err(error.into()),
                    }
                }
                Some(notice) = notices.recv() => tell(&notice),
                () = end.wait() => break Ok(()),
                () = sleep_until(until) => break Ok(()),
            }
        };
        *missed = Some(watcher.missed());
        drop(watcher);
        drop(session);
        outcome
    }
}

fn tell(notice: &Notice) {
    // Without stderr there is nobody to tell.
    let _ = writeln!(io::stderr(), "lpm: {notice}");
}

/// Prints the samples of an agent.
async fn follow_agent(
    mut lines: mpsc::Receiver<anyhow::Result<StreamLine>>,
    printer: &mut Printer,
    missed: &mut Option<u64>,
    end: &mut signals::End,
    limit: Duration,
) -> anyhow::Result<()> {
    let until = Instant::now() + limit;
    let mut greeted = false;
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Some(Ok(StreamLine::Sample(record))) => {
                    if !printer.record(&record)? {
                        return Ok(());
                    }
                    printer.out.flush()?;
                }
                Some(Ok(StreamLine::Missed { missed: now, .. })) => {
                    *missed = Some(now);
                    if !greeted {
                        greeted = true;
                        let _ = writeln!(io::stderr(), "lpm: watching what the agent measures");
                    }
                }
                Some(Err(error)) => return Err(error),
                None => bail!("the agent ended the stream: it was stopped, or it is overloaded"),
            },
            () = end.wait() => return Ok(()),
            () = sleep_until(until) => return Ok(()),
        }
    }
}

/// Writes samples to stdout.
struct Printer {
    format: Format,
    count: u64,
    most: u64,
    out: io::BufWriter<io::Stdout>,
}

impl Printer {
    fn new(format: Format, most: u64) -> Self {
        Self {
            format,
            count: 0,
            most,
            out: io::BufWriter::new(io::stdout()),
        }
    }

    /// Prints a sample and all that wait behind it. False: that was the last one.
    fn samples(
        &mut self,
        watcher: &mut Watcher,
        first: lpm_common::layout::Sample,
    ) -> io::Result<bool> {
        let clock = wall_clock()?;
        let (links, whose) = {
            let model = watcher.hub().model();
            (model.links(), model.registry().whose())
        };
        let mut next = Some(first);
        let mut more = self.count < self.most;
        while more && let Some(sample) = next {
            let link = links.get(&sample.ifindex).map(|link| link.name.as_str());
            more = self.record(&SampleRecord::new(&sample, &clock, link, &whose))?;
            next = watcher.ready();
        }
        self.out.flush()?;
        Ok(more)
    }

    /// Prints one sample. False: that was the last one.
    fn record(&mut self, record: &SampleRecord) -> io::Result<bool> {
        if self.count >= self.most {
            return Ok(false);
        }
        self.count += 1;
        match self.format {
            Format::Text => writeln!(self.out, "{}", text(record))?,
            Format::Json => {
                serde_json::to_writer(&mut self.out, record)?;
                writeln!(self.out)?;
            }
            Format::Ppviz => writeln!(self.out, "{}", ppviz(record))?,
        }
        if self.count == self.most {
            self.out.flush()?;
        }
        Ok(self.count < self.most)
    }
}

/// Formats a sample as a line for people.
pub(super) fn text(record: &SampleRecord) -> String {
    let name = |name: &Option<crate::identity::Name>| {
        name.as_ref()
            .map(show::who)
            .filter(|who| !who.is_empty())
            .map(|who| format!(" ({who})"))
    };
    // The methods of queries have one kind of echo each.
    let kind = match &*record.method {
        question @ ("icmp" | "dns" | "request") => question,
        _ => &record.echo,
    };
    let rcode = record.rcode.as_ref();
    let rcode = rcode.map(|rcode| format!(" {rcode}")).unwrap_or_default();
    format!(
        "{} {} {:<6} {:<6} {:>8} {}{} > {}{}{}",
        record.time,
        place(&record.interface, &record.tunnels),
        record.leg,
        kind,
        show::time(record.rtt_ns),
        show::end(record.src, record.sport),
        name(&record.src_name).unwrap_or_default(),
        show::end(record.dst, record.dport),
        name(&record.dst_name).unwrap_or_default(),
        rcode,
    )
}

/// Formats a sample as pping's option for ppviz does.
pub(super) fn ppviz(record: &SampleRecord) -> String {
    let time = humantime::parse_rfc3339(&record.time)
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default();
    let rtt = record.rtt();
    let protocol = match &*record.method {
        "icmp" => "ICMP",
        "dns" => "DNS",
        _ => "TCP",
    };
    format!(
        "{}.{:09} {}.{:09} {protocol} {}:{}+{}:{}",
        time.as_secs(),
        time.subsec_nanos(),
        rtt.as_secs(),
        rtt.subsec_nanos(),
        record.src,
        record.sport,
        record.dst,
        record.dport
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::sample::tests::sample, identity::Resolver};

    fn record() -> SampleRecord {
        let clock = wall_clock().expect("clocks");
        let mut record = SampleRecord::new(&sample(), &clock, None, &Resolver::default());
        record.time = "2026-01-02T03:04:05.000000006Z".to_owned();
        record
    }

    #[test]
    fn ppviz_lines() {
        assert_eq!(
            ppviz(&record()),
            "1767323045.000000006 0.000012000 TCP 198.18.5.1:41140+198.18.5.2:5301"
        );
    }

    #[test]
    fn text_lines() {
        assert_eq!(
            text(&record()),
            "2026-01-02T03:04:05.000000006Z if7 remote prompt   12.0us 198.18.5.1:41140 > 198.18.5.2:5301"
        );
    }
}
