//! `lpm check`: what this machine offers, with a fix for each thing missing.

mod rights;
mod show;

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
};

use aya::{maps::MapType, sys::is_map_supported};
use lpm_common::layout::Vantage;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use serde::Serialize;

use super::{
    attach::{Mode, kernel_at_least},
    bpf::{self, Direction},
    counters,
    interfaces::{self, Interface, Layer},
    liveness::{self, RunningAgent},
    load::{Kernel, LoadSettings, object_is_embedded},
    netns::{Netns, NetnsError},
    pins,
    privileges::{self, Keep},
    rules::{Extras, Rules},
};

/// Result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Everything is as it should be.
    Ok,
    /// LPM works without it, but less well.
    Warning,
    /// LPM does not work without it.
    Missing,
}

/// One check and its result.
#[derive(Debug, Clone, Serialize)]
pub struct Item {
    /// Name of the check in one word: stable, for machines.
    pub name: &'static str,
    /// Result of the check.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// Remedy, if one is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Item {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            found: found.into(),
            fix: None,
        }
    }

    fn lacks(
        name: &'static str,
        status: Status,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            name,
            status,
            found: found.into(),
            fix: Some(fix.into()),
        }
    }
}

/// An interface, and how an agent would watch it.
#[derive(Debug, Clone, Serialize)]
pub struct Candidate {
    /// The interface.
    #[serde(flatten)]
    pub interface: Interface,
    /// Vantage as which the interface would be watched. None: it would not be watched.
    pub vantage: Option<&'static str>,
    /// The rule that decides, or why the interface cannot be watched.
    pub reason: String,
}

/// Results of all checks.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// True: nothing needed is missing.
    pub usable: bool,
    /// The checks.
    pub items: Vec<Item>,
    /// The interfaces of the network namespace.
    pub interfaces: Vec<Candidate>,
    /// Agents that run in the network namespace.
    pub agents: Vec<RunningAgent>,
}

/// Input of the checks.
#[derive(Debug, Default)]
pub struct Options {
    /// The network namespace whose interfaces are listed. None: the caller's.
    pub netns: Option<Netns>,
    /// The rules to apply to the interfaces.
    pub rules: Rules,
    /// The configured mode of attaching.
    pub mode: Mode,
    /// Directory of the pins. None: nothing is pinned.
    pub pins: Option<PathBuf>,
    /// What `lpm run` is to keep of its rights.
    pub keep: Keep,
}

/// Path of the kernel's own type information.
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// Path where the BPF file system belongs.
const BPFFS: &str = "/sys/fs/bpf";

