//! Whose an interface is: the pod that the CNI made it for, whatever its address was before.

use std::{fs, net::SocketAddr, path::Path};

use lpm_testbed::{
    testbed::{Pair, PairConfig},
    traffic::{Background, Limit, PORT, RequestConfig, Server, requests},
};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::lpm::{Agent, Lpm, eventually, kernel_is_usable};

/// The address is another pod's still, as far as anybody has heard.
const NAMES: &str = "- {address: 198.18.1.2, namespace: old, pod: gone-0, workload: gone}
- {cidr: 198.18.2.0/24, namespace: db, service: pg}
";

/// The new owner is known.
const LATER: &str = "- {address: 198.18.1.2, namespace: shop, pod: web-0, workload: web}
- {cidr: 198.18.2.0/24, namespace: db, service: pg}
";

/// What libcni writes when it made an interface for a pod.
fn result(directory: &Path, pod: &str, interface: &str, address: &str) {
    result_of(directory, (pod, "eth0"), interface, address);
}

/// Likewise, for one of the pod's interfaces.
fn result_of(directory: &Path, (pod, inside): (&str, &str), interface: &str, address: &str) {
    let text = format!(
        r#"{{"kind":"cniCacheV1","containerId":"{pod}","ifName":"{inside}","networkName":"pods",
        "cniArgs":[["K8S_POD_NAMESPACE","shop"],["K8S_POD_NAME","{pod}"]],
        "result":{{"cniVersion":"1.0.0","interfaces":[{{"name":"{interface}"}},
        {{"name":"{inside}","sandbox":"/var/run/netns/a"}}],"ips":[{{"address":"{address}/24"}}]}}}}"#
    );
    // In one go, as its readers expect: a name appears when the file is whole.
    let whole = directory.with_file_name("whole");
    fs::write(&whole, text).expect("write");
    fs::rename(whole, directory.join(pod)).expect("rename");
}

fn talk(pair: &Pair, count: u64) {
    let config = RequestConfig {
        limit: Limit::count(count),
        ..RequestConfig::new(SocketAddr::from((Pair::SERVER[0], PORT)))
    };
    let talk = Background::start(&pair.client, move |control| requests(&config, control));
    talk.expect("start requests").join().expect("requests");
}

/// Label sets of the namespaces' histograms.
fn namespaces(agent: &Agent) -> Vec<String> {
    let metrics = agent.metrics();
    let counts = metrics
        .lines()
        .filter(|line| line.starts_with("lpm_rtt_seconds_count"));
    let mut found: Vec<String> = counts
        .filter_map(|line| Some(line.split("namespace=\"").nth(1)?.split('"').next()?.into()))
        .collect();
    found.dedup();
    found
}

/// Talks while somebody watches: nothing that is shown may bear the address' old name.
fn watch(pair: &Pair, agent: &Agent) {
    let arguments = ["watch", "--agent", &agent.url, "--format", "json"];
    let watch = Lpm::start(&pair.node, &arguments);
    watch.wait_for("watching what the agent measures");
    talk(pair, 20);
    let mut legs = [0, 0];
    while legs.contains(&0) {
        let sample: Value = serde_json::from_str(&watch.line()).expect("JSON");
        let is_remote = sample["leg"] == "remote";
        let ends = [&sample["src_name"], &sample["dst_name"]];
        let [local, remote] = if is_remote { ends } else { [ends[1], ends[0]] };
        assert_eq!(local["pod"], "web-0", "{sample}");
        assert_eq!(remote["service"], "pg", "{sample}");
        legs[usize::from(is_remote)] += 1;
    }
    assert!(watch.end(Signal::SIGTERM).success());
    let flows = agent.list("flows?all=true");
    assert!(!flows.is_empty(), "closed flows are there, too");
    for flow in flows {
        assert_eq!(flow["local"]["name"]["pod"], "web-0", "{flow}");
        assert_eq!(flow["remote"]["name"]["service"], "pg", "{flow}");
    }
}

