//! Sweeps over 16 equal-cost paths. Which source port took which path is known from tcpdump at the
//! machine that chooses.

mod faults;
mod truth;

use std::{
    collections::BTreeSet,
    io::{self, BufRead as _, BufReader},
    net::{IpAddr, Ipv6Addr, UdpSocket},
    os::fd::AsRawFd as _,
    process::Stdio,
};

use lpm_testbed::testbed::{Impairment, Multipath, MultipathConfig, Netns, NsChild, wire::Loss};
use serde_json::Value;

use self::{faults::is_udp, truth::Truth};
use crate::support::{
    kernel::{path_of, process::lpm},
    turn,
};

/// The link that is a wire in the tests with a bad path.
const BAD: u8 = 5;

/// The reflector's port.
const PORT: u16 = 8620;

/// Enough source ports that some take the bad link: none does with the chance 1 in 62.
const PORTS: u16 = 64;

fn multipath(wire: Option<u8>, policy: u8) -> Multipath {
    let links = 16;
    Multipath::new(&MultipathConfig {
        links,
        wire,
        policy,
    })
    .expect("16 links")
}

/// Starts a reflector, and waits until it answers.
fn reflect(netns: &Netns) -> NsChild {
    let mut command = lpm();
    command
        .args(["--netns", &path_of(netns), "reflect"])
        .args(["--listen", &format!("[::]:{PORT}"), "--rate", "100000"])
        .args(["--allow", "198.18.0.0/15", "--allow", "fd00::/8"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    let child = netns.spawn(&mut command).expect("start lpm reflect");
    let mut log = BufReader::new(child.stderr().expect("stderr"));
    let mut line = String::new();
    log.read_line(&mut line).expect("read its log");
    assert!(line.contains("answering"), "{line}");
    child
}

/// What a sweep said: a record of each path, and the summary.
struct Said {
    paths: Vec<Value>,
    summary: Value,
}

impl Said {
    fn bad(&self) -> BTreeSet<u64> {
        let bad = self.paths.iter().filter(|path| path["bad"] == true);
        let bad: BTreeSet<u64> = bad.map(|path| number(&path["source_port"])).collect();
        let ports = self.summary["paths"]["bad_source_ports"].as_array();
        let ports = ports.expect("ports").iter().map(number).collect();
        assert_eq!(bad, ports, "{}", self.summary);
        assert_eq!(number(&self.summary["paths"]["bad"]), bad.len() as u64);
        bad
    }
}

fn number(value: &Value) -> u64 {
    let number = value.as_u64();
    number.unwrap_or_else(|| panic!("no number: {value}"))
}

fn sweep(netns: &Netns, target: IpAddr, arguments: &[&str]) -> Said {
    let target = std::net::SocketAddr::new(target, PORT).to_string();
    let output = lpm()
        .args(["--netns", &path_of(netns), "probe", "--format", "json"])
        .args(["--protocol", "udp-sweep"])
        .args(arguments)
        .arg(target)
        .output()
        .expect("run lpm probe");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines();
    let mut paths: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let summary = paths.pop().expect("a summary");
    assert!(paths.iter().all(|path| path["type"] == "path"), "{text}");
    assert_eq!(summary["type"], "summary", "{text}");
    Said { paths, summary }
}

/// With the kernel's default all ports take one path over IPv4, and the summary says so. What is bad
/// there is bad for all, so no path is named.
#[test]
fn one_path_over_ipv4_with_the_kernels_default() {
    turn::take();
    let network = multipath(None, 0);
    let _reflector = reflect(&network.far);
    for (target, most, policy) in [
        (Multipath::FAR[0], 1, 0),
        (Multipath::FAR[1], u64::from(PORTS), 0),
    ] {
        let capture = Truth::start(&network.near, &format!("udp dst port {PORT}"));
        let ports = PORTS.to_string();
        let said = sweep(
            &network.near,
            target,
            &["--paths", &ports, "-c", "10", "-i", "0.02"],
        );
        let truth = capture.end();
        let links: BTreeSet<&String> = truth.values().flatten().collect();
        let paths = &said.summary["paths"];
        eprintln!("to {target}: {} links, {paths}", links.len());
        assert_eq!(number(&paths["most_from_here"]), most);
        assert_eq!(number(&paths["hash_policy"]), policy);
        assert_eq!(number(&paths["probed"]), u64::from(PORTS));
        assert_eq!(truth.len(), usize::from(PORTS));
        // 64 flows on 16 links: that fewer than 8 are taken has a chance below 1e-12.
        assert!(if most == 1 {
            links.len() == 1
        } else {
            links.len() >= 8
        });
        assert_eq!(said.bad(), BTreeSet::new());
    }
}

/// A sweep with the ports of an earlier one takes its paths again.
#[test]
fn the_same_ports_take_the_same_paths() {
    turn::take();
    let network = multipath(None, 0);
    let _reflector = reflect(&network.far);
    let arguments = ["--source-port", "50000", "-c", "3", "-i", "0.02"];
    let mut all = Vec::new();
    for _ in 0..2 {
        let capture = Truth::start(&network.near, &format!("udp dst port {PORT}"));
        let said = sweep(&network.near, Multipath::FAR[1], &arguments);
        assert_eq!(said.paths.len(), 16);
        assert_eq!(number(&said.paths[0]["source_port"]), 50_000);
        let labels = said.paths.iter().map(|path| number(&path["flow_label"]));
        all.push((labels.collect::<Vec<_>>(), capture.end()));
    }
    assert_eq!(all[0], all[1]);
}

/// Takes a flow label that nobody else may use. The kernel asks all others of the network namespace
/// for a lease then.
fn take_a_label(netns: &Netns) -> UdpSocket {
    let IpAddr::V6(destination) = Multipath::FAR[1] else {
        panic!("{:?}", Multipath::FAR)
    };
    // `struct in6_flowlabel_req` of linux/in6.h: IPV6_FL_S_EXCL, IPV6_FL_F_CREATE.
    let mut lease = [0_u8; 32];
    lease[..16].copy_from_slice(&destination.octets());
    lease[16..20].copy_from_slice(&0x7_ffff_u32.to_be_bytes());
    lease[21] = 1;
    lease[22..24].copy_from_slice(&1_u16.to_ne_bytes());
    let open = || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0));
    let socket = netns.run_in(open).expect("enter").expect("a socket");
    // SAFETY: the pointer is to live bytes, and the length is theirs.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_FLOWLABEL_MGR,
            lease.as_ptr().cast(),
            32,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    socket
}

