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
    identity::{
        claims::Claims,
        kubernetes::{self, NodeClaims, Outlook},
    },
    kernel::{
        attach::Mode,
        check::{self, Options},
        detach,
        netns::Netns,
    },
    text::Plain,
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
            if let Some(Names { scope, claims }) = names {
                if let Some(scope) = scope {
                    report["names"] = scope.into();
                }
                report["claims"] = claims.into();
            }
            serde_json::to_string_pretty(&report)?
        } else {
            let lines = names.into_iter().flat_map(|Names { scope, claims }| {
                let scope = scope.map(|scope| format!("\nnames: {scope}"));
                scope
                    .into_iter()
                    .chain(claims.into_iter().map(|line| format!("\nclaims: {line}")))
            });
            let lines: String = lines.collect();
            format!("{}{lines}", report.to_string().trim_end())
        };
        writeln!(Plain(io::stdout()), "{}", text.trim_end())?;
        if !report.usable {
            bail!("this machine lacks something that lpm needs: see the fixes above");
        }
        Ok(())
    }
}

/// What the API server says about names here.
struct Names {
    /// What becomes of node scope. None: node scope is not configured.
    scope: Option<String>,
    /// What the annotations of this node's pods claim, a sentence for each line.
    claims: Vec<String>,
}

/// Describes what becomes of node scope here, and what pods' annotations claim. None: Kubernetes is
/// not asked.
fn names(config: &Config) -> anyhow::Result<Option<Names>> {
    let Some(settings) = config.identity.kubernetes() else {
        return Ok(None);
    };
    let node = node_name(config.node_name.as_deref()).unwrap_or_default();
    let kubeconfig = settings.kubeconfig.as_deref();
    let examined = kubernetes::check_scope(kubeconfig, &node, settings.permits.clone());
    let is_node = config.identity.kubernetes.scope == Scope::Node;
    let (outlook, claims) = match runtime()?.block_on(examined) {
        Ok(examined) => examined,
        // Whoever follows the whole cluster gets to know it from the agent.
        Err(_) if !is_node => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let claims = match &outlook {
        Outlook::Unanswered(_) => Vec::new(),
        _ => claimed(config, &claims),
    };
    let scope = is_node.then(|| scope(outlook, &node));
    Ok(Some(Names { scope, claims }))
}

fn scope(outlook: Outlook, node: &str) -> String {
    match outlook {
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
    }
}

/// Sentences about the addresses that annotations of this node's pods name.
fn claimed(config: &Config, node: &NodeClaims) -> Vec<String> {
    let networks = &config.identity.kubernetes.networks;
    let permitted: Vec<String> = networks.iter().map(ToString::to_string).collect();
    let permitted = match &permitted[..] {
        [] => "none is permitted (identity.kubernetes.networks is empty)".to_owned(),
        some => format!("permitted: {}", some.join(", ")),
    };
    let Claims {
        counted,
        contested,
        refused,
    } = node.claims;
    let mut lines = vec![format!(
        "addresses in annotations of this node's pods: {counted} count; {permitted}"
    )];
    if contested > 0 {
        lines.push(format!(
            "{contested} of them are claimed by another pod, too"
        ));
    }
    if !refused.is_empty() {
        lines.push(format!("refused: {refused}"));
        lines.extend(node.refused.iter().map(|pod| format!("refused of {pod}")));
    }
    lines
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
        writeln!(Plain(io::stdout()), "{}", text.trim_end())?;
        if !report.is_clean() {
            bail!("some of what former agents left could not be removed: see above");
        }
        Ok(())
    }
}
