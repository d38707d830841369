//! Whether the data path outlives the agent.

use super::{Key, Section};

pub(super) const SECTION: Section = Section {
    keys: &[Key::cold("pins", |a, b| a.pins != b.pins)],
    check: |config| config.pins.check(),
};
