//! Removing what is left of a cluster, whether its process ended in order or was killed.
//!
//! Everything that could be somebody else's is named by the cluster's directory: programs are
//! told by a path below it on their command line, mounts are below it, control groups
//! carry the numbers of containers that are listed in it. Nothing else is touched.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Error, places};
use crate::testbed::alive;

/// Where control groups are.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Programs that are ours if their command line names our directory.
const PROGRAMS: [&str; 8] = [
    "containerd",
    "containerd-shim-runc-v2",
    "kubelet",
    "kube-proxy",
    "kube-controller-manager",
    "kube-scheduler",
    "runc",
    "ctr",
];

/// The directories of nodes.
const NODES: [&str; 2] = ["node-a", "node-b"];

/// How long killed processes may take to go.
const PATIENCE: Duration = Duration::from_secs(20);

/// Removes the clusters below `clusters` whose process is gone.
pub(super) fn stale(clusters: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut removed = Vec::new();
    for cluster in directories(clusters) {
        let process = cluster.file_name().unwrap_or_default();
        if !alive(&process.to_string_lossy()) {
            remove(&cluster)?;
            removed.push(cluster);
        }
    }
    // One may have been killed when all of it was gone but that.
    places::remove(clusters).map_err(|source| {
        Error::system(
            format!("remove what is listed in {}", clusters.display()),
            source,
        )
    })?;
    Ok(removed)
}

/// Removes everything of the cluster in `dir`.
pub(super) fn remove(dir: &Path) -> Result<(), Error> {
    let failed = |source: io::Error| Error::system(format!("remove {}", dir.display()), source);
    // First what starts others, then what it started.
    until_none(|| processes(dir))?;
    let containers = containers(dir);
    let groups = groups(&containers);
    until_none(|| members(&groups))?;
    for socket in shim_sockets(dir) {
        drop(fs::remove_file(socket));
    }
    unmount_below(dir).map_err(failed)?;
    for group in &groups {
        remove_group(group).map_err(failed)?;
        // The one around it, unless somebody else has a container in it.
        drop(group.parent().map(fs::remove_dir));
    }
    fs::remove_dir_all(dir).map_err(failed)?;
    dir.parent().map_or(Ok(()), places::remove).map_err(failed)
}

/// The hierarchies: those of version 1, or the one of version 2.
fn hierarchies() -> Vec<PathBuf> {
    if Path::new(CGROUPS).join("cgroup.controllers").exists() {
        return vec![CGROUPS.into()];
    }
    let entries = fs::read_dir(CGROUPS).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.join("cgroup.procs").is_file())
        .collect()
}

/// The ids of the cluster's containers, sandboxes included.
fn containers(dir: &Path) -> Vec<String> {
    let mut ids = Vec::new();
    for node in NODES {
        for place in [
            "containers/io.containerd.runtime.v2.task/k8s.io",
            "images/io.containerd.grpc.v1.cri/sandboxes",
            "images/io.containerd.grpc.v1.cri/containers",
        ] {
            let found = directories(&dir.join(node).join(place)).into_iter();
            ids.extend(found.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)));
        }
    }
    ids.sort();
    ids.dedup();
    ids
}

/// The containers' control groups, in each hierarchy.
fn groups(containers: &[String]) -> Vec<PathBuf> {
    let hierarchies = hierarchies();
    let all = hierarchies.iter().flat_map(|hierarchy| {
        let group = |id| hierarchy.join("k8s.io").join(id);
        containers.iter().map(group)
    });
    all.filter(|group| group.is_dir()).collect()
}

/// Our programs that run: those whose command line names the directory.
fn processes(dir: &Path) -> Vec<i32> {
    let text = format!("{}/", dir.display());
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let program = line.split('\0').next().unwrap_or_default();
        let program = program.rsplit('/').next().unwrap_or_default();
        PROGRAMS.contains(&program) && line.contains(&text) && alive(&pid.to_string())
    })
    .collect()
}

/// The processes in the control groups.
fn members(groups: &[PathBuf]) -> Vec<i32> {
    let mut pids: Vec<i32> = Vec::new();
    let mut open = groups.to_vec();
    while let Some(group) = open.pop() {
        let listed = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        pids.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()));
        open.extend(directories(&group));
    }
    // 0 is a process of another pid namespace.
    pids.retain(|&pid| pid > 1 && alive(&pid.to_string()));
    pids
}

fn directories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let entries = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    entries.map(|entry| entry.path()).collect()
}

/// Kills what `list` finds until it finds nothing.
fn until_none(list: impl Fn() -> Vec<i32>) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let pids = list();
        if pids.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let source = io::Error::other(format!("{pids:?} do not go"));
            return Err(Error::system("end the cluster's processes", source));
        }
        for pid in pids {
            // It may be gone by now.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The sockets of our shims, which lie outside of the directory.
fn shim_sockets(dir: &Path) -> Vec<PathBuf> {
    let mut sockets = Vec::new();
    for node in NODES {
        let tasks = dir
            .join(node)
            .join("containers/io.containerd.runtime.v2.task/k8s.io");
        for task in directories(&tasks) {
            let address = fs::read_to_string(task.join("address")).unwrap_or_default();
            if let Some(path) = address.trim().strip_prefix("unix://") {
                sockets.push(path.into());
            }
        }
    }
    sockets
}

/// Unmounts everything below `dir`, the latest first.
fn unmount_below(dir: &Path) -> io::Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let points: Vec<_> = points
        .filter(|point| Path::new(point).starts_with(dir))
        .collect();
    for point in points.into_iter().rev() {
        umount2(point, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

/// Removes a control group and those in it.
fn remove_group(group: &Path) -> io::Result<()> {
    for inner in directories(group) {
        remove_group(&inner)?;
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        match fs::remove_dir(group) {
            // A killed process leaves its group a little later.
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
}
