//! Tests that the rooms of this crate use one another in one direction only.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Rooms from the lowest to the highest. A room uses only rooms that stand before it.
const ORDER: [&str; 18] = [
    "fnv", "glob", "text", "yaml", "backoff", "kube", "mesh", "identity", "kernel", "config",
    "passive", "active", "shutdown", "export", "api", "replay", "session", "cli",
];

/// Rust files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory of sources");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| match path.extension() {
            _ if path.is_dir() => files(&path),
            Some(extension) if extension == "rs" => vec![path],
            _ => Vec::new(),
        })
        .collect()
}

/// The room that a path below the sources belongs to.
fn room(path: &Path) -> String {
    let first = path.components().next().expect("a path");
    let first = Path::new(first.as_os_str());
    first.file_stem().expect("a name").to_string_lossy().into()
}

/// The names that follow `crate::`, alone or as a list in braces.
fn named(source: &str) -> BTreeSet<String> {
    let code = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let code: String = code.flat_map(|line| [line, "\n"]).collect();
    let mut all = BTreeSet::new();
    for (at, begin) in code.match_indices("crate::") {
        let rest = &code[at + begin.len()..];
        match rest.strip_prefix('{') {
            Some(list) => all.extend(of_list(list)),
            None => all.extend(identifier(rest)),
        }
    }
    all
}

fn identifier(text: &str) -> Option<String> {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    (end > 0).then(|| text[..end].to_owned())
}

/// The first name of each element, up to the brace that closes the list.
fn of_list(list: &str) -> Vec<String> {
    let (mut depth, mut begin, mut all) = (0, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                all.extend(identifier(&list[begin..=at]));
                begin = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    all
}

#[test]
fn each_room_uses_only_lower_ones() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let floor = |room: &str| ORDER.iter().position(|other| *other == room);
    let mut wrong = Vec::new();
    let mut arrows = 0;
    for file in files(&sources) {
        let path = file.strip_prefix(&sources).expect("below the sources");
        let here = room(path);
        if ["docs", "lib", "main", "rooms"].contains(&&*here) {
            continue;
        }
        let Some(own) = floor(&here) else {
            wrong.push(format!("{} is in no room of the order", path.display()));
            continue;
        };
        for other in named(&fs::read_to_string(&file).expect("a source")) {
            let Some(other_floor) = floor(&other) else {
                continue;
            };
            arrows += usize::from(other_floor < own);
            if other_floor > own {
                wrong.push(format!("{} uses {other}, which is above", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(arrows > 50, "the names are read: {arrows}");
}

#[test]
fn lists_and_paths_are_read() {
    let source = "use crate::{\n    kernel::{a, b::c},\n    passive::Model,\n    cli,\n};\n\
                  // use crate::comment::X;\nfn f() -> crate::export::Y { crate::config::z() }\n";
    let expected = ["cli", "config", "export", "kernel", "passive"];
    assert_eq!(named(source), expected.map(str::to_owned).into());
}
