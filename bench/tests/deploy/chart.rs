//! The chart by itself.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use lpm_agent::config::{Config, Enabled, Preset, Scope};
use serde_json::{Value, json};

use crate::{deploy, everything, object, objects, program, ran, rendered};

fn container(arguments: &[&str]) -> Option<Value> {
    let all = objects(&rendered(arguments)?);
    let pod = &object(&all, "DaemonSet", "lpm")["spec"]["template"]["spec"];
    Some(pod["containers"][0].clone())
}

fn configuration(arguments: &[&str]) -> Option<Config> {
    let all = objects(&rendered(arguments)?);
    let text = object(&all, "ConfigMap", "lpm")["data"]["lpm.yaml"].as_str();
    let text = text.expect("lpm.yaml");
    Some(Config::parse(text, Path::new("lpm.yaml")).expect(text))
}

#[test]
fn helm_has_nothing_to_say() {
    for values in [&[][..], &["-f".to_owned(), everything()]] {
        let Some(mut helm) = program("helm") else {
            return;
        };
        helm.args(["lint", "--strict", "--quiet"])
            .arg(deploy().join("helm/lpm"));
        let said = ran(helm.args(values)).unwrap();
        assert_eq!(said.trim(), "");
    }
}

/// What the chart writes, the agent reads.
#[test]
fn the_configuration_holds() {
    let Some(plain) = configuration(&[]) else {
        return;
    };
    assert_eq!(plain.listen.to_string(), "0.0.0.0:9477");
    let health = plain.health.listen.expect("a listener for health checks");
    assert_eq!(health.to_string(), "127.0.0.1:9478");
    assert_eq!(plain.preset, None);
    assert_eq!(plain.identity.kubernetes.scope, Scope::Cluster);
    let config = configuration(&["--set", "scope=node"]).expect("helm is there");
    assert_eq!(config.identity.kubernetes.scope, Scope::Node);
    for preset in Preset::ALL {
        let set = format!("preset={preset}");
        let config = configuration(&["--set", &set]).expect("helm is there");
        assert_eq!(config.preset, Some(preset));
    }
    let config = configuration(&["--set", "listenAddress=[::],config.rows=1024"]);
    let config = config.expect("helm is there");
    assert_eq!(
        (config.listen.to_string().as_str(), config.rows),
        ("[::]:9477", 1024)
    );
}

#[test]
fn another_configuration_is_another_rollout() {
    let annotations = |arguments: &[&str]| {
        let all = objects(&rendered(arguments)?);
        let template = &object(&all, "DaemonSet", "lpm")["spec"]["template"];
        Some(template["metadata"]["annotations"].clone())
    };
    let Some(plain) = annotations(&[]) else {
        return;
    };
    assert_eq!(
        Some(&plain),
        annotations(&["--set", "logLevel=debug"]).as_ref()
    );
    assert_ne!(
        Some(&plain),
        annotations(&["--set", "config.rows=1024"]).as_ref()
    );
}

#[test]
fn the_container_may_do_no_more_than_it_must() {
    let Some(least) = container(&[]) else { return };
    let context = &least["securityContext"];
    let wanted = json!({"drop": ["ALL"], "add": ["BPF", "NET_ADMIN", "PERFMON"]});
    assert_eq!(context["capabilities"], wanted);
    assert_eq!(context["privileged"], false);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["readOnlyRootFilesystem"], true);
    let fallback = container(&["--set", "security.privileged=true"]).expect("helm is there");
    let context = &fallback["securityContext"];
    assert_eq!(context["privileged"], true);
    assert!(
        context["capabilities"]["add"]
            .to_string()
            .contains("SYS_ADMIN")
    );
}

