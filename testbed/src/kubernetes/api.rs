//! The API server with its etcd, and what tests do with it.

use std::{
    fs,
    io::Write as _,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    Answer, Error, Programs, client,
    etcd::Etcd,
    process::{self, Process},
    site::Site,
};

/// How long the API server may take to be ready.
const PATIENCE: Duration = Duration::from_mins(2);

/// How often a start is tried: another process may take a port that was free.
const ATTEMPTS: usize = 3;

/// The administrator's token: the server listens on the loopback interface only.
const TOKEN: &str = "administrator-of-a-test";

/// Where files are in memory.
const MEMORY: &str = "/dev/shm";

/// What directories are named: this, the id of the process, and something random.
const PREFIX: &str = "lpm-kubernetes-";

/// kube-apiserver and etcd; see the [module](super).
#[derive(Debug)]
pub struct ApiServer {
    // Dropped in this order: what asks before what answers, the directory last.
    proxy: Process,
    server: Option<Process>,
    etcd: Etcd,
    programs: Programs,
    site: Site,
    port: u16,
    proxy_url: String,
    dir: TempDir,
}

/// A `ServiceAccount` with a token of its own.
#[derive(Debug, Clone)]
pub struct ServiceAccount {
    /// The kubeconfig that uses the token.
    pub kubeconfig: PathBuf,
    /// The token, of an hour.
    pub token: String,
}

impl ApiServer {
    /// Starts both, or prints `LPM-SKIP` with the reason when the programs are not there.
    ///
    /// # Panics
    ///
    /// If they are there and do not start.
    #[must_use]
    pub fn start_or_skip() -> Option<Self> {
        match Self::start() {
            Ok(server) => Some(server),
            Err(error @ Error::Missing { .. }) => {
                println!("LPM-SKIP kubernetes: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Starts both and waits until the API is ready.
    pub fn start() -> Result<Self, Error> {
        Self::start_at(&Site::here(), &[])
    }

    /// Starts both at `site`, with more lines for the file of tokens (`token,user,uid,groups`).
    pub(super) fn start_at(site: &Site, tokens: &[String]) -> Result<Self, Error> {
        let programs = Programs::new();
        for program in ["etcd", "kube-apiserver", "kubectl", "openssl"] {
            programs.find(program)?;
        }
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match Self::attempt(&programs, site, tokens) {
                Err(error @ Error::Program { .. }) => last = Some(error),
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| Error::Program {
            program: "kube-apiserver".into(),
            reason: "not tried".into(),
        }))
    }

    fn attempt(programs: &Programs, site: &Site, tokens: &[String]) -> Result<Self, Error> {
        let dir = directory()?;
        let [first, second, port] = site.free_ports()?;
        write_keys(programs, dir.path(), tokens)?;
        let etcd = Etcd::start(programs, site, dir.path(), [first, second])?;
        let mut server = serve(programs, site, dir.path(), port, &etcd)?;
        // Its certificate is made while it starts.
        let certificate = dir.path().join("certificates/apiserver.crt");
        server.wait_until("a certificate", PATIENCE, || certificate.is_file())?;
        let kubeconfig = dir.path().join("admin.kubeconfig");
        write_kubeconfig(&kubeconfig, site.address, port, &certificate, TOKEN)?;
        let (proxy, proxy_url) = start_proxy(programs, site, dir.path(), &kubeconfig)?;
        let mut api = Self {
            proxy,
            server: Some(server),
            etcd,
            programs: programs.clone(),
            site: site.clone(),
            port,
            proxy_url,
            dir,
        };
        api.wait_ready()?;
        Ok(api)
    }

    fn wait_ready(&mut self) -> Result<(), Error> {
        let url = format!("{}/readyz", self.proxy_url);
        self.proxy.check()?;
        let Some(server) = &mut self.server else {
            return Ok(());
        };
        let site = &self.site;
        server.wait_until("the API ready", PATIENCE, || {
            let answer = client::call(site, "GET", &url, None);
            answer.is_ok_and(|answer| answer.status == 200)
        })
    }

    /// Where the API is, such as `https://127.0.0.1:6443`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}:{}", self.site.address, self.port)
    }

    /// The certificate (and its authority's) that clients must trust, PEM.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("certificates/apiserver.crt")
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("admin.kubeconfig")
    }

    /// A directory that lasts as long as this value; the servers' logs are in it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    /// kubectl as administrator, without arguments yet.
    pub fn kubectl(&self) -> Result<Command, Error> {
        let mut command = self.site.command(self.programs.find("kubectl")?);
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .env("HOME", self.dir.path())
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Applies manifests in YAML on the server's side; what kubectl printed.
    pub fn apply(&self, manifests: &str) -> Result<String, Error> {
        let mut file = tempfile::NamedTempFile::new_in(self.dir.path())
            .map_err(|source| Error::system("make a file", source))?;
        file.write_all(manifests.as_bytes())
            .map_err(|source| Error::system("write a file", source))?;
        let mut command = self.kubectl()?;
        command.args(["apply", "--server-side", "--force-conflicts", "--filename"]);
        process::output(command.arg(file.path()))
    }

    /// One request as administrator, whatever its answer: `request("GET", "/api/v1/pods", None)`.
    /// A body is sent with the content type `application/json`, in a PATCH as a merge patch.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, Error> {
        let kind = if method == "PATCH" {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let body = body.map(|body| (kind, body));
        client::call(
            &self.site,
            method,
            &format!("{}{path}", self.proxy_url),
            body,
        )
    }

    /// Reads an object or a list.
    pub fn get(&self, path: &str) -> Result<Value, Error> {
        self.expect("GET", path, None)
    }

    /// Creates an object in the collection `path`.
    pub fn create(&self, path: &str, object: &Value) -> Result<Value, Error> {
        self.expect("POST", path, Some(object))
    }

    /// Changes an object by a merge patch.
    pub fn patch(&self, path: &str, change: &Value) -> Result<Value, Error> {
        self.expect("PATCH", path, Some(change))
    }

    /// Changes the status of an object, as a controller or kubelet would.
    pub fn patch_status(&self, path: &str, status: &Value) -> Result<Value, Error> {
        let change = json!({ "status": status });
        self.expect("PATCH", &format!("{path}/status"), Some(&change))
    }

    /// Deletes an object at once, without grace.
    pub fn delete(&self, path: &str) -> Result<Value, Error> {
        self.expect("DELETE", &format!("{path}?gracePeriodSeconds=0"), None)
    }

    fn expect(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Error> {
        self.request(method, path, body)?
            .good(&format!("{method} {path}"))
    }

    /// Makes a running pod on `node`, which need not exist, with these addresses.
    pub fn create_pod(
        &self,
        namespace: &str,
        name: &str,
        node: &str,
        addresses: &[&str],
    ) -> Result<Value, Error> {
        let collection = format!("/api/v1/namespaces/{namespace}/pods");
        let pod = json!({
            "metadata": {"name": name},
            "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none"}]},
        });
        self.create(&collection, &pod)?;
        self.patch_status(&format!("{collection}/{name}"), &running(addresses))
    }

