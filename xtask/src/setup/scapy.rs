//! Scapy, which speaks STAMP independently of our code. Debian 12 has a version without it, so the
//! package comes from the Python Package Index, into `target/tools`.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use super::{Need, apt};
use crate::{paths, process};

/// The version whose `contrib.stamp` the tests were written with.
const VERSION: &str = "2.8.0";

/// The need for Scapy.
pub(super) struct Scapy;

fn directory() -> PathBuf {
    paths::tools().join("scapy")
}

impl Need for Scapy {
    fn name(&self) -> String {
        format!("Scapy {VERSION}")
    }

    fn why(&self) -> &'static str {
        "the STAMP sender and reflector that ours are held against"
    }

    fn probe(&self) -> std::result::Result<String, String> {
        let dir = directory();
        let found = dir.join("scapy/contrib/stamp.py").is_file()
            && dir.join(format!("scapy-{VERSION}.dist-info")).is_dir();
        let missing = || format!("not in {}", dir.display());
        found.then(|| dir.display().to_string()).ok_or_else(missing)
    }

    fn how(&self) -> String {
        format!(
            "`python3 -m pip install --target {} scapy=={VERSION}`",
            directory().display()
        )
    }

    fn install(&self) -> Result<()> {
        let pip = || {
            let mut command = Command::new("python3");
            command.args(["-m", "pip"]);
            command
        };
        if process::output(pip().arg("--version")).is_err() {
            apt::install(&["python3-pip"])?;
        }
        let mut install = pip();
        install.args([
            "install",
            "--quiet",
            "--root-user-action=ignore",
            "--upgrade",
        ]);
        install.arg("--target").arg(directory());
        install.arg(format!("scapy=={VERSION}"));
        process::run(&mut install).context("needs the Python Package Index")
    }
}