#[test]
fn the_local_end_is_the_interfaces() {
    if !kernel_is_usable() {
        return;
    }
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let _server = Server::start(&pair.server, PORT).expect("a server");
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("results")).expect("a directory");
    result(&path("results"), "web-0", Pair::POD_INTERFACE, "198.18.1.2");
    fs::write(path("names.yaml"), NAMES).expect("names");
    let config = format!(
        "names: names.yaml\nflows: 1024\nrows: 16\nlevels: {{workload: true, pod: true}}\n\
         cni_results: {}\n",
        path("results").display()
    );
    fs::write(path("lpm.yaml"), config).expect("a configuration");
    let file = path("lpm.yaml");
    let arguments = [
        "-c",
        file.to_str().expect("a path"),
        "-i",
        Pair::POD_INTERFACE,
    ];
    let agent = Agent::start(&pair.node, &arguments);
    talk(&pair, 100);
    assert_eq!(namespaces(&agent), ["shop"], "the address was old's");
    let text = agent.metrics();
    assert!(text.contains("pod=\"web-0\""), "{text}");
    assert!(
        text.contains("workload=\"overflow\""),
        "its workload is not known: {text}"
    );
    assert!(!text.contains("gone"), "{text}");
    watch(&pair, &agent);

    // The names come to know it: the workload with them.
    fs::write(path("names.yaml"), LATER).expect("names");
    agent.lpm.child.signal(Signal::SIGHUP).expect("signal");
    eventually("the workload is known", || {
        talk(&pair, 10);
        agent.metrics().contains("workload=\"web\"")
    });
    // The pod goes, and another gets the interface's name.
    fs::remove_file(path("results").join("web-0")).expect("remove");
    result(&path("results"), "web-1", Pair::POD_INTERFACE, "198.18.1.2");
    eventually("the next one is known", || {
        talk(&pair, 10);
        agent.metrics().contains("pod=\"web-1\"")
    });
    assert_eq!(namespaces(&agent), ["shop"]);
    // libcni writes in place: what is read half is read again, though the directory stays as it is.
    let file = path("results").join("web-1");
    let whole = fs::read_to_string(&file)
        .expect("read")
        .replace("web-1", "web-2");
    fs::write(path("results").join("web-2"), &whole[..100]).expect("write");
    fs::remove_file(file).expect("remove");
    let of_the_last = || -> Vec<String> {
        let metrics = agent.metrics();
        let its = metrics
            .lines()
            .filter(|line| line.contains("pod=\"web-1\""));
        its.map(str::to_owned).collect()
    };
    eventually("it is not the last one's any more", || {
        let before = of_the_last();
        talk(&pair, 10);
        of_the_last() == before
    });
    assert!(
        !agent.metrics().contains("pod=\"overflow\""),
        "all that is known is told apart"
    );
    fs::write(path("results").join("web-2"), whole).expect("write");
    eventually("it is whole", || {
        talk(&pair, 10);
        agent.metrics().contains("pod=\"web-2\"")
    });
}

/// An agent with results of Multus only.
fn with_multus(pair: &Pair, directory: &Path, names: &str) -> Agent {
    let path = |name: &str| directory.join(name);
    fs::write(path("names.yaml"), names).expect("names");
    let config = format!(
        "names: names.yaml\nflows: 1024\nrows: 16\nlevels: {{workload: true, pod: true}}\n\
         cni_results: /none\nmultus_results: {}\n",
        path("results").display()
    );
    fs::write(path("lpm.yaml"), config).expect("a configuration");
    let file = path("lpm.yaml");
    let file = file.to_str().expect("a path");
    Agent::start(&pair.node, &["-c", file, "-i", Pair::POD_INTERFACE])
}

