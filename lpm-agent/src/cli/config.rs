//! `lpm config`.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Subcommand};

use crate::{
    api::web_config::WebConfig,
    config::{
        Config as Configuration,
        foreign::{Foreign, Imported},
    },
    identity::names_file::{self, PrefixMap},
    text::plain_line,
};

#[derive(Debug, Args)]
pub(super) struct Config {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check a configuration, and the names file and web configuration that it points to.
    Check {
        /// The configuration.
        file: PathBuf,
    },
    /// Print L2S-M LPM's configuration or LLAMA's as lpm's, with comments on what has no counterpart.
    Import {
        /// The file: L2S-M LPM's `config.json` or its chart's values, or LLAMA's YAML.
        file: PathBuf,
        /// Print the configuration of this node only, of those in a chart's values.
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
    /// Print every key with its value as YAML.
    Show {
        /// The configuration; without it, the defaults.
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print the JSON schema of the configuration.
    Schema {
        /// Print the schema of the names file instead.
        #[arg(long)]
        names: bool,
    },
}

impl Config {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let text = match self.action {
            Action::Check { file } => check(&file)?,
            Action::Import { file, node } => import(&file, node.as_deref())?,
            Action::Show { config } => {
                let config = config.map_or_else(
                    || Ok(Configuration::default()),
                    |path| Configuration::read(&path),
                )?;
                config.to_yaml()?
            }
            Action::Schema { names: true } => serde_json::to_string_pretty(&names_file::schema())?,
            Action::Schema { names: false } => {
                serde_json::to_string_pretty(&Configuration::schema())?
            }
        };
        Ok(writeln!(io::stdout(), "{}", text.trim_end())?)
    }
}

fn import(file: &Path, node: Option<&str>) -> anyhow::Result<String> {
    let foreign = Foreign::read(file)?.with_context(|| {
        format!(
            "{} is neither L2S-M LPM's configuration nor LLAMA's: `lpm config check` tells whether it \
             is lpm's own",
            file.display()
        )
    })?;
    foreign.to_yaml(node).with_context(|| {
        let names = foreign.nodes.iter().filter_map(|node| node.node.as_deref());
        let names: Vec<_> = names.collect();
        format!(
            "{} has no node of this name: give one of {}",
            file.display(),
            names.join(", ")
        )
    })
}

/// What is to be said of another system's file that is valid.
fn check_foreign(file: &Path, foreign: &Foreign) -> String {
    let targets = |node: &Imported| node.config.probes.targets.len();
    let targets: usize = foreign.nodes.iter().map(targets).sum();
    let notes = foreign.nodes.iter().flat_map(|node| &node.notes);
    let mut notes: Vec<_> = notes
        .map(|note| format!("\n{}", plain_line(&note.to_string())))
        .collect();
    // The nodes of a chart share its lines.
    notes.dedup();
    format!(
        "{}: the configuration is valid, {}, targets: {targets}{}",
        file.display(),
        foreign.kind,
        notes.concat()
    )
}

fn check(file: &Path) -> anyhow::Result<String> {
    if let Some(foreign) = Foreign::read(file)? {
        return Ok(check_foreign(file, &foreign));
    }
    let config = Configuration::read(file)?;
    let names = config.names.as_deref().map(PrefixMap::read).transpose()?;
    config
        .web_config
        .as_deref()
        .map(WebConfig::read)
        .transpose()?;
    let names = names.map_or(String::new(), |names| format!(", {} names", names.len()));
    Ok(format!(
        "{}: the configuration is valid{names}",
        file.display()
    ))
}
