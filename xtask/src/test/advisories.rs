//! `cargo xtask advisories`, and the group of the same name: known flaws of the dependencies, by
//! cargo-deny and the RustSec database.
//!
//! A new advisory comes without a commit. The command fails then; the group of the tests only
//! reports it, as it also reports that the database cannot be had.

use std::{
    path::Path,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::{output::Tally, runner, skips::Skip};
use crate::{
    paths, process,
    setup::{self, Part},
    signals,
};

/// The lock files that are checked, by their manifests.
const MANIFESTS: [&str; 3] = ["Cargo.toml", "lpm-ebpf/Cargo.toml", "fuzz/Cargo.toml"];

/// Time that fetching the database may take.
const FETCH: Duration = Duration::from_mins(1);

/// What cargo-deny reports that is about a dependency: flaws, and what nobody maintains any more.
const CODES: [&str; 5] = [
    "vulnerability",
    "unsound",
    "unmaintained",
    "notice",
    "yanked",
];

/// Look for known flaws of the dependencies.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask advisories             fetches RustSec's database and looks; fails if there is one\n  \
    cargo xtask advisories --offline   with the database of the last time\n\n\
    The database is a git repository, which git fetches; a mirror is set by git's own\n\
    `git config --global url.MIRROR.insteadOf https://github.com/RustSec/advisory-db`.\n\
    `cargo xtask test --only advisories` reports the same and fails for none.")]
pub(crate) struct Args {
    /// Do not fetch the database; look at the one that was fetched before
    #[arg(long)]
    offline: bool,
}

/// What was found.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// The database cannot be had, for this reason.
    NoDatabase(String),
    /// One line for each advisory.
    Found(Vec<String>),
}

/// How cargo-deny is called: a test has a database and a configuration of its own.
struct Look<'a> {
    config: &'a Path,
    environment: &'a [(&'a str, &'a str)],
    offline: bool,
}

/// The command `cargo xtask advisories`.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Part::Advisories])?;
    signals::catch()?;
    let config = paths::root().join("deny.toml");
    let look = Look {
        offline: args.offline,
        ..Look::ours(&config)
    };
    let found = match look.run()? {
        Outcome::NoDatabase(reason) => {
            let remedy = if args.offline {
                "without `--offline` it is fetched"
            } else {
                "`--offline` looks at the database of the last time"
            };
            bail!("no dependency was looked at: no database: {reason}; {remedy}");
        }
        Outcome::Found(found) => found,
    };
    for line in &found {
        println!("advisories: {line}");
    }
    println!("advisories: {} found", found.len());
    Ok(if found.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The group `advisories`.
pub(super) fn group() -> Result<Tally> {
    Ok(report(Look::ours(&paths::root().join("deny.toml")).run()?))
}

/// The counts for an outcome. A test passed only if the database was there and names no dependency.
fn report(outcome: Outcome) -> Tally {
    let skip = |reason| {
        Tally::one_skip(Skip {
            group: "advisories".to_owned(),
            reason,
        })
    };
    match outcome {
        Outcome::NoDatabase(reason) => skip(format!("no database: {reason}")),
        Outcome::Found(found) if found.is_empty() => Tally::one_pass(),
        Outcome::Found(found) => {
            let mut tally = Tally::default();
            for line in found {
                tally.add(skip(format!("found {line}")));
            }
            tally
        }
    }
}

impl<'a> Look<'a> {
    fn ours(config: &'a Path) -> Self {
        Self {
            config,
            environment: &[],
            offline: false,
        }
    }

    /// Fetches the database, and compares the lock files with it.
    fn run(&self) -> Result<Outcome> {
        if !self.offline {
            let mut why = String::new();
            let fetched = runner::run(
                self.deny(MANIFESTS[0])?.args(["fetch", "db"]),
                FETCH,
                |line| {
                    if let Some(text) = line.trim().strip_prefix("fatal: ") {
                        text.clone_into(&mut why);
                    }
                },
            );
            match fetched {
                Ok(true) => {}
                Ok(false) if why.is_empty() => {
                    return Ok(Outcome::NoDatabase("it cannot be fetched".to_owned()));
                }
                Ok(false) => return Ok(Outcome::NoDatabase(why)),
                Err(error) => return Ok(Outcome::NoDatabase(format!("{error:#}"))),
            }
        }
        let mut found = Vec::new();
        for manifest in MANIFESTS {
            let mut check = self.deny(manifest)?;
            // All that it needs is there: the database and, since cargo compiled them, the index.
            check.args(["--offline", "--format=json", "check"]);
            check.args(["--hide-inclusion-graph", "advisories"]);
            let output = check.output().context("cannot start cargo-deny")?;
            let text = String::from_utf8_lossy(&output.stderr);
            match read(&text) {
                Some(lines) => found.extend(lines),
                None => {
                    return Ok(Outcome::NoDatabase(complaint(&text)));
                }
            }
        }
        found.sort();
        found.dedup();
        Ok(Outcome::Found(found))
    }

    fn deny(&self, manifest: &str) -> Result<Command> {
        let mut command = Command::new(setup::cargo_deny().context("cargo-deny is missing")?);
        process::scrub(&mut command);
        command.current_dir(paths::root());
        command.envs(self.environment.iter().copied());
        command.args(["--manifest-path", manifest, "--config"]);
        command.arg(self.config);
        Ok(command)
    }
}

/// A line of `cargo-deny --format=json`.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    fields: serde_json::Value,
}

