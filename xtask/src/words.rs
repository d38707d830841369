//! Checks that doc comments begin as sentences that stand on their own.
//!
//! A doc comment is read alone: in an editor's tooltip, in `cargo doc`, in a search result. One
//! that begins with "Likewise" or "Its" says nothing there, so this test refuses it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::paths;

/// Directories, from the root of the repository on, whose doc comments are checked.
const CLEAN: &[&str] = &[
    "lpm-agent/src",
    "lpm-common/src",
    "lpm-ebpf/src",
    "xtask/src",
];

/// First words that point to another comment, or leave out the noun.
const REFUSED: &[&str] = &[
    "Likewise", "Its", "Their", "Of", "As", "The same", "Whose", "Ditto", "Also", "This", "That",
];

/// What the failing test tells the author to do.
const REMEDY: &str = "write a sentence that is understood alone: name the noun and say what it \
                      does or holds (\"The table's sizes and constants.\", not \"Its sizes and \
                      constants.\"; \"Reads the header of an IPv6 packet.\", not \"Likewise.\")";

/// A doc comment that begins with a refused word.
#[derive(Debug, PartialEq)]
struct Fragment {
    /// Line of the comment's beginning, counted from 1.
    line: usize,
    /// The comment's first sentence.
    sentence: String,
}

/// Finds the doc comments (`///`, `//!`) in `source` that begin with one of [`REFUSED`].
fn fragments(source: &str) -> Vec<Fragment> {
    blocks(source)
        .into_iter()
        .map(|(line, text)| Fragment {
            line,
            sentence: first_sentence(&text),
        })
        .filter(|fragment| is_refused(&fragment.sentence))
        .collect()
}

/// The doc comments in `source`: the first line's number and the text without the markers.
///
/// Only lines that begin with a marker count, so neither `//` comments nor `////` rulers do.
fn blocks(source: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut open = None;
    for (line, text) in (1..).zip(source.lines()) {
        let doc = ["///", "//!"].into_iter().find_map(|marker| {
            let rest = text.trim_start().strip_prefix(marker)?;
            (!rest.starts_with('/')).then_some((marker, rest.trim()))
        });
        match (doc, found.last_mut()) {
            (Some((marker, rest)), Some((_, block))) if open == Some(marker) => {
                block.push('\n');
                block.push_str(rest);
            }
            (Some((_, rest)), _) => found.push((line, rest.to_owned())),
            (None, _) => {}
        }
        open = doc.map(|(marker, _)| marker);
    }
    found
}

/// The first sentence of a comment, on one line; without a full stop its first paragraph.
fn first_sentence(text: &str) -> String {
    let paragraph = text.trim_start().split("\n\n").next().unwrap_or_default();
    let line = paragraph.replace('\n', " ");
    match line.find(". ") {
        Some(stop) => line[..=stop].to_owned(),
        None => line,
    }
}

/// Whether a sentence begins with one of [`REFUSED`] as a whole word.
fn is_refused(sentence: &str) -> bool {
    REFUSED.iter().any(|word| {
        sentence
            .strip_prefix(word)
            .is_some_and(|rest| !rest.starts_with(|next: char| next.is_alphanumeric()))
    })
}

/// The Rust sources below `directory`, without what cargo builds into `target`.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        let entries = fs::read_dir(&directory)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", directory.display()));
        for entry in entries {
            let path = entry.expect("an entry of a readable directory").path();
            if path.is_dir() && !path.ends_with("target") {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn words_of_doc_comments_stand_on_their_own() {
    let mut refused = Vec::new();
    for directory in CLEAN {
        let sources = sources(&paths::root().join(directory));
        assert!(
            !sources.is_empty(),
            "no Rust source in {directory}: correct CLEAN"
        );
        for path in sources {
            let source = fs::read_to_string(&path).expect("a readable Rust source");
            let shown = path.strip_prefix(paths::root()).unwrap_or(&path).display();
            for Fragment { line, sentence } in fragments(&source) {
                refused.push(format!("{shown}:{line}: {sentence}"));
            }
        }
    }
    assert!(
        refused.is_empty(),
        "doc comments that begin as fragments: {}; {REMEDY}:\n{}",
        refused.len(),
        refused.join("\n")
    );
}

#[test]
fn words_that_point_elsewhere_are_refused_with_their_line() {
    let source = "//! Module.\n\n/// Likewise; of another\n/// flow. More.\nfn a() {}\n\
                  \x20   /// Its key.\n    key: u8,\n/// The same\n/// again.\nfn b() {}\n";
    let found = fragments(source);
    let expected = [
        (3, "Likewise; of another flow."),
        (6, "Its key."),
        (8, "The same again."),
    ]
    .map(|(line, sentence)| Fragment {
        line,
        sentence: sentence.to_owned(),
    });
    assert_eq!(found, expected);
}

#[test]
fn words_within_a_sentence_and_longer_words_are_taken() {
    let source = "//! Assembles packets.\n//! Its second line may say so.\n\
                  /// Offset of the header. Likewise elsewhere.\nfn a() {}\n\
                  // Of no interest: no doc comment.\n//// As a ruler.\n\
                  /// Thatched.\n///\n/// This is a later paragraph.\nfn b() {}\n";
    assert_eq!(fragments(source), []);
}