    /// Makes a `ServiceAccount`, if there is none yet, and a token for it.
    pub fn service_account(&self, namespace: &str, name: &str) -> Result<ServiceAccount, Error> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        let account = json!({"metadata": {"name": name}});
        let made = self.request("POST", &path, Some(&account))?;
        if made.status != 409 {
            made.good(&path)?;
        }
        let request = json!({"spec": {"expirationSeconds": 3600}});
        let answer = self.create(&format!("{path}/{name}/token"), &request)?;
        let token = answer["status"]["token"].as_str().unwrap_or_default();
        let name = format!("{namespace}-{name}.kubeconfig");
        Ok(ServiceAccount {
            kubeconfig: self.kubeconfig_for(&name, token)?,
            token: token.to_owned(),
        })
    }

    /// Writes a kubeconfig, `file` in the own directory, for whoever `token` is.
    pub(super) fn kubeconfig_for(&self, file: &str, token: &str) -> Result<PathBuf, Error> {
        let file = self.dir.path().join(file);
        let certificate = self.certificate();
        write_kubeconfig(&file, self.site.address, self.port, &certificate, token)?;
        Ok(file)
    }

    /// Kills the API server, as a crash would; etcd stays.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.end(true);
        }
    }

    /// Starts the API server again, on the same port and with the same keys, and waits until it is
    /// ready.
    pub fn start_again(&mut self) -> Result<(), Error> {
        self.stop();
        let server = serve(
            &self.programs,
            &self.site,
            self.dir.path(),
            self.port,
            &self.etcd,
        )?;
        self.server = Some(server);
        self.wait_ready()
    }

    /// Throws away etcd's history: a watch that has to begin anew from before is told that its
    /// version is gone (410), once the API server was restarted.
    pub fn compact(&self) -> Result<(), Error> {
        self.etcd.compact()
    }
}

/// The status of a running and ready pod with these addresses.
fn running(addresses: &[&str]) -> Value {
    let addresses: Vec<_> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    json!({
        "phase": "Running",
        "podIP": addresses.first().map(|address| &address["ip"]),
        "podIPs": addresses,
        "conditions": [{"type": "Ready", "status": "True"}],
    })
}

