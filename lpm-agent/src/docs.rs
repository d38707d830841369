//! The documentation's files that are made from the code, and the links between all of its files.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Set to anything: files that are made from the code are written and not compared.
const WRITE: &str = "LPM_UPDATE";

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace")
}

/// Panics unless the file `docs/NAME` holds this text; with [`WRITE`] it is written instead.
pub(crate) fn assert_current(name: &str, text: &str) {
    let path = root().join("docs").join(name);
    if std::env::var_os(WRITE).is_some() {
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(&path, text).expect("write");
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let mut lines = found.lines().zip(text.lines());
    let differing = lines.find(|(found, wanted)| found != wanted);
    let (found_line, wanted) = differing.unwrap_or_default();
    assert!(
        found == text,
        "docs/{name} is not what the code says. Look at the difference, and if it is meant, run\n\
         {WRITE}=1 cargo test -p lpm-agent --lib reference\nfirst difference:\n\
         docs: {found_line}\ncode: {wanted}",
    );
}

/// A table in Markdown.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let line = |cells: &[String; N]| format!("| {} |\n", cells.join(" | ").replace('\n', " "));
    let mut out = line(&head.map(str::to_owned));
    out.extend(["|", &"---|".repeat(N), "\n"]);
    out.extend(rows.iter().map(line));
    out
}

/// The Markdown files of the repository.
fn pages(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                pages(&path)
            } else if path.extension().is_some_and(|extension| extension == "md") {
                vec![path]
            } else {
                Vec::new()
            }
        })
        .collect()
}

/// What a heading is called in a link, as GitHub does it.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
        _ => None,
    });
    kept.collect()
}

/// A page without its blocks of code.
fn prose(page: &Path) -> String {
    let text = fs::read_to_string(page).expect("a page");
    text.split("```").step_by(2).collect()
}

/// Why a link of a page leads nowhere.
fn broken(page: &Path, link: &str) -> Option<&'static str> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() {
        page.to_owned()
    } else {
        page.parent().expect("a directory").join(file)
    };
    if !target.exists() {
        return Some("there is no such file");
    }
    if heading.is_empty() {
        return None;
    }
    let text = prose(&target);
    let mut headings = text.lines().filter(|line| line.starts_with('#'));
    let found = headings.any(|line| anchor(line) == heading);
    (!found).then_some("that file has no such heading")
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let (mut wrong, mut links) = (Vec::new(), 0);
    for page in pages(root()) {
        let text = prose(&page);
        for part in text.split("](").skip(1) {
            let Some((link, _)) = part.split_once(')') else {
                continue;
            };
            links += 1;
            if let Some(reason) = broken(&page, link) {
                wrong.push(format!("{}: {link}: {reason}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(links > 50, "links are found: {links}");
}

/// All text of the Rust files below a directory.
fn sources(directory: &Path) -> String {
    let entries = fs::read_dir(directory).expect("a directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .map(|path| match path.extension() {
            _ if path.is_dir() => sources(&path),
            Some(extension) if extension == "rs" => fs::read_to_string(&path).expect("a source"),
            _ => String::new(),
        })
        .collect()
}

/// The words in backticks that can be a test or a vector: `a_name`, or `a_begin*`.
fn names_in(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split('`').skip(1).step_by(2);
    words.filter(|word| {
        word.contains(['_', '*'])
            && (word.chars())
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_*".contains(c))
    })
}

#[test]
fn the_conformance_table_names_tests_that_exist() {
    let read = |path: &str| fs::read_to_string(root().join(path)).expect(path);
    let vectors: Vec<serde_json::Value> =
        serde_json::from_str(&read("tests/vectors/stamp.json")).expect("JSON");
    let code: String = [
        "lpm-common/src/stamp",
        "lpm-agent/src",
        "lpm-agent/tests/cli",
    ]
    .map(|directory| sources(&root().join(directory)))
    .concat();
    let is_vector = |name: &str| {
        vectors.iter().any(|vector| {
            let vector = vector["name"].as_str().expect("a name");
            match name.split_once('*') {
                Some((begin, end)) => vector.starts_with(begin) && vector.ends_with(end),
                None => vector == name,
            }
        })
    };
    let mut names = 0;
    for line in read("docs/design/stamp-conformance.md").lines() {
        let shown = line.trim_end_matches(" |").rsplit(" | ").next();
        for name in names_in(shown.unwrap_or_default()) {
            names += 1;
            assert!(
                is_vector(name) || code.contains(&format!("fn {name}(")),
                "{name}: {line}"
            );
        }
    }
    assert!(names > 50, "names are found: {names}");
}
