//! The chart, the overlays, the rules and the dashboards: each held against the program that will
//! read it (helm, promtool, the real API server, the agent).

mod api;
mod chart;
mod hour;
mod overlays;
mod rules;
mod values;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use lpm_testbed::kubernetes::Programs;
use serde_json::Value;

/// The directory `deploy` of this checkout.
fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// The values that turn everything on.
fn everything() -> String {
    format!("{}", deploy().join("helm/lpm/ci/all.yaml").display())
}

/// A program of `cargo xtask setup`, or a skip.
fn program(name: &str) -> Option<Command> {
    match Programs::new().find(name) {
        Ok(path) => {
            let mut command = Command::new(path);
            command
                .stdin(Stdio::null())
                .env("PATH", Programs::new().path());
            Some(command)
        }
        Err(error) => {
            println!("LPM-SKIP deploy: {error}");
            None
        }
    }
}

/// What a command printed to stdout, or to stderr if it failed.
fn ran(command: &mut Command) -> Result<String, String> {
    let output = command.output().expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stdout) + &text(&output.stderr))
    }
}

/// The chart, rendered with more arguments, or a skip.
fn rendered(arguments: &[&str]) -> Option<String> {
    let mut helm = program("helm")?;
    helm.args(["template", "lpm"])
        .arg(deploy().join("helm/lpm"));
    helm.args(["--namespace", "lpm", "--skip-tests"]);
    Some(ran(helm.args(arguments)).expect("the chart renders"))
}

/// The objects of a YAML stream.
fn objects(yaml: &str) -> Vec<Value> {
    let objects: Vec<Option<Value>> = serde_saphyr::from_multiple(yaml).expect("YAML");
    objects.into_iter().flatten().collect()
}

/// The object of this kind and name.
#[track_caller]
fn object<'a>(all: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = all
        .iter()
        .find(|one| one["kind"] == kind && one["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}
