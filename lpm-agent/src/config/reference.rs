//! `docs/configuration.md`, and the list of keys that must not change by accident.

use std::fmt::Write as _;

use serde_json::Value;

use super::{Config, schema::DURATION};
use crate::{
    docs::{assert_current, table},
    identity::names_file,
};

const HEAD: &str = "# Configuration\n\n\
Every key of `lpm.yaml` and of a names file. The agent's own source made this page, from the JSON\n\
schema that `lpm config schema` prints. `lpm config check FILE` checks a file, and `lpm config show`\n\
prints every key with its value.\n\n\
An unknown key is an error, with its name and line. A key that \"takes effect without a restart\" is applied\n\
when the file changes or the agent gets SIGHUP.\n\n";

/// A key with what the schema says of it.
struct Key {
    /// `identity.kubernetes.scope`, `interfaces[].name`.
    path: String,
    values: String,
    /// Empty: it has none, or it is a section.
    default: String,
    meaning: String,
}

/// What a reference in the schema stands for.
fn resolved<'a>(root: &'a Value, of: &'a Value) -> &'a Value {
    let Some(reference) = of["$ref"].as_str() else {
        return of;
    };
    let name = reference.trim_start_matches("#/$defs/");
    &root["$defs"][name]
}

/// The values that one key may have, in words.
fn values(root: &Value, of: &Value) -> String {
    let of = resolved(root, of);
    if let Some(word) = of["const"].as_str() {
        return format!("`{word}`");
    }
    for choice in ["oneOf", "anyOf"] {
        if let Some(all) = of[choice].as_array() {
            let all = all.iter().filter(|one| one["type"] != "null");
            let all: Vec<String> = all.map(|one| values(root, one)).collect();
            return all.join(", ");
        }
    }
    if let Some(all) = of["enum"].as_array() {
        let name = |value: &Value| match value {
            Value::String(word) => format!("`{word}`"),
            other => other.to_string(),
        };
        let ends = all.first().zip(all.last());
        return match ends {
            Some((first, last)) if first.is_number() => {
                format!("power of two, {} to {}", name(first), name(last))
            }
            _ => all.iter().map(name).collect::<Vec<_>>().join(", "),
        };
    }
    let kind = match &of["type"] {
        Value::Array(kinds) => kinds.iter().find(|kind| *kind != "null"),
        kind => Some(kind),
    };
    match kind.and_then(Value::as_str).unwrap_or_default() {
        "boolean" => "`true`, `false`".to_owned(),
        "integer" => match (&of["minimum"], &of["maximum"]) {
            (Value::Number(least), Value::Number(most)) => format!("{least} to {most}"),
            _ => "number".to_owned(),
        },
        "array" => format!("list of {}", values(root, &of["items"])),
        "object" => "section".to_owned(),
        "string" if of["pattern"] == DURATION => "duration".to_owned(),
        _ => "text".to_owned(),
    }
}

/// The keys of an object, those of its sections and lists included.
fn keys(root: &Value, of: &Value, before: &str) -> Vec<Key> {
    let mut all = Vec::new();
    let Some(properties) = of["properties"].as_object() else {
        return all;
    };
    for (name, property) in properties {
        let path = format!("{before}{name}");
        let inside = resolved(root, property);
        let item = resolved(root, &inside["items"]);
        let section = inside["properties"].is_object();
        let default = match &property["default"] {
            Value::Null => String::new(),
            _ if section => String::new(),
            value => format!("`{value}`").replace('"', ""),
        };
        let meaning = property["description"].as_str().unwrap_or_default();
        all.push(Key {
            values: values(root, property),
            default,
            meaning: meaning.replace('\n', " "),
            path: path.clone(),
        });
        all.extend(keys(root, inside, &format!("{path}.")));
        all.extend(keys(root, item, &format!("{path}[].")));
    }
    all
}

/// The keys of `lpm.yaml`, and those of the entries of a names file.
fn all() -> [Vec<Key>; 2] {
    let config = Config::schema().to_value();
    let names = names_file::schema().to_value();
    let entry = resolved(&names, &names["items"]);
    [keys(&config, &config, ""), keys(&names, entry, "[].")]
}

#[test]
fn the_list_of_keys_is_current() {
    let mut list = String::new();
    for (file, keys) in ["lpm.yaml", "names"].iter().zip(all()) {
        for key in keys {
            let (path, values, default) = (key.path, key.values, key.default);
            let line = format!("{file} {path}: {values}; default {default}");
            let line = line.trim_end_matches("; default ");
            writeln!(list, "{}", line.replace('`', "")).expect("a string");
        }
    }
    assert_current("reference/configuration.txt", &list);
}

#[test]
fn the_page_of_keys_is_current() {
    let [config, names] = all().map(|keys| {
        let rows: Vec<[String; 4]> = keys
            .into_iter()
            .map(|key| {
                let meaning = key.meaning.replace('|', "\\|");
                [format!("`{}`", key.path), key.values, key.default, meaning]
            })
            .collect();
        table(["key", "values", "default", "meaning"], &rows)
    });
    let text = format!(
        "{HEAD}## lpm.yaml\n\n{config}\n## A names file\n\nA list of entries; `names: FILE` points \
         to it.\n\n{names}"
    );
    assert_current("configuration.md", &text);
}
