//! The skips: what a test prints that cannot run, and which skips are expected.

use std::{fs, io::ErrorKind, path::Path};

use anyhow::{Context as _, Result, bail};

/// The word that begins a skip.
const MARK: &str = "LPM-SKIP ";

/// Why a test could not run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Skip {
    /// What kind of test it is, such as `kernel`.
    pub(crate) group: String,
    /// What is missing.
    pub(crate) reason: String,
}

impl Skip {
    /// Reads `LPM-SKIP <group>: <reason>`, wherever in the line it begins: without capture the
    /// test's name stands before it.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once(MARK)?;
        let (group, reason) = rest.split_once(": ")?;
        Some(Self {
            group: group.trim().to_owned(),
            reason: reason.trim().to_owned(),
        })
    }
}

/// The skips that a kernel or hardware excuses: lines of `<group>: <beginning of the reason>`,
/// with comments after `#`.
#[derive(Debug, Default)]
pub(crate) struct Expected(Vec<Skip>);

impl Expected {
    /// Reads the committed list; no file is an empty list.
    ///
    /// # Errors
    /// When the file cannot be read or a line is neither a skip nor a comment.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).with_context(|| path.display().to_string()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let mut skips = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            match line.split_once(": ") {
                Some((group, reason)) if !reason.trim().is_empty() => skips.push(Skip {
                    group: group.trim().to_owned(),
                    reason: reason.trim().to_owned(),
                }),
                _ => bail!(
                    "line {}: want `<group>: <reason>`, got {line:?}",
                    number + 1
                ),
            }
        }
        Ok(Self(skips))
    }

    /// Whether `skip` is on the list.
    pub(crate) fn allows(&self, skip: &Skip) -> bool {
        self.0
            .iter()
            .any(|known| known.group == skip.group && skip.reason.starts_with(&known.reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_skip_anywhere_in_a_line() {
        let skip = Skip::parse("test a::b ... LPM-SKIP kernel: no netem here").unwrap();
        assert_eq!(
            (skip.group.as_str(), skip.reason.as_str()),
            ("kernel", "no netem here")
        );
        assert_eq!(Skip::parse("LPM-SKIP without a reason"), None);
        assert_eq!(Skip::parse("an ordinary line"), None);
    }

    #[test]
    fn expects_by_group_and_beginning_of_the_reason() {
        let expected = Expected::parse("# why\nkernel: no netem  # 6.18 cloud\n").unwrap();
        let skip = |line| Skip::parse(line).unwrap();
        assert!(expected.allows(&skip("LPM-SKIP kernel: no netem here")));
        assert!(!expected.allows(&skip("LPM-SKIP kernel: no BTF")));
        assert!(!expected.allows(&skip("LPM-SKIP netns: no netem here")));
    }

    #[test]
    fn refuses_a_line_that_would_expect_everything() {
        assert!(
            Expected::parse("kernel:\n")
                .unwrap_err()
                .to_string()
                .contains("line 1")
        );
    }
}
