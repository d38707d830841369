//! The chart's values: which are refused, and that the schema is the agent's own.

use std::{collections::BTreeSet, fs, path::Path};

use lpm_agent::{
    config::Config,
    identity::names_file::{self, PrefixMap},
};
use serde_json::{Map, Value, json};

use crate::{deploy, object, objects, program, ran, rendered};

/// What helm says of the chart with these values, or a skip.
fn refused(arguments: &[&str]) -> Option<String> {
    let mut helm = program("helm")?;
    helm.args(["template", "lpm"])
        .arg(deploy().join("helm/lpm"))
        .args(arguments);
    Some(ran(&mut helm).expect_err(arguments[1]))
}

#[test]
fn bad_values_are_refused_by_name() {
    for (bad, name) in [
        ("nodeSelectors.a=b", "nodeSelectors"),
        ("image.tags=a", "tags"),
        ("image.repository=x@sha256:abc", "/image/repository"),
        ("image.repository=x:1", "/image/repository"),
        ("image.tag=a b", "/image/tag"),
        ("preset=weave", "preset"),
        ("scope=world", "scope"),
        ("port=80", "port"),
        ("listenAddress=1.2.3", "listenAddress"),
        ("listenAddress=127.0.0.1", "listenAddress"),
        ("healthPort=80", "healthPort"),
        ("healthPort=9477", "healthPort"),
        ("reflector.port=862", "/reflector/port"),
        ("reflector.enabled=auto", "/reflector/enabled"),
        ("reflector.listen=a", "listen"),
        ("webConfig.file=a/b", "/webConfig/file"),
        ("webConfig.secrets=a", "secrets"),
        ("auth.kubernetes=auto", "/auth/kubernetes"),
        ("socket.hostPath=run", "/socket/hostPath"),
        ("podMonitor.scheme=ftp", "/podMonitor/scheme"),
        ("config=null", "'config'"),
        ("resources=null", "'resources'"),
        ("resources.agentMemoryMi=null", "agentMemoryMi"),
        (
            "extraEnv[0].name=A,extraEnv[0].value=1",
            "/extraEnv/0/value",
        ),
        ("names[0].cidr=a,names[0].space=b", "space"),
        ("security.privileged=maybe", "privileged"),
        ("security.seccompProfile.type=None", "type"),
        ("rules.window=5", "window"),
        ("rules.thresholds.network=0", "network"),
        ("rules.thresholds.network=0.0", "network"),
        ("rules.thresholds.network=3ms", "network"),
        ("rules.thresholds.latency=1", "latency"),
        ("resources.limits.memory=1Gi", "limits"),
        ("podMonitor.interval=often", "interval"),
        (
            "networkPolicy.nodeRanges={nodes}",
            "/networkPolicy/nodeRanges/0",
        ),
        ("serviceAccount.create=false", "serviceAccount.name"),
    ] {
        let Some(said) = refused(&["--set", bad]) else {
            return;
        };
        assert!(said.contains(name), "{bad}: {said}");
    }
}

