//! Builds Kubernetes' programs, helm and a Prometheus from their Go modules. No registry and no
//! release page is needed, and go.sum pins every byte.
//!
//! A built program is kept per user, keyed by what it was built from, and linked into
//! `target/cluster/bin`: the next checkout builds nothing.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{BufRead as _, BufReader},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::{paths, process, setup::Need};

/// The release of Kubernetes: the last that runs on control groups of version 1, too.
const KUBERNETES: &str = "1.34.4";

/// The release of helm.
const HELM: &str = "3.19.4";

/// The release of Prometheus (its Go module is `v0.310.0`). It is among the first that can be built
/// with one kind of discovery only. Debian's Prometheus has no discovery of Kubernetes.
const PROMETHEUS: &str = "3.10.0";

/// The oldest Go that reads our go.mod. A newer Go gets by itself the release that a module asks
/// for.
const GO_MINOR: u32 = 24;

/// One program and the Go module under `xtask/cluster` that builds it.
pub(crate) struct GoProgram {
    name: &'static str,
    why: &'static str,
    module: &'static str,
    package: &'static str,
    version: &'static str,
    /// Go build tags of the program, separated by commas.
    tags: &'static str,
}

impl GoProgram {
    /// All programs. The API server comes first: the others share most of its packages.
    pub(crate) fn all() -> Vec<Box<dyn Need>> {
        let kubernetes = [
            (
                "kube-apiserver",
                "./kube-apiserver",
                "the API that tests talk to",
            ),
            ("kubectl", "./kubectl", "talks to the API"),
            (
                "kube-controller-manager",
                "./kube-controller-manager",
                "makes pods of Deployments",
            ),
            (
                "kube-scheduler",
                "./kube-scheduler",
                "gives each pod its node",
            ),
            ("kubelet", "./kubelet", "runs the pods of a node"),
            (
                "kube-proxy",
                "./kube-proxy",
                "translates Services' addresses",
            ),
        ];
        let programs = kubernetes.map(|(name, package, why)| Self {
            name,
            why,
            module: "kubernetes",
            package,
            version: KUBERNETES,
            tags: "",
        });
        let helm = Self {
            name: "helm",
            why: "renders and installs the chart",
            module: "helm",
            package: "helm.sh/helm/v3/cmd/helm",
            version: HELM,
            tags: "",
        };
        let boxed = |program| -> Box<dyn Need> { Box::new(program) };
        programs.into_iter().chain([helm]).map(boxed).collect()
    }

    /// A Prometheus that discovers its targets through the API server, and knows no other cloud.
    pub(crate) fn prometheus() -> Box<dyn Need> {
        Box::new(Self {
            name: "prometheus-kubernetes",
            why: "finds the agents through the cluster's API, as users' do",
            module: "prometheus",
            package: "github.com/prometheus/prometheus/cmd/prometheus",
            version: PROMETHEUS,
            tags: "remove_all_sd,enable_kubernetes_sd",
        })
    }

    /// Directory of the program's module.
    fn sources(&self) -> PathBuf {
        paths::root().join("xtask/cluster").join(self.module)
    }

    /// Path at which the built program is kept; it names what the program is built from.
    fn cached(&self) -> Result<PathBuf> {
        let mut hasher = DefaultHasher::new();
        let own = self.sources().join(self.package).join("main.go");
        for file in [
            self.sources().join("go.mod"),
            self.sources().join("go.sum"),
            own,
        ] {
            // helm has no file of ours.
            fs::read(file).unwrap_or_default().hash(&mut hasher);
        }
        if !self.tags.is_empty() {
            self.tags.hash(&mut hasher);
        }
        let key = format!("{}-{}-{:016x}", self.name, self.version, hasher.finish());
        Ok(user_cache()?.join(key))
    }

