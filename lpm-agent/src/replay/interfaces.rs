//! Interfaces of a capture. Each has a number of its own for the matcher, so that nothing is ever
//! matched across two.

use std::collections::{HashMap, HashSet};

use lpm_common::layout::Vantage;

use super::{
    capture::Interface,
    engine::{DISORDER_NS, Place},
    link,
    tick::Tick,
};

/// Most interfaces that are told apart. Packets of further ones are counted and left out.
const MOST: usize = 65_535;
/// A pause after which every round trip has ended, nanoseconds: a day.
const PAUSE_NS: u64 = 86_400_000_000_000;

/// Options of the command line about interfaces.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Names of the interfaces to read. Empty: all. A single name also names an interface without
    /// one.
    pub only: Vec<String>,
    /// Vantages by interface name. Without a name: of all others.
    pub vantages: Vec<(Option<String>, Vantage)>,
    /// Names of interfaces that count as one: the two halves of a tap.
    pub joins: Vec<Vec<String>>,
}

/// An interface that packets came from.
#[derive(Clone, Debug)]
pub struct Spot {
    /// Name of the interface, or `if` and its number.
    pub name: String,
    /// Vantage that the command line declares. None: it declares none.
    pub vantage: Option<Vantage>,
    /// Tick of the interface's clock.
    pub tick: Tick,
    newest_ns: u64,
    epoch: u16,
}

/// The interface of a packet, as the capture has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CaptureInterface {
    /// Number of the capture's interface.
    pub number: usize,
    /// Interface index in a cooked header. 0: the packet has none.
    pub cooked: u32,
}

/// A source of packets: an interface of the capture.
#[derive(Clone, Copy, Debug)]
struct Source {
    /// Index of the interface. None: it is beyond the most interfaces.
    spot: Option<usize>,
    watched: bool,
}

/// All interfaces of a capture.
#[derive(Debug, Default)]
pub struct Interfaces {
    choice: Choice,
    by_source: HashMap<CaptureInterface, Source>,
    last: Option<(CaptureInterface, Source)>,
    spots: Vec<Spot>,
    /// Index of the interface for each of [`Choice::joins`], once there are packets.
    joined: Vec<Option<usize>>,
    /// Names in [`Choice::joins`] of which packets came.
    met: HashSet<String>,
    /// How often the clock was set back, or a day passed without a packet. Flows began again then.
    pub steps: u64,
    /// Number of packets of interfaces beyond the most that are told apart.
    pub beyond: u64,
}

/// The decision on a packet.
#[derive(Clone, Copy, Debug)]
pub enum Entry {
    /// Measure it.
    At(Place),
    /// Measure it, and forget everything measured so far: the numbers that keep the interfaces'
    /// clocks apart are used up.
    Anew(Place),
}

impl Interfaces {
    /// Starts with the options of the command line.
    #[must_use]
    pub fn new(choice: Choice) -> Self {
        Self {
            choice,
            ..Self::default()
        }
    }

    /// The index in [`Self::all`] of the interface that a packet passed. None: the interface was not
    /// asked for, or is beyond the most interfaces.
    pub fn find(&mut self, source: CaptureInterface, interface: &Interface) -> Option<usize> {
        let found = match self.last {
            Some((last, found)) if last == source => found,
            _ => match self.by_source.get(&source) {
                Some(found) => *found,
                None => self.add(source, interface),
            },
        };
        self.last = Some((source, found));
        self.beyond += u64::from(found.spot.is_none());
        found.spot.filter(|_| found.watched)
    }

    /// Records a packet at an interface. Returns its place and time for the matcher.
    pub fn enter(&mut self, index: usize, now_ns: u64) -> Option<Entry> {
        let spot = self.spots.get_mut(index)?;
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
        spot.tick.note(now_ns);
        let place = Place {
            ifindex: number(index, spot.epoch),
            vantage: spot.vantage.map_or(0, |vantage| vantage as u8),
            now_ns,
            newest_ns: spot.newest_ns,
        };
        Some(if anew {
            Entry::Anew(place)
        } else {
            Entry::At(place)
        })
    }

    fn add(&mut self, source: CaptureInterface, interface: &Interface) -> Source {
        let name = self.name(source, interface);
        let join = self.choice.join(&name);
        let shown = join.map_or_else(|| name.clone(), |join| self.choice.joins[join].join("+"));
        let only = &self.choice.only;
        let watched = only.is_empty() || only.contains(&name) || only.contains(&shown);
        let spot = match join.and_then(|join| self.joined.get(join).copied().flatten()) {
            Some(spot) => Some(spot),
            None if self.spots.len() >= MOST => None,
            None => {
                self.spots.push(Spot {
                    vantage: self.choice.vantage(&shown, &name),
                    name: shown,
                    tick: Tick::default(),
                    newest_ns: 0,
                    epoch: 0,
                });
                Some(self.spots.len() - 1)
            }
        };
        if let Some(join) = join {
            self.joined.resize(self.choice.joins.len(), None);
            self.joined[join] = spot;
            self.met.insert(name);
        }
        let found = Source { spot, watched };
        // Nothing is kept of interfaces beyond the most that are told apart.
        if spot.is_some() {
            self.by_source.insert(source, found);
        }
        found
    }

    fn name(&self, source: CaptureInterface, interface: &Interface) -> String {
        let CaptureInterface { number, cooked } = source;
        match (&interface.name, self.choice.only.as_slice()) {
            (Some(name), _) if cooked == 0 => name.clone(),
            (None, [only]) if cooked == 0 && self.choice.joins.is_empty() => only.clone(),
            _ if cooked == 0 => format!("if{number}"),
            _ => format!("if{cooked}"),
        }
    }

