//! `lpm config`.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use clap::{Args, Subcommand};

use crate::{
    api::web_config::WebConfig,
    config::Config as Configuration,
    identity::names_file::{self, PrefixMap},
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

fn check(file: &std::path::Path) -> anyhow::Result<String> {
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
