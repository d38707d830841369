//! Images without a registry: docker-archives, made of a program and its libraries.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use super::Error;
use crate::kubernetes::{Programs, process, programs::target};

/// The image of the pods' sandboxes: it waits to be ended.
pub(super) const PAUSE: &str = "localhost/lpm-pause:test";

/// The image of the traffic: `/lpm-testbed`, whose commands are `traffic serve` and so on.
pub const TESTBED: &str = "localhost/lpm-testbed:test";

/// Makes the image of `lpm-testbed`, for the sandboxes too, in `dir`: the archive's path.
pub fn testbed_image(dir: &Path) -> Result<PathBuf, Error> {
    let program = testbed()?;
    pack(&program, &[TESTBED, PAUSE], &["/lpm-testbed", "pause"], dir)
}

/// The program `lpm-testbed`: the running one, or that beside the running test.
fn testbed() -> Result<PathBuf, Error> {
    let own = env::current_exe().map_err(|source| Error::system("find this program", source))?;
    let beside = own.ancestors().skip(1).take(2);
    let candidates = [own.clone()]
        .into_iter()
        .chain(beside.map(|dir| dir.join("lpm-testbed")))
        .chain(["debug", "release"].map(|profile| target().join(profile).join("lpm-testbed")));
    candidates
        .filter(|file| file.file_name().is_some_and(|name| name == "lpm-testbed"))
        .find(|file| file.is_file())
        .ok_or_else(|| Error::Missing {
            program: "lpm-testbed".to_owned(),
            places: target().display().to_string(),
        })
}

/// Packs a program at the root of an image, with the libraries that it loads at their own paths.
pub fn pack(
    program: &Path,
    names: &[&str],
    command: &[&str],
    dir: &Path,
) -> Result<PathBuf, Error> {
    let name = program.file_name().unwrap_or_default();
    let work = dir.join("image").join(name);
    let root = work.join("root");
    let failed = |source| Error::system(format!("pack {}", program.display()), source);
    fs::create_dir_all(root.join("tmp")).map_err(failed)?;
    fs::copy(program, root.join(name)).map_err(failed)?;
    for library in libraries(program) {
        let place = root.join(library.strip_prefix("/").unwrap_or(&library));
        if let Some(dir) = place.parent() {
            fs::create_dir_all(dir).map_err(failed)?;
        }
        fs::copy(&library, place).map_err(failed)?;
    }
    let tar = |file: &Path, from: &Path, what: &[&str]| {
        let mut tar = Command::new("tar");
        tar.args([
            "--sort=name",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "-cf",
        ]);
        process::output(tar.arg(file).arg("-C").arg(from).args(what))
    };
    tar(&work.join("layer.tar"), &root, &["."])?;
    let sum = process::output(Command::new("sha256sum").arg(work.join("layer.tar")))?;
    let sum = sum.split_whitespace().next().unwrap_or_default();
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": {"Entrypoint": command},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{sum}")]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": names, "Layers": ["layer.tar"]}]);
    fs::write(work.join("config.json"), config.to_string()).map_err(failed)?;
    fs::write(work.join("manifest.json"), manifest.to_string()).map_err(failed)?;
    let archive = dir.join("image").join(name).with_extension("tar");
    tar(
        &archive,
        &work,
        &["manifest.json", "config.json", "layer.tar"],
    )?;
    fs::remove_dir_all(&work).map_err(failed)?;
    Ok(archive)
}

/// The libraries that a program loads, and its loader; none if it is static.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let listed = process::output(Command::new("ldd").arg(program)).unwrap_or_default();
    let words = listed.split_whitespace();
    words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

/// Imports an archive into the containerd at `socket`.
pub(super) fn import(programs: &Programs, socket: &Path, archive: &Path) -> Result<(), Error> {
    let mut ctr = Command::new(programs.find("ctr")?);
    ctr.arg("--address").arg(socket);
    ctr.args([
        "--namespace=k8s.io",
        "images",
        "import",
        "--snapshotter=native",
    ]);
    process::output(ctr.arg(archive)).map(drop)
}
