//! A network card watched by XDP for what it receives and by TC for what it
//! sends: one vantage, the same round trips as by TC alone, and nobody else's
//! program touched.

use std::{collections::BTreeMap, io::Write, net::SocketAddr, path::Path, time::Duration};

use aya::programs::{Xdp, xdp::XdpMode};
use lpm_agent::kernel::load::{Kernel, LoadSettings};
use lpm_testbed::{
    testbed::{Impairment, Netns, Pair, PairConfig},
    traffic::{Background, BulkConfig, Limit, PORT, RequestConfig, Server, bulk, requests},
    truth::{Leg, Monitor, Sample, WireTruth},
};
use serde_json::Value;

use crate::support::kernel::{SETTINGS, kernel_is_usable};

const CARD: &str = Pair::WIRE_INTERFACE;
const DELAY: Duration = Duration::from_millis(2);

fn configuration(xdp: Option<&str>) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let xdp = xdp.map(|mode| format!(", xdp: {mode}")).unwrap_or_default();
    writeln!(
        file,
        "interfaces: [{{name: {CARD}, vantage: nic{xdp}}}, {{vantage: none}}]"
    )
    .expect("write");
    file
}

fn monitor(node: &Netns, xdp: Option<&str>) -> Monitor {
    let file = configuration(xdp);
    let lpm = Path::new(env!("CARGO_BIN_EXE_lpm"));
    let path = file.path().to_str().expect("a path");
    Monitor::start(lpm, node, &["-c", path]).expect("an agent")
}

/// The kernel's number of the XDP program on the card, and how it runs.
fn program(node: &Netns) -> Option<(u64, String)> {
    let said = node.output("ip", &["-json", "link", "show", CARD]);
    let links: Value = serde_json::from_str(&said.expect("ip")).expect("JSON");
    let xdp = &links[0]["xdp"];
    let id = xdp["prog"]["id"].as_u64()?;
    Some((id, xdp["mode"].to_string()))
}

/// What a sample is of, whatever its time.
fn identities(samples: &[Sample]) -> BTreeMap<String, &Sample> {
    let identity = |s: &Sample| {
        format!(
            "{}:{} > {}:{} {:?} {:?} {}",
            s.src, s.sport, s.dst, s.dport, s.leg, s.method, s.id
        )
    };
    samples.iter().map(|s| (identity(s), s)).collect()
}

fn as_by_tc(mode: &str) {
    if !kernel_is_usable() {
        return;
    }
    let pair = Pair::new(&PairConfig {
        wire: Some(Impairment::delay(DELAY)),
        ..PairConfig::default()
    })
    .expect("the testbed");
    let _server = Server::start(&pair.server, PORT).expect("a server");
    let by_tc = monitor(&pair.node, None);
    let by_xdp = monitor(&pair.node, Some(mode));
    assert!(program(&pair.node).is_some(), "an XDP program is there");
    for server in Pair::SERVER {
        let target = SocketAddr::new(server, PORT);
        let asking = RequestConfig {
            limit: Limit::count(60),
            period: Duration::from_millis(5),
            ..RequestConfig::new(target)
        };
        let asking = Background::start(&pair.client, move |c| requests(&asking, c));
        asking.expect("a client").join().expect("it ends well");
        let sending = BulkConfig {
            target,
            limit: Limit::count(1_000_000),
            verify: true,
        };
        let sending = Background::start(&pair.client, move |c| bulk(&sending, c));
        let report = sending.expect("a client").join().expect("it ends well");
        assert_eq!(report.intact, Some(true), "every packet passes, unaltered");
    }
    for monitor in [&by_tc, &by_xdp] {
        monitor.settle().expect("all samples");
    }
    let wire = WireTruth::new(&pair.wire().take_records());
    let (by_tc, by_xdp) = (by_tc.samples(), by_xdp.samples());
    let (tc, xdp) = (identities(&by_tc), identities(&by_xdp));
    let both = tc.keys().filter(|key| xdp.contains_key(*key)).count();
    println!(
        "{mode}: {} by TC, {} by XDP, {both} by both",
        tc.len(),
        xdp.len()
    );
    assert!(both > 100 && both * 100 >= tc.len().max(xdp.len()) * 90);
    for sample in xdp.values() {
        assert_eq!((&*sample.interface, &*sample.vantage), (CARD, "nic"));
        if sample.leg == Leg::Remote {
            let truth = wire.truth(sample);
            let truth = truth.unwrap_or_else(|| panic!("a false sample: {sample:?}"));
            assert!(
                sample.rtt_ns + 200 >= truth.beyond_ns,
                "{sample:?} is shorter than {truth:?}"
            );
        }
    }
}

