//! Rules and dashboards: promtool takes and tests the former, and both name what there is.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};

use crate::{deploy, everything, object, objects, program, ran, rendered};

/// The rule file, as a Prometheus without operator gets it.
pub(crate) fn rule_file(arguments: &[&str]) -> Option<String> {
    let mut all = vec!["--set", "rules.configMap=true"];
    all.extend(arguments);
    let objects = objects(&rendered(&all)?);
    let text = object(&objects, "ConfigMap", "lpm-rules")["data"]["lpm.rules.yaml"].as_str();
    Some(text.expect("lpm.rules.yaml").to_owned())
}

fn groups(file: &str) -> Vec<Value> {
    let file: Value = serde_saphyr::from_str(file).expect("YAML");
    file["groups"].as_array().expect("groups").clone()
}

fn rules_of(group: &Value) -> &[Value] {
    group["rules"].as_array().expect("rules")
}

/// Healthy and sick clusters, cause by cause, in `deploy/tests/rules.test.yaml`.
#[test]
fn promtool_takes_and_tests_the_rules() {
    let Some(file) = rule_file(&[]) else { return };
    let Some(mut check) = program("promtool") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let rules = directory.path().join("lpm.rules.yaml");
    fs::write(&rules, &file).unwrap();
    ran(check.args(["check", "rules"]).arg(&rules)).unwrap();
    let tests = directory.path().join("rules.test.yaml");
    fs::copy(deploy().join("tests/rules.test.yaml"), &tests).unwrap();
    let mut test = program("promtool").expect("it was here before");
    ran(test.args(["test", "rules"]).arg(&tests)).unwrap();
    // The same file tells a threshold that is not kept.
    fs::write(
        &rules,
        rule_file(&["--set", "rules.thresholds.server=0.001"]).unwrap(),
    )
    .unwrap();
    let mut test = program("promtool").expect("it was here before");
    let failed = ran(test.args(["test", "rules"]).arg(&tests)).unwrap_err();
    assert!(failed.contains("server"), "{failed}");
}

#[test]
fn the_operator_and_azure_get_the_same_rules() {
    let values = everything();
    let Some(all) = rendered(&["-f", &values]) else {
        return;
    };
    let all = objects(&all);
    let plain = object(&all, "ConfigMap", "lpm-rules")["data"]["lpm.rules.yaml"].as_str();
    let plain = groups(plain.expect("lpm.rules.yaml"));
    let operator = &object(&all, "PrometheusRule", "lpm")["spec"]["groups"];
    assert_eq!(operator.as_array(), Some(&plain));
    let azure = object(&all, "ConfigMap", "lpm-azure-rules");
    let azure = azure["data"]["prometheusRuleGroups.json"]
        .as_str()
        .expect("a template");
    let azure: Value = serde_json::from_str(azure).expect("JSON");
    let resources = azure["resources"].as_array().expect("resources");
    assert_eq!(resources.len(), plain.len());
    for (resource, group) in resources.iter().zip(&plain) {
        assert_eq!(
            resource["type"],
            "Microsoft.AlertsManagement/prometheusRuleGroups"
        );
        let name = resource["name"].as_str().expect("a name");
        assert!(
            name.contains("clusterId"),
            "another cluster's would replace {name}"
        );
        let theirs = rules_of(&resource["properties"]);
        assert!(theirs.len() <= 20, "Azure takes 20 rules in a group");
        for (theirs, ours) in theirs.iter().zip(rules_of(group)) {
            assert_eq!(theirs["expression"], ours["expr"]);
            assert_eq!(
                (&theirs["record"], &theirs["alert"]),
                (&ours["record"], &ours["alert"])
            );
            let wait = ours["for"]
                .as_str()
                .map(|wait| format!("PT{}", wait.to_uppercase()));
            assert_eq!(theirs["for"].as_str(), wait.as_deref());
        }
        assert_eq!(theirs.len(), rules_of(group).len());
    }
}

/// The metrics named in a query, without what a histogram or the encoder adds.
fn named(query: &str) -> impl Iterator<Item = &str> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':');
    query
        .split(word)
        .filter(|word| word.starts_with("lpm_") || word.starts_with("lpm:"))
}

/// The labels named in a query: those of matchers, and those to sum or join by.
fn labels(query: &str) -> BTreeSet<&str> {
    let mut labels = BTreeSet::new();
    let mut rest = query;
    // What stands in braces, or in parentheses after one of these words.
    while let Some(at) = rest.find(['{', '(']) {
        let (before, inside) = (rest[..at].trim_end(), &rest[at + 1..]);
        let by = ["by", "on", "group_left", "ignoring", "without"];
        let list = by.iter().any(|word| before.ends_with(word));
        let is_matchers = rest[at..].starts_with('{');
        let end = if is_matchers { '}' } else { ')' };
        let ends = inside.find(end).unwrap_or(inside.len());
        if is_matchers {
            // Values may hold anything but a quote: every second part is one.
            let names = inside[..ends].split('"').step_by(2);
            let names = names.flat_map(|part| part.split(','));
            labels.extend(names.map(|part| part.trim().trim_end_matches(['=', '!', '~'])));
        } else if list {
            labels.extend(inside[..ends].split(',').map(str::trim));
        }
        rest = inside;
    }
    labels.remove("");
    labels
}

