//! The report as a person reads it.

use std::fmt;

use super::{Candidate, Report, Status};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for item in &self.items {
            let status = match item.status {
                Status::Ok => "ok",
                Status::Warning => "warning",
                Status::Missing => "MISSING",
            };
            writeln!(f, "{status:<8} {:<13} {}", item.name, item.found)?;
            if let Some(fix) = &item.fix {
                writeln!(f, "{:<8} {:<13} fix: {fix}", "", "")?;
            }
        }
        writeln!(
            f,
            "\n{:<16} {:<10} {:<8} why",
            "interface", "kind", "vantage"
        )?;
        for candidate in &self.interfaces {
            let Candidate {
                interface,
                vantage,
                reason,
            } = candidate;
            let (name, kind) = (&interface.name, interface.kind.as_str());
            writeln!(
                f,
                "{name:<16} {kind:<10} {:<8} {reason}",
                vantage.unwrap_or("-")
            )?;
        }
        for agent in &self.agents {
            writeln!(f, "\nan agent runs here with process id {}", agent.pid)?;
        }
        Ok(())
    }
}