/// The node's file systems that the agent sees: results of CNI plugins, read-only, and its own pins.
#[test]
fn only_its_own_pins_are_mounted() {
    let volumes = |arguments: &[&str]| {
        let all = objects(&rendered(arguments)?);
        let pod = &object(&all, "DaemonSet", "lpm")["spec"]["template"]["spec"];
        let volumes = pod["volumes"].as_array().expect("volumes").iter();
        let paths = volumes.filter_map(|volume| {
            let host = &volume["hostPath"];
            Some((host["path"].as_str()?.to_owned(), host["type"].clone()))
        });
        let paths: Vec<_> = paths.collect();
        let mounts = pod["containers"][0]["volumeMounts"].as_array();
        let mut mounts = mounts.expect("mounts").iter();
        let bpf = mounts.find(|mount| mount["name"] == "bpf").cloned();
        Some((paths, bpf))
    };
    let results = (
        "/var/lib/cni/results".to_owned(),
        json!("DirectoryOrCreate"),
    );
    let pins = |path: &str| (path.to_owned(), json!("DirectoryOrCreate"));
    let Some((paths, mount)) = volumes(&[]) else {
        return;
    };
    assert_eq!(paths, [results.clone(), pins("/sys/fs/bpf/lpm")]);
    let mount = mount.expect("a mount")["mountPath"].clone();
    let config = configuration(&[]).expect("helm is there");
    assert_eq!(
        Some(config.pins.path.as_path()),
        mount.as_str().map(Path::new)
    );
    let (paths, _) = volumes(&["--set", "pins.hostPath=/mnt/bpf/"]).expect("helm is there");
    assert_eq!(paths, [results.clone(), pins("/mnt/bpf/lpm")]);
    let (paths, mount) = volumes(&["--set", "pins.enabled=false"]).expect("helm is there");
    assert_eq!((paths, mount), (vec![results], None));
}

/// Each scope has the rights that it uses. A test of the agent at an API server holds that they are
/// enough.
#[test]
fn each_scope_has_its_own_rights() {
    let verbs = |set: &str| {
        let all = objects(&rendered(&["--set", set])?);
        let role = object(&all, "ClusterRole", "lpm:lpm").clone();
        let rules = role["rules"].as_array().expect("rules").clone();
        let each = rules.into_iter().flat_map(|rule| {
            let resources = rule["resources"].as_array().cloned().unwrap_or_default();
            let verbs = rule["verbs"].as_array().map_or(0, Vec::len);
            let name = |resource: Value| resource.as_str().unwrap_or_default().to_owned();
            resources.into_iter().map(move |it| (name(it), verbs))
        });
        Some(each.collect::<BTreeMap<String, usize>>())
    };
    let wanted = |list: &[(&str, usize)]| {
        let each = list
            .iter()
            .map(|(name, verbs)| ((*name).to_owned(), *verbs));
        each.collect::<BTreeMap<_, _>>()
    };
    let Some(cluster) = verbs("scope=cluster") else {
        return;
    };
    let all = [
        ("pods", 2),
        ("services", 2),
        ("nodes", 2),
        ("endpointslices", 2),
        ("replicasets", 2),
        ("jobs", 2),
    ];
    assert_eq!(cluster, wanted(&all));
    let both = [&all[..], &[("csinodes", 2)]].concat();
    assert_eq!(verbs("scope=node"), Some(wanted(&both)));
    let node = [
        ("pods", 2),
        ("services", 2),
        ("nodes", 1),
        ("replicasets", 1),
        ("jobs", 1),
        ("csinodes", 2),
    ];
    let alone = verbs("scope=node,rbac.fallback=false");
    assert_eq!(alone, Some(wanted(&node)));
}

/// The probes ask where clients of the metrics' port cannot keep them out.
#[test]
fn the_kubelet_asks_at_a_listener_of_its_own() {
    let set = ["--set", "healthPort=9500"];
    let Some(container) = container(&set) else {
        return;
    };
    let health = configuration(&set).expect("helm is there").health.listen;
    let health = health.expect("a listener for health checks");
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let get = &container[probe]["httpGet"];
        let asked = (get["host"].as_str(), get["port"].as_u64());
        let (host, port) = (health.ip().to_string(), u64::from(health.port()));
        assert_eq!(asked, (Some(host.as_str()), Some(port)), "{probe}");
    }
}

