//! etcd, alone and in memory.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use super::{Error, Programs, client, process::Process, site::Site};

/// How long it may take to be ready.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running etcd.
#[derive(Debug)]
pub(super) struct Etcd {
    site: Site,
    port: u16,
    _process: Process,
}

impl Etcd {
    /// Starts it with its data below `dir`.
    pub(super) fn start(
        programs: &Programs,
        site: &Site,
        dir: &Path,
        ports: [u16; 2],
    ) -> Result<Self, Error> {
        let [port, peer] = ports;
        let (own, peer) = (
            format!("http://127.0.0.1:{port}"),
            format!("http://127.0.0.1:{peer}"),
        );
        let mut command = site.command(programs.find("etcd")?);
        command
            .arg("--data-dir")
            .arg(dir.join("etcd"))
            .arg(format!("--listen-client-urls={own}"))
            .arg(format!("--advertise-client-urls={own}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=default={peer}"))
            .args(["--logger=zap", "--log-level=warn"]);
        let mut process = Process::start(command, "etcd", dir)?;
        process.wait_until("etcd ready", PATIENCE, || {
            client::call(site, "GET", &format!("{own}/health"), None)
                .is_ok_and(|answer| answer.body["health"] == "true")
        })?;
        Ok(Self {
            site: site.clone(),
            port,
            _process: process,
        })
    }

    /// Where clients reach it.
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Throws away all history: only the present can be read, and watched from.
    pub(super) fn compact(&self) -> Result<(), Error> {
        let ask = |path: &str, body: &Value| {
            let url = format!("{}{path}", self.url());
            let body = Some(("application/json", body));
            client::call(&self.site, "POST", &url, body)?.good("etcd")
        };
        let present = ask("/v3/kv/range", &json!({"key": "AA==", "limit": "1"}))?;
        let revision = &present["header"]["revision"];
        ask(
            "/v3/kv/compaction",
            &json!({"revision": revision, "physical": true}),
        )?;
        Ok(())
    }
}
