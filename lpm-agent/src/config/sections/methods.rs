//! How round trips are measured.

use super::{Key, Section, wrong};

pub(super) const SECTION: Section = Section {
    keys: &[Key::cold("methods", |a, b| a.methods != b.methods)],
    check: |config| {
        if config.methods.is_empty() {
            return wrong("methods", "[]".to_owned(), "name at least one");
        }
        Ok(())
    },
};
