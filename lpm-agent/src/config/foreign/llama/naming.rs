//! Names and tags of LLAMA's targets, which are known there by their addresses.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use super::{ItsTags, Note};
use crate::config::{Tags, Target};

/// The tag with a target's name, by habit.
const TARGET: &str = "dst_hostname";

/// The tag with this machine's name, by habit.
const SOURCE: &str = "src_hostname";

/// Names that are given, and what all targets say of this machine.
#[derive(Debug, Default)]
pub(super) struct Naming {
    /// Each name, with the highest number that was put behind it.
    given: HashMap<String, u32>,
    targets: u32,
    sources: BTreeSet<Option<String>>,
}

impl Naming {
    /// A target at this host and port, with a name that no other one has.
    pub(super) fn target(
        &mut self,
        line: u64,
        (host, port): (&str, u16),
        tags: ItsTags,
        notes: &mut Vec<Note>,
    ) -> Target {
        let mut note = |text: String| {
            notes.push(Note {
                line: Some(line),
                text,
            });
        };
        self.targets += 1;
        self.sources.insert(tags.get(SOURCE).cloned());
        let address = host.parse::<IpAddr>().ok();
        let name = tags.get(TARGET).filter(|name| !name.is_empty()).cloned();
        let name = name.or_else(|| address.is_none().then(|| host.to_owned()));
        let name = name.unwrap_or_else(|| {
            let name = format!("target-{}", self.targets);
            note(format!(
                "the target has no tag {TARGET}: its name is {name}"
            ));
            name
        });
        let unique = self.unique(&name);
        if unique != name {
            note(format!(
                "another target has the name {name}, too: its name is {unique}"
            ));
        }
        Target {
            address: match address {
                Some(IpAddr::V6(address)) => format!("[{address}]:{port}"),
                _ => format!("{host}:{port}"),
            },
            name: Some(unique),
            tags: tags_of(tags, &mut note),
            ..Target::default()
        }
    }

    /// The name, or with a number if another target has it.
    fn unique(&mut self, name: &str) -> String {
        let mut number = self.given.get(name).copied().unwrap_or_default();
        loop {
            number += 1;
            let wanted = match number {
                1 => name.to_owned(),
                _ => format!("{name}-{number}"),
            };
            if !self.given.contains_key(&wanted) {
                self.given.insert(wanted.clone(), 1);
                self.given.insert(name.to_owned(), number);
                return wanted;
            }
        }
    }

    /// The name of this machine, if all targets tell the same one.
    pub(super) fn source(&self) -> Option<String> {
        let mut sources = self.sources.iter().flatten();
        let source = sources.next().filter(|name| !name.is_empty())?;
        (self.sources.len() == 1).then(|| source.clone())
    }
}

/// Tags as a target has them: with the name of a label, and no value that is empty.
fn tags_of(all: ItsTags, note: &mut impl FnMut(String)) -> Tags {
    let mut tags = Tags::new();
    for (key, value) in all {
        if value.is_empty() {
            note(format!("the tag {key} is empty: left out"));
            continue;
        }
        let digit = key.starts_with(|first: char| first.is_ascii_digit());
        let label = key.chars().map(|one| {
            let is_good = one.is_ascii_alphanumeric() || one == '_';
            if is_good { one } else { '_' }
        });
        let label: String = digit.then_some('_').into_iter().chain(label).collect();
        if label != key {
            note(format!("the tag {key:?} is called {label}, as labels are"));
        }
        tags.insert(label, value);
    }
    tags
}
