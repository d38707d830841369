//! Reads YAML files that people write. An error is in this project's words, with its line.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize as _, Deserializer,
    de::{DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_saphyr::{DefaultMessageFormatter, Error, MessageFormatter, Spanned};

/// Formats the library's errors in its own words, except those that address a programmer.
struct Words;

impl MessageFormatter for Words {
    fn format_message<'a>(&self, error: &'a Error) -> Cow<'a, str> {
        match error {
            Error::DuplicateMappingKey { key, .. } => {
                let key = key.as_deref().unwrap_or("a key");
                format!("the key {key} is given twice: remove one of the two").into()
            }
            Error::InvalidScalar { ty, .. } if let Some(most) = most(ty) => {
                format!("not a whole number from 0 to {most}").into()
            }
            _ => DefaultMessageFormatter.format_message(error),
        }
    }
}

/// The largest value of a type of numbers without sign.
fn most(kind: &str) -> Option<u64> {
    match kind {
        "u8" => Some(u8::MAX.into()),
        "u16" => Some(u16::MAX.into()),
        "u32" => Some(u32::MAX.into()),
        "u64" => Some(u64::MAX),
        _ => None,
    }
}

/// Reads a text.
///
/// # Errors
/// What is wrong, with line and column.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_saphyr::from_str(text).map_err(|error| error.render_with_formatter(&Words))
}

/// Reads a text that is a list of at most `entries` elements, each with at most `nodes` keys and
/// values. The library's own bound is made for smaller files.
///
/// # Errors
/// What is wrong, with line and column.
pub(crate) fn read_list<T: DeserializeOwned>(
    text: &str,
    entries: usize,
    nodes: usize,
) -> Result<T, String> {
    // A list and an element begin and end. One element more is read, to be refused in our words.
    let all = (entries + 2) * (nodes + 2);
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_nodes: all, max_events: all },
    };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| error.render_with_formatter(&Words))
}

/// The line of a key, such as `levels.top`, or of the longest part of its path that exists. None:
/// not even the first part exists.
pub(crate) fn line_of(text: &str, key: &str) -> Option<u64> {
    let path: Vec<&str> = key.split('.').collect();
    serde_saphyr::with_deserializer_from_str(text, |yaml| Path(&path).deserialize(yaml))
        .ok()
        .flatten()
}

/// The keys at the top of a text, in its order, each with its line. Of a text that is broken: those
/// before the break.
pub(crate) fn keys(text: &str) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    // What is wrong with the text is told by whoever reads it.
    let _ = serde_saphyr::with_deserializer_from_str(text, |yaml| {
        yaml.deserialize_map(Keys(&mut found))
    });
    found
}

/// Gathers the keys of a map.
struct Keys<'a>(&'a mut Vec<(String, u64)>);

impl<'de> Visitor<'de> for Keys<'_> {
    type Value = ();

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("keys and values")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let line = key.referenced.line();
            self.0.push((key.value, line));
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

/// The rest of the path to a key.
struct Path<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for Path<'_> {
    type Value = Option<u64>;

    fn deserialize<D: Deserializer<'de>>(self, yaml: D) -> Result<Option<u64>, D::Error> {
        if self.0.is_empty() {
            IgnoredAny::deserialize(yaml)?;
            return Ok(None);
        }
        yaml.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Path<'_> {
    type Value = Option<u64>;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("keys and values")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Option<u64>, M::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            match self.0.split_first() {
                Some((first, rest)) if *first == key.value => {
                    let deeper = map.next_value_seed(Path(rest))?;
                    found = deeper.or(Some(key.referenced.line()));
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_line_of_a_key_is_found() {
        let text = "# first\na: 1\nb:\n  c: {d: 2}\n  e:\n  - 3\nf: []\n";
        for (key, line) in [
            ("a", Some(2)),
            ("b", Some(3)),
            ("b.c", Some(4)),
            ("b.c.d", Some(4)),
            ("b.e", Some(5)),
            ("f", Some(7)),
            // As far as it is there.
            ("b.x.y", Some(3)),
            ("x", None),
        ] {
            assert_eq!(line_of(text, key), line, "{key}");
        }
        for text in ["", "- 1\n", "a: [\n", "7\n"] {
            assert_eq!(line_of(text, "a"), None, "{text}");
        }
    }

    #[test]
    fn the_keys_at_the_top_have_their_lines() {
        let list = |text| {
            let keys = keys(text).into_iter();
            keys.map(|(key, line)| format!("{key} {line}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(list("# first\na: 1\n01: {b: 2}\n"), ["a 2", "01 3"]);
        assert_eq!(list("{\n \"a\": 1,\n \"b\": [2]\n}"), ["a 2", "b 3"]);
        assert_eq!(list("a: 1\nb: [\n"), ["a 1", "b 2"]);
        for text in ["", "- 1\n", "7\n"] {
            assert_eq!(list(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn numbers_have_bounds_and_no_types() {
        for text in ["a: 70000\n", "a: -1\n", "a: many\n", "a: 1.5\n"] {
            let error = read::<BTreeMap<String, u16>>(text).expect_err(text);
            assert!(error.contains("from 0 to 65535"), "{error}");
            assert!(
                error.contains("line 1") && !error.contains("u16"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_key_that_is_there_twice_is_named_with_the_remedy() {
        let error = read::<BTreeMap<String, u32>>("a: 1\nb: 2\na: 3\n").expect_err("twice");
        assert!(
            error.contains("the key a is given twice: remove one"),
            "{error}"
        );
        assert!(error.contains("line 3"), "{error}");
        assert!(!error.contains("Policy"), "{error}");
    }
}