    /// Names of interfaces that were to be joined and of which no packet came.
    pub fn missed(&self) -> impl Iterator<Item = &str> {
        let names = self.choice.joins.iter().flatten();
        names
            .filter(|name| !self.met.contains(*name))
            .map(String::as_str)
    }

    /// The interface of a sample or a flow, by its number.
    #[must_use]
    pub fn spot(&self, ifindex: u32) -> Option<&Spot> {
        self.spots.get(index(ifindex)?)
    }

    /// All interfaces of which packets came.
    #[must_use]
    pub fn all(&self) -> &[Spot] {
        &self.spots
    }
}

impl Choice {
    /// Vantage of an interface, or of the joined one that it is part of.
    fn vantage(&self, shown: &str, name: &str) -> Option<Vantage> {
        let of = |wanted: Option<&str>| {
            let mut all = self.vantages.iter();
            all.find(|(of, _)| of.as_deref() == wanted)
                .map(|(_, vantage)| *vantage)
        };
        let parts = self.join(name).map_or(&[][..], |join| &self.joins[join]);
        let own = of(Some(shown)).or_else(|| of(Some(name)));
        own.or_else(|| parts.iter().find_map(|part| of(Some(part))))
            .or_else(|| of(None))
    }

    /// Index of the join that an interface is part of.
    fn join(&self, name: &str) -> Option<usize> {
        let mut all = self.joins.iter();
        all.position(|names| names.iter().any(|other| other == name))
    }
}

/// The number of an interface in flow keys, made of its index and of how often its clock was set.
fn number(index: usize, epoch: u16) -> u32 {
    u32::from(epoch) << 16 | u32::try_from(index + 1).unwrap_or(0)
}

/// The index of an interface from one of its numbers.
#[must_use]
pub fn index(number: u32) -> Option<usize> {
    usize::try_from(number & 0xffff).ok()?.checked_sub(1)
}

/// A warning about a capture's interface: it cannot be read, or it mixes several.
#[must_use]
pub fn warning(interface: &Interface) -> Option<String> {
    if !link::is_known(interface.link) {
        return Some(format!(
            "interface {} has link type {} ({}), which lpm does not read: its packets are left out",
            interface.name.as_deref().unwrap_or("without name"),
            interface.link,
            link::name(interface.link)
        ));
    }
    link::mixes_interfaces(interface.link).then(|| {
        "a Linux cooked capture of version 1 does not name interfaces. A packet that passed two \
         interfaces is counted twice, and round trips are measured between the first sightings; \
         capture with `tcpdump -y LINUX_SLL2`"
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

    fn source(number: usize, cooked: u32) -> CaptureInterface {
        CaptureInterface { number, cooked }
    }

    fn at(entry: Option<Entry>) -> Place {
        match entry {
            Some(Entry::At(place)) => place,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_clock_that_is_set_back_begins_anew() {
        let mut places = Interfaces::default();
        let interface = interface(None);
        let place = places.find(source(0, 0), &interface).expect("a place");
        let mut enter = |now| at(places.enter(place, now));
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
        let mut places = Interfaces::default();
        let interface = interface(None);
        let index = places.find(source(0, 0), &interface).expect("a place");
        let entries = (0..=65_536_u64).filter_map(|i| {
            let now = (1_000_000 - i) * SECOND;
            places.enter(index, now)
        });
        let anew = entries
            .filter(|entry| matches!(entry, Entry::Anew(_)))
            .count();
        assert_eq!(anew, 1);
    }

    #[test]
    fn interfaces_are_told_apart_and_chosen_by_name() {
        let mut places = Interfaces::new(Choice {
            only: vec!["vethb".to_owned()],
            vantages: vec![
                (None, Vantage::Nic),
                (Some("vethb".to_owned()), Vantage::Pod),
            ],
            joins: Vec::new(),
        });
        assert_eq!(places.find(source(0, 0), &interface(Some("vetha"))), None);
        let index = places.find(source(1, 0), &interface(Some("vethb")));
        let place = at(places.enter(index.expect("a place"), SECOND));
        assert_eq!(place.vantage, Vantage::Pod as u8);
        let index = places.find(source(2, 0), &interface(None));
        let unnamed = at(places.enter(index.expect("a place"), SECOND));
        assert_ne!(unnamed.ifindex, place.ifindex);
        assert_eq!(names(&places), ["vetha", "vethb", "vethb"]);

        let mut places = Interfaces::default();
        for ifindex in [3, 9] {
            places.find(source(0, ifindex), &interface(Some("any")));
        }
        assert_eq!(
            names(&places),
            ["if3", "if9"],
            "a cooked header's interfaces"
        );
    }

    fn names(places: &Interfaces) -> Vec<&str> {
        places.all().iter().map(|spot| spot.name.as_str()).collect()
    }

    #[test]
    fn interfaces_that_are_one_have_one_place() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let mut places = Interfaces::new(Choice {
            joins: vec![words(&["east", "west"]), words(&["if2", "gone"])],
            vantages: vec![(Some("west".to_owned()), Vantage::Nic)],
            ..Choice::default()
        });
        let find = |places: &mut Interfaces, number, name| {
            places.find(source(number, 0), &interface(name))
        };
        let east = find(&mut places, 0, Some("east"));
        assert_eq!(find(&mut places, 1, Some("west")), east);
        assert_ne!(find(&mut places, 2, None), east);
        assert_ne!(find(&mut places, 3, Some("other")), east);
        assert_eq!(names(&places), ["east+west", "if2+gone", "other"]);
        assert_eq!(places.all()[0].vantage, Some(Vantage::Nic));
        assert_eq!(places.missed().collect::<Vec<_>>(), ["gone"]);
    }
}
