//! What a soak came to, and the rule by which it is flat.

use std::{collections::BTreeSet, fmt};

use super::{
    judge::Judgement,
    load::Traffic,
    reading::{Measure, Reading},
    site::NAMESPACES,
};

/// The agents, in the order of the readings.
const AGENTS: [&str; 2] = ["steady", "mortal"];

/// Rows of the table.
const SLICES: usize = 12;

/// One look at both agents.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Since the beginning, seconds.
    pub seconds: f64,
    /// What the steady and the mortal agent take.
    pub agents: [Reading; 2],
    /// Names that the steady agent's page did not have yet; None: it had none of them.
    pub names_behind: Option<u32>,
}

/// How often things happened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Interfaces that were made, watched and deleted.
    pub interfaces: u32,
    /// Owners that the changing address had.
    pub names: u32,
    /// Restarts of the API server.
    pub restarts: u32,
    /// Deaths of the mortal agent.
    pub kills: u32,
    /// Samples that the streams did not bring.
    pub missed: u64,
}

/// What a soak came to.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The readings, in order.
    pub rows: Vec<Row>,
    /// How often things happened.
    pub counts: Counts,
    /// What the traffic did.
    pub traffic: Traffic,
    /// What became of the samples.
    pub judgement: Judgement,
    /// Pairs of namespaces that nobody was of.
    pub strangers: BTreeSet<String>,
}

impl Report {
    /// What is wrong: samples, names, and measures that grow. Empty: nothing.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.growth();
        let Judgement {
            right,
            wrong,
            unlogged,
            ..
        } = self.judgement;
        if wrong > 0 {
            faults.push(format!("{wrong} samples are wrong"));
            faults.extend(self.judgement.described.iter().cloned());
        }
        // The first looks have no log before them; and a busy machine's log may lack packets.
        if right < 9 * unlogged || right == 0 {
            faults.push(format!(
                "only {right} samples could be judged, {unlogged} could not"
            ));
        }
        if self.judgement.bounded == 0 {
            faults.push("no ping and no DNS query was measured".to_owned());
        }
        for pair in &self.strangers {
            faults.push(format!("no packet was of {pair}"));
        }
        faults
    }

    /// Measures that are higher in the last quarter than in the second, by more than their
    /// [slack](Measure::slack). The first quarter is a warm-up.
    fn growth(&self) -> Vec<String> {
        let quarter = self.rows.len() / 4;
        if quarter == 0 {
            return vec!["there are fewer than four readings".to_owned()];
        }
        let second = &self.rows[quarter..2 * quarter];
        let last = &self.rows[self.rows.len() - quarter..];
        let mut faults = Vec::new();
        for (agent, name) in AGENTS.iter().enumerate() {
            for (index, measure) in Measure::ALL.into_iter().enumerate() {
                let [was, is] = [second, last].map(|rows| median(rows, agent, index));
                if is > was + measure.slack() {
                    faults.push(format!(
                        "{name}: {} grew from {was:.0} to {is:.0}",
                        measure.title()
                    ));
                }
            }
        }
        faults
    }

    /// Notes pairs of namespaces of a page of metrics that nobody was of.
    pub(super) fn strangers(&mut self, metrics: &str) {
        const SERIES: &str = "lpm_rtt_seconds_count{namespace=\"";
        let pairs = metrics.lines().filter_map(|line| {
            let (own, rest) = line.strip_prefix(SERIES)?.split_once('"')?;
            let (_, rest) = rest.split_once("peer_namespace=\"")?;
            Some((own, rest.split_once('"')?.0))
        });
        for (own, peer) in pairs {
            // Nobody's is the address between two owners, and each before the first list.
            let known = |name| name == "unknown" || NAMESPACES.contains(&name);
            let pod = ["shop", "bank", "unknown"].contains(&own);
            if !pod || !known(peer) || ["shop", "bank"].contains(&peer) {
                self.strangers.insert(format!("{own} and {peer}"));
            }
        }
    }
}

