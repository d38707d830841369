//! The thread that gives each link a verdict. Once a second it judges the trains that have ended. Only
//! while probes are silent it asks what stands around their links: the kernel's neighbours, the names
//! of nodes, the flows of others.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use super::figures::{Figures, Link};
use crate::{
    active::verdict::{
        Neighbour, Passive, PassiveLiveness, Presence, Round, Surroundings, Verdict,
    },
    identity::Registry,
    kernel::{neighbours, netns::Netns},
};

/// Time between two looks at the trains that have ended.
const EVERY: Duration = Duration::from_secs(1);

/// A neighbour that was confirmed within this time is not asked again.
const CONFIRMED: Duration = Duration::from_secs(3);

/// What is asked about a silent link: names of nodes, and flows of others if somebody measures them.
pub(super) type Around = (Arc<Registry>, Option<Arc<dyn PassiveLiveness>>);

/// The running thread. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Judging {
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Judging {
    /// Starts the thread, which enters the network namespace.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub(super) fn start(
        figures: Arc<Figures>,
        (registry, passive): Around,
        netns: Option<&Arc<Netns>>,
    ) -> io::Result<Self> {
        let (end, ended) = mpsc::channel::<()>();
        let netns = netns.map(Arc::clone);
        let thread = thread::Builder::new().name("lpm-verdict".to_owned());
        let thread = thread.spawn(move || {
            if let Err(error) = netns.map_or(Ok(()), |netns| netns.enter()) {
                tracing::error!("links have no verdict: {error}");
                return;
            }
            let mut work = Work {
                figures,
                registry,
                passive,
                known: BTreeSet::new(),
                is_blind: false,
            };
            while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                work.judge(Instant::now());
            }
        })?;
        Ok(Self {
            end: Some(end),
            thread: Some(thread),
        })
    }
}

impl Drop for Judging {
    fn drop(&mut self) {
        drop(self.end.take());
        let thread = self.thread.take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that judges links panicked");
        }
    }
}

/// What the thread owns.
struct Work {
    figures: Arc<Figures>,
    registry: Arc<Registry>,
    passive: Option<Arc<dyn PassiveLiveness>>,
    /// Targets that were among the nodes.
    known: BTreeSet<IpAddr>,
    /// Whether the last look at the neighbours failed.
    is_blind: bool,
}

/// What was found about silent targets, by address.
#[derive(Default)]
struct Found {
    neighbours: BTreeMap<IpAddr, neighbours::Neighbour>,
    passive: BTreeMap<IpAddr, Passive>,
}

impl Work {
    /// Judges all trains that have ended, and shows the verdicts.
    fn judge(&mut self, now: Instant) {
        let sessions = self.figures.sessions();
        let ended: Vec<_> = (sessions.into_iter())
            .map(|session| {
                let rounds = session.rounds();
                (session, rounds)
            })
            .collect();
        let rounds = || ended.iter().flat_map(|(_, rounds)| rounds);
        self.remember(rounds().map(|round| round.to));
        let silent = rounds().filter(|round| round.is_silent());
        let found = self.look(&silent.map(|round| round.to).collect());
        let mut links: BTreeMap<Arc<str>, Link> = BTreeMap::new();
        for (session, rounds) in ended {
            let paths = session.paths();
            let mut judge = session.judge();
            for round in rounds {
                let around = self.around(&round, &found);
                judge.take(round, &around, paths);
            }
            judge.expire(now);
            let Some(judgement) = judge.judgement() else {
                continue;
            };
            let is_worse = |link: &Link| judgement.verdict < link.verdict;
            if links.get(&session.target).is_none_or(is_worse) {
                let link = Link {
                    verdict: judgement.verdict,
                    since: SystemTime::now(),
                    grounds: judgement.grounds.clone(),
                };
                links.insert(Arc::clone(&session.target), link);
            }
        }
        self.show(links);
    }

    /// Remembers which targets are nodes, to notice one that is none any more.
    fn remember(&mut self, targets: impl Iterator<Item = IpAddr>) {
        let nodes = targets.filter(|target| self.registry.is_node(*target));
        self.known.extend(nodes);
    }

    /// Looks around silent targets.
    fn look(&mut self, silent: &BTreeSet<IpAddr>) -> Found {
        if silent.is_empty() {
            return Found::default();
        }
        let neighbours = neighbours::all();
        if let Err(error) = &neighbours
            && !self.is_blind
        {
            tracing::warn!(%error, "cannot read the kernel's table of neighbours: a peer that is gone looks like a silent network");
        }
        self.is_blind = neighbours.is_err();
        if let Ok(all) = &neighbours {
            for peer in silent {
                ask_again(all, *peer);
            }
        }
        let passive = self.passive.as_ref();
        Found {
            neighbours: neighbours.unwrap_or_default(),
            passive: passive.map_or_else(BTreeMap::new, |passive| passive.look(silent)),
        }
    }

    /// What stands around a round's link.
    fn around(&self, round: &Round, found: &Found) -> Surroundings {
        let (is_node, was_node) = (
            self.registry.is_node(round.to),
            self.known.contains(&round.to),
        );
        let neighbour = found.neighbours.get(&round.to);
        Surroundings {
            neighbour: match neighbour {
                None => Neighbour::Unknown,
                Some(one) if one.is_failed => Neighbour::Failed,
                Some(one) => Neighbour::Confirmed(one.confirmed),
            },
            presence: match (is_node, was_node) {
                (true, _) => Presence::Present,
                (false, true) => Presence::Removed,
                (false, false) => Presence::Unknown,
            },
            passive: found.passive.get(&round.to).copied().unwrap_or_default(),
        }
    }

