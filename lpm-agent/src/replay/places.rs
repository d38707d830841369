//! The interfaces of a capture as the matcher knows them: each by a number of its own, so that
//! nothing is ever matched across two.

use std::collections::HashMap;

use lpm_common::layout::Vantage;

use super::{
    capture::Interface,
    engine::{DISORDER_NS, Place},
    link,
};

/// Interfaces that are told apart; packets of further ones are counted and left out.
const MOST: usize = 65_535;
/// A pause in which every round trip has ended long ago, nanoseconds: a day.
const PAUSE_NS: u64 = 86_400_000_000_000;

/// What the command line says of interfaces.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Only these, by name; empty: all. One alone is also the name of an interface without.
    pub only: Vec<String>,
    /// Vantages by interface name; without name: of all others.
    pub vantages: Vec<(Option<String>, Vantage)>,
}

/// An interface that packets came from.
#[derive(Clone, Debug)]
pub struct Spot {
    /// Its name, or `if` and its number.
    pub name: String,
    /// As what it was declared; `None`: nobody said.
    pub vantage: Option<Vantage>,
    watched: bool,
    newest_ns: u64,
    epoch: u16,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Places {
    choice: Choice,
    by_source: HashMap<(usize, u32), usize>,
    last: Option<((usize, u32), usize)>,
    spots: Vec<Spot>,
    /// Times the clock was set back, or a day passed without a packet: flows began anew.
    pub steps: u64,
    /// Packets of interfaces beyond the number that is told apart.
    pub beyond: u64,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug)]
pub enum Entry {
    /// It is measured.
    At(Place),
    /// It is measured; and everything measured so far must be forgotten, as the numbers that keep
    /// the interfaces' clocks apart are used up.
    Anew(Place),
    /// Its interface was not asked for, or is one too many.
    Elsewhere,
}

impl Places {
    /// With what the command line says.
    #[must_use]
    pub fn new(choice: Choice) -> Self {
        Self {
            choice,
            ..Self::default()
        }
    }

    /// Where a packet passed. `source` is the number of the capture's interface and that in a
    /// cooked header.
    pub fn enter(&mut self, source: (usize, u32), interface: &Interface, now_ns: u64) -> Entry {
        let Some(index) = self.find(source, interface) else {
            self.beyond += 1;
            return Entry::Elsewhere;
        };
        let spot = &mut self.spots[index];
        if !spot.watched {
            return Entry::Elsewhere;
        }
        let mut anew = false;
        if spot.newest_ns == 0 {
            spot.newest_ns = now_ns;
        }
        if now_ns.saturating_add(DISORDER_NS) < spot.newest_ns
            || now_ns > spot.newest_ns.saturating_add(PAUSE_NS)
        {
            self.steps += 1;
            spot.newest_ns = now_ns;
            spot.epoch = spot.epoch.wrapping_add(1);
            anew = spot.epoch == 0;
        }
        spot.newest_ns = spot.newest_ns.max(now_ns);
        let place = Place {
            ifindex: number(index, spot.epoch),
            vantage: spot.vantage.map_or(0, |vantage| vantage as u8),
            now_ns,
            newest_ns: spot.newest_ns,
        };
        if anew {
            Entry::Anew(place)
        } else {
            Entry::At(place)
        }
    }

    fn find(&mut self, source: (usize, u32), interface: &Interface) -> Option<usize> {
        if let Some((last, index)) = self.last
            && last == source
        {
            return Some(index);
        }
        let index = match self.by_source.get(&source) {
            Some(index) => *index,
            None => self.add(source, interface)?,
        };
        self.last = Some((source, index));
        Some(index)
    }

    fn add(&mut self, source: (usize, u32), interface: &Interface) -> Option<usize> {
        let index = self.spots.len();
        if index >= MOST {
            return None;
        }
        let (number, ifindex) = source;
        let named = match (&interface.name, self.choice.only.as_slice()) {
            (Some(name), _) if ifindex == 0 => Some(name.clone()),
            (None, [only]) if ifindex == 0 => Some(only.clone()),
            _ => None,
        };
        let unnamed = if ifindex == 0 {
            u32::try_from(number).ok()?
        } else {
            ifindex
        };
        let name = named.unwrap_or_else(|| format!("if{unnamed}"));
        self.spots.push(Spot {
            watched: self.choice.only.is_empty() || self.choice.only.contains(&name),
            vantage: self.choice.vantage(&name),
            name,
            newest_ns: 0,
            epoch: 0,
        });
        self.by_source.insert(source, index);
        Some(index)
    }

    /// The interface that a sample or a flow names.
    #[must_use]
    pub fn spot(&self, ifindex: u32) -> Option<&Spot> {
        self.spots.get(index(ifindex)?)
    }

