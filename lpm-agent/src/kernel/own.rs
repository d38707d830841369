//! The agent as a process of its node: its resources, and the memory limit of its control group.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use procfs::{
    ProcResult, boot_time_secs, page_size,
    process::{LimitValue, MountInfo, Process},
    ticks_per_second,
};

/// A limit of a version 1 control group from here on is none. The kernel shows the most that it can
/// count, in pages.
const NO_LIMIT: u64 = 1 << 62;

/// Resources of this process, as the kernel reports them. None: not reported, or without a limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OwnProcess {
    /// CPU time, in user space and in the kernel.
    pub cpu: Option<Duration>,
    /// Resident memory, bytes.
    pub resident: Option<u64>,
    /// Virtual memory, bytes.
    pub virtual_memory: Option<u64>,
    /// Limit of virtual memory, bytes.
    pub virtual_memory_max: Option<u64>,
    /// Number of open files.
    pub open_files: Option<u64>,
    /// Limit of open files.
    pub open_files_max: Option<u64>,
    /// When the process started.
    pub started: Option<SystemTime>,
}

/// A memory limit and the memory in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Limit in bytes.
    pub limit: u64,
    /// Bytes in use, without those that the kernel can drop at once (files that nobody has read
    /// again). The kubelet calls it the working set.
    pub used: u64,
}

impl OwnProcess {
    /// Reads the resources as they are now.
    #[must_use]
    pub fn read() -> Self {
        let Ok(process) = Process::myself() else {
            return Self::default();
        };
        let mut own = Self {
            open_files: process.fd_count().ok().map(|count| count as u64),
            ..Self::default()
        };
        if let Ok(stat) = process.stat() {
            let time = |ticks: u64| {
                let (second, nanos) = (ticks_per_second().max(1), 1_000_000_000);
                Duration::from_nanos(ticks.saturating_mul(nanos) / second)
            };
            own.cpu = Some(time(stat.utime + stat.stime));
            own.resident = stat.rss.checked_mul(page_size());
            own.virtual_memory = Some(stat.vsize);
            let boot = boot_time_secs().ok().map(Duration::from_secs);
            own.started = boot.map(|boot| UNIX_EPOCH + boot + time(stat.starttime));
        }
        if let Ok(limits) = process.limits() {
            let limit = |value| match value {
                LimitValue::Value(value) => Some(value),
                LimitValue::Unlimited => None,
            };
            own.virtual_memory_max = limit(limits.max_address_space.soft_limit);
            own.open_files_max = limit(limits.max_open_files.soft_limit);
        }
        own
    }
}

impl MemoryLimit {
    /// The limit that is nearest among those of this process' control group and the groups above
    /// it, as far as they are visible from here. None: there is none.
    #[must_use]
    pub fn read() -> Option<Self> {
        let group = group(&Process::myself().ok()?).ok()??;
        group.nearest()
    }
}

/// The control group that a process' memory is counted in.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    version: Version,
    /// Mount point of the hierarchy. No group above it is visible.
    top: PathBuf,
    /// Directory of the group.
    directory: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// The control group of a process: of version 1 if that has the memory controller, else of version
/// 2. None: neither is mounted.
fn group(process: &Process) -> ProcResult<Option<Group>> {
    let (groups, mounts) = (process.cgroups()?.0, process.mountinfo()?.0);
    let has_memory = |controllers: &[String]| controllers.iter().any(|name| name == "memory");
    let one = groups.iter().find(|group| has_memory(&group.controllers));
    let two = groups.iter().find(|group| group.hierarchy == 0);
    let (version, group) = match (one, two) {
        (Some(one), _) => (Version::One, one),
        (None, Some(two)) => (Version::Two, two),
        (None, None) => return Ok(None),
    };
    let fits = |mount: &&MountInfo| match version {
        Version::One => mount.fs_type == "cgroup" && mount.super_options.contains_key("memory"),
        Version::Two => mount.fs_type == "cgroup2",
    };
    let mount = mounts.iter().find(fits);
    Ok(mount.map(|mount| Group::at(version, &group.pathname, &mount.root, &mount.mount_point)))
}

impl Group {
    /// A group by its path in the hierarchy, of which a part is mounted. In a container the path
    /// may be the host's, and the mount the container's own group.
    fn at(version: Version, path: &str, root: &str, mount_point: &Path) -> Self {
        let below = Path::new(path).strip_prefix(root);
        let below = below.ok().filter(|below| {
            let mut parts = below.components();
            parts.all(|part| matches!(part, std::path::Component::Normal(_)))
        });
        Self {
            version,
            top: mount_point.to_owned(),
            directory: below
                .map_or_else(|| mount_point.to_owned(), |below| mount_point.join(below)),
        }
    }

    fn nearest(&self) -> Option<MemoryLimit> {
        let groups = self.directory.ancestors();
        let groups = groups.take_while(|directory| directory.starts_with(&self.top));
        let limits = groups.filter_map(|directory| self.version.limit(directory));
        limits.min_by_key(|memory| memory.limit.saturating_sub(memory.used))
    }
}

