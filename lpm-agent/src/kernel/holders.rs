//! Which processes hold BPF programs, and other open files, as `/proc` shows it.
//!
//! A descriptor of a program is a proof that nobody can forge: only a process with `CAP_BPF` gets
//! one. Processes of other users show theirs to `CAP_SYS_PTRACE` and `CAP_DAC_READ_SEARCH` only,
//! and those of other PID namespaces to nobody here.

use std::{collections::BTreeMap, fs, path::Path};

/// Where the link of a program's descriptor points.
const PROGRAM: &str = "anon_inode:bpf-prog";

/// Programs by kernel id, each with a process that holds it.
pub(crate) fn programs() -> BTreeMap<u32, u32> {
    pids()
        .flat_map(|pid| programs_of(pid).into_iter().map(move |id| (id, pid)))
        .collect()
}

/// The ids of all processes.
fn pids() -> impl Iterator<Item = u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// A process with a descriptor that the kernel describes like this.
pub(crate) fn of(fits: impl Fn(&str) -> bool) -> Option<u32> {
    pids().find(|pid| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo"));
        let mut descriptors = descriptors.into_iter().flatten().flatten();
        descriptors.any(|entry| fs::read_to_string(entry.path()).is_ok_and(|info| fits(&info)))
    })
}

/// Kernel ids of the programs that a process holds. Empty if it is not visible.
pub(crate) fn programs_of(pid: u32) -> Vec<u32> {
    let process = format!("/proc/{pid}");
    let process = Path::new(&process);
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten();
    let programs = descriptors.flatten().filter(|entry| {
        fs::read_link(entry.path()).is_ok_and(|target| target == Path::new(PROGRAM))
    });
    programs
        .filter_map(|entry| {
            let info = fs::read_to_string(process.join("fdinfo").join(entry.file_name())).ok()?;
            number(&info, "prog_id")
        })
        .collect()
}

/// A number in the kernel's description of a descriptor, where a line is `prog_id:\t42`.
pub(crate) fn number(info: &str, key: &str) -> Option<u32> {
    let lines = info.lines();
    let mut values = lines.filter_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    values.next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_a_descriptor() {
        let info = "pos:\t0\nflags:\t02000002\nprog_type:\t3\nprog_id:\t42\nprog_tag:\t0a\n";
        assert_eq!(number(info, "prog_id"), Some(42));
        assert_eq!(number(info, "map_id"), None);
    }
}
