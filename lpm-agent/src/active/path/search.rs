//! The search for the longest packet that a path takes. Pure.

use std::net::IpAddr;

use nix::errno::Errno;

/// Why a packet did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The interface of this machine takes no longer ones.
    Interface,
    /// A router says that it is too big.
    Router {
        /// The router.
        by: IpAddr,
        /// The MTU of its next link, as it says. None: it says none.
        said: Option<u32>,
    },
    /// Nobody says a word, and shorter packets pass meanwhile.
    BlackHole,
    /// Somebody refuses it for another reason.
    Refused {
        /// The reason.
        error: Errno,
        /// Who says so. None: this machine.
        by: Option<IpAddr>,
    },
}

/// A search by halves, which follows what routers say as far as packets bear it out.
#[derive(Clone, Debug)]
pub struct Search {
    /// The longest packet that passed, in bytes.
    passed: usize,
    /// The shortest one that did not, and why.
    failed: Option<(usize, Limit)>,
    /// The longest packet that can be tried.
    longest: usize,
    /// A length that somebody named.
    named: Option<usize>,
    /// Whether the last packet that passed had the length that somebody named.
    is_at_named: bool,
}

impl Search {
    /// Begins: packets of `passed` bytes pass, and `longest` bytes are the most that can be sent.
    #[must_use]
    pub const fn new(passed: usize, longest: usize) -> Self {
        Self {
            passed,
            failed: None,
            longest,
            named: None,
            is_at_named: false,
        }
    }

    /// The length to be tried next, in bytes. None: the search is over.
    #[must_use]
    pub fn next(&self) -> Option<usize> {
        let Some((failed, _)) = self.failed else {
            return (self.passed < self.longest).then_some(self.longest);
        };
        if failed <= self.passed + 1 {
            return None;
        }
        let is_between = |size: &usize| self.passed < *size && *size < failed;
        if let Some(named) = self.named.filter(is_between) {
            return Some(named);
        }
        if self.is_at_named {
            return Some(self.passed + 1);
        }
        Some(self.passed + (failed - self.passed) / 2)
    }

    /// Takes that a packet passed.
    pub fn pass(&mut self, size: usize) {
        self.passed = self.passed.max(size);
        self.is_at_named = self.named == Some(size);
    }

    /// Takes that a packet did not pass. `named`: the length that somebody says would pass.
    pub fn fail(&mut self, size: usize, limit: Limit, named: Option<usize>) {
        if self.failed.is_none_or(|(failed, _)| size < failed) {
            self.failed = Some((size, limit));
        }
        self.is_at_named = false;
        if named.is_some() {
            self.named = named;
        }
    }

    /// The longest packet that passed, in bytes.
    #[must_use]
    pub const fn passed(&self) -> usize {
        self.passed
    }

    /// The shortest packet that did not pass, and why. None: the longest one passed.
    #[must_use]
    pub const fn failed(&self) -> Option<(usize, Limit)> {
        self.failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a path with a limit. `says` gives what is said of a packet that is too long. Returns
    /// the search and its number of packets.
    fn search(limit: usize, says: impl Fn(usize) -> Option<usize>) -> (Search, usize) {
        let mut search = Search::new(116, 9244);
        let mut tries = 0;
        while let Some(size) = search.next() {
            tries += 1;
            assert!(tries < 64, "{search:?}");
            if size <= limit {
                search.pass(size);
            } else {
                search.fail(size, Limit::BlackHole, says(size));
            }
        }
        (search, tries)
    }

    #[test]
    fn any_limit_is_found_in_as_many_halves_as_it_takes() {
        for limit in [116, 117, 576, 1280, 1399, 1400, 1500, 4000, 8999, 9243] {
            let (search, tries) = search(limit, |_| None);
            assert_eq!(search.passed(), limit);
            assert_eq!(search.failed(), Some((limit + 1, Limit::BlackHole)));
            assert!(tries <= 15, "{limit}: {tries}");
        }
        let (search, tries) = search(9244, |_| None);
        assert_eq!((search.passed(), search.failed(), tries), (9244, None, 1));
    }

    #[test]
    fn what_a_router_says_is_tried_and_not_believed() {
        let (found, tries) = search(1400, |_| Some(1400));
        assert_eq!(
            (found.passed(), tries),
            (1400, 3),
            "the longest, 1400, 1401"
        );
        for lie in [0, 1, 116, 900, 1399, 1401, 9000, usize::MAX] {
            let (found, _) = search(1400, |_| Some(lie));
            assert_eq!(found.passed(), 1400, "{lie}");
        }
        // Two routers, one behind the other.
        let (found, tries) = search(1400, |size| Some(if size > 4000 { 4000 } else { 1400 }));
        assert_eq!((found.passed(), tries), (1400, 4));
    }
}
