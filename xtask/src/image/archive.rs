//! The image archive: one layer, the image's configuration, and the manifest that names both.
//!
//! The same binary makes the same bytes: the archive has no times and no owners, and its names are
//! sorted.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::{paths, process};

/// Users that the image knows. The chart's agent is root with a few capabilities.
const PASSWD: &str =
    "root:x:0:0:root:/:/nonexistent\nnonroot:x:65532:65532:nonroot:/tmp:/nonexistent\n";
const GROUP: &str = "root:x:0:\nnonroot:x:65532:\n";
/// Order of name resolution. Without it the C library asks for what is not in the image.
const NSSWITCH: &str = "hosts: files dns\n";

/// What goes into an image.
pub(super) struct Image<'a> {
    /// Name and tag of the image.
    pub(super) tag: &'a str,
    /// Architecture, by the name that images have for it: `amd64`, `arm64`.
    pub(super) architecture: &'a str,
    /// The program.
    pub(super) binary: &'a Path,
    /// The libraries that the program loads, at the paths that they also have in the image.
    pub(super) libraries: &'a [PathBuf],
}

impl Image<'_> {
    /// Writes the archive `output`. `work` is a directory for intermediate files; it must not hold
    /// `root` or `parts` yet.
    pub(super) fn write(&self, work: &Path, output: &Path) -> Result<()> {
        let parts = work.join("parts");
        fs::create_dir_all(&parts).with_context(|| format!("cannot create {}", parts.display()))?;
        self.lay_out(&work.join("root"))?;
        tar(&work.join("root"), &parts.join("layer.tar"))?;
        let layer = sha256(&parts.join("layer.tar"))?;
        write(&parts.join("config.json"), &self.config(&layer).to_string())?;
        let manifest = json!([{
            "Config": "config.json",
            "RepoTags": [self.tag],
            "Layers": ["layer.tar"],
        }]);
        write(&parts.join("manifest.json"), &manifest.to_string())?;
        tar(&parts, output)
    }

    /// Writes the image's file system below `root`.
    fn lay_out(&self, root: &Path) -> Result<()> {
        for (name, mode) in [("", 0o755), ("etc", 0o755), ("tmp", 0o1777)] {
            let dir = root.join(name);
            fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode))?;
        }
        write(&root.join("etc/passwd"), PASSWD)?;
        write(&root.join("etc/group"), GROUP)?;
        write(&root.join("etc/nsswitch.conf"), NSSWITCH)?;
        put(self.binary, &root.join("lpm"))?;
        for library in self.libraries {
            let place = root.join(library.strip_prefix("/").unwrap_or(library));
            if let Some(dir) = place.parent() {
                fs::create_dir_all(dir)
                    .with_context(|| format!("cannot create {}", dir.display()))?;
            }
            put(library, &place)?;
        }
        Ok(())
    }

    fn config(&self, layer: &str) -> serde_json::Value {
        // A checkout without git has no revision to tell.
        let git = |args: &[&str]| {
            let mut git = Command::new("git");
            git.current_dir(paths::root()).args(args);
            process::output(&mut git).map(|text| text.trim().to_owned())
        };
        let revision = git(&["rev-parse", "HEAD"]).unwrap_or_default();
        let created = git(&[
            "log",
            "-1",
            "--format=%cd",
            "--date=format:%Y-%m-%dT%H:%M:%SZ",
        ])
        .unwrap_or_else(|_| "1970-01-01T00:00:00Z".to_owned());
        let title = self.tag.split([':', '@']).next().unwrap_or("lpm");
        json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": created,
            "config": {
                "Entrypoint": ["/lpm"],
                "Cmd": ["run"],
                "WorkingDir": "/",
                "ExposedPorts": {"9477/tcp": {}},
                "Labels": {
                    "org.opencontainers.image.title": title,
                    "org.opencontainers.image.description": "Passive network latency per namespace",
                    "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                    "org.opencontainers.image.revision": revision,
                    "org.opencontainers.image.licenses": "(MIT OR Apache-2.0) AND (MIT OR GPL-2.0-only)",
                },
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
            "history": [{"created": created, "created_by": "cargo xtask image"}],
        })
    }
}

/// Copies a program or a library.
fn put(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot change {}", to.display()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// Archives everything below `directory`. The same files make the same bytes.
fn tar(directory: &Path, archive: &Path) -> Result<()> {
    if let Some(parent) = archive.parent() {
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
    }
    let mut tar = Command::new("tar");
    tar.args(["--format=ustar", "--sort=name", "--mtime=@0"]);
    tar.args(["--owner=0", "--group=0", "--numeric-owner"]);
    tar.arg("--create").arg("--file").arg(archive);
    process::run(tar.arg("--directory").arg(directory).arg("."))
}

fn sha256(file: &Path) -> Result<String> {
    let text = process::output(Command::new("sha256sum").arg(file))?;
    let sum = text.split_whitespace().next();
    Ok(sum.context("sha256sum printed nothing")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(dir: &Path, name: &str) -> Vec<u8> {
        let binary = dir.join("binary");
        fs::write(&binary, "not really a program").unwrap();
        let image = Image {
            tag: "registry.example/lpm:1.2.3",
            architecture: "arm64",
            binary: &binary,
            libraries: &[dir.join("binary")],
        };
        let (work, output) = (dir.join("work"), dir.join(name));
        image.write(&work, &output).unwrap();
        fs::remove_dir_all(work).unwrap();
        fs::read(output).unwrap()
    }

    fn from(dir: &Path, archive: &str, file: &str) -> String {
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--to-stdout", "--file", archive, file]);
        process::output(tar.current_dir(dir)).unwrap()
    }

    #[test]
    fn the_manifest_names_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        made(dir, "a.tar");
        let json = |file| -> serde_json::Value {
            serde_json::from_str(&from(dir, "a.tar", file)).unwrap()
        };
        let manifest = &json("./manifest.json")[0];
        assert_eq!(manifest["RepoTags"], json!(["registry.example/lpm:1.2.3"]));
        assert_eq!(manifest["Layers"], json!(["layer.tar"]));
        let config = json("./config.json");
        assert_eq!(config["architecture"], "arm64");
        process::run(
            Command::new("tar")
                .current_dir(dir)
                .args(["-xf", "a.tar", "./layer.tar"]),
        )
        .unwrap();
        let layer = sha256(&dir.join("layer.tar")).unwrap();
        assert_eq!(
            config["rootfs"]["diff_ids"],
            json!([format!("sha256:{layer}")])
        );
        let list = process::output(
            Command::new("tar")
                .current_dir(dir)
                .args(["-tvf", "layer.tar"]),
        )
        .unwrap();
        assert!(list.contains("drwxrwxrwt 0/0"), "/tmp: {list}");
        assert!(
            list.contains("-rwxr-xr-x 0/0") && list.contains("./lpm"),
            "{list}"
        );
        let library = format!(".{}", dir.join("binary").display());
        assert!(list.contains(&library), "{library} in {list}");
    }

    #[test]
    fn the_same_binary_makes_the_same_image() {
        let dir = tempfile::tempdir().unwrap();
        assert!(made(dir.path(), "a.tar") == made(dir.path(), "b.tar"));
    }
}
