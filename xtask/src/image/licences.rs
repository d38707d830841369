//! The licences of what is in an image, with their texts: many ask that they go along.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

use super::{binary::Binary, system};
use crate::{build, paths, process};

/// The beginning of the file.
const HEAD: &str = "\
LPM, and the software of others that is in its image, with the licences.

LPM itself is under MIT or Apache-2.0, at your choice. Its kernel programs, which are in the agent's
binary, are under MIT or GPL-2.0-only, at your choice; they say \"Dual MIT/GPL\" to the kernel, which
offers some of its functions to such programs only. The sources are in LPM's repository, with the
commands that build this image: so whoever wants another version of a library in it can have it.

Packages that are only needed to build may be listed, too.
";

/// Writes the licences of what is in `binary`, an agent for `target`.
pub(super) fn write(binary: &Binary, target: &str, to: &Path) -> Result<()> {
    let mut text = HEAD.to_owned();
    for (title, manifest, target) in [
        ("The agent", "lpm-agent/Cargo.toml", target),
        (
            "The kernel programs",
            "lpm-ebpf/Cargo.toml",
            build::BPF_TARGET,
        ),
    ] {
        println!("image: the licences of {manifest}: some minutes, cargo-about reads each file");
        heading(&mut text, title)?;
        let part = to.with_extension("part");
        let rules = paths::root().join("deploy/licenses");
        let mut about = process::cargo();
        // From what cargo has fetched, so that the same sources make the same list.
        about.args(["about", "generate", "--offline", "--locked", "--fail"]);
        about.args(["--manifest-path", manifest, "--target", target]);
        about.arg("--config").arg(rules.join("about.toml"));
        about
            .arg("--output-file")
            .arg(&part)
            .arg(rules.join("about.hbs"));
        process::run(&mut about).context("cargo-about could not list the licences")?;
        text += &fs::read_to_string(&part)
            .with_context(|| format!("cannot read {}", part.display()))?;
        fs::remove_file(&part).with_context(|| format!("cannot remove {}", part.display()))?;
    }
    heading(&mut text, "The C library and what gcc adds")?;
    for (name, licence) in system::licences(binary, target) {
        let licence = if licence.is_empty() {
            "The system that built the image has no text of its licence."
        } else {
            &licence
        };
        write!(text, "{:-<80}\n{name}\n\n{licence}\n\n", "")?;
    }
    fs::write(to, text).with_context(|| format!("cannot write {}", to.display()))
}

fn heading(text: &mut String, title: &str) -> Result<()> {
    Ok(write!(text, "\n{:=<80}\n{title}\n\n", "")?)
}