/// What the agent would refuse when the rollout has begun, the chart refuses before.
#[test]
fn a_configuration_that_the_agent_refuses_is_not_installed() {
    for (bad, name) in [
        (json!({"foo": 1}), "foo"),
        (json!({"flows": 100_000}), "/config/flows"),
        (json!({"flows": 32}), "/config/flows"),
        (json!({"flows": 1 << 25}), "/config/flows"),
        (json!({"queries": 1 << 21}), "/config/queries"),
        (json!({"rows": 1}), "/config/rows"),
        (json!({"rows": 65_536}), "/config/rows"),
        (json!({"stripes": 3}), "/config/stripes"),
        (json!({"window": "forever"}), "/config/window"),
        (json!({"keep_gone": "1.5h"}), "/config/keep_gone"),
        (json!({"methods": []}), "/config/methods"),
        (json!({"methods": ["rtt"]}), "/config/methods/0"),
        (json!({"attach": "xdp"}), "/config/attach"),
        (json!({"preset": "weave"}), "/config/preset"),
        (json!({"levels": {"top": 2001}}), "/config/levels/top"),
        (json!({"conntrack": {"most": 0}}), "/config/conntrack/most"),
        (json!({"tunnels": {"vxlan": [1, 2, 3, 4, 5]}}), "/vxlan"),
        (json!({"tunnels": {"geneve": [0]}}), "/geneve/0"),
        (json!({"pins": {"keep": "soon"}}), "/config/pins/keep"),
        (
            json!({"reflector": {"allow": ["all"]}}),
            "/reflector/allow/0",
        ),
        (json!({"reflector": {"rate": 0}}), "/reflector/rate"),
        (json!({"probes": {"classes": [64]}}), "/probes/classes/0"),
        (
            json!({"probes": {"train": {"packets": 0}}}),
            "/train/packets",
        ),
        (json!({"probes": {"targets": [{"adress": "a"}]}}), "adress"),
        (json!({"interfaces": [{"name": "a"}]}), "vantage"),
        (
            json!({"auth": {"tokens": [{"name": "a", "sha256": "b"}]}}),
            "/sha256",
        ),
        (json!({"auth": {"loopbacks": true}}), "loopbacks"),
        (
            json!({"identity": {"cluster_ranges": ["198.18.0.0"]}}),
            "/cluster_ranges/0",
        ),
        (
            json!({"identity": {"external": [{"cidr": "x", "name": "a"}]}}),
            "/cidr",
        ),
        (
            json!({"identity": {"kubernetes": {"enabled": "maybe"}}}),
            "/enabled",
        ),
        (
            json!({"identity": {"kubernetes": {"labels": ["a b"]}}}),
            "/labels/0",
        ),
        (
            json!({"identity": {"kubernetes": {"networks": [{}]}}}),
            "/networks/0",
        ),
        (
            json!({"identity": {"kubernetes": {"networks": [{"cidr": "198.18.0.0"}]}}}),
            "/networks/0/cidr",
        ),
    ] {
        let set = format!("config={bad}");
        let Some(said) = refused(&["--set-json", &set]) else {
            return;
        };
        assert!(said.contains(name), "{bad}: {said}");
        let parsed = Config::parse(&bad.to_string(), Path::new("lpm.yaml"));
        parsed.expect_err(&set);
    }
}

/// What the chart's own objects follow cannot be changed behind its back.
#[test]
fn keys_that_are_the_charts_are_refused_with_the_remedy() {
    for (bad, name, remedy) in [
        ("listen=0.0.0.0:1", "config.listen", "listenAddress"),
        (
            "health.listen=127.0.0.1:1",
            "config.health.listen",
            "healthPort",
        ),
        (
            "reflector.listen={[::]:1024}",
            "config.reflector.listen",
            "`reflector.enabled`",
        ),
        ("web_config=a", "config.web_config", "webConfig.secret"),
        (
            "auth.kubernetes.enabled=true",
            "config.auth.kubernetes.enabled",
            "`auth.kubernetes`",
        ),
        ("socket.path=/a", "config.socket.path", "socket.hostPath"),
        ("names=names.yaml", "config.names", "the value `names`"),
        ("netns=a", "config.netns", "node's network"),
        ("node_name=a", "config.node_name", "its node's"),
        ("cni_results=/a", "config.cni_results", "cniResults"),
        (
            "multus_results=/a",
            "config.multus_results",
            "multusResults",
        ),
        (
            "pins.enabled=false",
            "config.pins.enabled",
            "`pins.enabled`",
        ),
        ("pins.path=/x", "config.pins.path", "pins.hostPath"),
        (
            "identity.kubernetes.scope=node",
            "config.identity.kubernetes.scope",
            "`scope`",
        ),
        (
            "identity.kubernetes.kubeconfig=a",
            "kubernetes.kubeconfig",
            "service account",
        ),
    ] {
        let Some(said) = refused(&["--set", &format!("config.{bad}")]) else {
            return;
        };
        assert!(
            said.contains(name) && said.contains(remedy),
            "{bad}: {said}"
        );
    }
}