/// The median of one measure of one agent.
fn median(rows: &[Row], agent: usize, measure: usize) -> f64 {
    let mut values: Vec<f64> = rows.iter().map(|row| row.agents[agent][measure]).collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Tables in Markdown: one per agent, with medians of twelfths of the time.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            counts,
            traffic,
            judgement,
            ..
        } = self;
        writeln!(
            f,
            "{} interfaces came and went, an address had {} owners, the API server was restarted {} \
             times, the mortal agent was killed {} times. The pods opened {} connections and got {} \
             answers, and {} answers to DNS queries.\n",
            counts.interfaces,
            counts.names,
            counts.restarts,
            counts.kills,
            traffic.connections,
            traffic.requests,
            traffic.queries
        )?;
        writeln!(
            f,
            "Of the remote leg's samples by TCP, {} were what the wire's log says, {} were wrong, and \
             for {} the log was not whole; the furthest was {} us off. {} of pings and DNS were no \
             shorter than the wire's delay. {} of the local leg were not judged, {} were not streamed.",
            judgement.right,
            judgement.wrong,
            judgement.unlogged,
            judgement.off_ns / 1000,
            judgement.bounded,
            judgement.local,
            counts.missed
        )?;
        for (agent, name) in AGENTS.iter().enumerate() {
            self.table(f, agent, name)?;
        }
        writeln!(f)?;
        let faults = self.faults();
        if faults.is_empty() {
            writeln!(f, "Nothing grew and no sample was wrong.")?;
        }
        faults.iter().try_for_each(|fault| writeln!(f, "- {fault}"))
    }
}

impl Report {
    fn table(&self, f: &mut fmt::Formatter<'_>, agent: usize, name: &str) -> fmt::Result {
        write!(f, "\nThe {name} agent:\n\n| minutes |")?;
        for measure in Measure::ALL {
            write!(f, " {} |", measure.title())?;
        }
        writeln!(f, " names behind |\n|---|{}", "---|".repeat(9))?;
        let slice = self.rows.len().div_ceil(SLICES).max(1);
        for rows in self.rows.chunks(slice) {
            let [.., last] = rows else { continue };
            write!(f, "| {:.1} |", last.seconds / 60.0)?;
            for index in 0..Measure::ALL.len() {
                write!(f, " {:.0} |", median(rows, agent, index))?;
            }
            let behind = rows.iter().filter_map(|row| row.names_behind).max();
            let behind = behind.filter(|_| agent == 0);
            writeln!(
                f,
                " {} |",
                behind.map_or_else(String::new, |n| n.to_string())
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readings of a measure that grows from 100 by this much with each reading, and of others that
    /// do not.
    fn growing(measure: Measure, by: f64) -> Report {
        let rows = (0..40).map(|number| {
            let mut reading = [100.0; Measure::ALL.len()];
            let index = Measure::ALL.iter().position(|one| *one == measure);
            reading[index.expect("a measure")] += by * f64::from(number);
            Row {
                seconds: f64::from(number),
                agents: [[100.0; Measure::ALL.len()], reading],
                names_behind: None,
            }
        });
        Report {
            rows: rows.collect(),
            judgement: Judgement {
                right: 1,
                bounded: 1,
                ..Judgement::default()
            },
            ..Report::default()
        }
    }

    #[test]
    fn each_measure_that_grows_is_told() {
        for measure in Measure::ALL {
            assert_eq!(growing(measure, 0.0).faults(), Vec::<String>::new());
            let by = (measure.slack() / 20.0).max(0.05) + 0.05;
            let faults = growing(measure, by).faults();
            assert_eq!(faults.len(), 1, "{measure:?}: {faults:?}");
            assert!(faults[0].contains(measure.title()), "{faults:?}");
        }
    }

    #[test]
    fn wrong_samples_and_too_few_of_them_are_told() {
        let mut report = growing(Measure::Memory, 0.0);
        report.judgement.wrong = 1;
        assert_eq!(report.faults(), ["1 samples are wrong"]);
        report.judgement = Judgement::default();
        assert_eq!(report.faults().len(), 2);
    }

    #[test]
    fn a_pair_that_nobody_was_of_is_told() {
        let mut report = growing(Measure::Memory, 0.0);
        let line = |own, peer| {
            format!(
                "lpm_rtt_seconds_count{{namespace=\"{own}\",peer_namespace=\"{peer}\",leg=\"l\"}} 1\n"
            )
        };
        report.strangers(&(line("shop", "media") + &line("unknown", "games")));
        assert_eq!(report.faults(), Vec::<String>::new());
        report.strangers(&(line("shop", "bank") + &line("media", "shop")));
        assert_eq!(report.strangers.len(), 2);
    }
}
