//! Landlock (Linux 5.13): which files an agent may change.
//!
//! It may read whatever its user may read. It writes only in its own directories, and starts no
//! program. A process with user id 0 needs this even without capabilities, because it owns the
//! files of root.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus,
};

/// The newest version of Landlock whose rights are used, if the kernel has it (Linux 6.2).
const VERSION: ABI = ABI::V3;

/// True if this kernel has Landlock, and it is turned on.
#[must_use]
pub fn is_there() -> bool {
    // Hard: without Landlock the set of rules is refused.
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_write(ABI::V1));
    rules.and_then(Ruleset::create).is_ok()
}

/// Confines the calling thread. Returns false where the kernel has no Landlock.
///
/// # Errors
/// The kernel's.
pub(super) fn confine(writes: &[PathBuf], executes: bool) -> Result<bool, RulesetError> {
    let mut handled = AccessFs::from_write(VERSION);
    if !executes {
        handled |= AccessFs::Execute;
    }
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(handled)?
        .create()?;
    for directory in writes {
        rules = allow(rules, directory, AccessFs::from_write(VERSION))?;
        // The directory itself goes when it is empty.
        if let Some(above) = directory.parent() {
            rules = allow(rules, above, AccessFs::RemoveDir.into())?;
        }
    }
    let status = rules.restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Allows something below a directory. One that does not exist needs no rule.
fn allow(
    rules: landlock::RulesetCreated,
    directory: &Path,
    access: BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, RulesetError> {
    match PathFd::new(directory) {
        Ok(fd) => rules.add_rule(PathBeneath::new(fd, access)),
        Err(_) => Ok(rules),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io, thread};

    use super::*;

    #[test]
    fn only_its_own_directories_can_be_changed() {
        let place = tempfile::tempdir().expect("a directory");
        let [ours, other] = ["ours", "other"].map(|name| place.path().join(name));
        for directory in [&ours, &other] {
            fs::create_dir(directory).expect("a directory");
            fs::write(directory.join("there"), "").expect("a file");
        }
        let (inside, outside) = (ours.clone(), other.clone());
        let tried = thread::spawn(move || {
            if !confine(std::slice::from_ref(&inside), false).expect("confine") {
                return None;
            }
            let run = std::process::Command::new("/bin/true").status();
            Some([
                fs::write(inside.join("new"), ""),
                fs::remove_file(inside.join("there")),
                fs::read(outside.join("there")).map(drop),
                fs::write(outside.join("new"), ""),
                fs::remove_file(outside.join("there")),
                run.map(drop),
            ])
        });
        let Some(tried) = tried.join().expect("no panic") else {
            println!("LPM-SKIP kernel: no Landlock");
            return;
        };
        let tried = tried.map(|result| result.map_err(|error| error.kind()));
        let denied = Err(io::ErrorKind::PermissionDenied);
        assert_eq!(tried, [Ok(()), Ok(()), Ok(()), denied, denied, denied]);
        assert!(other.join("there").exists());
    }
}