/// The limits themselves are taken, by both.
#[test]
fn values_at_the_limits_are_taken() {
    let config = json!({
        "flows": 64, "queries": 1 << 20, "rows": 65_535, "stripes": 64, "window": "1m 30s",
        "levels": {"top": 2000}, "conntrack": {"most": 1 << 22}, "pins": {"keep": "24h"},
        "interfaces": [{"name": "eth*", "vantage": "nic", "inner": true}],
        "identity": {
            "cluster_ranges": ["198.18.0.0/16", "fd00::/8"],
            "external": [{"cidr": "::/0", "name": "internet"}],
            "kubernetes": {"enabled": true, "labels": ["team", "app.kubernetes.io/name"]},
        },
    });
    let set = format!("config={config}");
    let Some(all) = rendered(&["--set-json", &set]) else {
        return;
    };
    let all = objects(&all);
    let text = object(&all, "ConfigMap", "lpm")["data"]["lpm.yaml"].as_str();
    let config = Config::parse(text.expect("lpm.yaml"), Path::new("lpm.yaml"));
    assert_eq!(config.expect("it holds").rows, 65_535);
}

/// Names become a file beside the configuration, which finds it.
#[test]
fn names_are_where_the_agent_reads_them() {
    let names = r#"names=[{"cidr": "198.18.5.0/24", "namespace": "legacy"}]"#;
    let Some(all) = rendered(&["--set-json", names]) else {
        return;
    };
    let all = objects(&all);
    let directory = tempfile::tempdir().unwrap();
    let data = object(&all, "ConfigMap", "lpm")["data"].as_object();
    for (file, text) in data.expect("files") {
        fs::write(directory.path().join(file), text.as_str().expect("text")).unwrap();
    }
    let config = Config::read(&directory.path().join("lpm.yaml")).expect("a configuration");
    let read = PrefixMap::read(&config.names.expect("a names file")).expect("names");
    let name = read.lookup("198.18.5.7".parse().unwrap()).expect("a name");
    assert_eq!(name.namespace.as_deref(), Some("legacy"));
    let none = objects(&rendered(&[]).expect("helm is there"));
    assert_eq!(
        object(&none, "ConfigMap", "lpm")["data"]["names.yaml"],
        Value::Null
    );
}

/// The agents' schemas as draft 7, which helm reads, under one key of `definitions`.
fn definition(name: &str, schema: &Value) -> Value {
    match schema {
        Value::Object(keys) => {
            let kept = keys
                .iter()
                .filter(|(key, _)| !["$schema", "title"].contains(&&***key));
            let changed = kept.map(|(key, value)| match (key.as_str(), value) {
                ("$defs", value) => ("definitions".to_owned(), definition(name, value)),
                ("$ref", Value::String(to)) => {
                    let to = to.replace("#/$defs/", &format!("#/definitions/{name}/definitions/"));
                    (key.clone(), Value::String(to))
                }
                (_, value) => (key.clone(), definition(name, value)),
            });
            Value::Object(changed.collect::<Map<_, _>>())
        }
        Value::Array(values) => values.iter().map(|value| definition(name, value)).collect(),
        other => other.clone(),
    }
}

/// The end of `values.schema.json` is made of the agent's own schemas, by this test if
/// `LPM_UPDATE` is set.
#[test]
fn the_schema_of_the_configuration_is_the_agents() {
    let config = serde_json::to_value(Config::schema()).expect("JSON");
    let names = serde_json::to_value(names_file::schema()).expect("JSON");
    let made = json!({
        "lpm.yaml": definition("lpm.yaml", &config),
        "names.yaml": definition("names.yaml", &names),
    });
    let file = deploy().join("helm/lpm/values.schema.json");
    let now = fs::read_to_string(&file).unwrap();
    if std::env::var_os("LPM_UPDATE").is_some() {
        let text = serde_json::to_string_pretty(&made).expect("JSON");
        let lines: Vec<_> = text.lines().map(|line| format!("  {line}")).collect();
        let made = lines[1..lines.len() - 1].join("\n");
        let begin = now.find("    \"lpm.yaml\": {\n").expect("definitions");
        fs::write(&file, format!("{}{made}\n  }}\n}}\n", &now[..begin])).unwrap();
        return;
    }
    let now: Value = serde_json::from_str(&now).expect("JSON");
    for (name, made) in made.as_object().expect("definitions") {
        let remedy = "LPM_UPDATE=1 cargo test -p lpm-bench --test deploy schema";
        let same = now["definitions"][name] == *made;
        assert!(same, "the agent has another schema of {name}: run {remedy}");
    }
}

