//! A level is switched on over the counts of an agent that did not tell it apart.

use lpm_agent::kernel::attach::Mode;

use super::{LONG, samples, site::Site};
use crate::support::lpm::{Agent, eventually, kernel_is_usable};

const NAMES: &str = "- {cidr: 198.18.1.0/24, namespace: shop, pod: web-0, workload: web}
- {cidr: 198.18.2.0/24, namespace: db, pod: pg-0, workload: pg}
";

/// Observations at the level of workloads: all of them, and those of the pair that talks.
fn levelled(agent: &Agent) -> [u64; 2] {
    let metrics = agent.metrics();
    let sum = |label: &str| {
        let lines = metrics.lines();
        let its = lines.filter(|line| line.starts_with("lpm_workload_rtt_seconds_count"));
        let values = its
            .filter(|line| line.contains(label))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        values.sum()
    };
    [sum(""), sum(",workload=\"web\",")]
}

#[test]
fn what_was_counted_before_is_no_overflow() {
    if !kernel_is_usable() {
        return;
    }
    let site = Site::new(Mode::Auto, LONG);
    site.name(NAMES);
    let agent = site.agent(&[]);
    let talk = site.talk();
    site.while_it_talks();
    let before = samples(&agent);
    agent.stop();
    site.configure("levels: {workload: true}\n");
    let agent = site.agent(&[]);
    agent.lpm.wait_for("took over from the last agent");
    eventually("the pair is told apart", || {
        site.while_it_talks();
        levelled(&agent)[1] > 0
    });
    let [all, pair] = levelled(&agent);
    assert!(all - pair < 300, "{all} at the level, {pair} of the pair");
    assert!(samples(&agent) > before, "the namespaces have all");
    agent.stop();
    // The next agent knows that it was on.
    let agent = site.agent(&[]);
    assert!(levelled(&agent)[1] >= pair, "it goes on");
    talk.stop().expect("requests");
    agent.stop();
}
