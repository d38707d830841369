//! Owners come and go while traffic flows, more of them than there are rows and ids: each one's
//! series holds what was counted while it was there, and what lives on never goes backwards.

use std::{collections::BTreeMap, fs, net::SocketAddr, time::Duration};

use lpm_testbed::{
    testbed::{Pair, PairConfig},
    traffic::{Background, PORT, RequestConfig, Server, requests},
};
use nix::sys::signal::Signal;

use crate::support::lpm::{Agent, eventually, kernel_is_usable};

/// Owners of the address, one after the other; rows for what is told apart within namespaces are
/// 30, ids 12.
const OWNERS: usize = 36;

/// Owners that may have series at the same time.
const AT_ONCE: usize = 4;

/// Namespace and workload of an owner: most come and go in one namespace, some with theirs.
fn owner(number: usize) -> (String, String) {
    let namespace = match number % 4 {
        3 => format!("run-{number}"),
        _ => "shop".to_owned(),
    };
    (namespace, format!("job-{number}"))
}

/// What was counted, as one scrape has it.
#[derive(Debug, Default)]
struct Scrape {
    /// By namespace and workload.
    workloads: BTreeMap<(String, String), u64>,
    /// By namespace.
    namespaces: BTreeMap<String, u64>,
    /// By namespace, towards the one service that there is.
    services: BTreeMap<String, u64>,
    /// All samples.
    samples: u64,
    /// What found no row.
    full: u64,
}

fn label(series: &str, name: &str) -> String {
    let from = format!("{name}=\"");
    let (_, rest) = series.split_once(&from).unwrap_or_default();
    rest.split('"').next().unwrap_or_default().to_owned()
}

/// By how much series grew, and whether all of those before are still there.
fn grown<K: Ord + std::fmt::Debug>(
    now: &BTreeMap<K, u64>,
    before: &BTreeMap<K, u64>,
) -> (u64, bool) {
    // One that was not there before begins at zero.
    let was = |of| before.get(of).copied().unwrap_or(0);
    let grown = now.iter().map(|(of, count)| {
        let grown = count.checked_sub(was(of));
        grown.unwrap_or_else(|| panic!("{of:?} went backwards to {count}: {before:?}"))
    });
    let whole = before.keys().all(|of| now.contains_key(of));
    (grown.sum(), whole)
}

impl Scrape {
    fn of(agent: &Agent) -> Self {
        let mut found = Self::default();
        for line in agent.metrics().lines() {
            let Some((series, count)) = line.rsplit_once(' ') else {
                continue;
            };
            let Ok(count) = count.parse::<u64>() else {
                continue;
            };
            let namespace = || label(series, "{namespace");
            match series.split('{').next().unwrap_or_default() {
                "lpm_workload_rtt_seconds_count" => {
                    let workload = label(series, ",workload");
                    *found.workloads.entry((namespace(), workload)).or_default() += count;
                }
                "lpm_rtt_seconds_count" => {
                    *found.namespaces.entry(namespace()).or_default() += count;
                }
                "lpm_service_rtt_seconds_count" => {
                    *found.services.entry(namespace()).or_default() += count;
                }
                "lpm_samples_total" => found.samples += count,
                "lpm_map_drops_total" if series.contains("map=\"rows\"") => found.full += count,
                _ => {}
            }
        }
        found
    }

    /// What must hold between one scrape and the next, while this owner is there.
    fn follows(&self, before: &Self, now: usize) {
        // While the agent, or another CPU, is taken away with the claim of the rows in hand, what
        // looks for one counts as overflow: rare, and counted.
        let few = 5 + self.samples / 100;
        assert!(self.full <= few, "nearly each found a row: {self:?}");
        let all = self.samples - before.samples;
        let workloads = grown(&self.workloads, &before.workloads);
        let namespaces = grown(&self.namespaces, &before.namespaces);
        for (grown, whole) in [workloads, namespaces] {
            // What a series grew by before it went nobody has seen, if none looked for that long.
            let fits = grown == all || !whole && grown < all;
            assert!(fits, "{grown} of {all}: {before:?} then {self:?}");
        }
        let stays =
            !before.workloads.contains_key(&owner(now)) || self.workloads.contains_key(&owner(now));
        assert!(stays, "{now} is there: {before:?} then {self:?}");
        let shop = |scrape: &Self| scrape.namespaces.get("shop").copied().unwrap_or(0);
        assert!(shop(self) >= shop(before), "{before:?} then {self:?}");
        assert_eq!(
            self.services.get("shop"),
            self.namespaces.get("shop"),
            "{self:?}"
        );
        for (owner_then, count) in &self.workloads {
            let gone = (0..now.saturating_sub(1)).any(|number| owner(number) == *owner_then);
            let grown = before
                .workloads
                .get(owner_then)
                .is_some_and(|was| was != count);
            assert!(
                !(gone && grown),
                "{owner_then:?} is gone: {before:?} then {self:?}"
            );
            let known =
                owner_then.0 == "overflow" || (0..=now).any(|number| owner(number) == *owner_then);
            assert!(known, "{owner_then:?} is nobody");
        }
    }
}

#[test]
fn owners_come_and_go() {
    if !kernel_is_usable() {
        return;
    }
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let _server = Server::start(&pair.server, PORT).expect("a server");
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let own = |number: usize| {
        let (namespace, workload) = owner(number);
        let names = format!(
            "- {{address: {}, namespace: {namespace}, workload: {workload}, pod: p{number}}}\n\
             - {{address: 198.18.3.9, namespace: shop, workload: stays}}\n\
             - {{cidr: 198.18.2.0/24, namespace: db, kind: service, service: pg}}\n",
            Pair::CLIENT[0]
        );
        fs::write(path("names.yaml"), names).expect("names");
    };
    own(0);
    let config = "names: names.yaml\nflows: 1024\nrows: 40\nwindow: 1s\nkeep_gone: 1s\n\
                  levels: {workload: true, service: true, top: 12}\ncni_results: /none\n";
    fs::write(path("lpm.yaml"), config).expect("a configuration");
    let file = path("lpm.yaml");
    let file = file.to_str().expect("a path");
    let agent = Agent::start(&pair.node, &["-c", file, "-i", Pair::POD_INTERFACE]);
    // Connections that last and some that end, so that flows without packets remember rows, too.
    let config = RequestConfig {
        connections: 4,
        period: Duration::from_millis(4),
        requests_per_connection: Some(50),
        ..RequestConfig::new(SocketAddr::from((Pair::SERVER[0], PORT)))
    };
    let talk = Background::start(&pair.client, move |control| requests(&config, control));
    let talk = talk.expect("start requests");
    let mut last = Scrape::default();
    for number in 0..OWNERS {
        own(number);
        agent.lpm.child.signal(Signal::SIGHUP).expect("signal");
        let mut times = 0;
        eventually(
            "the owner has samples, and those long gone have none",
            || {
                let scrape = Scrape::of(&agent);
                scrape.follows(&last, number);
                last = scrape;
                let has = |number| last.workloads.contains_key(&owner(number));
                times += i32::from(has(number));
                // Twice: what was counted while the first one was being written.
                let over = number.checked_sub(AT_ONCE).is_none_or(|gone| !has(gone));
                times >= 2 && over
            },
        );
    }
    talk.stop().expect("requests");
    let mut agent_counts = Scrape::of(&agent);
    agent_counts.namespaces.remove("overflow");
    assert!(agent_counts.namespaces.len() <= AT_ONCE, "{agent_counts:?}");
    agent.stop();
}
