//! The groups that build again, in another place, and compare the bytes.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use super::{output::Tally, skips::Skip};
use crate::{build, paths, process};

/// Name of the group that builds the kernel objects again.
pub(super) const OBJECTS: &str = "reproducible";

/// Builds the kernel objects again, from a copy of the sources in another directory and into an
/// empty target directory, and compares them with the ones that the agent embeds.
pub(super) fn objects() -> Result<Tally> {
    let Some(copy) = Copy::make("objects")? else {
        return Ok(no_git(OBJECTS));
    };
    let target = copy.target();
    process::run(&mut build::cargo_bpf_of(&copy.sources(), &target, "build")?)?;
    let mut tally = Tally::default();
    for name in build::OBJECTS {
        let here = paths::kernel_object(name);
        let first = fs::read(&here).with_context(|| format!("cannot read {}", here.display()))?;
        let second = build::shipped_object(&target, name)?;
        tally.add(compare(name, &first, &second));
    }
    Ok(tally)
}

/// The result of a group that cannot copy the sources.
pub(super) fn no_git(group: &str) -> Tally {
    Tally::one_skip(Skip {
        group: group.to_owned(),
        reason: "no git here, which lists the files of the sources".to_owned(),
    })
}

/// Compares what was built twice, and prints where the two differ.
pub(super) fn compare(name: &str, first: &[u8], second: &[u8]) -> Tally {
    if first == second {
        println!("{name}: {} bytes, the same twice", first.len());
        return Tally::one_pass();
    }
    let differ = first.iter().zip(second).filter(|(a, b)| a != b).count();
    let at = first.iter().zip(second).position(|(a, b)| a != b);
    let at = at.unwrap_or(first.len().min(second.len()));
    println!(
        "{name}: {} and {} bytes; {differ} differ in place, the first at byte {at}",
        first.len(),
        second.len()
    );
    Tally::one_failure(&format!("{name} has other bytes when it is built again"))
}

/// A copy of the sources in another directory, which is removed in the end.
pub(super) struct Copy {
    root: PathBuf,
}

impl Copy {
    /// Copies the files that git knows, as they are now; None without git. They lie deeper than the
    /// originals, below `target`, so git still finds the repository from there.
    pub(super) fn make(name: &str) -> Result<Option<Self>> {
        let mut list = Command::new("git");
        list.current_dir(paths::root());
        list.args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]);
        let Ok(files) = process::output(&mut list) else {
            return Ok(None);
        };
        let copy = Self {
            root: paths::target().join("again").join(name),
        };
        copy.remove();
        for file in files.split_terminator('\0') {
            let from = paths::root().join(file);
            // Removed and not committed yet.
            if !from.exists() {
                continue;
            }
            let to = copy.sources().join(file);
            if let Some(dir) = to.parent() {
                fs::create_dir_all(dir)
                    .with_context(|| format!("cannot create {}", dir.display()))?;
            }
            fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
        Ok(Some(copy))
    }

    /// The root of the copied sources.
    pub(super) fn sources(&self) -> PathBuf {
        self.root.join("another/place/sources")
    }

    /// A target directory for them.
    pub(super) fn target(&self) -> PathBuf {
        self.root.join("output")
    }

    fn remove(&self) {
        // What is left of it costs space and is removed by the next run.
        let _ = fs::remove_dir_all(&self.root);
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_bytes_fail() {
        assert_eq!(compare("a", b"same", b"same").failed(), 0);
        assert_eq!(compare("a", b"same", b"sand").failed(), 1);
        assert_eq!(compare("a", b"same", b"same and more").failed(), 1);
    }
}