/// Labels that are not the agent's: of the collection, of buckets, and of the rules.
const OTHERS: [&str; 6] = ["node", "instance", "le", "basis", "cause", "swap"];

/// Every family that the agent exports: the names are literals, `_total`, `_info` and units are
/// added by the encoder.
fn exported() -> BTreeSet<String> {
    let source = deploy().join("../lpm-agent/src/export");
    let mut literals = BTreeSet::new();
    for file in fs::read_dir(source)
        .expect("the exporter's source")
        .flatten()
    {
        if file
            .path()
            .extension()
            .is_some_and(|extension| extension == "rs")
        {
            let text = fs::read_to_string(file.path()).expect("source");
            // Not the tests beside it: they name what they want to see.
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            literals.extend(text.split('"').skip(1).step_by(2).map(str::to_owned));
        }
    }
    literals
}

fn is_exported(metric: &str, exported: &BTreeSet<String>) -> bool {
    let mut name = metric.strip_prefix("lpm_").unwrap_or(metric);
    let suffixes = ["_bucket", "_sum", "_count", "_total", "_info", "_seconds"];
    for suffix in suffixes {
        if exported.contains(name) {
            return true;
        }
        name = name.strip_suffix(suffix).unwrap_or(name);
    }
    exported.contains(name)
}

#[test]
fn queries_name_metrics_that_there_are() {
    let exported = exported();
    assert!(is_exported("lpm_rtt_seconds_bucket", &exported));
    assert!(!is_exported("lpm_latency_seconds_bucket", &exported));
    let found = labels(r#"sum by (a, b) (rate(m{c="x,y", d=~"z|w"}[5m])) / on (e) n{f!="(g)"}"#);
    assert_eq!(found, BTreeSet::from(["a", "b", "c", "d", "e", "f"]));
    let Some(file) = rule_file(&[]) else { return };
    let groups = groups(&file);
    let rules: Vec<&Value> = groups.iter().flat_map(rules_of).collect();
    let recorded: BTreeSet<&str> = rules
        .iter()
        .filter_map(|rule| rule["record"].as_str())
        .collect();
    let mut queries: Vec<String> = rules
        .iter()
        .map(|rule| rule["expr"].as_str().expect("an expression").to_owned())
        .collect();
    let mut dashboards = 0;
    for file in fs::read_dir(deploy().join("helm/lpm/files/dashboards"))
        .unwrap()
        .flatten()
    {
        let board: Value = serde_json::from_slice(&fs::read(file.path()).unwrap()).expect("JSON");
        let variables = board["templating"]["list"].as_array().expect("variables");
        queries.extend(
            variables
                .iter()
                .filter_map(|v| Some(v["query"]["query"].as_str()?.to_owned())),
        );
        for panel in board["panels"].as_array().expect("panels") {
            let targets = panel["targets"].as_array().expect("targets");
            queries.extend(
                targets
                    .iter()
                    .map(|t| t["expr"].as_str().expect("a query").to_owned()),
            );
        }
        dashboards += 1;
    }
    assert_eq!(dashboards, 2);
    assert!(queries.len() > 40, "{}", queries.len());
    for query in &queries {
        for metric in named(query) {
            let there = recorded.contains(metric) || is_exported(metric, &exported);
            assert!(there, "nothing is called {metric}: {query}");
        }
        for label in labels(query) {
            let there = OTHERS.contains(&label) || exported.contains(label);
            assert!(there, "no label is called {label}: {query}");
        }
    }
}

/// promtool parses what Grafana will ask, with its variables filled in.
#[test]
fn dashboards_ask_what_prometheus_understands() {
    let Some(mut promtool) = program("promtool") else {
        return;
    };
    let mut rules = Vec::new();
    for file in fs::read_dir(deploy().join("helm/lpm/files/dashboards"))
        .unwrap()
        .flatten()
    {
        let board: Value = serde_json::from_slice(&fs::read(file.path()).unwrap()).expect("JSON");
        for panel in board["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().expect("targets") {
                let query = target["expr"].as_str().expect("a query");
                let query = query
                    .replace("$__rate_interval", "5m")
                    .replace("$namespace", ".*");
                rules.push(json!({"record": format!("query{}", rules.len()), "expr": query}));
            }
        }
    }
    let rules = json!({"groups": [{"name": "dashboards", "rules": rules}]});
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dashboards.yaml");
    fs::write(&file, rules.to_string()).unwrap();
    ran(promtool.args(["check", "rules"]).arg(&file)).unwrap();
}