    /// Shows the verdicts, and logs each that is new.
    fn show(&self, mut links: BTreeMap<Arc<str>, Link>) {
        let before = self.figures.links();
        for (target, link) in &mut links {
            let was = before.get(target);
            if let Some(was) = was.filter(|was| was.verdict == link.verdict) {
                link.since = was.since;
                continue;
            }
            say(target, link, was.map_or("none", |was| was.verdict.as_str()));
        }
        for target in before.keys().filter(|target| !links.contains_key(*target)) {
            tracing::info!(target = %target, "the link has no verdict any more: its probes tell nothing");
        }
        self.figures.set_links(links);
    }
}

/// Has the kernel ask a silent neighbour again: by itself it does so within 15 to 53 s. Without the
/// capability for it the verdict waits.
fn ask_again(all: &BTreeMap<IpAddr, neighbours::Neighbour>, peer: IpAddr) {
    let old = |one: &&neighbours::Neighbour| !one.is_failed && one.confirmed > CONFIRMED;
    if let Some(neighbour) = all.get(&peer).filter(old)
        && let Err(error) = neighbours::ask(peer, neighbour)
    {
        tracing::debug!(%error, "the kernel does not ask the neighbour again");
    }
}

fn say(target: &str, link: &Link, before: &str) {
    let (verdict, why) = (link.verdict.as_str(), link.grounds.explain());
    let node = target;
    if link.verdict == Verdict::Ok {
        tracing::info!(target = %node, verdict, before, "the link is judged anew: {why}");
    } else {
        tracing::warn!(target = %node, verdict, before, "the link is judged anew: {why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::active::{agent::figures::Shown, verdict::Refused};

    #[derive(Debug)]
    struct Flows(Passive);

    impl PassiveLiveness for Flows {
        fn look(&self, peers: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, Passive> {
            peers.iter().map(|peer| (*peer, self.0)).collect()
        }
    }

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 9, 9));

    fn work(passive: Option<Arc<dyn PassiveLiveness>>) -> Work {
        Work {
            figures: Arc::new(Figures::new("n1".into())),
            registry: Arc::default(),
            passive,
            known: BTreeSet::new(),
            is_blind: false,
        }
    }

    fn silent(at: Instant) -> Round {
        Round {
            at,
            to: PEER,
            interval: Duration::from_secs(5),
            sent: 20,
            answered: 0,
            late: 0,
            refused: Refused::default(),
            void: 0,
            untimed: 0,
            kept: 0,
            waited: 0,
            clock_changes: 0,
            refuted: false,
            rtt: None,
            dwell: None,
            wait: None,
        }
    }

    /// Judges a silent target for so many trains, and gives the verdicts.
    fn judged(work: &mut Work, shown: &[Arc<Shown>], trains: u32) -> Vec<Verdict> {
        let begin = Instant::now();
        for train in 0..trains {
            let at = begin + Duration::from_secs(5) * train;
            for session in shown {
                session.tell(silent(at));
            }
            work.judge(at);
        }
        let links = work.figures.links();
        links.values().map(|link| link.verdict).collect()
    }

    #[test]
    fn silence_is_blocked_only_where_flows_are_known_to_live() {
        for (passive, expected) in [
            (None, Verdict::Network),
            (Some(Passive::Silent), Verdict::Network),
            (Some(Passive::Alive(Duration::ZERO)), Verdict::Blocked),
        ] {
            let flows = passive.map(|passive| Arc::new(Flows(passive)) as Arc<dyn PassiveLiveness>);
            let mut work = work(flows);
            let shown = work.figures.show([("n2".into(), 0)].into_iter());
            assert_eq!(judged(&mut work, &shown, 4), [expected], "{passive:?}");
        }
    }

    #[test]
    fn a_link_has_the_worst_verdict_of_its_classes_and_goes_with_its_target() {
        let mut work = work(None);
        let two = [("n2".into(), 0), ("n2".into(), 46)];
        let shown = work.figures.show(two.into_iter());
        assert_eq!(judged(&mut work, &shown[1..], 4), [Verdict::Network]);
        let link = work.figures.links().remove("n2").expect("a verdict");
        assert_eq!(link.grounds.dscp, 46);
        work.judge(Instant::now());
        let again = work.figures.links().remove("n2").expect("a verdict");
        assert_eq!(again.since, link.since, "it is the same verdict");
        work.figures.show(std::iter::empty());
        assert!(work.figures.links().is_empty());
    }

    #[test]
    fn a_node_that_leaves_the_api_is_gone() {
        use crate::identity::{Name, names_file::Kind};
        let mut work = work(None);
        let shown = work.figures.show([("n2".into(), 0)].into_iter());
        let name = Name {
            kind: Kind::Node,
            node: Some("n2".into()),
            ..Name::default()
        };
        work.registry.apply(&[(PEER.into(), Some(Arc::new(name)))]);
        assert_eq!(judged(&mut work, &shown, 1), []);
        work.registry.apply(&[(PEER.into(), None)]);
        assert_eq!(judged(&mut work, &shown, 2), [Verdict::Gone]);
    }
}
