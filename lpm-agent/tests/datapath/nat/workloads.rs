//! Whose the flows to services are: the workloads' behind them.

use std::net::IpAddr;

use super::{SERVICES, Site, named};

/// Services in the namespaces of what is behind them, as Kubernetes has it.
const WORKLOADS: &str = "
- {address: 198.19.1.2, namespace: alpha, pod: web-0, workload: web}
- {address: 198.19.1.3, namespace: beta, pod: cart-0, workload: cart}
- {address: 198.19.2.2, namespace: gamma, pod: store-0, workload: store}
- {address: 198.19.100.1, namespace: gamma, service: front}
- {address: 198.19.100.2, namespace: beta, service: cart}
- {address: 198.19.100.3, namespace: elsewhere, service: other}
";

/// Observations of the series of a metric that bear all of these labels.
fn observed(site: &Site, metric: &str, labels: &[&str]) -> u64 {
    let metrics = site.monitor.metrics().expect("metrics");
    let name = format!("{metric}_count{{");
    let lines = metrics.lines().filter(|line| line.starts_with(&name));
    let its = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
    let values = its.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    values.sum()
}

#[test]
fn round_trips_to_a_service_count_for_the_workload_behind_it() {
    let levels = "methods: [ts]\nlevels: {workload: true, service: true}\n";
    let Some(site) = named(levels, WORKLOADS) else {
        return;
    };
    let a0 = site.netns("a0");
    let [far, near, other, _] = SERVICES.map(IpAddr::V4);
    let kind = "peer_kind=\"service\"";
    for (service, peer, workload, name) in [
        (far, "gamma", "store", "front"),
        (near, "beta", "cart", "cart"),
    ] {
        site.talk(a0, service);
        let peer = format!("peer_namespace=\"{peer}\"");
        let of = |metric, label: &str| observed(&site, metric, &[kind, &peer, label]);
        let all = of("lpm_rtt_seconds", "namespace=\"alpha\"");
        let levelled = of("lpm_workload_rtt_seconds", ",workload=\"web\"");
        let behind = format!("peer_workload=\"{workload}\"");
        let behind = of("lpm_workload_rtt_seconds", &behind);
        let by_name = of("lpm_service_rtt_seconds", &format!("service=\"{name}\""));
        println!("{service}: {behind} of {all} round trips for {workload}");
        assert!(all >= 40, "{all}");
        assert_eq!(levelled, all, "each is counted once at the level");
        assert_eq!(by_name, all, "and for the service");
        assert!(
            behind * 100 >= all * 95,
            "{behind} of {all} for the workload"
        );
    }
    // What is behind it is not of its namespace: the namespaces stay as they are.
    site.talk(a0, other);
    let peer = "peer_namespace=\"elsewhere\"";
    let none = ",peer_workload=\"\"";
    let all = observed(&site, "lpm_rtt_seconds", &[kind, peer]);
    let without = observed(&site, "lpm_workload_rtt_seconds", &[kind, peer, none]);
    assert!(all >= 40 && all == without, "{without} of {all}");
}
