//! The sections of the configuration: which keys belong together, what is wrong with their values,
//! and which of them a running agent cannot change.
//!
//! A new key is a field of [`Config`], its default, and a line in the section that owns it. A test
//! fails for a key that no section owns.

mod active;
mod conntrack;
mod hooks;
mod methods;
mod names;
mod pins;
mod privileges;
mod serve;
pub(super) mod tables;

use super::{Config, ConfigError};

/// A key, and whether a running agent can take a new value.
pub(super) struct Key {
    /// Key in the file; of a key within another one, the path: `identity.kubernetes`.
    name: &'static str,
    /// Whether two configurations differ in it so that the agent must start anew. `None`: the key
    /// is hot, a reload applies it.
    needs_restart: Option<fn(&Config, &Config) -> bool>,
}

impl Key {
    /// A key that a reload applies.
    const fn hot(name: &'static str) -> Self {
        Self {
            name,
            needs_restart: None,
        }
    }

    /// A key that only a restart applies, if this says that its value differs.
    const fn cold(name: &'static str, differs: fn(&Config, &Config) -> bool) -> Self {
        Self {
            name,
            needs_restart: Some(differs),
        }
    }
}

/// Keys that one part of the agent owns.
pub(super) struct Section {
    keys: &'static [Key],
    /// Holds the values against each other and against what can work.
    check: fn(&Config) -> Result<(), ConfigError>,
}

/// All sections, in the order in which changes are told.
const SECTIONS: [Section; 9] = [
    serve::SECTION,
    hooks::SECTION,
    tables::SECTION,
    methods::SECTION,
    names::SECTION,
    active::SECTION,
    conntrack::SECTION,
    pins::SECTION,
    privileges::SECTION,
];

/// The first value that cannot work.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    SECTIONS
        .iter()
        .try_for_each(|section| (section.check)(config))
}

/// Keys in which two configurations differ and that need a restart.
pub(super) fn needs_restart(before: &Config, after: &Config) -> Vec<&'static str> {
    let keys = SECTIONS.iter().flat_map(|section| section.keys);
    let cold = keys.filter(|key| {
        key.needs_restart
            .is_some_and(|differs| differs(before, after))
    });
    cold.map(|key| key.name).collect()
}

/// Keys that a reload applies.
#[cfg(test)]
pub(super) fn hot() -> Vec<&'static str> {
    let keys = SECTIONS.iter().flat_map(|section| section.keys);
    let hot = keys.filter(|key| key.needs_restart.is_none());
    hot.map(|key| key.name).collect()
}

/// A value that cannot work.
fn wrong(key: &'static str, value: String, remedy: &'static str) -> Result<(), ConfigError> {
    Err(ConfigError::Value { key, value, remedy })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Keys at a place of the schema.
    fn keys_of_schema(pointer: &str) -> BTreeSet<String> {
        let schema = Config::schema();
        let properties = schema.pointer(pointer).and_then(|all| all.as_object());
        properties.expect("an object").keys().cloned().collect()
    }

    #[test]
    fn each_key_of_the_schema_belongs_to_one_section() {
        let mut owned = BTreeSet::new();
        for section in &SECTIONS {
            let keys = section.keys.iter().map(|key| key.name.split('.').next());
            let keys: BTreeSet<_> = keys.map(|key| key.expect("a name").to_owned()).collect();
            for key in keys {
                assert!(owned.insert(key.clone()), "two sections own {key}");
            }
        }
        assert_eq!(owned, keys_of_schema("/properties"));
    }

    /// Some of `identity` is hot and some is not, so each of its keys is told.
    #[test]
    fn each_key_of_identity_says_whether_it_is_hot() {
        let keys = names::SECTION.keys.iter().map(|key| key.name);
        let told: BTreeSet<_> = keys
            .filter_map(|key| Some(key.strip_prefix("identity.")?.to_owned()))
            .collect();
        assert_eq!(told, keys_of_schema("/$defs/Identity/properties"));
    }

    /// Some of `reflector` is hot and some is not, so each of its keys is told.
    #[test]
    fn each_key_of_reflector_says_whether_it_is_hot() {
        let keys = active::SECTION.keys.iter().map(|key| key.name);
        let told: BTreeSet<_> = keys
            .filter_map(|key| Some(key.strip_prefix("reflector.")?.to_owned()))
            .collect();
        assert_eq!(told, keys_of_schema("/$defs/Reflector/properties"));
    }

    #[test]
    fn each_section_checks_its_values() {
        let mut config = Config::default();
        assert!(check(&config).is_ok());
        config.rows = 1;
        assert!(check(&config).is_err());
    }
}
