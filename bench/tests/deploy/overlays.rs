//! The kustomize base, each overlay and a user's own on top of it, at the real API server: accepted,
//! with exactly the agent's rights, and gone when it is deleted.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use lpm_testbed::kubernetes::ApiServer;
use serde_json::{Value, json};

use crate::{
    api::{cluster, may},
    deploy, object, objects, ran,
};

/// Kinds of which an overlay has objects.
const KINDS: &str = "namespaces,serviceaccounts,clusterroles,clusterrolebindings,roles,rolebindings,\
                     configmaps,daemonsets,deployments,services,networkpolicies,podmonitors";

/// What the agents may do in the whole cluster.
const RIGHTS: [&str; 12] = [
    "list /pods",
    "watch /pods",
    "list /services",
    "watch /services",
    "list /nodes",
    "watch /nodes",
    "list discovery.k8s.io/endpointslices",
    "watch discovery.k8s.io/endpointslices",
    "list apps/replicasets",
    "watch apps/replicasets",
    "list batch/jobs",
    "watch batch/jobs",
];

/// What a user's own overlay changes: names and, for some, the namespace.
struct Own {
    before: &'static str,
    after: &'static str,
    namespace: &'static str,
}

const OWN: [Own; 4] = [
    Own {
        before: "",
        after: "",
        namespace: "lpm",
    },
    Own {
        before: "acme-",
        after: "",
        namespace: "lpm",
    },
    Own {
        before: "",
        after: "-eu",
        namespace: "lpm",
    },
    Own {
        before: "a-",
        after: "-b",
        namespace: "monitoring",
    },
];

/// The overlay as kustomize builds it, under one of a user's own.
fn built(api: &ApiServer, overlay: &str, own: &Own) -> String {
    let directory = tempfile::tempdir().unwrap();
    // kustomize takes no absolute path.
    let mut copy = Command::new("cp");
    ran(copy
        .arg("-r")
        .arg(deploy().join("kustomize"))
        .arg(directory.path()))
    .unwrap();
    let kustomization = json!({
        "resources": [format!("../kustomize/{overlay}")],
        "namePrefix": own.before, "nameSuffix": own.after, "namespace": own.namespace,
    });
    let here = directory.path().join("own");
    fs::create_dir(&here).unwrap();
    fs::write(here.join("kustomization.yaml"), kustomization.to_string()).unwrap();
    let mut build = api.kubectl().unwrap();
    ran(build.arg("kustomize").arg(here)).unwrap()
}

/// The names of all objects that there are.
fn inventory(api: &ApiServer) -> BTreeSet<String> {
    let mut get = api.kubectl().unwrap();
    get.args(["get", KINDS, "--all-namespaces", "--output=json"]);
    let all: Value = serde_json::from_str(&ran(&mut get).unwrap()).expect("JSON");
    let items = all["items"].as_array().expect("a list");
    let name = |one: &Value| {
        let metadata = &one["metadata"];
        format!(
            "{} {} {}",
            one["kind"], metadata["namespace"], metadata["name"]
        )
    };
    items.iter().map(name).collect()
}

/// What an account may do in a namespace, as the API server lists it to itself.
fn rights(api: &ApiServer, account: (&str, &str), namespace: &str) -> BTreeSet<String> {
    let kubeconfig = api
        .service_account(account.0, account.1)
        .unwrap()
        .kubeconfig;
    let mut ask = api.kubectl().unwrap();
    ask.arg("--kubeconfig").arg(kubeconfig);
    ask.args(["create", "--filename=-", "--raw"]);
    ask.arg("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews");
    let mut child = ask
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl");
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    });
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin
        .write_all(review.to_string().as_bytes())
        .expect("write");
    drop(stdin);
    let output = child.wait_with_output().expect("kubectl");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let rules = answer["status"]["resourceRules"].as_array().expect("rules");
    rules.iter().flat_map(each).collect()
}

/// Each combination that a rule allows: `get apps/daemonsets lpm`.
fn each(rule: &Value) -> Vec<String> {
    let words = |key: &str| -> Vec<String> {
        serde_json::from_value(rule[key].clone()).unwrap_or_default()
    };
    let mut names: Vec<_> = words("resourceNames")
        .iter()
        .map(|name| format!(" {name}"))
        .collect();
    if names.is_empty() {
        names.push(String::new());
    }
    let mut all = Vec::new();
    for verb in words("verbs") {
        for group in words("apiGroups") {
            for resource in words("resources") {
                all.extend(
                    names
                        .iter()
                        .map(|name| format!("{verb} {group}/{resource}{name}")),
                );
            }
        }
    }
    all
}

