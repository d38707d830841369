//! The agent as a pod of a DaemonSet, and a real API server that knows whether a successor comes.

use lpm_agent::kernel::attach::Mode;
use lpm_testbed::kubernetes::{ApiServer, chart};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{programs, site::Site};
use crate::support::lpm::{Agent, eventually, kernel_is_usable};

const SETS: &str = "/apis/apps/v1/namespaces/lpm/daemonsets";

/// A DaemonSet for blue nodes, a blue node, and the pod that the agent is.
struct Release {
    api: ApiServer,
    site: Site,
    /// What the chart allows its agents.
    rights: String,
}

impl Release {
    fn install() -> Option<Self> {
        let rights = chart::rights_or_skip("lpm", "cluster")?;
        let api = ApiServer::start_or_skip()?;
        let namespace = json!({"metadata": {"name": "lpm"}});
        api.create("/api/v1/namespaces", &namespace)
            .expect("a namespace");
        let account = api.service_account("lpm", "lpm").expect("an account");
        api.apply(&rights).expect("rights");
        let node = json!({"metadata": {"name": "n1", "labels": {"pool": "blue"}}});
        api.create("/api/v1/nodes", &node).expect("a node");
        let site = Site::new(Mode::Auto, "10m");
        site.configure(&format!(
            "node_name: n1\nidentity: {{kubernetes: {{enabled: true, kubeconfig: {}}}}}\n",
            account.kubeconfig.display()
        ));
        let release = Self { api, site, rights };
        release.create_set();
        Some(release)
    }

    fn create_set(&self) {
        let labels = json!({"app": "lpm"});
        let pod = json!({
            "nodeSelector": {"pool": "blue"},
            "containers": [{"name": "lpm", "image": "none"}],
        });
        let set = json!({
            "metadata": {"name": "lpm"},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        });
        let set = self.api.create(SETS, &set).expect("a DaemonSet");
        let owner = json!([{
            "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "lpm", "controller": true,
            "uid": set["metadata"]["uid"],
        }]);
        let path = "/api/v1/namespaces/lpm/pods";
        if self
            .api
            .request("GET", &format!("{path}/lpm-x"), None)
            .expect("ask")
            .status
            == 404
        {
            self.api
                .create_pod("lpm", "lpm-x", "n1", &[])
                .expect("a pod");
        }
        let change = json!({"metadata": {"ownerReferences": owner}});
        self.api
            .patch(&format!("{path}/lpm-x"), &change)
            .expect("an owner");
    }

    fn paint(&self, colour: &str) {
        let change: Value = json!({"metadata": {"labels": {"pool": colour}}});
        self.api
            .patch("/api/v1/nodes/n1", &change)
            .expect("a label");
    }

    /// The pod's agent.
    fn start(&self) -> Agent {
        let environment = [("POD_NAMESPACE", "lpm"), ("POD_NAME", "lpm-x")];
        self.site.agent_with(&[], &environment)
    }

    /// The same, which knows whose pod it is.
    fn agent(&self) -> Agent {
        let agent = self.start();
        agent
            .lpm
            .wait_for("this agent runs in a pod of DaemonSet lpm");
        agent
    }

    /// Ends the agent, and tells whether it left its programs.
    fn leaves(&self, agent: &Agent, why: &str) -> bool {
        let status = agent.lpm.end(Signal::SIGTERM);
        assert!(status.success(), "{status}");
        agent.lpm.wait_for(why);
        let left = agent
            .lpm
            .said()
            .contains("the kernel programs go on measuring");
        let mode = Mode::Auto.resolve();
        let expected = if left { 2 } else { 0 };
        eventually("the programs", || programs(&self.site, mode) == expected);
        assert_eq!(self.site.layouts().len(), usize::from(left));
        left
    }
}

#[test]
fn a_daemonset_that_goes_takes_its_programs_along() {
    if !kernel_is_usable() {
        return;
    }
    let Some(mut release) = Release::install() else {
        return;
    };
    // A rollout.
    assert!(release.leaves(&release.agent(), "DaemonSet lpm still wants node n1"));
    // The node is not selected any more.
    let agent = release.agent();
    release.paint("green");
    assert!(!release.leaves(&agent, "no longer selects node n1"));
    release.paint("blue");
    // The DaemonSet is deleted.
    let agent = release.agent();
    release.api.delete(&format!("{SETS}/lpm")).expect("delete");
    assert!(!release.leaves(&agent, "DaemonSet lpm is gone"));
    // All of the release is, its rights first.
    release.create_set();
    let agent = release.agent();
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/lpm/roles/lpm";
    release.api.delete(roles).expect("delete");
    eventually("the right is gone", || {
        release.api.request("GET", roles, None).expect("ask").status == 404
    });
    assert!(!release.leaves(&agent, "may no longer read DaemonSet lpm"));
    // Without its right from the beginning: it says which one is missing.
    let agent = release.start();
    agent.lpm.wait_for("cannot ask about its DaemonSet");
    let said = agent.lpm.said();
    for word in [
        "cannot get resource",
        "daemonsets",
        "`get` on daemonsets.apps",
    ] {
        assert!(said.contains(word), "{said}");
    }
    assert!(agent.lpm.end(Signal::SIGTERM).success());
    release.api.apply(&release.rights).expect("rights");
    // Nobody answers: who knows?
    let agent = release.agent();
    release.api.stop();
    assert!(release.leaves(&agent, "the API server did not"));
}
