//! `lpm top`: flows, namespaces and links, live or once.

mod screen;
mod snapshot;
mod table;

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use anyhow::bail;
use clap::{Args, ValueEnum};
use tokio::{sync::mpsc, time::sleep};

use super::{
    Measure,
    client::{Address, Agent},
    here, output, runtime, signals,
};
use crate::{
    session::{Notice, Session},
    text::Plain,
};

use snapshot::{Snapshot, Source};
use table::{Sort, Tab};

#[derive(Debug, Args)]
pub(super) struct Top {
    #[command(flatten)]
    measure: Measure,
    /// Show what the agent at this URL or Unix socket (unix:PATH) sees, instead of measuring.
    #[arg(long, value_name = "URL", conflicts_with_all = ["config", "interface", "names", "attach"])]
    agent: Option<String>,
    /// Measure for a while (--seconds), print one table and end.
    #[arg(long)]
    once: bool,
    /// Output format of --once.
    #[arg(long, value_enum, default_value_t = Format::Text, requires = "once")]
    format: Format,
    /// Seconds between two updates; with --once, how long to measure.
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    seconds: f64,
    /// The table that --once prints as text, and that the live view shows first.
    #[arg(long, value_enum, default_value_t = Tab::Flows)]
    tab: Tab,
    /// The column by which flows are sorted.
    #[arg(long, value_enum, default_value_t = Sort::Packets)]
    sort: Sort,
    /// Maximum number of flows that --once prints as text; 0: all.
    #[arg(long, value_name = "N", default_value_t = 50)]
    rows: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// All fields, for programs.
    Json,
}

impl Top {
    pub(super) fn execute(self, netns: Option<&String>) -> anyhow::Result<()> {
        let every = Duration::try_from_secs_f64(self.seconds)
            .map_err(|error| {
                anyhow::anyhow!("--seconds {}: {error}; give 0.2 or more", self.seconds)
            })?
            .max(Duration::from_millis(200));
        if !self.once && !io::stdout().is_terminal() {
            bail!("the live view needs a terminal; use `lpm top --once` to print one table");
        }
        runtime()?.block_on(async {
            let mut end = signals::End::new(true)?;
            let (notify, notices) = mpsc::unbounded_channel();
            let here = || here::agent(&self.measure, netns).inspect(|_| output::end_when_stuck());
            let given = self.agent.as_deref().map(Address::of);
            let mut source = if let Some(agent) = given.or_else(here) {
                Source::Agent(Agent::new(agent))
            } else {
                let options = self.measure.options(netns)?;
                let session = Session::start(options, move |notice| drop(notify.send(notice)))?;
                Source::Session(Box::new(session))
            };
            if self.once {
                self.print_once(&mut source, notices, &mut end, every).await
            } else {
                screen::run(source, notices, &mut end, every, self.tab, self.sort).await
            }
        })
    }

    async fn print_once(
        &self,
        source: &mut Source,
        mut notices: mpsc::UnboundedReceiver<Notice>,
        end: &mut signals::End,
        every: Duration,
    ) -> anyhow::Result<()> {
        while let Ok(notice) = notices.try_recv() {
            // Without stderr there is nobody to tell.
            let _ = writeln!(Plain(io::stderr()), "lpm: {notice}");
        }
        let mut snapshot = source.look(None)?;
        tokio::select! {
            () = sleep(every) => {}
            () = end.wait() => {}
        }
        snapshot = source.look(Some(&snapshot))?;
        match self.format {
            Format::Json => writeln!(io::stdout(), "{}", serde_json::to_string(&snapshot)?)?,
            Format::Text => writeln!(
                Plain(io::stdout()),
                "{}",
                self.as_text(&snapshot).trim_end()
            )?,
        }
        Ok(())
    }

    fn as_text(&self, snapshot: &Snapshot) -> String {
        let mut table = table::table(snapshot, self.tab, self.sort);
        let all = table.rows.len();
        if self.rows > 0 && all > self.rows {
            table.rows.truncate(self.rows);
        }
        let mut text = table.to_text();
        if table.rows.len() < all {
            let more = all - table.rows.len();
            text = format!("{text}... and {more} more (--rows 0 shows all)\n");
        }
        text
    }
}
