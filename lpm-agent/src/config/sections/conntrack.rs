//! Whether the backends of services are told.

use super::{Key, Section};

pub(super) const SECTION: Section = Section {
    keys: &[Key::cold("conntrack", |a, b| a.conntrack != b.conntrack)],
    check: |config| config.conntrack.check(),
};
