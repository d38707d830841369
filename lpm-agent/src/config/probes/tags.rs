//! The tags of a target: what a person says of it, such as its zone or rack.

use std::collections::BTreeMap;

/// Values by name, both as the configuration gives them.
pub type Tags = BTreeMap<String, String>;

/// Most tags of a target.
pub(super) const MOST: u32 = 16;

/// Most bytes of a tag's name.
const LONGEST_KEY: usize = 63;

/// Most bytes of a tag's value.
const LONGEST_VALUE: usize = 253;

/// What is wrong with tags: what it is, and the remedy.
pub(super) fn check(tags: &Tags) -> Result<(), (String, &'static str)> {
    if tags.len() > MOST as usize {
        return Err((format!("{} tags", tags.len()), "give at most 16 tags"));
    }
    for (key, value) in tags {
        if !is_label(key) {
            let remedy =
                "name a tag as a label: a letter or _, then letters, digits and _, at most 63";
            return Err((format!("tag {key:?}"), remedy));
        }
        let is_good =
            (1..=LONGEST_VALUE).contains(&value.len()) && !value.chars().any(char::is_control);
        if !is_good {
            let remedy = "give a tag a value of 1 to 253 bytes without control characters";
            return Err((format!("tag {key}"), remedy));
        }
    }
    Ok(())
}

/// True for a label's name as Prometheus defines it.
fn is_label(key: &str) -> bool {
    let is_first = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    key.len() <= LONGEST_KEY
        && key.as_bytes().first().is_some_and(is_first)
        && (key.bytes()).all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
