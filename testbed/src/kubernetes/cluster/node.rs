//! A node: containerd, kubelet and kube-proxy in a network namespace.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::mount::{MsFlags, mount};
use serde_json::json;

use super::{DIRECTORY, Network, image, network, view};
use crate::{
    kubernetes::{
        ApiServer, Error, Programs,
        process::{self, Process},
    },
    testbed::Netns,
};

/// A node of a [`Cluster`](super::Cluster).
#[derive(Debug)]
pub struct Node {
    // Dropped in this order.
    kubelet: Process,
    proxy: Process,
    containerd: Process,
    /// Its name in Kubernetes: `node-a` or `node-b`.
    pub name: String,
    /// Its network.
    pub netns: Arc<Netns>,
    /// Its own file system for pins: what its containers see as the node's `/sys/fs/bpf`.
    pub bpffs: PathBuf,
    /// Its files.
    pub directory: PathBuf,
}

/// The lines of the API server's file of tokens that let nodes in.
pub(super) fn tokens() -> Vec<String> {
    ["node-a", "node-b"]
        .map(|name| format!("{0},system:node:{name},{name},system:nodes", token(name)))
        .into_iter()
        .chain([format!(
            "{},system:kube-proxy,kube-proxy,",
            token("kube-proxy")
        )])
        .collect()
}

fn token(name: &str) -> String {
    format!("{name}-of-a-test")
}

/// Starts node `number` (1 or 2) with its files below `parent`.
pub(super) fn start(
    programs: &Programs,
    api: &ApiServer,
    number: u8,
    netns: Arc<Netns>,
    parent: &Path,
    network: Network,
    images: &[PathBuf],
) -> Result<Node, Error> {
    let name = if number == 1 { "node-a" } else { "node-b" }.to_owned();
    let dir = parent.join(&name);
    let bpffs = dir.join("bpf");
    for wanted in [
        &bpffs,
        &dir.join("kubelet"),
        &dir.join("logs"),
        &dir.join("plugins"),
    ] {
        fs::create_dir_all(wanted)
            .map_err(|source| Error::system(format!("make {}", wanted.display()), source))?;
    }
    mount(
        Some("bpf"),
        &bpffs,
        Some("bpf"),
        MsFlags::empty(),
        None::<&str>,
    )
    .map_err(|errno| Error::system(format!("mount {}", bpffs.display()), errno))?;
    network::configure_cni(&dir, number, network)?;
    let containerd = start_containerd(programs, &netns, &dir)?;
    for image in images {
        image::import(programs, &socket(&dir), image)?;
    }
    let view = view::File::of(containerd.id())?;
    let kubelet = start_kubelet(programs, api, (&netns, &view), &dir, number, &name)?;
    let proxy = start_proxy(programs, api, &netns, &dir, &name)?;
    Ok(Node {
        kubelet,
        proxy,
        containerd,
        name,
        netns,
        bpffs,
        directory: dir,
    })
}

impl Node {
    /// Loads an image (a docker-archive).
    pub(super) fn load(&self, programs: &Programs, archive: &Path) -> Result<(), Error> {
        image::import(programs, &socket(&self.directory), archive)
    }

    /// Waits until `done`, while its three programs live.
    pub(super) fn wait_until(
        &mut self,
        what: &str,
        deadline: Instant,
        done: impl FnMut() -> bool,
    ) -> Result<(), Error> {
        self.containerd.check()?;
        self.proxy.check()?;
        let patience = deadline.saturating_duration_since(Instant::now());
        self.kubelet.wait_until(what, patience, done)
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("containerd.sock")
}

fn start_containerd(programs: &Programs, netns: &Netns, dir: &Path) -> Result<Process, Error> {
    let path = |name: &str| dir.join(name).display().to_string();
    let config = format!(
        r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{opt}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{runc}"
Root = "{containers}"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{cni}"
"#,
        root = path("images"),
        state = path("containers"),
        socket = path("containerd.sock"),
        opt = path("opt"),
        pause = image::PAUSE,
        containers = path("runc"),
        runc = programs.find("runc")?.display(),
        plugins = programs.cni()?.display(),
        cni = path("cni"),
    );
    let file = dir.join("containerd.toml");
    fs::write(&file, config).map_err(|source| Error::system("write containerd's file", source))?;
    let mut command = netns.command(programs.find("containerd")?);
    command.arg("--config").arg(&file);
    command.env("PATH", programs.path());
    view::own(&mut command, dir, Path::new(DIRECTORY))?;
    let mut containerd = Process::start(command, "containerd", dir)?;
    let ctr = programs.find("ctr")?;
    containerd.wait_until("containerd answering", Duration::from_mins(1), || {
        let mut ask = Command::new(&ctr);
        ask.arg("--address").arg(socket(dir)).arg("version");
        process::output(&mut ask).is_ok()
    })?;
    Ok(containerd)
}

fn start_kubelet(
    programs: &Programs,
    api: &ApiServer,
    (netns, view): (&Netns, &view::File),
    dir: &Path,
    number: u8,
    name: &str,
) -> Result<Process, Error> {
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": format!("198.18.0.{number}"),
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "containerRuntimeEndpoint": format!("unix://{}", socket(dir).display()),
        "enforceNodeAllocatable": [],
        // This machine's disk is not the cluster's matter.
        "evictionHard": {"memory.available": "1Mi", "nodefs.available": "0%",
                         "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
        "failCgroupV1": false,
        "failSwapOn": false,
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": false,
        "makeIPTablesUtilChains": false,
        "nodeStatusUpdateFrequency": "2s",
        "oomScoreAdj": 0,
        "podLogsDir": dir.join("logs"),
        "readOnlyPort": 0,
        "resolvConf": "",
        "syncFrequency": "5s",
        "volumePluginDir": dir.join("plugins"),
    });
    let file = dir.join("kubelet.json");
    fs::write(&file, format!("{config:#}\n"))
        .map_err(|source| Error::system("write kubelet's file", source))?;
    let kubeconfig = api.kubeconfig_for(&format!("{name}.kubeconfig"), &token(name))?;
    let mut command = netns.command(programs.find("kubelet")?);
    command
        .arg(format!("--config={}", file.display()))
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg(format!("--root-dir={}", dir.join("kubelet").display()))
        .arg(format!("--cert-dir={}", dir.join("kubelet/pki").display()))
        .arg(format!("--hostname-override={name}"))
        .arg(format!("--node-ip=198.18.0.{number}"));
    command.env("PATH", programs.path());
    view.enter(&mut command)?;
    Process::start(command, "kubelet", dir)
}

fn start_proxy(
    programs: &Programs,
    api: &ApiServer,
    netns: &Netns,
    dir: &Path,
    name: &str,
) -> Result<Process, Error> {
    let token = token("kube-proxy");
    let kubeconfig = api.kubeconfig_for("kube-proxy.kubeconfig", &token)?;
    let mut command = netns.command(programs.find("kube-proxy")?);
    command
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg(format!("--hostname-override={name}"))
        // The table's size is a setting of the whole machine.
        .args(["--conntrack-max-per-core=0", "--conntrack-min=0"])
        .args([
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ])
        .args(["--proxy-mode=iptables", "--cluster-cidr=198.19.0.0/17"]);
    command.env("PATH", programs.path());
    Process::start(command, "kube-proxy", dir)
}
