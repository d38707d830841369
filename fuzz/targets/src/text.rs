//! Texts that people write: the configuration, names files, and the header `Accept`.

use std::path::Path;

use lpm_agent::{
    config::Config,
    export::negotiate::{self, Format},
    identity::PrefixMap,
};

/// Any text as the configuration. What is accepted must be shown in a form that reads as the same.
pub fn config(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let path = Path::new("lpm.yaml");
    match Config::parse(text, path) {
        Ok(config) => {
            config.check().expect("what is accepted passes the checks");
            let shown = config.to_yaml().expect("a configuration can be shown");
            let again = Config::parse(&shown, path).expect("what is shown can be read");
            assert_eq!(config, again, "{shown}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Any text as a names file. Each range that is accepted has the name that the map gives it.
pub fn names(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    match PrefixMap::parse(text, Path::new("names.yaml")) {
        Ok(names) => {
            let all = names.all();
            assert_eq!(all.len(), names.len());
            for (range, name) in all {
                assert_eq!(names.get(range), Some(&name));
                assert!(names.lookup(range.addr()).is_some(), "{range}");
            }
        }
        Err(error) => assert!(error.to_string().contains("names.yaml"), "{error}"),
    }
}

/// Any bytes as lines of the header `Accept`.
pub fn accept(data: &[u8]) {
    let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    let format = negotiate::format(lines.iter().copied());
    if data.is_empty() || data == b"*/*" {
        assert_eq!(format, Some(Format::Text));
    }
    // A scraper that says the same twice gets the same.
    let twice = lines.iter().chain(&lines).copied();
    if lines.len() == 1 && !data.contains(&b'"') && data.len() < 100 {
        assert_eq!(negotiate::format(twice), format);
    }
}
