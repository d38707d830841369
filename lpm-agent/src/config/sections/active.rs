//! What is probed, and whose probes are answered.

use super::{Key, Section};

pub(super) const SECTION: Section = Section {
    keys: &[
        Key::cold("role", |a, b| a.role != b.role),
        Key::cold("reflector.listen", |a, b| {
            a.reflector.listen != b.reflector.listen
        }),
        Key::hot("reflector.allow"),
        Key::cold("reflector.rate", |a, b| {
            a.reflector.rate != b.reflector.rate
        }),
        Key::cold("reflector.keys", |a, b| {
            a.reflector.keys != b.reflector.keys
        }),
        Key::hot("probes"),
    ],
    check: |config| {
        config.reflector.check()?;
        config.probes.check()
    },
};
