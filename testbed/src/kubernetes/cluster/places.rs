//! Directories of the machine that clusters need in their usual places: made where they are not
//! there, remembered, and removed with the last cluster. What was there before stays.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
};

/// The file, beside the clusters, that has the paths of what was made.
const MADE: &str = "made";

/// Nobody else makes or removes any meanwhile, also from other processes.
fn lock(clusters: &Path) -> io::Result<File> {
    let directory = File::open(clusters)?;
    directory.lock()?;
    Ok(directory)
}

/// Makes the directory `place`, and those around it, for a cluster of those below `clusters`.
pub(super) fn make(clusters: &Path, place: &Path) -> io::Result<()> {
    let _locked = lock(clusters)?;
    let around: Vec<_> = place.ancestors().collect();
    for directory in around.into_iter().rev() {
        match fs::create_dir(directory) {
            Ok(()) => {
                let mut made = OpenOptions::new();
                let mut made = made.create(true).append(true).open(clusters.join(MADE))?;
                // One write: it is there whole or not at all.
                made.write_all(format!("{}\n", directory.display()).as_bytes())?;
            }
            Err(_) if directory.is_dir() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Removes what was made, and `clusters` itself, unless there is another cluster. What somebody has
/// put something into stays: it is theirs now.
pub(super) fn remove(clusters: &Path) -> io::Result<()> {
    let _locked = match lock(clusters) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        locked => locked?,
    };
    let entries = fs::read_dir(clusters)?.flatten();
    if entries.map(|entry| entry.path()).any(|path| path.is_dir()) {
        return Ok(());
    }
    let made = fs::read_to_string(clusters.join(MADE)).unwrap_or_default();
    for directory in made.lines().rev().map(PathBuf::from) {
        match fs::remove_dir(directory) {
            Err(error) if !is_theirs(&error) => return Err(error),
            _ => {}
        }
    }
    match fs::remove_file(clusters.join(MADE)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => fs::remove_dir(clusters),
    }
}

fn is_theirs(error: &io::Error) -> bool {
    let kinds = [
        ErrorKind::NotFound,
        ErrorKind::DirectoryNotEmpty,
        ErrorKind::ResourceBusy,
    ];
    kinds.contains(&error.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_goes_with_the_last_cluster_and_nothing_else() {
        let machine = tempfile::tempdir().unwrap();
        let at = |path: &str| machine.path().join(path);
        let clusters = at("run/clusters");
        for directory in ["run/clusters/1", "run/clusters/2", "var/lib"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        make(&clusters, &at("var/lib/kubelet/device-plugins")).unwrap();
        make(&clusters, &at("var/lib/cni")).unwrap();
        make(&clusters, &at("var/lib/cni")).unwrap();
        make(&clusters, &at("var/log/containers")).unwrap();
        fs::write(at("var/log/containers/of-somebody"), "").unwrap();
        fs::remove_dir(at("run/clusters/1")).unwrap();
        remove(&clusters).unwrap();
        assert!(at("var/lib/cni").is_dir(), "the other cluster has it still");
        fs::remove_dir(at("run/clusters/2")).unwrap();
        remove(&clusters).unwrap();
        for gone in ["var/lib/kubelet", "var/lib/cni", "run/clusters"] {
            assert!(!at(gone).exists(), "{gone}");
        }
        for kept in ["var/lib", "var/log/containers/of-somebody"] {
            assert!(at(kept).exists(), "{kept}");
        }
        remove(&clusters).expect("again");
    }

    #[test]
    fn what_cannot_be_made_is_said() {
        let machine = tempfile::tempdir().unwrap();
        fs::write(machine.path().join("file"), "").unwrap();
        make(machine.path(), &machine.path().join("file/x")).unwrap_err();
    }
}
