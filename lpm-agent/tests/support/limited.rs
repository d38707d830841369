//! Limits of an agent: memory, as the chart sets it, and descriptors.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{self, Command},
};

use nix::sys::resource::{Resource, setrlimit};

use super::lpm::Lpm;

/// Descriptors of the agent.
const DESCRIPTORS: u64 = 1024;

/// A control group with a memory limit. Dropping it removes it.
pub(crate) struct Group(PathBuf);

impl Group {
    /// Makes a group that may have so many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        let name = format!("lpm-limited-{}", process::id());
        let (root, limit) = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            ("/sys/fs/cgroup", "memory.max")
        } else {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        };
        let group = Self(Path::new(root).join(name));
        fs::create_dir(&group.0).expect("a control group");
        fs::write(group.0.join(limit), bytes.to_string()).expect("a memory limit");
        group
    }

    /// The most that was in use, bytes; None: this kernel does not say.
    pub(crate) fn peak(&self) -> Option<u64> {
        let files = ["memory.peak", "memory.max_usage_in_bytes"];
        let mut texts = files
            .iter()
            .map(|file| fs::read_to_string(self.0.join(file)));
        texts.find_map(|text| text.ok()?.trim().parse().ok())
    }

    /// How often the kernel killed a process of the group for its memory.
    pub(crate) fn killed(&self) -> u64 {
        let files = ["memory.events", "memory.oom_control"];
        let texts = files.map(|file| fs::read_to_string(self.0.join(file)).unwrap_or_default());
        let mut lines = texts.iter().flat_map(|text| text.lines());
        let count = lines.find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
        count.expect("the kernel counts what it kills")
    }

    /// The file by which a process joins.
    fn members(&self) -> File {
        let file = File::options()
            .write(true)
            .open(self.0.join("cgroup.procs"));
        file.expect("the group's processes")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A group with a process in it stays, which the next look at the machine shows.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Gives the process that a command starts few descriptors, and puts it into a group.
pub(crate) fn limit(command: &mut Command, group: Option<&Group>) {
    let members = group.map(Group::members);
    // SAFETY: setrlimit and write are system calls that allocate nothing, so they are sound between
    // fork and exec.
    unsafe {
        command.pre_exec(move || {
            setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS)?;
            // "0" is the process that writes.
            (members.as_ref()).map_or(Ok(()), |mut members| members.write_all(b"0"))
        });
    }
}

/// Memory that a process has for itself, bytes (`RssAnon` of proc(5)).
pub(crate) fn anonymous(lpm: &Lpm) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", lpm.child.id()));
    let status = status.expect("the agent runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    number
        .and_then(|n| n.parse::<u64>().ok())
        .expect("a number")
        << 10
}