#[test]
fn multus_results_name_to_the_last_packet() {
    if !kernel_is_usable() {
        return;
    }
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let _server = Server::start(&pair.server, PORT).expect("a server");
    let directory = tempfile::tempdir().expect("a directory");
    let results = directory.path().join("results");
    fs::create_dir(&results).expect("a directory");
    let interface = Pair::POD_INTERFACE;
    result_of(&results, ("web-0", "net1"), interface, "198.18.1.2");
    let agent = with_multus(&pair, directory.path(), LATER);
    talk(&pair, 20);
    let text = agent.metrics();
    for label in ["pod=\"web-0\"", "workload=\"web\""] {
        assert!(text.contains(label), "{text}");
    }
    // Nobody knows the address any more, as when the pod's object is gone; the pod still talks.
    let without = LATER.lines().skip(1).collect::<Vec<_>>().join("\n");
    fs::write(directory.path().join("names.yaml"), without).expect("names");
    agent.lpm.child.signal(Signal::SIGHUP).expect("signal");
    agent.lpm.wait_for("names and rules are applied");
    talk(&pair, 100);
    let text = agent.metrics();
    assert_eq!(namespaces(&agent), ["shop"]);
    assert!(!text.contains("workload=\"overflow\""), "{text}");
    agent.stop();
}

#[test]
fn a_switch_that_runs_as_a_pod_counts_nobodys_flows() {
    if !kernel_is_usable() {
        return;
    }
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let _server = Server::start(&pair.server, PORT).expect("a server");
    let directory = tempfile::tempdir().expect("a directory");
    let results = directory.path().join("results");
    fs::create_dir(&results).expect("a directory");
    let agent = with_multus(&pair, directory.path(), LATER);
    talk(&pair, 20);
    eventually("it is taken for a pod", || namespaces(&agent) == ["shop"]);
    // Multus' result comes after the interface, as it always does.
    let switch = ("sps-0a1b2c3d-x7k2p", "net1");
    result_of(&results, switch, Pair::POD_INTERFACE, "198.18.1.2");
    eventually("it is a bridge", || {
        let attached = format!(
            "lpm_interface_attached{{interface=\"{}\",vantage=\"bridge\"}}",
            Pair::POD_INTERFACE
        );
        agent.value(&attached) == Some(1.0)
    });
    let before = counted(&agent);
    eventually("its flow is seen", || {
        talk(&pair, 20);
        // It has ended: without `all` it is shown for as long as its last packets are on the way.
        let flows = agent.list("flows?all=true");
        flows.iter().any(|flow| flow["vantage"] == "bridge")
    });
    assert_eq!(counted(&agent), before, "the pod's own interface counts");
    agent.stop();
}

/// All observations of the namespaces' histograms.
fn counted(agent: &Agent) -> u64 {
    let metrics = agent.metrics();
    let lines = metrics.lines();
    let counts = lines.filter(|line| line.starts_with("lpm_rtt_seconds_count"));
    let values = counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    values.sum()
}

#[test]
fn a_names_file_tells_pods_apart_without_a_cni() {
    if !kernel_is_usable() {
        return;
    }
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let _server = Server::start(&pair.server, PORT).expect("a server");
    let directory = tempfile::tempdir().expect("a directory");
    let agent = with_multus(&pair, directory.path(), LATER);
    eventually("the pod is told apart", || {
        talk(&pair, 10);
        agent.metrics().contains("pod=\"web-0\"")
    });
    assert!(!agent.metrics().contains("pod=\"overflow\""));
    // The file says that it is another's.
    let other = LATER.replace("web-0", "web-9");
    fs::write(directory.path().join("names.yaml"), other).expect("names");
    agent.lpm.child.signal(Signal::SIGHUP).expect("signal");
    eventually("the other pod is told apart", || {
        talk(&pair, 10);
        agent.metrics().contains("pod=\"web-9\"")
    });
    assert!(!agent.metrics().contains("pod=\"overflow\""));
    agent.stop();
}
