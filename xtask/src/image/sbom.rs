//! The list of what an image is made of (SBOM), in CycloneDX.
//!
//! cargo-cyclonedx lists the packages of the agent and of the kernel programs. It knows packages,
//! and not what is linked: that is what `cargo tree` says. So is here what is no package of cargo's:
//! Rust's standard library and the C library.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{archive, binary::Binary, system};
use crate::{build, paths, process, setup::toolchain};

/// Version of the CycloneDX specification, the newest that cargo-cyclonedx writes.
const SPECIFICATION: &str = "1.5";

/// Scope of a component that is in the image, in CycloneDX.
const LINKED: &str = "required";

/// Scope of a component that was only needed to build.
const BUILD_ONLY: &str = "excluded";

/// A program of cargo's whose packages are listed.
struct Program<'a> {
    /// Directory of its workspace, below the root.
    workspace: &'a str,
    /// Directory of its package, below the root.
    package: &'a str,
    /// The target that it is compiled for.
    target: &'a str,
    /// The program's name in the list.
    name: &'a str,
}

/// Writes the list of what is in `binary`, an agent for `target`.
pub(super) fn write(binary: &Binary, target: &str, time: u64, to: &Path) -> Result<()> {
    let agent = Program {
        workspace: "",
        package: "lpm-agent",
        target,
        name: "agent",
    };
    let kernel = Program {
        workspace: "lpm-ebpf",
        package: "lpm-ebpf",
        target: build::BPF_TARGET,
        name: "kernel programs",
    };
    let mut list = agent.list(time)?;
    join(&mut list, &kernel.list(time)?)?;
    let mut rustc = Command::new("rustc");
    let compiler = process::output(rustc.current_dir(paths::root()).arg("-vV"))?;
    let of_kernel = toolchain::find().map_err(anyhow::Error::msg)?;
    let mut others = vec![
        standard_library("std", release(&compiler)?, agent.name),
        standard_library("core", of_kernel.release()?.as_str(), kernel.name),
    ];
    others.extend(system::components(binary, target)?);
    append(&mut list, "components", others)?;
    list["metadata"]["component"]["hashes"] =
        json!([{"alg": "SHA-256", "content": archive::sha256(&binary.program)?}]);
    let text = serde_json::to_string_pretty(&list)?;
    fs::write(to, text + "\n").with_context(|| format!("cannot write {}", to.display()))
}

/// The release that `rustc -vV` reports.
fn release(text: &str) -> Result<&str> {
    let release = text.lines().find_map(|line| line.strip_prefix("release: "));
    release.context("rustc does not report its release")
}

fn standard_library(name: &str, version: &str, program: &str) -> Value {
    json!({
        "type": "library",
        "bom-ref": format!("rust-{name}@{version}"),
        "name": name,
        "version": version,
        "description": "Rust's standard library",
        "scope": LINKED,
        "licenses": [{"expression": "MIT OR Apache-2.0"}],
        "purl": format!("pkg:generic/rust-{name}@{version}"),
        "properties": [property("lpm:linked-into", program)],
    })
}

fn property(name: &str, value: &str) -> Value {
    json!({"name": name, "value": value})
}