/// A value that is taken away (`--set x=null`) is refused by name: templates count on each.
#[test]
fn every_value_is_required() {
    let read = |file: &str| fs::read_to_string(deploy().join("helm/lpm").join(file)).unwrap();
    let values: Value = serde_saphyr::from_str(&read("values.yaml")).expect("YAML");
    let schema: Value = serde_json::from_str(&read("values.schema.json")).expect("JSON");
    all_required("values", &values, &schema);
}

fn all_required(path: &str, values: &Value, schema: &Value) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return;
    };
    let values = values.as_object().expect(path);
    let required = schema["required"].as_array();
    let required: BTreeSet<_> = required
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (name, value) in values {
        let path = format!("{path}.{name}");
        // One key or the other of a choice.
        let optional = ["values.updateStrategy.rollingUpdate"].contains(&&*path);
        assert!(
            optional || required.contains(&**name),
            "{path} is not required"
        );
        let properties = properties
            .get(name)
            .unwrap_or_else(|| panic!("{path} is unknown"));
        if value.is_object() && !optional {
            all_required(&path, value, properties);
        }
    }
}

/// The agents come from their nodes' addresses, which no selector of pods finds.
#[test]
fn with_scope_node_a_policy_lets_the_nodes_ask() {
    let from = r#"networkPolicy.from=[{"namespaceSelector": {}}]"#;
    let mut arguments = vec!["--set", "networkPolicy.enabled=true", "--set-json", from];
    let peers = |arguments: &[&str]| {
        let all = objects(&rendered(arguments)?);
        let rules = object(&all, "NetworkPolicy", "lpm")["spec"]["ingress"].clone();
        Some(
            rules
                .as_array()
                .expect("rules")
                .iter()
                .map(|rule| rule["from"].clone())
                .collect(),
        )
    };
    let Some(of_all): Option<Vec<Value>> = peers(&arguments) else {
        return;
    };
    assert_eq!(of_all, [json!([{"namespaceSelector": {}}])]);
    arguments.extend(["--set", "scope=node"]);
    let said = refused(&arguments).expect("helm is there");
    assert!(said.contains("networkPolicy.nodeRanges"), "{said}");
    arguments.extend(["--set", "networkPolicy.nodeRanges={198.18.0.0/24}"]);
    let nodes = peers(&arguments).expect("helm is there");
    assert_eq!(nodes[1], json!([{"ipBlock": {"cidr": "198.18.0.0/24"}}]));
}

/// The reflector's port is in the configuration, at the pod, and in the policy; off by default.
#[test]
fn the_reflector_has_one_port_everywhere() {
    let Some(without) = rendered(&[]) else {
        return;
    };
    assert!(!without.contains("UDP") && !without.contains("reflector"));
    let set = [
        "reflector.enabled=true,reflector.port=8700",
        "networkPolicy.enabled=true,networkPolicy.nodeRanges={198.18.0.0/24}",
        "listenAddress=[::]",
    ];
    let arguments: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
    let all = objects(&rendered(&arguments).expect("helm is there"));
    let text = object(&all, "ConfigMap", "lpm")["data"]["lpm.yaml"].as_str();
    let config = Config::parse(text.expect("lpm.yaml"), Path::new("lpm.yaml"));
    let listen = config.expect("a configuration").reflector.listen;
    assert_eq!(listen, ["[::]:8700".parse().expect("an address")]);
    let pod = &object(&all, "DaemonSet", "lpm")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let port =
        json!({"name": "probes", "containerPort": 8700, "hostPort": 8700, "protocol": "UDP"});
    assert_eq!(container["ports"][1], port);
    let added = &container["securityContext"]["capabilities"]["add"];
    assert_eq!(*added, json!(["BPF", "NET_ADMIN", "PERFMON"]));
    let rules = &object(&all, "NetworkPolicy", "lpm")["spec"]["ingress"];
    assert_eq!(
        rules[1]["ports"][0],
        json!({"port": 8700, "protocol": "UDP"})
    );
    assert_eq!(rules[1]["from"][0]["ipBlock"]["cidr"], "198.18.0.0/24");
}
