//! The group `release`: the image as it is released, built twice, and what its lists say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    output::Tally,
    reproducible::{self, Copy},
};
use crate::{
    image, paths, process,
    setup::{self, Part},
};

/// Name of the group, which `--only` takes.
pub(super) const NAME: &str = "release";

/// The validator of CycloneDX, a Python package, in its version.
const VALIDATOR: &str = "cyclonedx-python-lib[json-validation]==11.12.0";

/// Reads a list by the schema of its version, and allows nothing that the schema does not name.
const VALIDATE: &str = "\
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
text = open(sys.argv[1]).read()
error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(text)
sys.exit(str(error) if error else 0)
";

/// A package's name and version.
type Package = (String, String);

/// Builds the image here and from a copy of the sources elsewhere, and compares the two with each
/// other and the lists with the binary.
pub(super) fn run() -> Result<Tally> {
    setup::ensure(&[Part::Build, Part::Image, Part::Release])?;
    let Some(copy) = Copy::make(NAME)? else {
        return Ok(reproducible::no_git(NAME));
    };
    let here = paths::target().join("release-check");
    let there = copy.target().join("image");
    fs::create_dir_all(&there).with_context(|| format!("cannot create {}", there.display()))?;
    image::main(&image::Args::released(here.join("lpm.tar")))?;
    println!(
        "test: {NAME}: again, of the sources in {}",
        copy.sources().display()
    );
    let mut again = process::cargo();
    again.current_dir(copy.sources());
    again.env("CARGO_TARGET_DIR", copy.target());
    // What the machine of somebody else may have set otherwise.
    again.envs([("TZ", "Asia/Tokyo"), ("LC_ALL", "C"), ("USER", "somebody")]);
    again.args(["xtask", "image", "--static", "--output"]);
    process::run(again.arg(there.join("lpm.tar")))?;

    let mut tally = Tally::default();
    for name in ["lpm.tar", "lpm.cdx.json", "lpm.licenses.txt"] {
        let read = |dir: &Path| {
            let file = dir.join(name);
            fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
        };
        tally.add(reproducible::compare(name, &read(&here)?, &read(&there)?));
    }
    let sbom = here.join("lpm.cdx.json");
    tally.add(result(
        "the list is CycloneDX by its schema",
        &validate(&sbom)?,
    ));
    let binary = binary_of(&here.join("lpm.tar"), &copy.target().join("unpacked"))?;
    let text = fs::read_to_string(&sbom)?;
    let list = Components::read(&serde_json::from_str(&text)?);
    let carried = carried(&binary)?;
    tally.add(result(
        "the binary and the list name the same packages",
        &differences(&carried, &list.agent),
    ));
    tally.add(result(
        "what the list says is linked was compiled for the target, and nothing else was",
        &differences(&compiled(&copy)?, &list.linked),
    ));
    let licences = fs::read_to_string(here.join("lpm.licenses.txt"))?;
    let packages = list.linked.iter().chain(&list.kernel);
    let without =
        packages.filter(|(name, version)| !licences.contains(&format!("- {name} {version} ")));
    tally.add(result(
        "each package that is linked has its licence in the file",
        &without
            .map(|(name, version)| format!("{name} {version}"))
            .collect::<Vec<_>>(),
    ));
    Ok(tally)
}

/// A check that found these faults.
fn result(what: &str, faults: &[String]) -> Tally {
    for fault in faults {
        println!("{what}: not so: {fault}");
    }
    if faults.is_empty() {
        println!("{what}: yes");
        Tally::one_pass()
    } else {
        Tally::one_failure(what)
    }
}

/// The packages that only one of two lists has.
fn differences(one: &BTreeSet<Package>, other: &BTreeSet<Package>) -> Vec<String> {
    one.symmetric_difference(other)
        .map(|(name, version)| format!("{name} {version}"))
        .collect()
}

/// The packages of cargo's in a list.
#[derive(Default)]
struct Components {
    /// All of the agent, with what only builds it.
    agent: BTreeSet<Package>,
    /// What is linked into the agent.
    linked: BTreeSet<Package>,
    /// What is linked into the kernel programs.
    kernel: BTreeSet<Package>,
}

impl Components {
    fn read(list: &Value) -> Self {
        let mut found = Self::default();
        let package = |component: &Value, name: &str| {
            let text = |key: &str| component[key].as_str().unwrap_or_default().to_owned();
            (name.to_owned(), text("version"))
        };
        let root = package(&list["metadata"]["component"], "lpm-agent");
        found.agent.insert(root.clone());
        found.linked.insert(root);
        // What the agent depends on, at whatever distance.
        let mut edges = BTreeMap::new();
        for entry in list["dependencies"].as_array().into_iter().flatten() {
            edges.insert(entry["ref"].as_str(), entry["dependsOn"].as_array());
        }
        let mut reached = BTreeSet::new();
        let mut next = vec![list["metadata"]["component"]["bom-ref"].as_str()];
        while let Some(reference) = next.pop() {
            for to in edges
                .get(&reference)
                .copied()
                .flatten()
                .into_iter()
                .flatten()
            {
                let is_kernel = to.as_str().is_some_and(|to| to.contains("lpm-ebpf"));
                if !is_kernel && reached.insert(to.as_str()) {
                    next.push(to.as_str());
                }
            }
        }
        for component in list["components"].as_array().into_iter().flatten() {
            let is_cargos = component["purl"]
                .as_str()
                .is_some_and(|purl| purl.starts_with("pkg:cargo/"));
            if !is_cargos {
                continue;
            }
            let this = package(component, component["name"].as_str().unwrap_or_default());
            if reached.contains(&component["bom-ref"].as_str()) {
                found.agent.insert(this.clone());
            }
            let properties = component["properties"].as_array().into_iter().flatten();
            for property in properties.filter(|one| one["name"] == "lpm:linked-into") {
                let into = if property["value"] == "agent" {
                    &mut found.linked
                } else {
                    &mut found.kernel
                };
                into.insert(this.clone());
            }
        }
        found
    }
}

