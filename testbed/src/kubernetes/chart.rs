//! What the chart gives its agents, for tests that run them without a cluster.

use std::{path::Path, process::Command};

use super::{Error, Programs, process};

/// The chart's rights for its agents in `namespace` with this `scope` (`cluster` or `node`), as helm
/// renders them: manifests in YAML. The account is called `lpm`.
pub fn rights(namespace: &str, scope: &str) -> Result<String, Error> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/lpm");
    let mut helm = Command::new(Programs::new().find("helm")?);
    helm.args(["template", "lpm"]).arg(chart);
    helm.args(["--namespace", namespace, "--set", &format!("scope={scope}")]);
    process::output(helm.args(["--show-only", "templates/rbac.yaml"]))
}

/// The same, or a skip where there is no helm.
///
/// # Panics
///
/// If the chart does not render.
#[must_use]
pub fn rights_or_skip(namespace: &str, scope: &str) -> Option<String> {
    match rights(namespace, scope) {
        Ok(manifests) => Some(manifests),
        Err(error @ Error::Missing { .. }) => {
            println!("LPM-SKIP kubernetes: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}
