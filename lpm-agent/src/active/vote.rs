//! A vote over many results that names what the bad ones have in common: pure, results in, suspects
//! out.
//!
//! A result is of a source, a target and a path, and is good or bad. The elements on it are both
//! ends, their tags (rack, zone), the pair of ends, the pairs of their tags, and the path. As in 007
//! (Arzani et al., NSDI 2018), a bad result gives each of its `h` elements `1 / h` of a vote. Votes
//! alone favour elements that many results have, such as a zone, so the good results count, too:
//! an element is a suspect if its share of bad results is above that of all others by more than
//! chance ([`chance::excess`]), and the first suspect is the one that tells bad from good best (its
//! likelihood ratio). What it explains is set aside, and the rest is voted on again.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use super::chance::{self, Share};

/// The probability that a round of votes names an element although bad results fall on all alike.
pub const ERROR_RATE: f64 = 0.001;

/// Most suspects of a vote.
const MOST: usize = 16;

/// One end of a measurement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// The node's name.
    pub node: String,
    /// Tags: keys such as `rack`, and their values.
    pub tags: BTreeMap<String, String>,
}

/// The result of a measurement from a source to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Index of the source among the ends.
    pub source: usize,
    /// Index of the target among the ends.
    pub target: usize,
    /// Index of the path, if the same index means the same thing for all measurements, such as a
    /// spine switch.
    pub path: Option<u32>,
    /// Whether something was wrong.
    pub is_bad: bool,
}

/// Something that several measurements have in common.
///
/// A probe goes there and back, so a pair is one element whichever end probes: the lesser name
/// comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Element<'a> {
    /// A node.
    Node(&'a str),
    /// Two nodes.
    Pair(&'a str, &'a str),
    /// A path.
    Path(u32),
    /// All ends whose tag of this key has this value.
    Tag(&'a str, &'a str),
    /// What lies between the ends of two different values of a key.
    TagPair(&'a str, &'a str, &'a str),
}

impl fmt::Display for Element<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(formatter, "node {node}"),
            Self::Pair(one, other) => write!(formatter, "nodes {one} and {other}"),
            Self::Path(path) => write!(formatter, "path {path}"),
            Self::Tag(key, value) => write!(formatter, "{key} {value}"),
            Self::TagPair(key, one, other) => write!(formatter, "{key} {one} and {other}"),
        }
    }
}

/// An element that is likely bad, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Suspect<'a> {
    /// The element.
    pub element: Element<'a>,
    /// Elements that have the same measurements, or the same bad and good ones but for what chance
    /// does: these cannot be told from it.
    pub same: Vec<Element<'a>>,
    /// The logarithm of the likelihood ratio, in nats: how much better the results are explained if
    /// this element has a share of bad results of its own. Higher is surer.
    pub score: f64,
    /// Votes of bad results, each of which has one vote for all its elements together.
    pub votes: f64,
    /// The results of this element.
    pub own: Share,
    /// The results of all others.
    pub others: Share,
    /// The probability that an element's own share is so high, or higher, by chance
    /// ([`chance::excess`]). It is below [`ERROR_RATE`] divided by the number of elements.
    pub chance: f64,
}

/// Votes, and names the likely bad elements, the surest of each round first. Empty: nothing stands
/// out, because all is well or because all is equally bad.
///
/// Measurements whose ends do not exist, or which go from an end to itself, are left out.
#[must_use]
pub fn vote<'a>(ends: &'a [End], measured: &[Measured]) -> Vec<Suspect<'a>> {
    let mut round = Round::of(ends, measured);
    let mut suspects: Vec<Suspect<'_>> = Vec::new();
    while suspects.len() < MOST {
        let Some((suspect, at)) = round.worst() else {
            break;
        };
        suspects.push(suspect);
        round.set_aside(at);
    }
    suspects
}

/// A result with the numbers of its elements.
struct Ballot {
    elements: Vec<usize>,
    is_bad: bool,
}

/// What is voted on.
struct Round<'a> {
    elements: Vec<Element<'a>>,
    ballots: Vec<Ballot>,
}

