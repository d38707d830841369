//! `lpm config` with other systems' configuration files.

use std::fs;

use crate::support::lpm::{fails, lpm, succeeds};

const NODE_A: &str = "{
  \"Nodename\": \"NodeA\",
  \"MetricsNeighbourNodes\": [
    {\"name\": \"NodeB\", \"ip\": \"10.0.2.4\", \"rttInterval\": 3, \"throughputInterval\": 20,},
  ],
}
";

/// The output of `lpm config ACTION FILE` with this text in the file.
fn config(action: &str, name: &str, text: &str) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join(name);
    fs::write(&file, text).expect("write");
    succeeds(lpm().args(["config", action]).arg(&file))
}

#[test]
fn what_is_imported_is_valid_and_the_same() {
    let imported = config("import", "config.json", NODE_A);
    assert!(
        imported.starts_with("# From L2S-M LPM's configuration, node NodeA.\n"),
        "{imported}"
    );
    assert!(
        imported.contains("# - line 4: throughputInterval: the throughput to NodeB"),
        "{imported}"
    );
    assert!(imported.contains("interval: 3m\n"), "{imported}");
    let checked = config("check", "lpm.yaml", &imported);
    assert!(
        checked.ends_with("the configuration is valid\n"),
        "{checked}"
    );
}

#[test]
fn a_check_names_what_is_not_measured() {
    let checked = config("check", "config.json", NODE_A);
    for words in [
        "the configuration is valid, L2S-M LPM's configuration, targets: 1\n",
        "\nline 4: throughputInterval: the throughput to NodeB (every 20 min) is not measured yet",
    ] {
        assert!(checked.contains(words), "{words} in {checked}");
    }
}

#[test]
fn nodes_of_a_chart_are_printed_one_or_all() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("values.yaml");
    let text = "global:\n  nodes:\n  - {name: n1, ip: 10.0.0.2/24, metrics: {rttInterval: 1}}\n  \
                - {name: n2, ip: 10.0.0.3/24, metrics: {rttInterval: 1}}\n";
    fs::write(&file, text).expect("write");
    let import = || {
        let mut command = lpm();
        command.args(["config", "import"]).arg(&file);
        command
    };
    assert_eq!(succeeds(&mut import()).matches("node_name: ").count(), 2);
    let one = succeeds(import().args(["--node", "n2"]));
    assert!(one.contains("node_name: n2\n"), "{one}");
    let failed = fails(import().args(["--node", "n3"]));
    assert!(failed.contains("give one of n1, n2"), "{failed}");
    let failed = fails(lpm().args(["run", "-c"]).arg(&file));
    assert!(
        failed.contains("lpm config import --node NAME FILE"),
        "{failed}"
    );
}

#[test]
fn an_own_file_is_not_imported() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("lpm.yaml");
    fs::write(&file, "rows: 64\n").expect("write");
    let failed = fails(lpm().args(["config", "import"]).arg(&file));
    assert!(
        failed.contains("is neither L2S-M LPM's configuration nor LLAMA's"),
        "{failed}"
    );
}