impl Program<'_> {
    fn workspace(&self) -> PathBuf {
        paths::root().join(self.workspace)
    }

    /// The list of cargo-cyclonedx, each component with the scope that is true of the program.
    fn list(&self, time: u64) -> Result<Value> {
        let mut list = self.cyclonedx(time)?;
        let linked = self.linked()?;
        mark(&mut list, &linked, self.name)?;
        Ok(list)
    }

    /// Runs cargo-cyclonedx. It writes a file beside the manifest of each package of a workspace.
    fn cyclonedx(&self, time: u64) -> Result<Value> {
        let mut cyclonedx = process::cargo();
        cyclonedx.current_dir(self.workspace());
        cyclonedx.args([
            "cyclonedx",
            "--quiet",
            "--format=json",
            "--describe=binaries",
        ]);
        cyclonedx.arg(format!("--target={}", self.target));
        cyclonedx.arg(format!("--spec-version={SPECIFICATION}"));
        cyclonedx.env("SOURCE_DATE_EPOCH", time.to_string());
        let ran = process::run(&mut cyclonedx);
        let file = paths::root().join(self.package).join("lpm_bin.cdx.json");
        let text = fs::read_to_string(&file);
        for file in self.written()? {
            // The next run overwrites what is left, and git ignores it.
            let _ = fs::remove_file(file);
        }
        ran?;
        let text = text.with_context(|| format!("cargo-cyclonedx left no {}", file.display()))?;
        // Where the sources lay is nobody's business, and would make other bytes elsewhere.
        let text = text.replace(&paths::root().display().to_string(), "/lpm");
        serde_json::from_str(&text).context("cargo-cyclonedx wrote no JSON")
    }

    /// The files that cargo-cyclonedx writes.
    fn written(&self) -> Result<Vec<PathBuf>> {
        let mut metadata = process::cargo();
        metadata.current_dir(self.workspace());
        metadata.args(["metadata", "--no-deps", "--offline", "--format-version=1"]);
        let metadata: Value = serde_json::from_str(&process::output(&mut metadata)?)?;
        let packages = metadata["packages"].as_array().into_iter().flatten();
        let manifests = packages.filter_map(|package| package["manifest_path"].as_str());
        let directories = manifests.filter_map(|manifest| Path::new(manifest).parent());
        let entries = directories
            .filter_map(|dir| fs::read_dir(dir).ok())
            .flatten();
        let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
        Ok(files
            .filter(|file| file.to_string_lossy().ends_with("_bin.cdx.json"))
            .collect())
    }

    /// What cargo links into the program: names and versions, with the features.
    fn linked(&self) -> Result<BTreeMap<(String, String), String>> {
        let mut tree = process::cargo();
        tree.current_dir(self.workspace());
        tree.args(["tree", "--offline", "--edges=normal,no-proc-macro"]);
        tree.args(["--prefix=none", "--no-dedupe", "--format={p}|{f}"]);
        tree.arg(format!("--target={}", self.target));
        // The package alone: with the whole workspace cargo would choose other features.
        tree.arg(format!("--package={}", self.package));
        let linked = linked(&process::output(&mut tree)?);
        if linked.is_empty() {
            bail!("`{}` lists nothing", process::show(&tree));
        }
        Ok(linked)
    }
}

/// Reads lines such as `serde v1.0.2 (proc-macro)|default,std`.
fn linked(tree: &str) -> BTreeMap<(String, String), String> {
    let line = |line: &str| {
        let (package, features) = line.split_once('|')?;
        let mut words = package.split(' ');
        let name = words.next()?.to_owned();
        let version = words.next()?.strip_prefix('v')?.to_owned();
        Some(((name, version), features.to_owned()))
    };
    tree.lines().filter_map(line).collect()
}

/// Gives each component the scope that is true of the program: only what is linked is required.
fn mark(
    list: &mut Value,
    linked: &BTreeMap<(String, String), String>,
    program: &str,
) -> Result<()> {
    let components = list["components"].as_array_mut();
    for component in components.context("the list has no components")? {
        let text = |key: &str| component[key].as_str().unwrap_or_default().to_owned();
        match linked.get(&(text("name"), text("version"))) {
            Some(features) => {
                component["scope"] = LINKED.into();
                let mut properties = vec![property("lpm:linked-into", program)];
                if !features.is_empty() {
                    properties.push(property("lpm:cargo-features", features));
                }
                component["properties"] = properties.into();
            }
            None => component["scope"] = BUILD_ONLY.into(),
        }
    }
    Ok(())
}