impl Version {
    /// The limit of one group. None: the group has no limit.
    fn limit(self, directory: &Path) -> Option<MemoryLimit> {
        let (limit, used, inactive) = match self {
            Self::One => (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file ",
            ),
            Self::Two => ("memory.max", "memory.current", "inactive_file "),
        };
        // Version 2 says `max` where there is no limit.
        let number = |file: &str| -> Option<u64> {
            let text = fs::read_to_string(directory.join(file)).ok()?;
            text.trim().parse().ok()
        };
        let limit = number(limit).filter(|limit| (1..NO_LIMIT).contains(limit))?;
        let stat = fs::read_to_string(directory.join("memory.stat")).unwrap_or_default();
        let inactive = stat.lines().find_map(|line| line.strip_prefix(inactive));
        let inactive = inactive.and_then(|bytes| bytes.trim().parse().ok());
        let used = number(used)?.saturating_sub(inactive.unwrap_or(0));
        Some(MemoryLimit { limit, used })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a group with these files.
    fn make(directory: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(directory).expect("a directory");
        for (name, text) in files {
            fs::write(directory.join(name), text).expect("a file");
        }
    }

    fn two<'a>(limit: &'a str, used: &'a str) -> [(&'a str, &'a str); 3] {
        let stat = "anon 1\ninactive_file 300\nactive_file 7\n";
        [
            ("memory.max", limit),
            ("memory.current", used),
            ("memory.stat", stat),
        ]
    }

    fn nearest(version: Version, top: &Path, path: &str) -> Option<MemoryLimit> {
        Group::at(version, path, "/", top).nearest()
    }

    #[test]
    fn this_process_is_one() {
        let own = OwnProcess::read();
        assert!(own.cpu.is_some() && own.open_files > Some(2), "{own:?}");
        assert!(own.resident < own.virtual_memory && own.resident > Some(100_000));
        let started = own.started.expect("a start");
        let age = SystemTime::now().duration_since(started);
        assert!(
            age.expect("it is past") < Duration::from_hours(1),
            "{own:?}"
        );
        let limit = MemoryLimit::read().map_or(1, |memory| memory.limit);
        assert!((1..NO_LIMIT).contains(&limit), "{limit}");
    }

    #[test]
    fn version_two_has_the_nearest_limit_of_all_above() {
        let top = tempfile::tempdir().expect("a directory");
        let top = top.path();
        make(&top.join("a/b"), &two("max\n", "900\n"));
        make(&top.join("a"), &two("max\n", "900\n"));
        assert_eq!(nearest(Version::Two, top, "/a/b"), None, "unlimited");
        make(&top.join("a/b"), &two("1000\n", "900\n"));
        let own = MemoryLimit {
            limit: 1000,
            used: 600,
        };
        assert_eq!(nearest(Version::Two, top, "/a/b"), Some(own));
        make(&top.join("a"), &two("5000\n", "4800\n"));
        assert_eq!(
            nearest(Version::Two, top, "/a/b"),
            Some(own),
            "500 are left there"
        );
        make(&top.join("a"), &two("5000\n", "5100\n"));
        let above = MemoryLimit {
            limit: 5000,
            used: 4800,
        };
        assert_eq!(
            nearest(Version::Two, top, "/a/b"),
            Some(above),
            "200 are left above"
        );
        assert_eq!(nearest(Version::Two, top, "/a"), Some(above));
        make(&top.join("a"), &two("0\n", "0\n"));
        assert_eq!(nearest(Version::Two, top, "/a"), None, "0 is none");
    }

    #[test]
    fn version_one_shows_no_limit_as_a_huge_one() {
        let top = tempfile::tempdir().expect("a directory");
        let top = top.path();
        let one = |limit| {
            [
                ("memory.limit_in_bytes", limit),
                ("memory.usage_in_bytes", "4096\n"),
                ("memory.stat", "inactive_file 1\ntotal_inactive_file 96\n"),
            ]
        };
        make(top, &one("9223372036854771712\n"));
        assert_eq!(nearest(Version::One, top, "/"), None);
        // The largest limit with pages of 64 KiB.
        make(top, &one("9223372036854710272\n"));
        assert_eq!(nearest(Version::One, top, "/"), None);
        make(top, &one("8192\n"));
        let limit = MemoryLimit {
            limit: 8192,
            used: 4000,
        };
        assert_eq!(nearest(Version::One, top, "/"), Some(limit));
        fs::remove_file(top.join("memory.usage_in_bytes")).expect("remove");
        assert_eq!(nearest(Version::One, top, "/"), None, "use is not known");
    }

    #[test]
    fn the_directory_is_where_the_mount_has_it() {
        let at = |path, root| Group::at(Version::Two, path, root, Path::new("/mnt")).directory;
        assert_eq!(at("/a/b", "/"), Path::new("/mnt/a/b"));
        assert_eq!(at("/", "/"), Path::new("/mnt"));
        // The mount is of the group itself, or of one above.
        assert_eq!(at("/a/b", "/a/b"), Path::new("/mnt"));
        assert_eq!(at("/a/b", "/a"), Path::new("/mnt/b"));
        // In a namespace of control groups, by a mount of the one outside.
        assert_eq!(at("/", "/../.."), Path::new("/mnt"));
        assert_eq!(at("/../x", "/"), Path::new("/mnt"));
    }
}
