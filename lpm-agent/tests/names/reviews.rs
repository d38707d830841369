//! Bearer tokens of the cluster, reviewed by a real API server.

use std::{fs, path::Path};

use lpm_testbed::{
    kubernetes::{ApiServer, ServiceAccount},
    testbed::{Pair, PairConfig},
};
use serde_json::{Value, json};

use crate::support::{
    curl::curl,
    lpm::{Agent, eventually, kernel_is_usable},
};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// Makes an account with a `ClusterRole` of these rules.
fn account(api: &ApiServer, name: &str, rules: &Value) -> ServiceAccount {
    let role = json!({"metadata": {"name": name}, "rules": rules});
    api.create(&format!("{RBAC}/clusterroles"), &role)
        .expect("a role");
    let binding = json!({
        "metadata": {"name": name},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name,
        },
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
    });
    api.create(&format!("{RBAC}/clusterrolebindings"), &binding)
        .expect("a binding");
    api.service_account("default", name).expect("an account")
}

/// The status of a path for the holder of a token.
fn status(agent: &Agent, path: &str, token: &str) -> u16 {
    let header = format!("Authorization: Bearer {token}");
    curl(&["-H", &*header, &*format!("{}{path}", agent.url)]).status
}

fn agent(pair: &Pair, directory: &Path, kubeconfig: &Path) -> Agent {
    let config = directory.join("lpm.yaml");
    let text = format!(
        "identity: {{kubernetes: {{enabled: false, kubeconfig: {}}}}}\n\
         auth: {{metrics: true, loopback: false, kubernetes: {{enabled: true}}}}\n",
        kubeconfig.display()
    );
    fs::write(&config, text).expect("write");
    let config = config.to_str().expect("a path");
    Agent::start(&pair.node, &["-c", config, "-i", Pair::POD_INTERFACE])
}

#[test]
fn the_cluster_says_who_may_get_what() {
    let (true, Some(api)) = (kernel_is_usable(), ApiServer::start_or_skip()) else {
        return;
    };
    let reviews = json!([
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
        {
            "apiGroups": ["authorization.k8s.io"],
            "resources": ["subjectaccessreviews"],
            "verbs": ["create"],
        },
    ]);
    let own = account(&api, "lpm", &reviews);
    let paths = |all: &[&str]| json!([{"nonResourceURLs": all, "verbs": ["get"]}]);
    let scraper = account(&api, "prometheus", &paths(&["/metrics"]));
    let reader = account(&api, "reader", &paths(&["/metrics", "/lpm/api/v1/*"]));
    // Whoever has an account may get `/api/*`, by the role `system:discovery`.
    let nobody = account(&api, "nobody", &json!([]));
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let directory = tempfile::tempdir().expect("a directory");
    let agent = agent(&pair, directory.path(), &own.kubeconfig);
    // Until the rights hold the agent cannot review, or the account may nothing.
    eventually("the rights hold", || {
        status(&agent, "/metrics", &scraper.token) == 200
            && status(&agent, "/api/v1/flows", &reader.token) == 200
    });
    let made_up = "eyJhbGciOiJSUzI1NiJ9.e30.AAAA";
    for (path, token, expected) in [
        ("/metrics", &*scraper.token, 200),
        ("/api/v1/flows", &*scraper.token, 403),
        ("/metrics", &*reader.token, 200),
        ("/api/v1/links", &*reader.token, 200),
        ("/metrics", &*nobody.token, 403),
        ("/api/v1/flows", &*nobody.token, 403),
        ("/metrics", made_up, 401),
        ("/api/v1/flows", made_up, 401),
        ("/healthz", made_up, 200),
    ] {
        assert_eq!(
            status(&agent, path, token),
            expected,
            "{path} {}",
            &token[..20]
        );
    }
    let without = curl(&[format!("{}/metrics", agent.url)]);
    assert_eq!(without.status, 401, "{without:?}");
    // A deleted account's token is good for a few seconds more at most.
    api.delete("/api/v1/namespaces/default/serviceaccounts/reader")
        .expect("delete");
    eventually("the account is gone", || {
        status(&agent, "/metrics", &reader.token) == 401
    });
    let said = agent.lpm.said();
    assert!(
        !said.contains(&scraper.token) && !said.contains(&reader.token),
        "a token is told"
    );
    agent.stop();
}

#[test]
fn an_agent_that_may_not_review_says_what_it_lacks() {
    let (true, Some(api)) = (kernel_is_usable(), ApiServer::start_or_skip()) else {
        return;
    };
    let own = account(&api, "lpm", &json!([]));
    let pair = Pair::new(&PairConfig::default()).expect("a testbed");
    let directory = tempfile::tempdir().expect("a directory");
    let agent = agent(&pair, directory.path(), &own.kubeconfig);
    assert_eq!(status(&agent, "/metrics", &own.token), 503);
    agent
        .lpm
        .wait_for("lacks the verb create on the resource tokenreviews");
    agent.stop();
}