/// Adds the list of the kernel programs, which are in the agent's binary, to the agent's.
fn join(list: &mut Value, kernel: &Value) -> Result<()> {
    let mut root = kernel["metadata"]["component"].clone();
    // Cargo calls the binary `lpm`, as it calls the agent's.
    root["name"] = "lpm-ebpf".into();
    root["properties"] = json!([property("lpm:linked-into", "kernel programs")]);
    let reference = root["bom-ref"].clone();
    let of_agent = list["metadata"]["component"]["bom-ref"].clone();
    let mut components = vec![root];
    components.extend(
        kernel["components"]
            .as_array()
            .into_iter()
            .flatten()
            .cloned(),
    );
    append(list, "components", components)?;
    let dependencies = kernel["dependencies"].as_array().cloned();
    append(list, "dependencies", dependencies.unwrap_or_default())?;
    let dependencies = list["dependencies"].as_array_mut();
    let agent = dependencies.into_iter().flatten();
    for entry in agent.filter(|entry| entry["ref"] == of_agent) {
        let depends = entry["dependsOn"].as_array_mut();
        depends
            .context("the agent depends on nothing")?
            .push(reference.clone());
    }
    Ok(())
}

/// Appends components or dependencies. What is in both is there once: linked if it is linked into
/// either, with the properties of both.
fn append(list: &mut Value, key: &str, more: Vec<Value>) -> Result<()> {
    let name = if key == "components" {
        "bom-ref"
    } else {
        "ref"
    };
    let entries = list[key]
        .as_array_mut()
        .with_context(|| format!("the list has no {key}"))?;
    for entry in more {
        let Some(present) = entries
            .iter_mut()
            .find(|present| present[name] == entry[name])
        else {
            entries.push(entry);
            continue;
        };
        for key in ["properties", "dependsOn"] {
            let both = [&present[key], &entry[key]];
            let both = both.into_iter().filter_map(Value::as_array).flatten();
            let mut seen = BTreeSet::new();
            let both: Vec<_> = both
                .filter(|value| seen.insert(value.to_string()))
                .cloned()
                .collect();
            if !both.is_empty() {
                present[key] = both.into();
            }
        }
        if entry["scope"] == LINKED {
            present["scope"] = LINKED.into();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, scope: &str) -> Value {
        json!({"bom-ref": format!("{name}#1.0.0"), "name": name, "version": "1.0.0", "scope": scope})
    }

    fn list(root: &str, packages: &[Value]) -> Value {
        let reference = format!("{root}#1.0.0");
        json!({
            "metadata": {"component": {"bom-ref": reference, "name": "lpm"}},
            "components": packages,
            "dependencies": [{"ref": reference, "dependsOn": ["both#1.0.0"]}],
        })
    }

    fn scopes(list: &Value) -> BTreeMap<&str, &str> {
        let components = list["components"].as_array().unwrap().iter();
        components
            .map(|one| {
                (
                    one["name"].as_str().unwrap(),
                    one["scope"].as_str().unwrap_or_default(),
                )
            })
            .collect()
    }

    #[test]
    fn only_what_is_linked_is_required() {
        let tree = "lpm-agent v1.0.0 (/src/lpm-agent)|\nserde v1.0.0|default,std\n";
        let packages = [
            package("serde", BUILD_ONLY),
            package("serde_derive", LINKED),
        ];
        let mut agent = list("lpm-agent", &packages);
        mark(&mut agent, &linked(tree), "agent").unwrap();
        assert_eq!(
            scopes(&agent),
            [("serde", LINKED), ("serde_derive", BUILD_ONLY)].into()
        );
        let features = property("lpm:cargo-features", "default,std");
        assert_eq!(agent["components"][0]["properties"][1], features);
    }

    #[test]
    fn the_kernel_programs_are_part_of_the_agent() {
        let mut agent = list("lpm-agent", &[package("both", BUILD_ONLY)]);
        let packages = [package("both", LINKED), package("aya-ebpf", LINKED)];
        join(&mut agent, &list("lpm-ebpf", &packages)).unwrap();
        assert_eq!(
            scopes(&agent),
            [("aya-ebpf", LINKED), ("both", LINKED), ("lpm-ebpf", "")].into()
        );
        let depends = agent["dependencies"][0]["dependsOn"].as_array().unwrap();
        assert!(depends.contains(&"lpm-ebpf#1.0.0".into()), "{depends:?}");
        assert_eq!(agent["dependencies"].as_array().unwrap().len(), 2);
    }
}
