//! What is watched, and how programs are attached.

use super::{Key, Section};

pub(super) const SECTION: Section = Section {
    keys: &[
        Key::hot("preset"),
        Key::hot("interfaces"),
        // Ports that no rule asks for are not in the programs.
        Key::cold("tunnels", |a, b| a.looked_into() != b.looked_into()),
        Key::cold("attach", |a, b| a.attach != b.attach),
        Key::cold("netns", |a, b| a.netns != b.netns),
    ],
    check: |config| config.tunnels.check(),
};
