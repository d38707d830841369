//! What the agent keeps of its rights.

use super::{Key, Section};

pub(super) const SECTION: Section = Section {
    keys: &[Key::cold("privileges", |a, b| a.privileges != b.privileges)],
    check: |_| Ok(()),
};
