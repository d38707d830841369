//! Tests of the owner chain from pods up to workloads.

use super::*;

/// Kind and name of the workload behind an address.
fn workload(cluster: &Cluster, address: &str) -> String {
    let name = cluster.at(address).expect("a name");
    let words = [&name.workload_type, &name.workload].map(|w| w.as_deref().unwrap_or("-"));
    words.join(" ")
}

#[test]
fn the_owner_chain_leads_to_the_workload() {
    let mut cluster = Cluster::new();
    // The label of its pods tells the workload, before the replica set is seen.
    let web = owned(
        pod("web-5c-x", "a", &["198.18.1.1"]),
        "ReplicaSet",
        "web-5c",
        "r1",
    );
    cluster.pod(with(
        web,
        "/metadata/labels",
        json!({"pod-template-hash": "5c"}),
    ));
    assert_eq!(workload(&cluster, "198.18.1.1"), "deployment web");
    // A replica set and a job without owner, then ones with an owner.
    cluster.pod(owned(
        pod("rs-x", "a", &["198.18.1.2"]),
        "ReplicaSet",
        "rs",
        "r2",
    ));
    cluster.pod(owned(
        pod("tidy-1-x", "a", &["198.18.1.3"]),
        "Job",
        "tidy-1",
        "j1",
    ));
    assert_eq!(workload(&cluster, "198.18.1.2"), "replicaset rs");
    assert_eq!(workload(&cluster, "198.18.1.3"), "job tidy-1");
    let job = owned(
        json!({"metadata": {"name": "tidy-1", "uid": "j1"}}),
        "CronJob",
        "tidy",
        "c1",
    );
    cluster.take(StateEvent::Job(Event::Apply(read(job))));
    assert_eq!(workload(&cluster, "198.18.1.3"), "cronjob tidy");
    let set = json!({"metadata": {"name": "rs", "uid": "r2"}});
    let set = owned(set, "Deployment", "front", "d1");
    cluster.take(StateEvent::ReplicaSet(Event::Apply(read(set))));
    assert_eq!(workload(&cluster, "198.18.1.2"), "deployment front");
    // The next pod is known at once, and so is a static pod.
    cluster.pod(owned(
        pod("rs-y", "a", &["198.18.1.4"]),
        "ReplicaSet",
        "rs",
        "r2",
    ));
    cluster.pod(owned(
        pod("proxy-n1", "a", &["198.18.1.5"]),
        "Node",
        "n1",
        "n",
    ));
    assert_eq!(workload(&cluster, "198.18.1.4"), "deployment front");
    assert_eq!(workload(&cluster, "198.18.1.5"), "staticpod proxy");
}

#[test]
fn a_pod_that_nothing_owns_is_a_workload() {
    let mut cluster = Cluster::new();
    cluster.pod(pod("debug", "a", &["198.18.1.1"]));
    assert_eq!(workload(&cluster, "198.18.1.1"), "barepod debug");
    // A pod whose owner does not control it is as bare (a garbage collector's reference).
    let mut referred = owned(pod("shell", "a", &["198.18.1.2"]), "ConfigMap", "x", "x");
    referred["metadata"]["ownerReferences"][0]["controller"] = json!(false);
    cluster.pod(referred);
    assert_eq!(workload(&cluster, "198.18.1.2"), "barepod shell");
    // The pod, and then its replica set, has a controller of an unknown kind.
    let runner = owned(
        pod("run-x", "a", &["198.18.1.3"]),
        "EphemeralRunner",
        "run",
        "e1",
    );
    cluster.pod(runner);
    assert_eq!(workload(&cluster, "198.18.1.3"), "EphemeralRunner run");
    let set = owned(
        pod("canary-7-x", "a", &["198.18.1.4"]),
        "ReplicaSet",
        "canary-7",
        "r1",
    );
    cluster.pod(set);
    assert_eq!(workload(&cluster, "198.18.1.4"), "replicaset canary-7");
    let set = json!({"metadata": {"name": "canary-7", "uid": "r1"}});
    let set = owned(set, "Rollout", "canary", "o1");
    cluster.take(StateEvent::ReplicaSet(Event::Apply(read(set))));
    assert_eq!(workload(&cluster, "198.18.1.4"), "Rollout canary");
}
