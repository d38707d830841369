//! Claims of pods' annotations that do not count, and why.

use std::fmt;

/// Why an address in a pod's annotations does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// `identity.kubernetes.networks` does not permit it.
    NotPermitted,
    /// The pod, or all pods together, name too many addresses.
    TooMany,
    /// The pod has no node, so nothing runs at the address.
    NoNode,
    /// L2S-M was asked for the address, and Multus does not report it.
    NotAttached,
    /// The name of the network is longer than 253 bytes.
    LongName,
    /// The annotation, or an address in it, cannot be read.
    Unreadable,
}

impl Refused {
    /// All reasons.
    pub const ALL: [Self; 6] = [
        Self::NotPermitted,
        Self::TooMany,
        Self::NoNode,
        Self::NotAttached,
        Self::LongName,
        Self::Unreadable,
    ];

    /// Value of the label `reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotPermitted => "not_permitted",
            Self::TooMany => "too_many",
            Self::NoNode => "no_node",
            Self::NotAttached => "not_attached",
            Self::LongName => "long_name",
            Self::Unreadable => "unreadable",
        }
    }

    /// What it means, for people, with the remedy where there is one.
    fn sentence(self) -> &'static str {
        match self {
            Self::NotPermitted => "not in identity.kubernetes.networks",
            Self::TooMany => "beyond what is read of one pod or of all",
            Self::NoNode => "of pods without a node",
            Self::NotAttached => "asked for in l2sm/networks and not reported by Multus",
            Self::LongName => "of networks with a name of more than 253 bytes",
            Self::Unreadable => "that cannot be read",
        }
    }
}

/// Numbers of addresses that do not count, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals([u32; Refused::ALL.len()]);

impl Refusals {
    pub(crate) fn add(&mut self, reason: Refused, addresses: usize) {
        let count = &mut self.0[reason as usize];
        *count = count.saturating_add(u32::try_from(addresses).unwrap_or(u32::MAX));
    }

    /// Adds all of another pod's.
    pub(crate) fn join(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum = sum.saturating_add(more);
        }
    }

    /// Takes back what a pod had.
    pub(crate) fn part(&mut self, other: &Self) {
        for (sum, less) in self.0.iter_mut().zip(other.0) {
            *sum = sum.saturating_sub(less);
        }
    }

    /// Number of addresses by reason.
    pub fn all(&self) -> impl Iterator<Item = (Refused, u32)> {
        Refused::ALL.into_iter().zip(self.0)
    }

    /// True if everything counts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|count| *count == 0)
    }
}

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = self.all().filter(|(_, count)| *count > 0);
        for (place, (reason, count)) in some.enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{count} {}", reason.sentence())?;
        }
        Ok(())
    }
}

/// What pods' annotations name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Addresses that count.
    pub counted: usize,
    /// Claims to an address that another pod claims, too.
    pub contested: usize,
    /// Addresses that do not count.
    pub refused: Refusals,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_apart() {
        let mut all = Refusals::default();
        assert!(all.is_empty());
        let mut one = Refusals::default();
        one.add(Refused::TooMany, 3);
        one.add(Refused::NoNode, 1);
        all.join(&one);
        all.join(&one);
        let text = all.to_string();
        assert_eq!(
            text,
            "6 beyond what is read of one pod or of all, 2 of pods without a node"
        );
        all.part(&one);
        assert_eq!(all, one);
        for (place, reason) in Refused::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
    }
}