/// Runs all checks. Nothing stays behind: programs are loaded and dropped again.
pub fn check(options: &Options) -> Result<Report, NetnsError> {
    let mut items = vec![kernel(), btf(Path::new(BTF)), capabilities(), object()];
    if object_is_embedded() && privileges::missing().is_empty() {
        items.extend(programs(options.mode));
    }
    let bpffs = options
        .pins
        .as_deref()
        .map_or_else(|| bpffs(Path::new(BPFFS)), place_for_pins);
    items.extend([ring_buffer(), bpffs, jit(), rights::kept(options.keep)]);
    let found = match &options.netns {
        None => namespace(&options.rules),
        Some(netns) => thread::scope(|scope| {
            let inside = scope.spawn(|| netns.enter().map(|()| namespace(&options.rules)));
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?,
    };
    let (interfaces, agents) = found.unwrap_or_else(|error| {
        items.push(Item::lacks(
            "interfaces",
            Status::Missing,
            format!("the interfaces cannot be listed: {error}"),
            "allow AF_NETLINK sockets (seccomp, RestrictAddressFamilies)",
        ));
        (Vec::new(), Vec::new())
    });
    if interfaces
        .iter()
        .all(|candidate| candidate.vantage.is_none())
    {
        items.push(Item::lacks(
            "watched",
            Status::Warning,
            "no interface matches a rule that watches it",
            "name an interface with -i, or add a rule to the configuration",
        ));
    }
    let usable = items.iter().all(|item| item.status != Status::Missing);
    Ok(Report {
        usable,
        items,
        interfaces,
        agents,
    })
}

fn kernel() -> Item {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    if kernel_at_least(5, 10) {
        Item::ok("kernel", format!("Linux {release}"))
    } else {
        Item::lacks(
            "kernel",
            Status::Missing,
            format!("Linux {release}"),
            "use Linux 5.10 or later",
        )
    }
}

fn btf(path: &Path) -> Item {
    if path.exists() {
        Item::ok("btf", path.display().to_string())
    } else {
        Item::lacks(
            "btf",
            Status::Missing,
            format!("there is no {}", path.display()),
            "use a kernel built with CONFIG_DEBUG_INFO_BTF (those of distributions have it since \
             2021); in a container, mount /sys",
        )
    }
}

fn capabilities() -> Item {
    let missing = privileges::missing();
    if missing.is_empty() {
        let mut held = privileges::effective();
        held.retain(|name| {
            [
                "CAP_BPF",
                "CAP_PERFMON",
                "CAP_NET_ADMIN",
                "CAP_SYS_ADMIN",
                "CAP_SYS_RESOURCE",
            ]
            .contains(&name.as_str())
        });
        return Item::ok("capabilities", held.join(", "));
    }
    let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
    Item::lacks(
        "capabilities",
        Status::Missing,
        format!("missing: {}", missing.join(", ")),
        "run lpm as root, or grant the capabilities (setcap, systemd's AmbientCapabilities, \
         securityContext.capabilities.add)",
    )
}

fn object() -> Item {
    if object_is_embedded() {
        Item::ok("object", "the kernel programs are in this binary")
    } else {
        Item::lacks(
            "object",
            Status::Missing,
            "this lpm was built without its kernel programs",
            "run `cargo xtask build`, then build lpm again",
        )
    }
}

/// Loads the programs for real, maps their arrays and asks where they can be attached.
fn programs(mode: Mode) -> Vec<Item> {
    let small = LoadSettings {
        flow_entries: 64,
        rows: 2,
        stripes: 1,
        ..LoadSettings::new()
    };
    let kernel = match Kernel::load(&small) {
        Ok(kernel) => kernel,
        Err(error) => {
            return vec![Item::lacks(
                "programs",
                Status::Missing,
                error.to_string(),
                "allow bpf(2) (seccomp, lockdown, security modules), and use a kernel with \
                 CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_BPF",
            )];
        }
    };
    let mut items = vec![Item::ok("programs", "the kernel accepts all programs")];
    items.push(match kernel.flows() {
        Ok(_) => Item::ok("mmap", "arrays can be mapped into memory"),
        Err(error) => Item::lacks(
            "mmap",
            Status::Missing,
            error.to_string(),
            "use Linux 5.5 or later, and allow mmap of BPF maps",
        ),
    });
    items.push(match kernel.programs() {
        Ok(programs) => attach(mode, tcx_is_there(programs.from_local(Layer::Ethernet))),
        Err(error) => Item::lacks("attach", Status::Missing, error.to_string(), "rebuild lpm"),
    });
    items
}

/// True if the kernel knows TCX. It then reports a missing interface, for an index that no machine
/// has.
fn tcx_is_there(program: impl std::os::fd::AsFd) -> bool {
    let no_interface = i32::MAX.unsigned_abs();
    let refused = bpf::tcx_attach_first(program, no_interface, Direction::Ingress).err();
    refused.and_then(|error| error.raw_os_error()) == Some(libc::ENODEV)
}

fn attach(mode: Mode, tcx: bool) -> Item {
    let name = "attach";
    match (mode.resolve(), tcx) {
        (Mode::Netlink, _) if mode == Mode::Netlink => {
            Item::ok(name, "netlink (TC filters), as configured")
        }
        (Mode::Netlink, _) => Item::ok(name, "netlink (TC filters): the kernel is older than 6.6"),
        (_, true) => Item::ok(name, "TCX, at the head of the chain"),
        (_, false) => Item::lacks(
            name,
            Status::Missing,
            "the kernel does not support TCX",
            "configure `attach: netlink`, or use Linux 6.6 or later with CONFIG_NET_XGRESS",
        ),
    }
}

fn ring_buffer() -> Item {
    let name = "ringbuf";
    match is_map_supported(MapType::RingBuf) {
        Ok(true) => Item::ok(name, "samples can be streamed"),
        Ok(false) => Item::lacks(
            name,
            Status::Missing,
            "the kernel has no BPF ring buffers",
            "use Linux 5.8 or later",
        ),
        Err(error) => Item::lacks(
            name,
            Status::Missing,
            format!("ring buffers cannot be tried: {}", source_of(&error)),
            "run lpm as root",
        ),
    }
}

fn source_of(error: &dyn std::error::Error) -> String {
    error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string)
}

fn bpffs(path: &Path) -> Item {
    match statfs(path).map(|found| found.filesystem_type() == BPF_FS_MAGIC) {
        Ok(true) => Item::ok("bpffs", path.display().to_string()),
        _ => Item::lacks(
            "bpffs",
            Status::Warning,
            format!("no BPF file system at {}", path.display()),
            format!(
                "needed only to pin programs: mount -t bpf bpf {}",
                path.display()
            ),
        ),
    }
}

/// Checks the directory where `lpm run` is to pin. `lpm run` refuses to start without it.
fn place_for_pins(path: &Path) -> Item {
    match pins::check_place(path) {
        Ok(()) => Item::ok("bpffs", path.display().to_string()),
        Err(error) => Item::lacks(
            "bpffs",
            Status::Missing,
            format!("the agent cannot pin at {}", path.display()),
            error.to_string(),
        ),
    }
}

fn jit() -> Item {
    // The file is absent where the kernel was built with CONFIG_BPF_JIT_ALWAYS_ON and hides the
    // switch.
    match fs::read_to_string("/proc/sys/net/core/bpf_jit_enable") {
        Ok(enabled) if enabled.trim() == "0" => Item::lacks(
            "jit",
            Status::Warning,
            "kernel programs are interpreted, which is several times slower",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        _ => Item::ok("jit", "kernel programs are compiled"),
    }
}

/// Interfaces and agents of the calling thread's namespace.
fn namespace(rules: &Rules) -> io::Result<(Vec<Candidate>, Vec<RunningAgent>)> {
    let all = interfaces::list()?;
    let joined = liveness::joined()?;
    let packets = counters::packets()?;
    let agents = liveness::running_agents()?;
    let candidates = all
        .values()
        .map(|interface| {
            let decision = rules.decide(interface, &all);
            let (vantage, reason) = match (decision.vantage, interface.layer()) {
                (Some(_), None) => (
                    None,
                    format!("lpm cannot read link type {}", interface.link_type),
                ),
                (Some(Vantage::Pod), _) if joined.contains_key(&interface.index) => (
                    Some(Vantage::Node.as_str()),
                    format!(
                        "one direction only: the CNI redirects packets past it, as the agent with \
                         process id {} has found",
                        joined[&interface.index]
                    ),
                ),
                (vantage, _) => {
                    let mut reason = format!("{}{}", decision.reason, decision.extras);
                    let counted = packets.get(&interface.name).copied();
                    let counted = counted.filter(|_| vantage == Some(Vantage::Pod));
                    reason.extend(counted.and_then(counters::remark));
                    reason.extend(xdp_there(interface, decision.extras, &agents));
                    (vantage.map(Vantage::as_str), reason)
                }
            };
            Candidate {
                interface: interface.clone(),
                vantage,
                reason,
            }
        })
        .collect();
    Ok((candidates, agents))
}

/// The XDP program on the hook that a rule asks for.
fn xdp_there(interface: &Interface, extras: Extras, agents: &[RunningAgent]) -> Option<String> {
    let program = interface.xdp.filter(|_| extras.xdp.is_some())?;
    let owner = agents
        .iter()
        .find(|agent| agent.programs.contains(&program));
    Some(match owner {
        Some(agent) => format!("; the agent with process id {} does so", agent.pid),
        None => format!(
            "; not possible: XDP program {program} of another tool is attached (`bpftool net` \
             names it)"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_a_fix() {
        let nowhere = Path::new("/nonexistent");
        for item in [btf(nowhere), bpffs(nowhere), attach(Mode::Tcx, false)] {
            assert_ne!(item.status, Status::Ok, "{item:?}");
            assert!(item.fix.is_some(), "{item:?}");
        }
        assert_eq!(btf(nowhere).status, Status::Missing);
        assert_eq!(bpffs(nowhere).status, Status::Warning, "not needed");
        let pins = place_for_pins(Path::new("/proc/lpm"));
        assert_eq!(pins.status, Status::Missing, "lpm run refuses it");
        let said = pins.fix.expect("a fix");
        assert!(said.contains("mount -t bpf"), "{said}");
        assert_eq!(attach(Mode::Netlink, false).status, Status::Ok);
    }

    #[test]
    fn every_interface_is_listed_with_a_reason() {
        let report = check(&Options::default()).expect("no namespace to enter");
        let lo = report
            .interfaces
            .iter()
            .find(|found| found.interface.name == "lo");
        assert_eq!(
            lo.map(|found| (found.vantage, found.reason.as_str())),
            Some((None, "loopback"))
        );
        let missing = report
            .items
            .iter()
            .any(|item| item.status == Status::Missing);
        assert_eq!(report.usable, !missing);
        assert!(report.to_string().contains("lo "));
    }
}