/// What the agent is to read is mounted, and it gets the rights that it needs and no others.
#[test]
fn secrets_and_rights_follow_the_values() {
    let set = [
        "--set",
        "webConfig.secret=tls,auth.kubernetes=true,auth.tokensSecret=tokens,config.auth.metrics=true,\
         probeKeysSecret=keys",
    ];
    let Some(config) = configuration(&set) else {
        return;
    };
    let web = Path::new("/etc/lpm-web/web.yaml");
    assert_eq!(config.web_config.as_deref(), Some(web));
    assert!(config.auth.kubernetes.enabled && config.auth.metrics);
    let has = |container: &Value, path: &str| {
        let mounts = container["volumeMounts"].as_array().expect("mounts");
        mounts.iter().any(|mount| mount["mountPath"] == path)
    };
    let with = container(&set).expect("helm is there");
    let plain = container(&[]).expect("helm is there");
    for secret in ["/etc/lpm-web", "/etc/lpm-tokens", "/etc/lpm-probe-keys"] {
        assert!(has(&with, secret) && !has(&plain, secret), "{secret}");
    }
    for (arguments, reviews) in [(&[][..], false), (&set, true)] {
        let role = rendered(arguments).expect("helm is there");
        assert_eq!(role.contains("tokenreviews"), reviews);
        assert_eq!(role.contains("subjectaccessreviews"), reviews);
    }
}

/// The commands in the container ask where the agent serves, in a directory that is mounted.
#[test]
fn the_socket_is_where_the_commands_look_for_it() {
    for set in ["socket.hostPath=", "socket.hostPath=/run/lpm"] {
        let set = ["--set", set];
        let Some(config) = configuration(&set) else {
            return;
        };
        assert_eq!(config.socket.enabled, Enabled::Always(true));
        assert!(config.socket.path.starts_with("/run/lpm"));
        let container = container(&set).expect("helm is there");
        let environment = container["env"].as_array().expect("variables");
        let agent = environment.iter().find(|one| one["name"] == "LPM_AGENT");
        let address = format!("unix:{}", config.socket.path.display());
        assert_eq!(agent.expect("it is set")["value"], address);
        let mounts = container["volumeMounts"].as_array().expect("mounts");
        assert!(mounts.iter().any(|mount| mount["mountPath"] == "/run/lpm"));
    }
}

/// MiB: 256 B a flow, 32 B a query, 16 KiB a row and stripe, and what the values add.
#[test]
fn memory_follows_the_maps() {
    let limit = |arguments: &[&str]| {
        let container = container(arguments)?;
        let resources = &container["resources"];
        assert_eq!(
            resources["limits"]["memory"],
            resources["requests"]["memory"]
        );
        Some(resources["limits"]["memory"].as_str()?.to_owned())
    };
    let Some(plain) = limit(&[]) else { return };
    assert_eq!(
        plain,
        format!("{}Mi", 192 + 16 + 33),
        "16 + 0.5 + 16, rounded up"
    );
    let large =
        "config.flows=1048576,config.rows=4096,config.stripes=4,resources.agentMemoryMi=300";
    let wanted = format!("{}Mi", 300 + 16 + 256 + 1 + 256);
    assert_eq!(limit(&["--set", large]), Some(wanted));
}

#[test]
fn what_is_committed_is_what_is_rendered() {
    if program("helm").is_none() {
        return;
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let mut render = Command::new(deploy().join("render.sh"));
    ran(render.arg(elsewhere.path())).unwrap();
    for file in [
        "kustomize/base/lpm.yaml",
        "kustomize/base/config/lpm.yaml",
        "kustomize/overlays/aks/podmonitor.yaml",
        "kustomize/overlays/l2sm/rules.yaml",
        "azure/prometheusRuleGroups.json",
    ] {
        let read = |dir: &Path| fs::read_to_string(dir.join(file)).expect(file);
        let same = read(elsewhere.path()) == read(&deploy());
        assert!(
            same,
            "deploy/{file} is not what the chart renders: run deploy/render.sh"
        );
    }
}
