//! The files of the system that are in an image, linked in or copied: the C library and the
//! compiler's own.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use serde_json::{Value, json};

use super::{archive, binary::Binary};
use crate::{arch, process};

/// Archives of gcc that a static program has parts of: the C library, and what unwinds the stack.
const ARCHIVES: [&str; 2] = ["libc.a", "libgcc_eh.a"];

/// A package of Debian's or of one of its kin.
struct Package {
    name: String,
    version: String,
    architecture: String,
}

/// The components of the list, each file once.
pub(super) fn components(binary: &Binary, target: &str) -> Result<Vec<Value>> {
    let mut components = BTreeMap::new();
    for file in files(binary, target) {
        let (reference, component) = component(&file)?;
        components.insert(reference, component);
    }
    Ok(components.into_values().collect())
}

/// The licences of the packages that own the files, as the system has them: name and text.
pub(super) fn licences(binary: &Binary, target: &str) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    for file in files(binary, target) {
        let Some(package) = package(&file) else {
            texts.insert(file.display().to_string(), String::new());
            continue;
        };
        let place = Path::new("/usr/share/doc").join(&package.name);
        let text = std::fs::read_to_string(place.join("copyright")).unwrap_or_default();
        texts.insert(format!("{} {}", package.name, package.version), text);
    }
    texts
}

/// The files whose contents are in the image.
fn files(binary: &Binary, target: &str) -> Vec<PathBuf> {
    if !binary.libraries.is_empty() {
        return binary.libraries.clone();
    }
    if target.ends_with("-musl") {
        // Rust brings its own.
        let own = arch::std_library(target).map(|dir| dir.join("self-contained/libc.a"));
        return own.into_iter().filter(|file| file.is_file()).collect();
    }
    let cpu = target.split('-').next().unwrap_or_default();
    let compiler = if cpu == std::env::consts::ARCH {
        "cc".to_owned()
    } else {
        format!("{cpu}-linux-gnu-gcc")
    };
    let find = |archive: &&str| {
        let mut ask = Command::new(&compiler);
        let answer = process::output(ask.arg(format!("-print-file-name={archive}"))).ok()?;
        let file = PathBuf::from(answer.trim()).canonicalize().ok()?;
        file.is_file().then_some(file)
    };
    ARCHIVES.iter().filter_map(find).collect()
}

/// A file as a component of the list: the package that has it, else its name. The hash is of the
/// file in either case.
fn component(file: &Path) -> Result<(String, Value)> {
    let hash = archive::sha256(file)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let mut component = json!({
        "type": "library",
        "bom-ref": format!("{name}@sha256:{hash}"),
        "name": name,
        "scope": "required",
        "hashes": [{"alg": "SHA-256", "content": hash}],
        "properties": [{"name": "lpm:file", "value": file}],
    });
    if let Some(package) = package(file) {
        let Package {
            name,
            version,
            architecture,
        } = package;
        let system = distribution();
        component["version"] = version.as_str().into();
        // The signs of Debian's versions that mean something in a package URL.
        let version = version.replace('+', "%2B").replace(':', "%3A");
        component["purl"] = format!("pkg:deb/{system}/{name}@{version}?arch={architecture}").into();
    }
    let reference = component["bom-ref"].as_str().unwrap_or_default().to_owned();
    Ok((reference, component))
}

/// The package that a file belongs to; None: dpkg is not here or does not know the file.
fn package(file: &Path) -> Option<Package> {
    let mut places = vec![file.to_owned()];
    places.extend(file.canonicalize());
    // Before directories were merged, packages had these files in `/lib`.
    places.extend(
        file.strip_prefix("/usr")
            .map(|rest| Path::new("/").join(rest)),
    );
    let owner = places.iter().find_map(|place| {
        let found = process::output(Command::new("dpkg").arg("-S").arg(place)).ok()?;
        let (owner, _) = found.lines().last()?.split_once(": ")?;
        Some(owner.to_owned())
    })?;
    let mut query = Command::new("dpkg-query");
    query.args([
        "--show",
        "--showformat=${Package} ${Version} ${Architecture}",
    ]);
    let found = process::output(query.arg(owner)).ok()?;
    let mut words = found.split(' ').map(str::to_owned);
    Some(Package {
        name: words.next()?,
        version: words.next()?,
        architecture: words.next()?,
    })
}

/// The name of this machine's distribution (`ID` of os-release(5)).
fn distribution() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let id = text.lines().find_map(|line| line.strip_prefix("ID="));
    id.unwrap_or("linux").trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_named_with_its_hash_and_its_package() {
        let listed = process::output(Command::new("ldd").arg("/bin/sh")).unwrap();
        let library = listed.split_whitespace().find(|word| word.starts_with('/'));
        let (_, component) = component(Path::new(library.unwrap())).unwrap();
        assert_eq!(component["hashes"][0]["alg"], "SHA-256");
        if process::which("dpkg").is_some() {
            let purl = component["purl"].as_str().unwrap();
            assert!(
                purl.starts_with("pkg:deb/") && purl.contains("libc6@"),
                "{purl}"
            );
        }
    }
}