#[test]
fn native_as_by_tc() {
    as_by_tc("native");
}

#[test]
fn generic_as_by_tc() {
    as_by_tc("generic");
}

#[test]
fn it_goes_with_the_agent() {
    if !kernel_is_usable() {
        return;
    }
    let pair = Pair::new(&PairConfig::default()).expect("the testbed");
    let monitor = monitor(&pair.node, Some("native"));
    assert!(program(&pair.node).is_some());
    drop(monitor);
    assert_eq!(program(&pair.node), None);
}

#[test]
fn somebody_elses_program_stays_and_is_named() {
    if !kernel_is_usable() {
        return;
    }
    let pair = Pair::new(&PairConfig::default()).expect("the testbed");
    let mut kernel = Kernel::load(&LoadSettings {
        xdp: true,
        ..SETTINGS
    })
    .expect("programs");
    let foreign: &mut Xdp = kernel
        .ebpf_mut()
        .program_mut("lpm_xdp")
        .expect("a program")
        .try_into()
        .expect("of XDP");
    // As somebody else would attach it.
    let id = foreign.info().expect("info").id();
    pair.node
        .run_in(|| foreign.attach(CARD, XdpMode::Skb).map(|_| ()))
        .expect("the namespace")
        .expect("attached");
    let before = program(&pair.node);
    assert_eq!(before.as_ref().map(|(id, _)| *id), Some(u64::from(id)));
    let file = configuration(Some("native"));
    let path = file.path().to_str().expect("a path");
    let lpm = env!("CARGO_BIN_EXE_lpm");
    // It may end with an error for other reasons; what it says is what counts.
    let check = pair.node.command(lpm).args(["check", "-c", path]).output();
    let said = String::from_utf8(check.expect("lpm check").stdout).expect("text");
    let found = format!("XDP program {id} of another tool is attached");
    assert!(said.contains(&found), "{said}");
    for mode in ["native", "generic"] {
        let monitor = monitor(&pair.node, Some(mode));
        let error = format!("{CARD} has another XDP program (id {id})");
        assert!(monitor.said().contains(&error), "{}", monitor.said());
        let links = monitor.list("links").expect("links");
        assert!(links.is_empty(), "both programs or none: {links:?}");
        assert_eq!(program(&pair.node), before);
        drop(monitor);
        assert_eq!(program(&pair.node), before);
    }
}

#[test]
fn what_is_not_configured_changes_no_program() {
    if !kernel_is_usable() {
        return;
    }
    let load = |tunnels: bool, xdp: bool| {
        let mut settings = LoadSettings { xdp, ..SETTINGS };
        settings.tunnels.vxlan[0] = if tunnels { 4789 } else { 0 };
        let kernel = Kernel::load(&settings).expect("programs");
        let programs = kernel.programs().expect("programs");
        let tags = programs.iter().map(|program| (program.name, program.tag));
        tags.collect::<BTreeMap<_, _>>()
    };
    let plain = load(false, false);
    let extra = [
        "lpm_from_local_inner",
        "lpm_to_local_inner",
        "lpm_xdp",
        "lpm_xdp_inner",
    ];
    assert!(
        extra.iter().all(|name| !plain.contains_key(name)),
        "{plain:?}"
    );
    let all = load(true, true);
    assert!(extra.iter().all(|name| all.contains_key(name)), "{all:?}");
    // The tag is a hash of the instructions: what everybody runs stays the same.
    for (name, tag) in &plain {
        assert_eq!(all[name], *tag, "{name}");
    }
    assert!(!load(true, false).contains_key("lpm_xdp_inner"));
    assert!(!load(false, true).contains_key("lpm_xdp_inner"));
}