/// What cargo-deny says when it does not come to its end.
fn complaint(text: &str) -> String {
    let first = text.lines().find(|line| !line.trim().is_empty());
    let first = first.unwrap_or("cargo-deny said nothing");
    let message = serde_json::from_str::<Line>(first).ok().and_then(|line| {
        let message = line.fields.get("message")?.as_str()?;
        message.lines().next().map(str::to_owned)
    });
    message.unwrap_or_else(|| first.to_owned())
}

/// Reads cargo-deny's lines of JSON: one line of text for each advisory. None if it came to no end,
/// so that nothing is known.
fn read(text: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let mut ended = false;
    for line in text.lines() {
        let Ok(line) = serde_json::from_str::<Line>(line) else {
            continue;
        };
        let field = |path: &str| line.fields.pointer(path).and_then(|value| value.as_str());
        let code = field("/code").unwrap_or_default();
        if line.kind == "summary" {
            ended = line.fields.get("advisories").is_some();
        } else if CODES.contains(&code) {
            let span = field("/labels/0/span").unwrap_or_default();
            let package: Vec<_> = span.split(' ').take(2).collect();
            found.push(format!(
                "{} ({code}) in {}: {}",
                field("/advisory/id").unwrap_or("no advisory"),
                package.join(" "),
                field("/message").unwrap_or_default()
            ));
        }
    }
    ended.then_some(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// An advisory in RustSec's format, about a version that everybody has.
    const ADVISORY: &str = "```toml\n[advisory]\nid = \"RUSTSEC-2026-9999\"\n\
        package = \"serde_json\"\ndate = \"2026-11-01\"\n\n[versions]\npatched = [\">= 99.0.0\"]\n\
        ```\n\n# An invented flaw\n\nIt is there for a test.\n";

    /// A database with one advisory in the crate `package`, in a repository for git.
    fn database(dir: &Path, package: &str) {
        let crates = dir.join("crates").join(package);
        fs::create_dir_all(&crates).unwrap();
        let text = ADVISORY.replace("serde_json", package);
        fs::write(crates.join("RUSTSEC-2026-9999.md"), text).unwrap();
        let git = |args: &[&str]| {
            let mut git = Command::new("git");
            git.args(["-c", "user.name=test", "-c", "user.email=test@example.com"]);
            process::output(git.current_dir(dir).args(args)).unwrap();
        };
        git(&["init", "--quiet", "--initial-branch=main"]);
        git(&["add", "."]);
        git(&["commit", "--quiet", "--message=database"]);
    }

    /// What is found with the repository at `url` in the database's place; None: no cargo-deny.
    fn look(dir: &Path, url: &str) -> Option<Outcome> {
        if setup::cargo_deny().is_none() {
            println!("LPM-SKIP advisories: cargo-deny is missing: `cargo xtask setup` gets it");
            return None;
        }
        let config = dir.join("deny.toml");
        let ours = fs::read_to_string(paths::root().join("deny.toml")).unwrap();
        let own = format!("[advisories]\ndb-path = {:?}", dir.join("copy"));
        let theirs = ours.replace("[advisories]", &own);
        assert!(theirs != ours, "deny.toml has a section [advisories]");
        fs::write(&config, theirs).unwrap();
        let instead = format!("url.{url}.insteadOf");
        let environment = [
            ("GIT_CONFIG_COUNT", "1"),
            ("GIT_CONFIG_KEY_0", instead.as_str()),
            (
                "GIT_CONFIG_VALUE_0",
                "https://github.com/RustSec/advisory-db",
            ),
        ];
        let look = Look {
            environment: &environment,
            ..Look::ours(&config)
        };
        Some(look.run().unwrap())
    }

    #[test]
    fn an_advisory_of_a_database_in_the_real_format_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        database(&source, "serde_json");
        let url = format!("file://{}", source.display());
        let Some(Outcome::Found(found)) = look(dir.path(), &url) else {
            return;
        };
        let line = found.first().expect("one advisory");
        assert!(
            line.contains("RUSTSEC-2026-9999 (vulnerability) in serde_json 1."),
            "{found:?}"
        );
        let tally = report(Outcome::Found(found));
        assert_eq!(tally.counts(), "0 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn an_advisory_of_another_crate_is_none_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        database(&source, "no-such-crate-of-ours");
        let url = format!("file://{}", source.display());
        let Some(outcome) = look(dir.path(), &url) else {
            return;
        };
        assert_eq!(outcome, Outcome::Found(Vec::new()));
        assert_eq!(report(outcome).counts(), "1 passed, 0 failed, 0 skipped");
    }

    #[test]
    fn without_a_database_nothing_has_passed() {
        let dir = tempfile::tempdir().unwrap();
        let Some(outcome) = look(dir.path(), "file:///nonexistent/lpm") else {
            return;
        };
        assert!(matches!(outcome, Outcome::NoDatabase(_)), "{outcome:?}");
        assert_eq!(report(outcome).counts(), "0 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn output_without_an_end_is_no_result() {
        let end = r#"{"fields":{"advisories":{"errors":0}},"type":"summary"}"#;
        assert_eq!(read(end), Some(Vec::new()));
        assert_eq!(read("cargo-deny: killed\n"), None);
        let log = r#"{"fields":{"level":"ERROR","message":"no HEAD\nfatal: x"},"type":"log"}"#;
        assert_eq!(read(log), None);
        assert_eq!(complaint(log), "no HEAD");
        assert_eq!(complaint("cargo-deny: killed\n"), "cargo-deny: killed");
    }
}
