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
    /// Files about the image, for those who get it.
    pub(super) documents: &'a [PathBuf],
}

/// Directory of these files in the image. Scanners read `*.cdx.json` wherever it lies.
const DOCUMENTS: &str = "usr/share/doc/lpm";

impl Image<'_> {
    /// Writes the archive `output`. `work` is a directory for intermediate files; it must not hold
    /// `root` or `parts` yet.
    pub(super) fn write(&self, work: &Path, output: &Path) -> Result<()> {
        let parts = work.join("parts");
        fs::create_dir_all(&parts).with_context(|| format!("cannot create {}", parts.display()))?;
        self.lay_out(&work.join("root"))?;
        tar(&work.join("root"), &parts.join("layer.tar"))?;
        let layer = sha256(&parts.join("layer.tar"))?;
        write(
            &parts.join("config.json"),
            &self.config(&layer)?.to_string(),
        )?;
        let manifest = json!([{
            "Config": "config.json",
            "RepoTags": [self.tag],
            "Layers": ["layer.tar"],
        }]);
        write(&parts.join("manifest.json"), &manifest.to_string())?;
        tar(&parts, output)
    }

    /// Writes the image's file system below `root`.
    pub(super) fn lay_out(&self, root: &Path) -> Result<()> {
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
        if self.documents.is_empty() {
            return Ok(());
        }
        let directory = root.join(DOCUMENTS);
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        for document in self.documents {
            let extension = document.extension().unwrap_or_default();
            let name = if extension == "json" {
                "lpm.cdx.json"
            } else {
                "licenses.txt"
            };
            copy(document, &directory.join(name), 0o644)?;
        }
        Ok(())
    }

    fn config(&self, layer: &str) -> Result<serde_json::Value> {
        // A checkout without git has no revision to tell.
        let mut git = Command::new("git");
        git.current_dir(paths::root()).args(["rev-parse", "HEAD"]);
        let revision = process::output(&mut git).unwrap_or_default();
        let revision = revision.trim();
        let created = rfc3339(time())?;
        let title = self.tag.split([':', '@']).next().unwrap_or("lpm");
        Ok(json!({
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
        }))
    }
}

/// Copies a program or a library.
fn put(from: &Path, to: &Path) -> Result<()> {
    copy(from, to, 0o755)
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    set_mode(to, mode)
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    set_mode(file, 0o644)
}

/// Sets the mode, whatever the umask of this process is.
fn set_mode(file: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(file, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot change {}", file.display()))
}

/// The time that an image bears, in seconds since 1970: `SOURCE_DATE_EPOCH`, else that of the commit,
/// else 0.
pub(super) fn time() -> u64 {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok();
    let of_commit = || {
        let mut git = Command::new("git");
        git.current_dir(paths::root())
            .args(["log", "-1", "--format=%ct"]);
        process::output(&mut git).ok()
    };
    let text = given.or_else(of_commit).unwrap_or_default();
    text.trim().parse().unwrap_or_default()
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

/// Seconds since 1970 as images write a time.
fn rfc3339(seconds: u64) -> Result<String> {
    let mut date = Command::new("date");
    date.args(["--utc", "+%Y-%m-%dT%H:%M:%SZ"]);
    let text = process::output(date.arg(format!("--date=@{seconds}")))?;
    Ok(text.trim().to_owned())
}

/// SHA-256 of a file, in hexadecimal digits.
pub(super) fn sha256(file: &Path) -> Result<String> {
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
        for document in ["a.cdx.json", "a.licenses.txt"] {
            fs::write(dir.join(document), document).unwrap();
        }
        let image = Image {
            tag: "registry.example/lpm:1.2.3",
            architecture: "arm64",
            binary: &binary,
            libraries: &[dir.join("binary")],
            documents: &[dir.join("a.cdx.json"), dir.join("a.licenses.txt")],
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
        for document in ["lpm.cdx.json", "licenses.txt"] {
            let place = format!("./usr/share/doc/lpm/{document}");
            assert!(list.contains(&place), "{place} in {list}");
        }
    }

    #[test]
    fn a_time_is_written_as_images_have_it() {
        assert_eq!(rfc3339(0).unwrap(), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400).unwrap(), "2000-02-29T00:00:00Z");
    }

    #[test]
    fn the_same_binary_makes_the_same_image() {
        let dir = tempfile::tempdir().unwrap();
        assert!(made(dir.path(), "a.tar") == made(dir.path(), "b.tar"));
    }
}