    /// Those that were asked for, of which packets came.
    pub fn watched(&self) -> impl Iterator<Item = &Spot> {
        self.spots.iter().filter(|spot| spot.watched)
    }

    /// All of which packets came.
    #[must_use]
    pub fn all(&self) -> &[Spot] {
        &self.spots
    }
}

impl Choice {
    fn vantage(&self, name: &str) -> Option<Vantage> {
        let of = |wanted: Option<&str>| {
            let mut all = self.vantages.iter();
            all.find(|(of, _)| of.as_deref() == wanted)
                .map(|(_, vantage)| *vantage)
        };
        of(Some(name)).or_else(|| of(None))
    }
}

/// The number of an interface in flow keys: its place, and how often its clock was set.
fn number(index: usize, epoch: u16) -> u32 {
    u32::from(epoch) << 16 | u32::try_from(index + 1).unwrap_or(0)
}

/// The place again: the same for all numbers of an interface.
#[must_use]
pub fn index(number: u32) -> Option<usize> {
    usize::try_from(number & 0xffff).ok()?.checked_sub(1)
}

/// What a user should know of a capture's interface: that it cannot be read, or that it mixes
/// several.
#[must_use]
pub fn warning(interface: &Interface) -> Option<String> {
    if !link::is_known(interface.link) {
        return Some(format!(
            "interface {} has link type {} ({}), which is not read: its packets are left out",
            interface.name.as_deref().unwrap_or("without name"),
            interface.link,
            link::name(interface.link)
        ));
    }
    link::mixes_interfaces(interface.link).then(|| {
        "a cooked capture of version 1 does not tell interfaces apart: a packet that passed two is \
         counted twice, and its round trips are those between the first sightings; capture with \
         `tcpdump -y LINUX_SLL2`"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn interface(name: Option<&str>) -> Interface {
        Interface {
            name: name.map(str::to_owned),
            link: 1,
        }
    }

    fn at(entry: Entry) -> Place {
        match entry {
            Entry::At(place) => place,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_clock_that_is_set_back_begins_anew() {
        let mut places = Places::default();
        let interface = interface(None);
        let mut enter = |now| at(places.enter((0, 0), &interface, now));
        let first = enter(100 * SECOND);
        let late = enter(100 * SECOND - DISORDER_NS);
        assert_eq!(late.ifindex, first.ifindex, "disorder");
        assert_eq!(late.newest_ns, 100 * SECOND);
        let back = enter(99 * SECOND);
        assert_ne!(back.ifindex, first.ifindex);
        assert_eq!(index(back.ifindex), index(first.ifindex));
        assert_eq!(back.newest_ns, 99 * SECOND);
        let on = enter(200 * SECOND);
        assert_eq!(on.ifindex, back.ifindex, "a pause is a pause");
        assert_ne!(enter(200 * SECOND + 2 * PAUSE_NS).ifindex, on.ifindex);
        assert_eq!(places.steps, 2);
    }

    #[test]
    fn numbers_that_are_used_up_say_so() {
        let mut places = Places::default();
        let interface = interface(None);
        let entries = (0..=65_536_u64).map(|i| {
            let now = (1_000_000 - i) * SECOND;
            places.enter((0, 0), &interface, now)
        });
        let anew = entries
            .filter(|entry| matches!(entry, Entry::Anew(_)))
            .count();
        assert_eq!(anew, 1);
    }

    #[test]
    fn interfaces_are_told_apart_and_chosen_by_name() {
        let mut places = Places::new(Choice {
            only: vec!["vethb".to_owned()],
            vantages: vec![
                (None, Vantage::Nic),
                (Some("vethb".to_owned()), Vantage::Pod),
            ],
        });
        let elsewhere = places.enter((0, 0), &interface(Some("vetha")), SECOND);
        assert!(matches!(elsewhere, Entry::Elsewhere));
        let place = at(places.enter((1, 0), &interface(Some("vethb")), SECOND));
        assert_eq!(place.vantage, Vantage::Pod as u8);
        let unnamed = at(places.enter((2, 0), &interface(None), SECOND));
        assert_ne!(unnamed.ifindex, place.ifindex);
        let names: Vec<_> = places.watched().map(|spot| spot.name.as_str()).collect();
        assert_eq!(names, ["vethb", "vethb"]);

        let mut places = Places::default();
        for ifindex in [3, 9] {
            places.enter((0, ifindex), &interface(Some("any")), SECOND);
        }
        let names: Vec<_> = places.watched().map(|spot| spot.name.as_str()).collect();
        assert_eq!(names, ["if3", "if9"], "a cooked header's interfaces");
    }
}