    /// Flags for the linker: smaller output, and the version that a release would have.
    fn link_flags(&self) -> String {
        let mut flags = "-s -w".to_owned();
        let release = &*format!("v{}", self.version);
        let minor = |release: &'static str| release.split('.').nth(1).unwrap_or_default();
        let set: &[(&str, &str)] = match self.module {
            "kubernetes" => &[
                ("k8s.io/component-base/version.gitVersion", release),
                ("k8s.io/component-base/version.gitMajor", "1"),
                (
                    "k8s.io/component-base/version.gitMinor",
                    minor(self.version),
                ),
                ("k8s.io/client-go/pkg/version.gitVersion", release),
            ],
            "helm" => &[
                ("helm.sh/helm/v3/internal/version.version", release),
                ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor", "1"),
                (
                    "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor",
                    minor(KUBERNETES),
                ),
            ],
            _ => &[("github.com/prometheus/common/version.Version", self.version)],
        };
        let set = set
            .iter()
            .map(|(name, value)| format!(" -X {name}={value}"));
        flags.extend(set);
        flags
    }

    /// Builds the program into `file`, and reports progress.
    fn build(&self, file: &Path) -> Result<()> {
        let unfinished = file.with_extension(format!("{}.unfinished", std::process::id()));
        let mut command = Command::new(go().map_err(anyhow::Error::msg)?);
        command
            .current_dir(self.sources())
            .env("CGO_ENABLED", "0")
            .args(["build", "-v", "-mod=readonly", "-trimpath"])
            .arg(format!("-tags={}", self.tags))
            .arg(format!("-ldflags={}", self.link_flags()))
            .arg("-o")
            .arg(&unfinished)
            .arg(self.package)
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let start = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start `{}`", process::show(&command)))?;
        let mut said = Vec::new();
        let mut packages = 0;
        for line in BufReader::new(child.stderr.take().context("no stderr")?).lines() {
            let line = line?;
            // `-v` names each package that is compiled, and nothing else has such a form.
            if line.contains(' ') {
                said.push(line);
                continue;
            }
            packages += 1;
            if packages % 200 == 0 {
                let seconds = start.elapsed().as_secs();
                println!("setup:   {}: {packages} packages, {seconds} s", self.name);
            }
        }
        let status = child.wait()?;
        if !status.success() {
            let last = said[said.len().saturating_sub(20)..].join("\n  ");
            bail!(
                "`{}` failed with {status}:\n  {last}",
                process::show(&command)
            );
        }
        fs::rename(&unfinished, file).with_context(|| format!("cannot make {}", file.display()))
    }
}

impl Need for GoProgram {
    fn name(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    fn why(&self) -> &'static str {
        self.why
    }

    fn probe(&self) -> std::result::Result<String, String> {
        if let Some(program) = paths::asset(self.name) {
            return Ok(program.display().to_string());
        }
        let cached = self.cached().map_err(|error| format!("{error:#}"))?;
        let link = bin().join(self.name);
        if cached.is_file() && link.is_file() && fs::read_link(&link).is_ok_and(|to| to == cached) {
            return Ok(link.display().to_string());
        }
        Err(format!(
            "{} is not the one built from xtask/cluster",
            link.display()
        ))
    }

    fn how(&self) -> String {
        format!(
            "built from its Go module and kept in {}: up to ten minutes on two cores the first time",
            user_cache().map_or_else(|_| "the cache".to_owned(), |dir| dir.display().to_string())
        )
    }

    fn install(&self) -> Result<()> {
        let cached = self.cached()?;
        let cache = user_cache()?;
        for dir in [&cache, &bin()] {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        if !cached.is_file() {
            self.build(&cached)?;
        }
        let link = bin().join(self.name);
        if link.symlink_metadata().is_ok() {
            fs::remove_file(&link)?;
        }
        symlink(&cached, &link).with_context(|| format!("cannot make {}", link.display()))
    }
}

/// The Go toolchain.
pub(crate) struct Toolchain;

impl Need for Toolchain {
    fn name(&self) -> String {
        "go".to_owned()
    }

    fn why(&self) -> &'static str {
        "builds Kubernetes and helm from their modules"
    }