/// What the overlay gives the agent, beyond what every account has.
fn has_exactly_its_rights(api: &ApiServer, all: &[Value], namespace: &str) {
    let set = all
        .iter()
        .find(|one| one["kind"] == "DaemonSet")
        .expect("a DaemonSet");
    let name = set["metadata"]["name"].as_str().expect("a name");
    let account = &set["spec"]["template"]["spec"]["serviceAccountName"];
    let account = account.as_str().expect("an account");
    let of = |account, at| rights(api, (namespace, account), at);
    let wanted = |more: Option<String>| -> BTreeSet<String> {
        RIGHTS.map(str::to_owned).into_iter().chain(more).collect()
    };
    let given = |at| -> BTreeSet<String> { &of(account, at) - &of("nobody", at) };
    let own = format!("get apps/daemonsets {name}");
    assert_eq!(given(namespace), wanted(Some(own)), "in {namespace}");
    assert_eq!(given("default"), wanted(None));
    // As the agent asks, and as the server then decides.
    let user = format!("system:serviceaccount:{namespace}:{account}");
    let may = |what: &str| {
        may(
            api,
            &user,
            "get",
            what,
            &[&format!("--namespace={namespace}")],
        )
    };
    assert!(may(&format!("daemonsets.apps/{name}")));
    assert!(!may("daemonsets.apps/other"));
}

/// Each namespace is gone when all in it is: the controller that says so is not there.
fn finish(api: &ApiServer, namespace: &str) {
    let path = format!("/api/v1/namespaces/{namespace}");
    let mut object = api.get(&path).expect("a namespace");
    assert!(
        object["metadata"]["deletionTimestamp"].is_string(),
        "{object}"
    );
    object["spec"]["finalizers"] = json!([]);
    let answer = api.request("PUT", &format!("{path}/finalize"), Some(&object));
    assert_eq!(answer.expect("an answer").status, 200);
}

fn deleted(api: &ApiServer, all: &str, namespace: &str) {
    let file = api.directory().join("deleted.yaml");
    fs::write(&file, all).unwrap();
    let mut delete = api.kubectl().unwrap();
    delete.args(["delete", "--wait=false", "--filename"]);
    ran(delete.arg(&file)).unwrap();
    // What was made beside it, to compare with.
    let nobody = format!("/api/v1/namespaces/{namespace}/serviceaccounts/nobody");
    api.delete(&nobody).expect("it is there");
    finish(api, namespace);
}

#[test]
fn each_gives_the_agent_exactly_its_rights_and_leaves_nothing() {
    let Some(api) = cluster() else { return };
    // The namespace is the overlay's own.
    api.delete("/api/v1/namespaces/lpm").unwrap();
    finish(&api, "lpm");
    let before = inventory(&api);
    for overlay in ["base", "overlays/aks", "overlays/l2sm"] {
        for own in &OWN {
            let yaml = built(&api, overlay, own);
            api.apply(&yaml).unwrap();
            has_exactly_its_rights(&api, &objects(&yaml), own.namespace);
            deleted(&api, &yaml, own.namespace);
            let left: Vec<_> = inventory(&api).difference(&before).cloned().collect();
            assert_eq!(left, [""; 0], "{overlay} {} {}", own.before, own.after);
        }
    }
}

/// Until 0.1.0 the Role named the `ConfigMap`: what was installed then is mended in place.
#[test]
fn an_upgrade_gives_what_was_missing() {
    let Some(api) = cluster() else { return };
    let own = &OWN[0];
    let new = built(&api, "base", own);
    let map = |all: &str| {
        let maps = objects(all);
        let map = maps
            .iter()
            .find(|one| one["kind"] == "ConfigMap")
            .expect("one");
        map["metadata"]["name"].as_str().expect("a name").to_owned()
    };
    let name = map(&new);
    let earlier = name.replace("lpm-config-", "lpm-");
    let old = new.replace(&name, &earlier).replace(
        "resourceNames:\n  - lpm\n",
        &format!("resourceNames:\n  - {earlier}\n"),
    );
    api.apply(&old).unwrap();
    let user = "system:serviceaccount:lpm:lpm";
    let may = || {
        may(
            &api,
            user,
            "get",
            "daemonsets.apps/lpm",
            &["--namespace=lpm"],
        )
    };
    assert!(!may(), "what is to be mended");
    api.apply(&new).unwrap();
    assert!(may());
    has_exactly_its_rights(&api, &objects(&new), "lpm");
}

#[test]
fn the_overlays_are_accepted() {
    let Some(api) = cluster() else { return };
    let mut names = BTreeSet::new();
    for (overlay, preset) in [("aks", "aks-azure-cni"), ("l2sm", "l2sm")] {
        let mut build = api.kubectl().unwrap();
        build
            .arg("kustomize")
            .arg(deploy().join("kustomize/overlays").join(overlay));
        let all = ran(&mut build).unwrap();
        let said = api.apply(&all).unwrap();
        assert!(
            said.contains("daemonset.apps/lpm serverside-applied"),
            "{said}"
        );
        // The name follows the content, so that another configuration is another rollout.
        let all = objects(&all);
        let pod = &object(&all, "DaemonSet", "lpm")["spec"]["template"]["spec"];
        let volumes = pod["volumes"].as_array().expect("volumes");
        let volume = volumes.iter().find(|volume| volume["name"] == "config");
        let name = volume.expect("config")["configMap"]["name"].as_str();
        let name = name.expect("a name");
        assert!(names.insert(name.to_owned()), "{name} again");
        let config = object(&all, "ConfigMap", name);
        let text = config["data"]["lpm.yaml"].as_str().expect("lpm.yaml");
        let config = lpm_agent::config::Config::parse(text, Path::new(overlay)).expect(text);
        assert_eq!(
            config.preset.map(lpm_agent::config::Preset::as_str),
            Some(preset)
        );
    }
}
