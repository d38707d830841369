//! A real Prometheus, started and asked.

use std::{fs, path::Path, process::Command};

use lpm_testbed::testbed::Netns;
use serde_json::Value;

use super::lpm::{Lpm, eventually};

/// A tool of the package `prometheus`: installed, or unpacked by `cargo xtask setup`. If it is not
/// here, that is printed as a skip.
pub fn tool(name: &str) -> Option<Command> {
    let unpacked = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/usr/bin");
    let found = [name.to_owned(), format!("{unpacked}/{name}")]
        .into_iter()
        .find(|path| {
            let tried = Command::new(path).arg("--version").output();
            tried.is_ok_and(|output| output.status.success())
        });
    if found.is_none() {
        println!("LPM-SKIP prometheus: there is no {name}; run `cargo xtask setup`");
    }
    found.map(Command::new)
}

/// A Prometheus 3 with all that it can do; if it is not here, that is printed as a skip.
pub fn newer() -> Option<Command> {
    let built = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../target/cluster/bin/prometheus-kubernetes"
    );
    let found = Path::new(built).is_file();
    if !found {
        println!(
            "LPM-SKIP prometheus: there is no {built}; run `cargo xtask setup --only prometheus`"
        );
    }
    found.then(|| Command::new(built))
}

/// Starts one with this configuration; gives it with its address. `owner` kills it if the test
/// forgets.
pub fn start(
    owner: &Netns,
    mut prometheus: Command,
    directory: &Path,
    config: &str,
    arguments: &[&str],
) -> (Lpm, String) {
    let file = directory.join("prometheus.yml");
    fs::write(&file, config).expect("a configuration");
    prometheus
        .arg(format!("--config.file={}", file.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            directory.join("data").display()
        ))
        .arg("--web.listen-address=127.0.0.1:0")
        .args(arguments);
    let prometheus = Lpm::spawn(owner, &mut prometheus);
    // 2.x and 3.x have it in another order.
    prometheus.wait_for("msg=\"Listening on\"");
    let mut address = String::new();
    eventually("its address", || {
        let said = prometheus.said();
        let (_, after) = said.split_once("msg=\"Listening on\"").expect("it said so");
        let line = after.split_once('\n').map(|(line, _)| line);
        let told = line.and_then(|line| line.split_once("address="));
        address = told.map_or_else(String::new, |(_, told)| told.trim().to_owned());
        !address.is_empty()
    });
    (prometheus, address)
}

/// What a query gives; `None`: Prometheus is not ready.
pub fn ask(address: &str, query: &str) -> Option<Vec<Value>> {
    let url = format!("http://{address}/api/v1/query");
    let mut response = ureq::get(&url).query("query", query).call().ok()?;
    let answer: Value = serde_json::from_str(&response.body_mut().read_to_string().ok()?).ok()?;
    Some(answer["data"]["result"].as_array()?.clone())
}

/// The value of one of its results.
pub fn value(result: &Value) -> Option<f64> {
    result["value"][1].as_str()?.parse().ok()
}
