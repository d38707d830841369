//! The data path outlives the agent: restarts, crashes, upgrades, and what is left in the end.

mod attack;
mod daemonset;
mod levels;
mod site;
#[cfg(feature = "upgrade")]
mod upgrade;

use std::{fs, net::Ipv4Addr, path::Path, time::Duration};

use lpm_agent::kernel::{
    attach::Mode,
    load::{LoadSettings, agreement},
    pins::Pins,
};
use lpm_testbed::testbed::{Bpffs, Netns, Pair};
use nix::sys::signal::Signal;
use site::{Site, modes};

use crate::support::lpm::{Agent, eventually, fails, kernel_is_usable, lpm as command, succeeds};

/// Longer than any test.
const LONG: &str = "10m";

const PACKETS: &str = "lpm_packets_total";

/// Round trips of the two namespaces.
fn samples(agent: &Agent) -> f64 {
    samples_in(&agent.metrics())
}

/// Round trips of the two namespaces in a page of metrics.
fn samples_in(metrics: &str) -> f64 {
    let of_pair = "lpm_rtt_seconds_count{namespace=\"shop\",peer_namespace=\"db\"";
    metrics
        .lines()
        .filter(|line| line.starts_with(of_pair))
        .map(|line| line.rsplit(' ').next().expect("a value"))
        .map(|value| value.parse::<f64>().expect("a number"))
        .sum()
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn packets(site: &Site) -> f64 {
    site.truth() as f64
}

/// Programs on the two hooks of the pod's interface.
fn programs(site: &Site, mode: Mode) -> usize {
    let interface = Pair::POD_INTERFACE;
    ["ingress", "egress"]
        .iter()
        .map(|direction| {
            let output = match mode {
                Mode::Netlink => {
                    let arguments = ["filter", "show", "dev", interface, direction];
                    site.pair.node.output("tc", &arguments).expect("tc")
                }
                _ => return chain(&site.pair.node, interface, direction),
            };
            output.matches("direct-action").count()
        })
        .sum()
}

fn chain(node: &Netns, interface: &str, direction: &str) -> usize {
    use aya::programs::{SchedClassifier, TcAttachType};
    let hook = if direction == "ingress" {
        TcAttachType::Ingress
    } else {
        TcAttachType::Egress
    };
    let query = || SchedClassifier::query_tcx(interface, hook);
    let (_, programs) = node.run_in(query).expect("enter").expect("query TCX");
    programs.len()
}

#[test]
fn a_restart_loses_nothing() {
    if !kernel_is_usable() {
        return;
    }
    for &mode in modes() {
        let site = Site::new(mode, LONG);
        let agent = site.agent(&[]);
        let talk = site.talk();
        site.while_it_talks();
        let mut seen = samples(&agent);
        assert!(seen > 0.0);
        agent.stop();
        // Ended twice in good order, killed twice.
        for signal in [
            Signal::SIGTERM,
            Signal::SIGKILL,
            Signal::SIGKILL,
            Signal::SIGTERM,
        ] {
            site.while_it_talks();
            assert_eq!(programs(&site, mode), 2, "{mode:?}: without an agent");
            let next = site.agent(&[]);
            next.lpm
                .wait_for("took over from the last agent on 1 interface");
            assert_eq!(programs(&site, mode), 2, "{mode:?}: with the next one");
            let now = samples(&next);
            assert!(now > seen, "{mode:?}: {seen} samples, then {now}");
            seen = now;
            next.lpm.end(signal);
        }
        let last = site.agent(&[]);
        talk.stop().expect("requests");
        eventually("every packet is counted", || {
            last.value(PACKETS) == Some(packets(&site))
        });
        assert_eq!(site.layouts().len(), 1);
        last.stop();
    }
}

#[test]
fn ids_keep_their_namespaces() {
    if !kernel_is_usable() {
        return;
    }
    let site = Site::new(Mode::Auto, LONG);
    let agent = site.agent(&[]);
    let talk = site.talk();
    site.while_it_talks();
    let seen = samples(&agent);
    agent.stop();
    // Another order: were ids given out anew, the pair's samples would be another's.
    site.name(
        "- {cidr: 198.18.2.0/24, namespace: attic}\n- {cidr: 198.18.1.0/24, namespace: cellar}\n",
    );
    let next = site.agent(&[]);
    assert!(samples(&next) >= seen);
    let series = "lpm_rtt_seconds_count{namespace=\"cellar\",peer_namespace=\"attic\"";
    eventually("the new names", || next.metrics().contains(series));
    talk.stop().expect("requests");
    next.stop();
}

#[test]
fn minima_of_windows_go_on() {
    if !kernel_is_usable() {
        return;
    }
    let site = Site::new(Mode::Auto, LONG);
    let minima = |agent: &Agent| {
        let metrics = agent.metrics();
        let lines = metrics
            .lines()
            .filter(|line| line.starts_with("lpm_flow_rtt_seconds_count"));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum::<f64>()
    };
    let agent = site.agent(&[]);
    let talk = site.talk();
    eventually("three windows", || minima(&agent) >= 3.0);
    talk.stop().expect("requests");
    let before = minima(&agent);
    agent.lpm.end(Signal::SIGKILL);
    let next = site.agent(&[]);
    assert!(minima(&next) >= before);
    next.stop();
}

#[test]
fn an_interface_that_vanished_leaves_nothing() {
    if !kernel_is_usable() {
        return;
    }
    for &mode in modes() {
        let site = Site::new(mode, LONG);
        let index = || {
            let arguments = ["-o", "link", "show", "dev", Pair::POD_INTERFACE];
            let line = site
                .pair
                .node
                .output("ip", &arguments)
                .expect("the interface");
            let (index, _) = line.split_once(':').expect("an index");
            index.to_owned()
        };
        let agent = site.agent(&[]);
        let talk = site.talk();
        site.while_it_talks();
        talk.stop().expect("requests");
        agent.stop();
        assert!(site.counted() > 0);
        let number = index();
        site.pair
            .node
            .ip(&format!("link del {}", Pair::POD_INTERFACE))
            .expect("remove");
        site.pair
            .node
            .ip(&format!(
                "link add {} index {number} type veth peer name other",
                Pair::POD_INTERFACE
            ))
            .expect("another with its number");
        assert_eq!(index(), number);
        let next = site.agent(&[]);
        assert_eq!(
            site.counted(),
            0,
            "the flows of the one before are forgotten"
        );
        assert_eq!(programs(&site, mode), 2);
        assert!(next.value(PACKETS) >= Some(2000.0), "but not their packets");
        next.stop();
        let links = fs::read_dir(site.layouts()[0].join("links")).expect("links");
        let expected = if mode == Mode::Netlink { 0 } else { 2 };
        assert_eq!(links.count(), expected);
    }
}

#[test]
fn upgrade_and_rollback_between_layouts() {
    if !kernel_is_usable() {
        return;
    }
    for &mode in modes() {
        let site = Site::new(mode, LONG);
        let talk = site.talk();
        for version in ["4000000001", "4000000002", "4000000001"] {
            let agent = site.agent(&["--layout-version", version]);
            let layouts = site.layouts();
            assert_eq!(layouts.len(), 1, "{layouts:?}");
            let name = layouts[0].file_name().expect("a name");
            let name = name.to_str().expect("text");
            assert!(name.starts_with(&format!("v{version}-")), "{name}");
            assert_eq!(programs(&site, mode), 2, "{mode:?}: exactly one per hook");
            eventually("it measures", || samples(&agent) > 0.0);
            agent.stop();
        }
        talk.stop().expect("requests");
    }
}

#[test]
fn without_an_agent_programs_rest() {
    if !kernel_is_usable() {
        return;
    }
    for &mode in modes() {
        let site = Site::new(mode, "4s");
        let talk = site.talk();
        let agent = site.agent(&[]);
        site.while_it_talks();
        agent.stop();
        let still = || {
            let before = site.counted();
            site.while_it_talks();
            before == site.counted()
        };
        assert!(!still(), "they measure on at first");
        eventually("they rest", still);
        assert_eq!(programs(&site, mode), 2, "on their hooks");
        let next = site.agent(&[]);
        assert!(!still(), "they are awake again");
        assert!(!still(), "and stay so");
        next.stop();
        talk.stop().expect("requests");
    }
}

fn detach(netns: &Netns, pins: &Path) -> String {
    let netns = netns.path();
    let arguments = ["--netns", netns.to_str().expect("a path"), "detach"];
    let mut detach = command();
    succeeds(detach.args(arguments).arg("--pins").arg(pins))
}

#[test]
fn detach_leaves_nothing_and_takes_nothing_of_an_agent() {
    if !kernel_is_usable() {
        return;
    }
    for &mode in modes() {
        let site = Site::new(mode, LONG);
        let agent = site.agent(&["--layout-version", "4000000001"]);
        let said = detach(&site.pair.node, &site.pins());
        let pid = agent.lpm.child.id();
        assert!(
            said.contains(&format!("the agent with process id {pid} uses it")),
            "{said}"
        );
        assert!(!said.contains("removed"), "{said}");
        assert_eq!(programs(&site, mode), 2);
        agent.stop();
        assert_eq!(programs(&site, mode), 2);
        // Of another version, which this one's agent has never adopted.
        let foreign = site.pins().join("others");
        fs::create_dir(&foreign).expect("a directory");
        let said = detach(&site.pair.node, &site.pins());
        assert!(said.contains("removed the pin"), "{said}");
        assert_eq!(site.layouts(), [foreign]);
        eventually("nothing is attached", || programs(&site, mode) == 0);
    }
}

#[test]
fn two_agents_on_one_kernel() {
    if !kernel_is_usable() {
        return;
    }
    let (one, other) = (Site::new(Mode::Auto, LONG), Site::new(Mode::Auto, LONG));
    let mode = Mode::Auto.resolve();
    let talk = [one.talk(), other.talk()];
    one.agent(&[]).stop();
    let agent = other.agent(&[]);
    let said = detach(&one.pair.node, &one.pins());
    assert!(said.contains("removed"), "{said}");
    eventually("the one is gone", || programs(&one, mode) == 0);
    assert_eq!((programs(&other, mode), other.layouts().len()), (2, 1));
    agent.lpm.end(Signal::SIGKILL);
    one.agent(&[]).stop();
    other.while_it_talks();
    let next = other.agent(&[]);
    for talk in talk {
        talk.stop().expect("requests");
    }
    assert!(next.value(PACKETS) >= Some(2000.0));
    next.stop();
}

#[test]
fn one_agent_at_a_time() {
    if !kernel_is_usable() {
        return;
    }
    let bpffs = Bpffs::mount("mode=0700").expect("a BPF file system");
    let root = bpffs.path().join("lpm");
    let agreement = agreement(&LoadSettings::new(), Mode::Auto, None, None).expect("an object");
    let open = || Pins::open(&root, &agreement, Duration::ZERO);
    let first = open().expect("pins");
    let refused = open().expect_err("they are taken").to_string();
    let pid = std::process::id();
    assert!(refused.contains(&format!("process id {pid}")), "{refused}");
    drop(first);
    assert!(!root.exists(), "what was never finished goes");
    drop(open().expect("they are free"));
}

#[test]
fn places_that_take_no_pins() {
    if !kernel_is_usable() {
        return;
    }
    let node = Netns::new("node").expect("netns");
    let run = |path: &Path| {
        let netns = node.path();
        let arguments = ["--netns", netns.to_str().expect("a path"), "run"];
        let mut run = command();
        run.args(arguments)
            .args(["--listen", &format!("{}:0", Ipv4Addr::LOCALHOST)]);
        fails(run.arg("--pins").arg(path))
    };
    let directory = tempfile::tempdir().expect("a directory");
    let said = run(&directory.path().join("lpm"));
    assert!(
        said.contains("not in a BPF file system") && said.contains("mount -t bpf"),
        "{said}"
    );
    assert!(!directory.path().join("lpm").exists());
    let bpffs = Bpffs::mount("ro").expect("a BPF file system");
    let said = run(&bpffs.path().join("lpm"));
    assert!(said.contains("read-only"), "{said}");
    let said = run(Path::new("pins"));
    assert!(
        said.contains("pins.path") && said.contains("absolute"),
        "{said}"
    );
}

#[test]
fn a_directory_that_was_never_finished_is_made_anew() {
    if !kernel_is_usable() {
        return;
    }
    let site = Site::new(Mode::Auto, LONG);
    site.agent(&[]).stop();
    let layout = site.layouts().remove(0);
    fs::remove_file(layout.join("STATE")).expect("remove");
    let agent = site.agent(&[]);
    assert!(layout.join("STATE").exists());
    assert_eq!(programs(&site, Mode::Auto.resolve()), 2);
    agent.stop();
    // A map of the right name and the wrong kind.
    fs::remove_file(layout.join("FLOWS")).expect("remove");
    fs::hard_link(layout.join("NAMES"), layout.join("FLOWS")).unwrap_or_else(|_| {
        let names = aya::maps::MapData::from_pin(layout.join("NAMES")).expect("NAMES");
        names.pin(layout.join("FLOWS")).expect("pin");
    });
    let agent = site.agent(&[]);
    agent
        .lpm
        .wait_for("a pinned map is missing or has another layout");
    agent.stop();
}
