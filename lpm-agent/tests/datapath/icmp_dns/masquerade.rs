//! Questions of a pod that leave the node under the node's address: each is
//! counted once, at the pod. The node's own are counted at its card.

use std::{collections::BTreeMap, fs, net::UdpSocket};

use lpm_common::testing::query::Message;
use lpm_testbed::testbed::{Netns, Pair};

use super::{Site, icmp::ping};
use crate::support::lpm::{LIMIT, eventually};

const INTERFACES: &str = "interfaces:
- {name: vethclient, vantage: pod}
- {name: wire0, vantage: nic}
";
const RULES: &str = "table ip nat {
  chain after {
    type nat hook postrouting priority 100;
    oif wire0 masquerade
  }
}
";

/// Asks the server from a socket that is bound to nothing, as some resolvers do.
fn ask(from: &Netns, server: &UdpSocket, ids: std::ops::Range<u16>) {
    let bind = || UdpSocket::bind("0.0.0.0:0").expect("bind");
    let socket = from.run_in(bind).expect("enter");
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
    let mut bytes = [0; 512];
    for id in ids {
        let query = Message::query(id).bytes();
        socket.send_to(&query, (Pair::SERVER[0], 53)).expect("ask");
        let (length, asker) = server.recv_from(&mut bytes).expect("a query");
        bytes[2] |= 0x80;
        server.send_to(&bytes[..length], asker).expect("answer");
        socket.recv(&mut bytes).expect("an answer");
    }
}

/// Observations of a family, by the asking end's namespace.
fn counted(site: &Site, family: &str) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for line in site.agent.metrics().lines() {
        let Some(labels) = line.strip_prefix(&format!("{family}_count{{namespace=\"")) else {
            continue;
        };
        let namespace = labels.split('"').next().expect("a namespace");
        let count = line.rsplit(' ').next().expect("a count");
        *all.entry(namespace.to_owned()).or_default() += count.parse::<u64>().expect("a count");
    }
    all
}

#[test]
fn a_masqueraded_question_is_the_pods() {
    let Some(site) = Site::watching(INTERFACES, &[]) else {
        return;
    };
    let rules = site.directory.path().join("rules");
    fs::write(&rules, RULES).expect("rules");
    let rules = rules.to_str().expect("a path");
    site.pair.node.output("nft", &["-f", rules]).expect("nft");
    let bind = || UdpSocket::bind((Pair::SERVER[0], 53)).expect("bind");
    let server = site.pair.server.run_in(bind).expect("enter");
    server.set_read_timeout(Some(LIMIT)).expect("a limit");

    assert_eq!(ping(&site.pair.client, Pair::SERVER[0], 10).len(), 10);
    ask(&site.pair.client, &server, 0..10);
    assert_eq!(ping(&site.pair.node, Pair::SERVER[0], 7).len(), 7);
    ask(&site.pair.node, &server, 100..107);

    // The pod's at both places, the node's at one.
    for method in ["icmp", "dns"] {
        let series = format!("lpm_samples_total{{method=\"{method}\"}}");
        eventually(&series, || site.agent.value(&series) == Some(27.0));
    }
    for family in ["lpm_icmp_rtt_seconds", "lpm_dns_seconds"] {
        let wanted = BTreeMap::from([("shop".to_owned(), 10), ("host".to_owned(), 7)]);
        assert_eq!(counted(&site, family), wanted, "{family}");
    }
}
