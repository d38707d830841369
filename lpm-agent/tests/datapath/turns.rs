//! Which tests wait for each other.

use std::path::Path;

use crate::support::turn::{ALONE, Turn};

#[test]
fn a_topic_that_must_be_alone_is() {
    let turn = |alone, running| Turn { alone, running };
    assert!(turn(None, 5).admits(None, 2));
    assert!(!turn(None, 1).admits(Some("oracle"), 2));
    assert!(turn(None, 0).admits(Some("oracle"), 2));
    assert!(turn(Some("oracle"), 1).admits(Some("oracle"), 2));
    assert!(!turn(Some("oracle"), 2).admits(Some("oracle"), 2));
    assert!(!turn(Some("oracle"), 1).admits(Some("front"), 2));
    assert!(!turn(Some("oracle"), 1).admits(None, 2));
    assert!(turn(Some("oracle"), 0).admits(None, 2));
}

#[test]
fn each_topic_that_must_be_alone_is_a_module() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for topic in ALONE {
        let is_there = ["datapath", "replay"].iter().any(|binary| {
            let module = tests.join(binary).join(topic);
            module.join("mod.rs").is_file() || module.with_extension("rs").is_file()
        });
        assert!(is_there, "no topic is called {topic}");
    }
}