/// Where somebody has a flow label for himself, packets with labels need a lease.
#[test]
fn a_sweep_has_leases_of_its_labels() {
    turn::take();
    let network = multipath(None, 0);
    let _reflector = reflect(&network.far);
    let _label = take_a_label(&network.near);
    let said = sweep(&network.near, Multipath::FAR[1], &["-c", "3", "-i", "0.02"]);
    assert_eq!(number(&said.summary["received"]), 48, "{}", said.summary);
    assert_eq!(number(&said.summary["unreachable"]), 0);
}

/// 20 rounds over each family, on a network without a bad path.
#[test]
fn a_good_network_gives_no_alarm() {
    turn::take();
    for (policy, is_v6) in [(1, false), (0, true)] {
        let network = multipath(None, policy);
        let _reflector = reflect(&network.far);
        let target = Multipath::FAR[usize::from(is_v6)];
        let mut probes = 0;
        for round in 0..20 {
            let said = sweep(&network.near, target, &["-c", "20", "-i", "0.02"]);
            probes += number(&said.summary["sent"]);
            assert_eq!(
                said.bad(),
                BTreeSet::new(),
                "round {round}: {:?}",
                said.paths
            );
        }
        eprintln!("to {target}: 20 rounds, {probes} probes, no alarm");
        assert_eq!(probes, 20 * 16 * 20);
    }
}

#[test]
fn text_names_the_ports_and_what_is_not_possible_is_refused() {
    turn::take();
    let network = multipath(Some(BAD), 1);
    let _reflector = reflect(&network.far);
    let target = format!("198.18.8.2:{PORT}");
    let probe = |arguments: &[&str]| {
        let mut command = lpm();
        command.args(["--netns", &path_of(&network.near), "probe"]);
        let output = command.args(arguments).output().expect("run lpm probe");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        (output.status.code(), said)
    };
    network.impair(Impairment {
        loss: Loss::when(is_udp),
        ..Impairment::default()
    });
    let arguments = ["--protocol", "udp-sweep", "--paths", "256", "-c", "8"];
    let (code, said) = probe(&[&arguments[..], &["-i", "0.2", "-W", "0.3", &target]].concat());
    assert_eq!(code, Some(0), "{said}");
    let last = said.lines().find(|line| line.contains("paths bad"));
    let last = last.unwrap_or_else(|| panic!("{said}"));
    let named = last.split_once(": source ports ").expect("ports").1;
    for port in named.split(", ") {
        let row = said
            .lines()
            .find(|line| line.trim_start().starts_with(port));
        assert!(row.is_some_and(|row| row.contains("bad: loss")), "{said}");
    }
    assert!(
        said.contains("hash policy 1 counts source ports: up to 256"),
        "{said}"
    );
    for (arguments, words) in [
        (vec!["--paths", "1"], "2..=256"),
        (vec!["--paths", "257"], "2..=256"),
        (vec!["--paths", "4"], "add --protocol udp-sweep"),
        (
            vec!["--protocol", "icmp", "--source-port", "5000"],
            "udp-sweep",
        ),
        (
            vec!["--protocol", "udp-sweep", "--train", "3"],
            "leave out --train",
        ),
        (
            vec!["--protocol", "udp-sweep", "--ecn", "1"],
            "leave out --ecn",
        ),
        (
            vec!["--protocol", "udp-sweep", "--source-port", "65530"],
            "--source-port the first",
        ),
    ] {
        let (code, said) = probe(&[&arguments[..], &["-c", "1", &target]].concat());
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}
