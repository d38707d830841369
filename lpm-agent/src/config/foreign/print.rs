//! A configuration as YAML that has only what is not a default.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use super::{Foreign, Imported, Kind};
use crate::{
    config::{Config, Target},
    text::plain_line,
};

impl Foreign {
    /// The configuration as YAML, with comments on what has no counterpart. Several nodes are several
    /// documents. `node`: only that one. None: the file has no node of this name.
    #[must_use]
    pub fn to_yaml(&self, node: Option<&str>) -> Option<String> {
        let is_asked = |one: &&Imported| node.is_none_or(|name| one.node.as_deref() == Some(name));
        let asked: Vec<_> = self.nodes.iter().filter(is_asked).collect();
        let documents = asked.iter().map(|one| document(self.kind, one));
        (!asked.is_empty()).then(|| documents.collect::<Vec<_>>().join("---\n"))
    }
}

fn document(kind: Kind, node: &Imported) -> String {
    let mut text = format!("# From {kind}");
    if let Some(name) = &node.node {
        // A name in a comment must not end the line.
        let _ = write!(text, ", node {}", plain_line(name));
    }
    text.push_str(".\n");
    for note in &node.notes {
        let _ = writeln!(text, "# - {}", plain_line(&note.to_string()));
    }
    // Both are plain values, which YAML always has a form for.
    text + &serde_saphyr::to_string(&short(&node.config)).unwrap_or_default()
}

/// The keys whose values are not their defaults.
fn short(config: &Config) -> Value {
    let mut short = without(value(config), &value(&Config::default())).unwrap_or_default();
    let default = value(&Target::default());
    if let Some(targets) = short.pointer_mut("/probes/targets")
        && let Some(targets) = targets.as_array_mut()
    {
        for target in targets {
            *target = without(target.take(), &default).unwrap_or_default();
        }
    }
    short
}

/// All keys. Each type of the configuration has a form in JSON.
fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

/// A value without what is the same in the default. None: all is.
fn without(value: Value, default: &Value) -> Option<Value> {
    match (value, default) {
        (value, default) if value == *default => None,
        (Value::Object(keys), Value::Object(defaults)) => {
            let keys = keys.into_iter().filter_map(|(key, value)| {
                let default = defaults.get(&key).unwrap_or(&Value::Null);
                Some((key, without(value, default)?))
            });
            Some(Value::Object(keys.collect()))
        }
        (value, _) => Some(value),
    }
}
