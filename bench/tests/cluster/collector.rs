//! The collector of the overlay `l2sm`, as it would run in its pod: its own files and arguments, its
//! own account's rights at a real API server, and an agent's pod to find.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::PoisonError,
    thread,
};

use lpm_testbed::kubernetes::{ApiServer, Programs};
use serde_json::{Value, json};

use crate::{ONE, eventually};

/// What the agent of the test serves.
const METRICS: &str = "# TYPE lpm_packets_total counter\nlpm_packets_total{namespace=\"shop\"} 5\n";

/// Puts the pod's files where they are in a container, seen by this process only, and becomes the
/// collector: `$1` has the account's, `$2` those of /etc.
const IN_ITS_POD: &str = r#"
set -e
account=$1 etc=$2; shift 2
mount -t tmpfs tmpfs /run
mkdir -p /run/secrets/kubernetes.io/serviceaccount
cp "$account"/* /run/secrets/kubernetes.io/serviceaccount
mount --bind "$etc" /etc
exec "$@"
"#;

fn overlay(file: &str) -> String {
    let overlay = "../deploy/kustomize/overlays/l2sm";
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(overlay)
        .join(file);
    fs::read_to_string(path).expect(file)
}

/// The one object of this kind.
fn object(manifests: &str, kind: &str) -> Value {
    let all: Vec<Option<Value>> = serde_saphyr::from_multiple(manifests).expect("YAML");
    let mut all = all.into_iter().flatten();
    all.find(|object| object["kind"] == kind).expect(kind)
}

/// The collector, ended when it is dropped.
struct Collector {
    child: Child,
    log: PathBuf,
}

impl Drop for Collector {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Collector {
    fn start(api: &ApiServer, manifests: &str) -> Option<Self> {
        let program = match Programs::new().find("prometheus-kubernetes") {
            Ok(program) => program,
            Err(error) => {
                println!("LPM-SKIP cluster: {error}");
                return None;
            }
        };
        let in_the_pod = |name: &str| {
            let directory = api.directory().join(name);
            fs::create_dir_all(&directory).expect(name);
            directory
        };
        let account = in_the_pod("account");
        let token = api
            .service_account("lpm", "lpm-prometheus")
            .expect("an account");
        fs::write(account.join("token"), token.token).expect("a token");
        fs::copy(api.certificate(), account.join("ca.crt")).expect("a certificate");
        let config = object(manifests, "ConfigMap");
        let text = config["data"]["prometheus.yaml"].as_str().expect("a file");
        fs::write(in_the_pod("etc/prometheus").join("prometheus.yaml"), text).expect("write");
        let rules = object(&overlay("rules.yaml"), "ConfigMap");
        let text = rules["data"]["lpm.rules.yaml"].as_str().expect("a file");
        fs::write(in_the_pod("etc/lpm-rules").join("lpm.rules.yaml"), text).expect("write");
        let container =
            &object(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0];
        let arguments: Vec<String> =
            serde_json::from_value(container["args"].clone()).expect("args");
        let data = format!("--storage.tsdb.path={}", in_the_pod("data").display());
        let arguments = arguments.into_iter().map(|argument| {
            let is_data = argument.starts_with("--storage.tsdb.path=");
            if is_data { data.clone() } else { argument }
        });
        let url = api.url();
        let (host, port) = url
            .trim_start_matches("https://")
            .split_once(':')
            .expect("a port");
        let log = api.directory().join("collector.log");
        let child = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "sh",
                "-c",
                IN_ITS_POD,
                "sh",
            ])
            .args([&account, &api.directory().join("etc"), &program])
            .args(arguments)
            .arg("--web.listen-address=127.0.0.1:0")
            .envs([
                ("KUBERNETES_SERVICE_HOST", host),
                ("KUBERNETES_SERVICE_PORT", port),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("it starts");
        Some(Self { child, log })
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Where it listens, as it says itself.
    fn address(&mut self) -> SocketAddr {
        let mut address = None;
        eventually("the collector listens", || {
            let said = self.said();
            assert!(
                self.child.try_wait().expect("its state").is_none(),
                "{said}"
            );
            let line = said.lines().find(|line| line.contains("Listening on"));
            let word = line.and_then(|line| line.split("address=").nth(1));
            address = word.and_then(|word| word.split_whitespace().next()?.parse().ok());
            address.is_some()
        });
        address.expect("an address")
    }
}

/// Serves the metrics for ever.
fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let request = BufReader::new(client.try_clone().expect("a socket"));
            let ends = |line: &Result<String, _>| line.as_ref().is_ok_and(|line| !line.is_empty());
            request.lines().take_while(ends).for_each(drop);
            let length = METRICS.len();
            // Who asked may be gone.
            drop(write!(
                client,
                "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\n\
                 content-length: {length}\r\nconnection: close\r\n\r\n{METRICS}"
            ));
        }
    });
    address
}

/// A running pod with a port as an agent has it.
fn pod(api: &ApiServer, name: &str, label: &str, address: SocketAddr) {
    let path = "/api/v1/namespaces/lpm/pods";
    let pod = json!({
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": label}},
        "spec": {"nodeName": "n1", "containers": [{
            "name": "lpm", "image": "none", "ports": [{"name": "metrics", "containerPort": address.port()}],
        }]},
    });
    api.create(path, &pod).expect("a pod");
    let address = address.ip().to_string();
    let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]});
    api.patch_status(&format!("{path}/{name}"), &status)
        .expect("status");
}

#[test]
fn the_collector_of_l2sm_finds_the_agents() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(api) = ApiServer::start_or_skip() else {
        return;
    };
    let namespace = json!({"metadata": {"name": "lpm"}});
    api.create("/api/v1/namespaces", &namespace)
        .expect("a namespace");
    let manifests = overlay("prometheus.yaml");
    api.apply(&manifests).expect("the overlay");
    let agent = serve();
    pod(&api, "lpm-x", "lpm", agent);
    pod(
        &api,
        "another",
        "other",
        ([127, 0, 0, 2], agent.port()).into(),
    );
    let Some(mut collector) = Collector::start(&api, &manifests) else {
        return;
    };
    let url = format!("http://{}/api/v1", collector.address());
    let get = |path: &str| -> Value {
        let answer = ureq::get(format!("{url}/{path}")).call();
        let text = answer
            .ok()
            .and_then(|mut answer| answer.body_mut().read_to_string().ok());
        serde_json::from_str(&text.unwrap_or_default()).unwrap_or_default()
    };
    eventually("the agent's metrics", || {
        let said = collector.said();
        assert!(!said.contains("forbidden"), "{said}");
        get("query?query=lpm_packets_total")["data"]["result"][0]["value"][1] == "5"
    });
    let answer = get("query?query=lpm_packets_total");
    let labels = &answer["data"]["result"][0]["metric"];
    assert_eq!(
        (&labels["namespace"], &labels["node"]),
        (&json!("shop"), &json!("n1"))
    );
    // Only the agent's pod is asked, though it has seen the other one.
    let how_many = |targets: &str| get("targets")["data"][targets].as_array().map(Vec::len);
    eventually("the other pod is left alone", || {
        how_many("droppedTargets") == Some(1)
    });
    assert_eq!(how_many("activeTargets"), Some(1));
    let groups = get("rules");
    let groups = groups["data"]["groups"].as_array().expect("groups");
    let names: Vec<_> = groups.iter().map(|group| &group["name"]).collect();
    assert_eq!(names, ["lpm.alerts", "lpm.question", "lpm.rates"]);
}