/// What is wrong with a list by CycloneDX's schema.
fn validate(sbom: &Path) -> Result<Vec<String>> {
    let environment = paths::tools().join("cyclonedx");
    let python = environment.join("bin/python3");
    if !environment.join("ready").is_file() {
        println!(
            "test: {NAME}: getting {VALIDATOR} into {}",
            environment.display()
        );
        process::run(
            Command::new("python3")
                .args(["-m", "venv"])
                .arg(&environment),
        )?;
        let mut install = Command::new(&python);
        process::run(install.args(["-m", "pip", "install", "--quiet", VALIDATOR]))?;
        fs::write(environment.join("ready"), "")?;
    }
    let mut validate = Command::new(python);
    validate.args(["-c", VALIDATE]).arg(sbom);
    Ok(match process::output(&mut validate) {
        Ok(_) => Vec::new(),
        Err(error) => vec![format!("{error:#}")],
    })
}

/// Takes the agent out of an image's archive.
fn binary_of(archive: &Path, into: &Path) -> Result<PathBuf> {
    fs::create_dir_all(into).with_context(|| format!("cannot create {}", into.display()))?;
    let tar = |archive: &Path, file: &str| {
        let mut tar = Command::new("tar");
        tar.arg("--extract").arg("--file").arg(archive);
        process::run(tar.arg("--directory").arg(into).arg(file))
    };
    tar(archive, "./layer.tar")?;
    tar(&into.join("layer.tar"), "./lpm")?;
    Ok(into.join("lpm"))
}

/// The packages that the binary itself names (cargo-auditable), by its own reader.
fn carried(binary: &Path) -> Result<BTreeSet<Package>> {
    let reader = setup::cargo_tool("rust-audit-info").context("rust-audit-info is missing")?;
    let list: Value = serde_json::from_str(&process::output(Command::new(reader).arg(binary))?)?;
    let packages = list["packages"]
        .as_array()
        .context("the binary names no packages")?;
    let text = |package: &Value, key: &str| package[key].as_str().unwrap_or_default().to_owned();
    Ok(packages
        .iter()
        .map(|one| (text(one, "name"), text(one, "version")))
        .collect())
}

/// The packages of which cargo compiled a library for the target in the copy, whose target directory
/// was empty before, and the agent.
fn compiled(copy: &Copy) -> Result<BTreeSet<Package>> {
    let mut metadata = process::cargo();
    metadata.args(["metadata", "--offline", "--format-version=1"]);
    let metadata: Value = serde_json::from_str(&process::output(&mut metadata)?)?;
    let mut libraries = BTreeSet::new();
    for entry in fs::read_dir(copy.target())?.flatten() {
        // One directory has the target's name.
        if !entry
            .file_name()
            .to_string_lossy()
            .contains("-unknown-linux-")
        {
            continue;
        }
        for file in fs::read_dir(entry.path().join("release/deps"))?.flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            let stem = name
                .strip_prefix("lib")
                .and_then(|name| name.strip_suffix(".rlib"));
            if let Some((library, _)) = stem.and_then(|stem| stem.rsplit_once('-')) {
                libraries.insert(library.to_owned());
            }
        }
    }
    let listed = Components::read(&serde_json::from_str(&fs::read_to_string(
        copy.target().join("image/lpm.cdx.json"),
    )?)?);
    let mut compiled = BTreeSet::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
        let this = (text("name"), text("version"));
        let targets = package["targets"].as_array().into_iter().flatten();
        let is_library = |target: &&Value| {
            let kinds = target["kind"].as_array().into_iter().flatten();
            kinds
                .filter_map(Value::as_str)
                .any(|kind| ["lib", "rlib"].contains(&kind))
        };
        let mut names = targets.filter(is_library);
        let library = names.find_map(|target| Some(target["name"].as_str()?.replace('-', "_")));
        // A file's name has no version: of two versions of a package, the listed one is meant.
        let others = listed
            .linked
            .iter()
            .any(|(name, version)| *name == this.0 && *version != this.1);
        let is_compiled = library.is_some_and(|library| libraries.contains(&library));
        if is_compiled && (listed.linked.contains(&this) || !others) {
            compiled.insert(this);
        }
    }
    Ok(compiled)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_only_the_kernel_programs_have_is_not_the_agents() {
        let component = |name: &str, into: &str| {
            json!({
                "bom-ref": name, "name": name, "version": "1.0.0",
                "purl": format!("pkg:cargo/{name}@1.0.0"),
                "properties": [{"name": "lpm:linked-into", "value": into}],
            })
        };
        let list = json!({
            "metadata": {"component": {"bom-ref": "lpm", "version": "0.1.0"}},
            "components": [component("serde", "agent"), component("aya-ebpf", "kernel programs")],
            "dependencies": [
                {"ref": "lpm", "dependsOn": ["serde", "lpm-ebpf"]},
                {"ref": "lpm-ebpf", "dependsOn": ["aya-ebpf"]},
            ],
        });
        let found = Components::read(&list);
        let package = |name: &str, version: &str| (name.to_owned(), version.to_owned());
        let agent = [package("lpm-agent", "0.1.0"), package("serde", "1.0.0")];
        assert_eq!(found.agent, agent.clone().into());
        assert_eq!(found.linked, agent.into());
        assert_eq!(found.kernel, [package("aya-ebpf", "1.0.0")].into());
        assert_eq!(
            differences(&found.linked, &found.agent),
            Vec::<String>::new()
        );
    }
}
