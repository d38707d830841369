//! Where the programs of Kubernetes are.

use std::{
    env,
    path::{Path, PathBuf},
};

use super::Error;

/// Finds programs: in `KUBEBUILDER_ASSETS` if that is set, in what `cargo xtask setup` built and
/// unpacked, and on PATH.
#[derive(Debug, Clone)]
pub struct Programs {
    places: Vec<PathBuf>,
}

impl Default for Programs {
    fn default() -> Self {
        Self::new()
    }
}

impl Programs {
    /// The usual places.
    #[must_use]
    pub fn new() -> Self {
        let target = target();
        let assets = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let path = env::var_os("PATH").unwrap_or_default();
        let places = assets
            .into_iter()
            .chain([
                target.join("cluster/bin"),
                target.join("tools/usr/bin"),
                target.join("tools/usr/sbin"),
            ])
            .chain(env::split_paths(&path))
            .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
            .collect();
        Self { places }
    }

    /// The program of this name.
    pub fn find(&self, name: &str) -> Result<PathBuf, Error> {
        let files = self.places.iter().map(|place| place.join(name));
        files
            .into_iter()
            .find(|file| file.is_file())
            .ok_or_else(|| self.missing(name))
    }

    /// What PATH should be for programs that start others.
    #[must_use]
    pub fn path(&self) -> std::ffi::OsString {
        env::join_paths(&self.places).unwrap_or_default()
    }

    /// The directory of the CNI plugins.
    pub fn cni(&self) -> Result<PathBuf, Error> {
        let places = [target().join("tools/usr/lib/cni"), "/usr/lib/cni".into()];
        let found = places
            .into_iter()
            .find(|dir| dir.join("host-local").is_file());
        found.ok_or_else(|| self.missing("CNI plugin host-local"))
    }

    fn missing(&self, program: &str) -> Error {
        let places = self.places.iter().take(4);
        let places: Vec<_> = places.map(|place| place.display().to_string()).collect();
        Error::Missing {
            program: program.to_owned(),
            places: places.join(", "),
        }
    }
}

/// Cargo's target directory, where xtask puts what it builds.
pub(crate) fn target() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or_else(|| Path::new("."));
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the test in a process of its own expects the API server.
    const WANTED: &str = "LPM_TEST_WANTED";

    #[test]
    fn what_the_user_has_goes_first() {
        if let Some(wanted) = env::var_os(WANTED) {
            let found = Programs::new().find("kube-apiserver").expect("it is there");
            assert_eq!(found, PathBuf::from(wanted));
            return;
        }
        // The environment is the process's, so it is asked of one of its own.
        let assets = tempfile::tempdir().expect("a directory");
        let server = assets.path().join("kube-apiserver");
        std::fs::write(&server, "").expect("a file");
        let name = "kubernetes::programs::tests::what_the_user_has_goes_first";
        let output = std::process::Command::new(env::current_exe().expect("a program"))
            .args(["--exact", name])
            .env("KUBEBUILDER_ASSETS", assets.path())
            .env(WANTED, &server)
            .output()
            .expect("it starts");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("1 passed"), "{said}");
    }

    #[test]
    fn a_missing_program_is_named_with_the_remedy() {
        let error = Programs::new().find("lpm-no-such-program").unwrap_err();
        let said = error.to_string();
        assert!(said.contains("lpm-no-such-program") && said.contains("cargo xtask setup"));
        assert!(Programs::new().find("sh").is_ok());
    }
}