impl<'a> Round<'a> {
    fn of(ends: &'a [End], measured: &[Measured]) -> Self {
        let mut elements = Vec::new();
        let mut numbers = HashMap::new();
        let mut ballots = Vec::with_capacity(measured.len());
        for one in measured {
            let (Some(source), Some(target)) = (ends.get(one.source), ends.get(one.target)) else {
                continue;
            };
            if source.node == target.node {
                continue;
            }
            let on_it = elements_on(source, target, one.path).into_iter();
            let number = |element| {
                *numbers.entry(element).or_insert_with(|| {
                    elements.push(element);
                    elements.len() - 1
                })
            };
            ballots.push(Ballot {
                elements: on_it.map(number).collect(),
                is_bad: one.is_bad,
            });
        }
        Self { elements, ballots }
    }

    /// The suspect that explains the results best, and its number. None: there is no suspect.
    fn worst(&self) -> Option<(Suspect<'a>, usize)> {
        let mut own = vec![Share::default(); self.elements.len()];
        let mut votes = vec![0.0; self.elements.len()];
        let mut all = Share::default();
        for ballot in &self.ballots {
            all.add(ballot.is_bad);
            let vote = if ballot.is_bad { ballot.vote() } else { 0.0 };
            for at in &ballot.elements {
                own[*at].add(ballot.is_bad);
                votes[*at] += vote;
            }
        }
        let score = |own: Share| {
            let others = all.without(own);
            own.log_likelihood() + others.log_likelihood() - all.log_likelihood()
        };
        let limit = ERROR_RATE / u32::try_from(own.len()).map_or(f64::INFINITY, f64::from);
        let is_suspect = |own: Share| own.bad > 0 && chance::excess(own, all.without(own)) < limit;
        // The likelihood is cheaper than the chance, so it chooses whose chance is looked at.
        let mut order: Vec<(f64, usize)> = own
            .iter()
            .enumerate()
            .filter(|(_, own)| own.bad > 0)
            .map(|(at, own)| (score(*own), at))
            .collect();
        order.sort_by(|(one, a), (other, b)| {
            let by_score = other.total_cmp(one);
            by_score.then_with(|| self.elements[*a].cmp(&self.elements[*b]))
        });
        let (best, at) = *order.iter().find(|(_, at)| is_suspect(own[*at]))?;
        let same = order.iter().filter(|(score, other)| {
            *other != at && best - score < TOLD && is_suspect(own[*other])
        });
        let suspect = Suspect {
            element: self.elements[at],
            same: same.map(|(_, other)| self.elements[*other]).collect(),
            score: best,
            votes: votes[at],
            own: own[at],
            others: all.without(own[at]),
            chance: chance::excess(own[at], all.without(own[at])),
        };
        Some((suspect, at))
    }

    /// Takes away the results of an element.
    fn set_aside(&mut self, element: usize) {
        self.ballots
            .retain(|ballot| !ballot.elements.contains(&element));
    }
}

/// Elements whose scores differ by less cannot be told apart: the better one explains the results
/// not even three times better.
const TOLD: f64 = 1.0;

impl Ballot {
    /// The part of its vote that each element gets.
    fn vote(&self) -> f64 {
        let elements = u32::try_from(self.elements.len()).unwrap_or(u32::MAX);
        1.0 / f64::from(elements.max(1))
    }
}

/// The elements on the way between two ends.
fn elements_on<'a>(source: &'a End, target: &'a End, path: Option<u32>) -> Vec<Element<'a>> {
    let in_order = |one: &'a str, other: &'a str| (one.min(other), one.max(other));
    let (first, second) = in_order(&source.node, &target.node);
    let mut elements = vec![
        Element::Node(first),
        Element::Node(second),
        Element::Pair(first, second),
    ];
    elements.extend(path.map(Element::Path));
    for (key, value) in &source.tags {
        elements.push(Element::Tag(key, value));
        match target.tags.get(key) {
            Some(other) if other != value => {
                let (first, second) = in_order(value, other);
                elements.push(Element::Tag(key, other));
                elements.push(Element::TagPair(key, first, second));
            }
            _ => {}
        }
    }
    let of_target = target.tags.iter();
    let only = of_target.filter(|(key, _)| !source.tags.contains_key(*key));
    elements.extend(only.map(|(key, value)| Element::Tag(key, value)));
    elements
}

#[cfg(test)]
mod tests;