/// A directory in memory where there is one: etcd waits for its disk otherwise.
fn directory() -> Result<TempDir, Error> {
    let memory = Path::new(MEMORY);
    remove_stale();
    let prefix = format!("{PREFIX}{}-", std::process::id());
    let builder = || {
        let mut builder = tempfile::Builder::new();
        builder
            .prefix(&prefix)
            .permissions(fs::Permissions::from_mode(0o700));
        builder
    };
    builder()
        .tempdir_in(memory)
        .or_else(|_| builder().tempdir())
        .map_err(|source| Error::system("make a temporary directory", source))
}

/// Removes the directories of processes that were killed.
pub(super) fn remove_stale() {
    for place in [PathBuf::from(MEMORY), std::env::temp_dir()] {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            let pid = pid.and_then(|rest| rest.split('-').next());
            if pid.is_some_and(|pid| !crate::testbed::alive(pid)) {
                // Another process may remove it at the same time.
                drop(fs::remove_dir_all(entry.path()));
            }
        }
    }
}

/// The key that signs service accounts' tokens, and the file with the administrator's token.
fn write_keys(programs: &Programs, dir: &Path, tokens: &[String]) -> Result<(), Error> {
    let key = dir.join("service-account.key");
    let mut command = Command::new(programs.find("openssl")?);
    command.args(["genpkey", "-quiet", "-algorithm", "RSA"]);
    command.args(["-pkeyopt", "rsa_keygen_bits:2048", "-out"]);
    process::output(command.arg(&key))?;
    let administrator = format!("{TOKEN},admin,admin,system:masters");
    let lines = [&[administrator], tokens].concat().join("\n");
    fs::write(dir.join("tokens.csv"), lines + "\n")
        .map_err(|source| Error::system("write the tokens", source))
}

fn write_kubeconfig(
    file: &Path,
    address: Ipv4Addr,
    port: u16,
    certificate: &Path,
    token: &str,
) -> Result<(), Error> {
    // JSON is YAML.
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://{address}:{port}"),
            "certificate-authority": certificate,
        }}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    });
    fs::write(file, format!("{config:#}\n"))
        .map_err(|source| Error::system(format!("write {}", file.display()), source))
}

fn serve(
    programs: &Programs,
    site: &Site,
    dir: &Path,
    port: u16,
    etcd: &Etcd,
) -> Result<Process, Error> {
    let mut command = site.command(programs.find("kube-apiserver")?);
    let file = |name: &str| dir.join(name).display().to_string();
    let key = file("service-account.key");
    command.args([
        format!("--etcd-servers={}", etcd.url()),
        format!("--secure-port={port}"),
        format!("--cert-dir={}", file("certificates")),
        format!("--token-auth-file={}", file("tokens.csv")),
        format!("--service-account-key-file={key}"),
        format!("--service-account-signing-key-file={key}"),
    ]);
    command.args([
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=198.19.128.0/18",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged",
        "--kubelet-preferred-address-types=InternalIP",
        "--profiling=false",
    ]);
    command.arg(format!("--bind-address={}", site.address));
    command.arg(format!("--advertise-address={}", site.address));
    if site.address.is_loopback() {
        // Alone: nobody makes the default service accounts that it wants for each pod, and nobody
        // comes by the Service `kubernetes`.
        command.args([
            "--disable-admission-plugins=ServiceAccount",
            "--endpoint-reconciler-type=none",
        ]);
    }
    Process::start(command, "kube-apiserver", dir)
}

/// kubectl's proxy: it speaks TLS so that the tests need not.
fn start_proxy(
    programs: &Programs,
    site: &Site,
    dir: &Path,
    kubeconfig: &Path,
) -> Result<(Process, String), Error> {
    let mut command = site.command(programs.find("kubectl")?);
    command.arg("--kubeconfig").arg(kubeconfig);
    command
        .args(["proxy", "--port=0", "--disable-filter"])
        .env("HOME", dir);
    let mut proxy = Process::start(command, "kubectl-proxy", dir)?;
    let log = proxy.log().to_owned();
    let mut url = None;
    proxy.wait_until("kubectl proxy serving", PATIENCE, || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let address = text
            .split_once("Starting to serve on ")
            .and_then(|(_, rest)| rest.split_once('\n'));
        url = address.map(|(address, _)| format!("http://{}", address.trim()));
        url.is_some()
    })?;
    Ok((proxy, url.unwrap_or_default()))
}
