//! What is served to others.

use super::{Key, Section};

pub(super) const SECTION: Section = Section {
    keys: &[Key::cold("listen", |a, b| a.listen != b.listen)],
    check: |config| config.identity.check_listens(config.listen),
};
