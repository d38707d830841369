//! A CNI that redirects packets into pods (`bpf_redirect_peer`), as Cilium's and
//! Calico's eBPF host routing do.

use std::{
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::HashMap,
    programs::{
        SchedClassifier, TcAttachType,
        tc::{NlOptions, TcAttachOptions},
    },
};
use nix::net::if_::if_nametoindex;

use super::{Error, Netns};

/// Path of the object with the program, instead of the one that
/// `cargo xtask build` makes.
const OVERRIDE: &str = "LPM_BENCH_OBJECT";
const PROGRAM: &str = "testbed_redirect";

/// A pod into which packets are redirected.
#[derive(Debug, Clone, Copy)]
pub struct RedirectedPod<'a> {
    /// Its namespace, where its interface is `eth0`.
    pub netns: &'a Netns,
    /// The node's end of its veth.
    pub interface: &'a str,
    /// What is sent there is redirected.
    pub addresses: &'a [IpAddr],
}

/// The program on a node's interfaces, until dropped: what enters there and goes
/// to one of the pods never passes the node's end of the pod's veth.
#[derive(Debug)]
pub struct Redirect {
    // Its links go with it.
    _ebpf: Ebpf,
}

impl Redirect {
    /// Puts the program on the ingress of these interfaces of a node: where the
    /// kernel likes it best, or in any case as a filter, as below 6.6.
    pub fn install(
        node: &Netns,
        interfaces: &[&str],
        pods: &[RedirectedPod<'_>],
        as_filter: bool,
    ) -> Result<Self, Error> {
        let mut ebpf = load()?;
        let map = ebpf.map_mut("TESTBED_PODS");
        let map = map.ok_or_else(|| wrong("the object has no map TESTBED_PODS"))?;
        let mut places = HashMap::<_, [u8; 16], [u8; 12]>::try_from(map).map_err(wrong)?;
        for pod in pods {
            let place = place(node, pod)?;
            for address in pod.addresses {
                let key = mapped(*address).octets();
                places.insert(key, place, 0).map_err(wrong)?;
            }
        }
        let program = ebpf.program_mut(PROGRAM);
        let program = program.ok_or_else(|| wrong("the object has no program testbed_redirect"))?;
        let program: &mut SchedClassifier = program.try_into().map_err(wrong)?;
        program.load().map_err(wrong)?;
        node.run_in(|| {
            for interface in interfaces {
                // Below 6.6 this is a filter, which needs the qdisc; where it is there already
                // this fails and is right.
                let _ = aya::programs::tc::qdisc_add_clsact(interface);
                let attached = if as_filter {
                    let options = TcAttachOptions::Netlink(NlOptions::default());
                    program.attach_with_options(interface, TcAttachType::Ingress, options)
                } else {
                    program.attach(interface, TcAttachType::Ingress)
                };
                attached.map_err(wrong)?;
            }
            Ok(())
        })??;
        Ok(Self { _ebpf: ebpf })
    }
}

fn load() -> Result<Ebpf, Error> {
    let path = std::env::var_os(OVERRIDE).map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../target/bpf/lpm-bench"
            ))
        },
        PathBuf::from,
    );
    let object = std::fs::read(&path).map_err(|source| {
        let path = path.display();
        Error::system(
            format!("cannot read {path} (`cargo xtask build` makes it)"),
            source,
        )
    })?;
    EbpfLoader::new().load(&object).map_err(wrong)
}

/// The map's value: index of the node's end, the pod's MAC address, padding.
fn place(node: &Netns, pod: &RedirectedPod<'_>) -> Result<[u8; 12], Error> {
    let index = node.run_in(|| if_nametoindex(pod.interface))?;
    let index = index.map_err(|errno| {
        Error::system(
            format!("cannot find the interface {}", pod.interface),
            errno,
        )
    })?;
    let link = pod
        .netns
        .output("ip", &["-br", "link", "show", "dev", "eth0"])?;
    let mac = link.split_whitespace().nth(2).unwrap_or_default();
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&index.to_ne_bytes());
    let mut octets = mac.split(':').map(|octet| u8::from_str_radix(octet, 16));
    for byte in &mut bytes[4..10] {
        let octet = octets.next().and_then(Result::ok);
        *byte = octet.ok_or_else(|| wrong(format!("{mac} is no MAC address")))?;
    }
    Ok(bytes)
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "for map_err, which gives it away"
)]
fn wrong(why: impl ToString) -> Error {
    Error::Command {
        command: format!("load and attach {PROGRAM}"),
        reason: why.to_string(),
    }
}
