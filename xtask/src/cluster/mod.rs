//! `cargo xtask cluster`: a real Kubernetes of two nodes on this machine.
//!
//! `lpm-testbed cluster` is the cluster (`testbed/src/kubernetes/cluster`). This command gets what
//! the cluster needs, starts it in the background and talks to it. Everything ends with that
//! process. What a killed process leaves behind, `down` and the next `up` remove.

mod go;

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::{
        fs::FileTypeExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::{Subcommand, ValueEnum};
use serde::Deserialize;

pub(crate) use self::go::{GoProgram, Toolchain};
use crate::{
    build, paths, process,
    setup::{self, Part},
    signals,
};

/// Time that the cluster may take to come up or to go.
const PATIENCE: Duration = Duration::from_mins(5);

/// A real Kubernetes of two nodes on this machine, for tests and for developers
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask cluster up --network azure --delay 5ms\n  \
    cargo xtask cluster status\n  \
    cargo xtask cluster exec kubectl get pods -A\n  \
    cargo xtask cluster exec helm install lpm deploy/helm/lpm --set preset=flannel\n  \
    cargo xtask cluster wire --delay 20ms --loss 0.01\n  \
    cargo xtask cluster down")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start the cluster in the background: two nodes, with their images loaded
    Up {
        /// Shape of the pods' network
        #[arg(long, value_enum, default_value_t = Network::Flannel)]
        network: Network,
        /// One-way delay between the nodes, both ways
        #[arg(long, default_value = "0s", value_name = "TIME")]
        delay: String,
        /// More images (docker-archives) for both nodes
        #[arg(long, value_name = "FILE")]
        image: Vec<PathBuf>,
    },
    /// Remove the cluster, and what killed clusters left behind
    Down,
    /// Show nodes, pods and where everything is
    Status,
    /// Run a program (kubectl, helm, curl) on the first node, as administrator
    Exec {
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Change the wire between the nodes, with the options of `lpm-testbed cluster`
    Wire {
        /// For example: --delay 20ms --loss 0.01
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        settings: Vec<String>,
    },
}

/// Shape of the pods' network.
#[derive(Clone, Copy, ValueEnum)]
enum Network {
    /// Bridge cni0 and a routed flannel.1, UDP 8472, MTU 1450
    Flannel,
    /// Azure CNI's: a route per pod, no bridge, no overlay
    Azure,
}

/// What `lpm-testbed cluster` prints about itself when it is up.
#[derive(Debug, Deserialize)]
struct State {
    pid: u32,
    directory: PathBuf,
    api: String,
    kubeconfig: PathBuf,
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    name: String,
    netns: PathBuf,
    bpffs: PathBuf,
}

/// The command `cargo xtask cluster`.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    match &args.action {
        Action::Up {
            network,
            delay,
            image,
        } => up(*network, delay, image)?,
        Action::Down => down()?,
        Action::Status => status(&running()?)?,
        Action::Exec { command } => return exec(&running()?, command),
        Action::Wire { settings } => {
            running()?;
            let mut wire = OpenOptions::new()
                .write(true)
                .open(file("wire"))
                .context("cannot talk to the cluster")?;
            writeln!(wire, "{}", settings.join(" "))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Path of a file of ours, beside the programs.
fn file(name: &str) -> PathBuf {
    paths::target().join("cluster").join(name)
}

fn up(network: Network, delay: &str, images: &[PathBuf]) -> Result<()> {
    if running().is_ok() {
        bail!("there is a cluster already; `cargo xtask cluster down` removes it");
    }
    setup::ensure(&[Part::Cluster])?;
    process::require_root_or_sudo("a cluster")?;
    let testbed = build_testbed()?;
    make_fifo(&file("wire"))?;
    // Open for both, so that it never ends for the reader.
    let wire = OpenOptions::new()
        .read(true)
        .write(true)
        .open(file("wire"))?;
    let mut command = process::privileged(&testbed);
    command.arg("cluster").arg("--delay").arg(delay);
    let name = network.to_possible_value();
    command
        .arg("--network")
        .arg(name.map_or_else(String::new, |name| name.get_name().to_owned()));
    let own = paths::target().join("image/lpm.tar");
    if own.is_file() {
        println!("cluster: with the agent's image, {}", own.display());
    } else {
        println!("cluster: without the agent's image; `cargo xtask image` makes it");
    }
    println!("cluster: two nodes come up: ten seconds, some minutes on a busy machine");
    for image in images.iter().chain(own.is_file().then_some(&own)) {
        command.arg("--image").arg(image);
    }
    command
        .stdin(wire)
        .stdout(File::create(file("state"))?)
        .stderr(File::create(file("log"))?)
        .process_group(0);
    signals::catch()?;
    let mut child = command.spawn().context("cannot start lpm-testbed")?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(state) = State::read() {
            return status(&state);
        }
        let log = || fs::read_to_string(file("log")).unwrap_or_default();
        if let Some(status) = child.try_wait()? {
            bail!("the cluster did not come up ({status}): {}", log().trim());
        }
        if signals::stopped() || Instant::now() > deadline {
            end(child.id())?;
            bail!("the cluster was stopped before it was up: {}", log().trim());
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Builds the testbed without optimisation, which takes less time: this command measures nothing.
fn build_testbed() -> Result<PathBuf> {
    let mut cargo = process::cargo();
    cargo.arg("build").args(build::PROGRAMS);
    process::run(cargo.arg("--bin=lpm-testbed"))?;
    Ok(paths::dev_binary("lpm-testbed"))
}

fn make_fifo(path: &Path) -> Result<()> {
    if fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
        return Ok(());
    }
    process::run(Command::new("mkfifo").arg(path))
}

fn end(pid: u32) -> Result<()> {
    process::output(process::privileged("kill").arg(pid.to_string())).map(drop)
}

fn down() -> Result<()> {
    if let Ok(state) = running() {
        end(state.pid)?;
        let deadline = Instant::now() + PATIENCE;
        while state.is_alive() {
            if Instant::now() > deadline {
                bail!("{} cannot be removed; {}", state.pid, file("log").display());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
    let testbed = paths::dev_binary("lpm-testbed");
    if testbed.is_file() {
        process::run(process::privileged(testbed).arg("clean"))?;
    }
    for name in ["state", "wire"] {
        drop(fs::remove_file(file(name)));
    }
    println!("cluster: nothing is left");
    Ok(())
}

impl State {
    fn read() -> Result<Self> {
        let text = fs::read_to_string(file("state"))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Whether the cluster's process runs, and is not only a zombie.
    fn is_alive(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        !state.is_empty() && !state.starts_with(['Z', 'X'])
    }

    /// Makes a command on the first node, as administrator.
    fn command(&self, program: &str) -> Result<Command> {
        let node = self.nodes.first().context("the cluster has no node")?;
        let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let mut path: Vec<_> = assets.into_iter().chain([go::bin()]).collect();
        path.extend(process::search_path());
        let mut command = process::privileged("nsenter");
        command.arg(format!("--net={}", node.netns.display()));
        command.arg("env");
        command.arg(format!("KUBECONFIG={}", self.kubeconfig.display()));
        command.arg(format!(
            "PATH={}",
            std::env::join_paths(path)?.to_string_lossy()
        ));
        command.arg(program);
        Ok(command)
    }
}

/// Finds the cluster that runs.
fn running() -> Result<State> {
    let state = State::read().ok().filter(State::is_alive);
    state.context("no cluster runs; `cargo xtask cluster up` starts one")
}

fn status(state: &State) -> Result<()> {
    println!("cluster: API {} (from within its network)", state.api);
    println!("cluster: kubeconfig {}", state.kubeconfig.display());
    for node in &state.nodes {
        println!(
            "cluster: {}: network {}, BPF file system {}",
            node.name,
            node.netns.display(),
            node.bpffs.display()
        );
    }
    println!("cluster: logs in {}", state.directory.display());
    println!("cluster: `cargo xtask cluster exec kubectl ...` asks it\n");
    process::run(
        state
            .command("kubectl")?
            .args(["get", "nodes,pods,services", "-A", "-o=wide"]),
    )
}

fn exec(state: &State, words: &[String]) -> Result<ExitCode> {
    let (program, arguments) = words.split_first().context("which program?")?;
    let status = state.command(program)?.args(arguments).status()?;
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(ExitCode::from(
        code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
    ))
}