    fn probe(&self) -> std::result::Result<String, String> {
        go().map(|path| path.display().to_string())
    }

    fn how(&self) -> String {
        "`apt-get install golang-go`, where that is new enough".to_owned()
    }

    fn install(&self) -> Result<()> {
        let policy = process::output(Command::new("apt-cache").args(["policy", "golang-go"]))?;
        let candidate = policy
            .lines()
            .find_map(|line| line.trim().strip_prefix("Candidate: "))
            .and_then(|version| minor(version.rsplit(':').next()?));
        if candidate.is_none_or(|minor| minor < GO_MINOR) {
            bail!(
                "this release's golang-go is older than 1.{GO_MINOR}: install Go from \
                 https://go.dev/dl into /usr/local/go"
            );
        }
        crate::setup::apt_install(&["golang-go"])
    }
}

/// Finds a Go that is new enough, on PATH or where its own installation puts it.
fn go() -> std::result::Result<PathBuf, String> {
    let usual = Path::new("/usr/local/go/bin/go");
    let found = process::which("go").or_else(|| usual.is_file().then(|| usual.to_owned()));
    let path = found.ok_or("not on PATH and not in /usr/local/go")?;
    // `go version go1.26.8 linux/amd64`
    let version = process::output(Command::new(&path).arg("version"))
        .map_err(|error| format!("{error:#}"))?;
    let number = version
        .split_whitespace()
        .nth(2)
        .and_then(|word| word.strip_prefix("go"));
    match number.and_then(minor) {
        Some(minor) if minor >= GO_MINOR => Ok(path),
        _ => Err(format!(
            "{} is {}, and 1.{GO_MINOR} is needed",
            path.display(),
            version.trim()
        )),
    }
}

/// Minor number of a version of Go 1.
fn minor(version: &str) -> Option<u32> {
    let rest = version.strip_prefix("1.")?;
    rest.split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// Directory in which tests and `cargo xtask cluster` find the programs.
pub(crate) fn bin() -> PathBuf {
    paths::target().join("cluster/bin")
}

/// Directory in which built programs are kept for all checkouts of this user.
fn user_cache() -> Result<PathBuf> {
    env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .map(|cache| cache.join("lpm"))
        .context("neither XDG_CACHE_HOME nor HOME says where to keep what is built")
}

#[cfg(test)]
mod tests {
    use std::{env, process::Command};

    use super::{GoProgram, fs, minor};

    /// Environment variable for the test in a process of its own: where it expects the API server.
    const WANTED: &str = "LPM_TEST_WANTED";

    #[test]
    fn what_the_user_has_is_not_built() {
        if let Some(wanted) = env::var_os(WANTED) {
            let server = &GoProgram::all()[0];
            assert!(server.name().starts_with("kube-apiserver "));
            let found = server.probe().expect("it is there");
            assert_eq!(found, wanted.to_string_lossy());
            return;
        }
        // The environment is the process's, so it is asked of one of its own.
        let assets = env::temp_dir().join(format!("lpm-assets-{}", std::process::id()));
        fs::create_dir_all(&assets).expect("a directory");
        let server = assets.join("kube-apiserver");
        fs::write(&server, "").expect("a file");
        let name = "cluster::go::tests::what_the_user_has_is_not_built";
        let output = Command::new(env::current_exe().expect("a program"))
            .args(["--exact", name])
            .envs([("KUBEBUILDER_ASSETS", &assets), (WANTED, &server)])
            .output()
            .expect("it starts");
        fs::remove_dir_all(&assets).expect("remove");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("1 passed"), "{said}");
    }

    #[test]
    fn reads_the_minor_number_of_versions_as_go_and_debian_write_them() {
        assert_eq!(minor("1.26.8"), Some(26));
        assert_eq!(minor("1.24~2"), Some(24));
        assert_eq!(minor("1.25rc1"), Some(25));
        assert_eq!(minor("2.0"), None);
    }
}
