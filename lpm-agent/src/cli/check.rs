//! `lpm check` and `lpm detach`.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::bail;
use clap::Args;

use super::{Measure, runtime};
use crate::{
    config::{Config, Scope, node_name},
    identity::kubernetes::{self, Outlook},
    kernel::{
        attach::Mode,
        check::{self, Options},
        detach,
        netns::Netns,
    },
};

#[derive(Debug, Args)]
pub(super) struct Check {
    /// Apply the rules of this configuration file to the interfaces.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Attach mode to check: auto, tcx or netlink.
    #[arg(long, value_name = "MODE", value_parser = super::mode)]
    attach: Option<Mode>,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn execute(self, netns: Option<&String>) -> anyhow::Result<()> {
        let measure = Measure {
            config: self.config,
            interface: Vec::new(),
            names: None,
            attach: self.attach,
        };
        let config = measure.config(netns, None)?;
        let names = names(&config)?;
        let netns = config.netns.as_deref().map(Netns::open).transpose()?;
        let rules = config.rules(&[]);
        let report = check::check(&Options {
            netns,
            rules,
            mode: config.attach,
            pins: config.pins.enabled.then(|| config.pins.path.clone()),
            keep: config.privileges,
        })?;
        let text = if self.json {
            let mut report = serde_json::to_value(&report)?;
            if let Some(names) = names {
                report["names"] = names.into();
            }
            serde_json::to_string_pretty(&report)?
        } else {
            let names = names.map_or_else(String::new, |names| format!("\nnames: {names}"));
            format!("{}{names}", report.to_string().trim_end())
        };
        writeln!(io::stdout(), "{}", text.trim_end())?;
        if !report.usable {
            bail!("this machine lacks something that lpm needs: see the fixes above");
        }
        Ok(())
    }
}

/// Describes what becomes of node scope here. None: node scope is not configured.
fn names(config: &Config) -> anyhow::Result<Option<String>> {
    let Some(settings) = config.identity.kubernetes() else {
        return Ok(None);
    };
    if config.identity.kubernetes.scope == Scope::Cluster {
        return Ok(None);
    }
    let node = node_name(config.node_name.as_deref()).unwrap_or_default();
    let examined = kubernetes::check_scope(settings.kubeconfig.as_deref(), &node);
    Ok(Some(match runtime()?.block_on(examined)? {
        Outlook::Holds => {
            "scope node: pods have addresses in their nodes' ranges, so other agents are asked for \
             names"
                .to_owned()
        }
        Outlook::NoPods => {
            format!("scope node: node {node} has a pod range, but no pod with an address in it yet")
        }
        Outlook::Cluster(why) => format!("scope node becomes cluster: {why}"),
        Outlook::Unanswered(why) => format!(
            "scope node: it is not known whether pods have addresses in their nodes' ranges: {why}"
        ),
    }))
}

#[derive(Debug, Args)]
pub(super) struct Detach {
    /// Directory where agents pin: `pins.path` in their configuration.
    #[arg(long, value_name = "PATH", default_value = detach::PINS)]
    pins: PathBuf,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

impl Detach {
    pub(super) fn execute(self, netns: Option<&String>) -> anyhow::Result<()> {
        let netns = netns.map(|netns| Netns::open(netns)).transpose()?;
        let report = detach::detach_with(netns.as_ref(), &self.pins)?;
        let text = if self.json {
            serde_json::to_string_pretty(&report)?
        } else {
            report.to_string()
        };
        writeln!(io::stdout(), "{}", text.trim_end())?;
        if !report.is_clean() {
            bail!("some of what former agents left could not be removed: see above");
        }
        Ok(())
    }
}
