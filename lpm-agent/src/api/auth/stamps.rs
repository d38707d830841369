//! Finds out which files have changed.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Device, inode, size, and the seconds and nanoseconds of the last change of content and inode.
type Stamp = (u64, u64, u64, [i64; 4]);

/// Files, and how they were. A symbolic link is followed, as those that Kubernetes replaces in the
/// volume of a secret.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::api) struct Stamps(Vec<(PathBuf, Option<Stamp>)>);

impl Stamps {
    /// The files as they are now. Take it before reading them: a change in between is then found.
    pub(in crate::api) fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let stamp = |path: &Path| (path.to_owned(), stamp(path));
        Self(paths.into_iter().map(stamp).collect())
    }

    /// Looks at the files again, and gives how they are now. None: nothing has changed.
    pub(in crate::api) fn changed(&self) -> Option<Self> {
        let now = Self::of(self.0.iter().map(|(path, _)| &**path));
        (now != *self).then_some(now)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    let times = [
        file.mtime(),
        file.mtime_nsec(),
        file.ctime(),
        file.ctime_nsec(),
    ];
    Some((file.dev(), file.ino(), file.size(), times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_a_written_and_a_deleted_file_have_changed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        let mut stamps = Stamps::of([&*path]);
        assert_eq!(stamps.changed(), None, "it is not there");
        let mut has_changed = |what: &str| {
            stamps = stamps.changed().expect(what);
            assert_eq!(stamps.changed(), None, "{what}");
        };
        fs::write(&path, "one").expect("write");
        has_changed("it was made");
        fs::write(&path, "longer").expect("write");
        has_changed("it was written");
        let other = directory.path().join("other");
        fs::write(&other, "others").expect("write");
        fs::rename(&other, &path).expect("rename");
        has_changed("it was replaced");
        fs::remove_file(&path).expect("delete");
        has_changed("it was deleted");
    }
}
