//! Inspects the hooks: whether they are still there, whether other programs come before them, and
//! whether packets reach them. See [`crate::kernel::blind`].

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use lpm_common::layout::Vantage;

use super::{Active, INSPECTION, LOOK_AGAIN, Worker};
use crate::kernel::{
    attach::{Harmless, Hook, Other, Standing},
    blind::{Blind, Seen, Step, Watch},
    bpf::Direction,
    contest,
    counters::{self, Packets},
    hotplug::{AttachedInterface, Event},
    one_sided::DirectionCounts,
    pins::Slot,
};

/// Time for which the table may hold flows of a disturbance, when another program was in front.
/// They show one direction only, whatever the CNI does.
const DISTURBANCE: Duration = Duration::from_mins(2);

/// A second look at disturbed hooks waits at least this many times the duration of the last one.
/// However many hooks there are, the looks must not keep the thread busy.
const SPARING: u32 = 10;

/// Data that all looks of one inspection share.
struct Outlook {
    harmless: Harmless,
    /// Packet counters of the interfaces. None: only the order of programs is checked.
    packets: Option<HashMap<String, Packets>>,
}

impl Worker {
    /// Inspects all hooks at intervals. In between it inspects those that another program came
    /// before.
    pub(super) fn inspect(&mut self) {
        let begun = Instant::now();
        let all = begun >= self.inspect_at;
        if !all && self.look_again_at.is_none_or(|at| begun < at) {
            return;
        }
        self.look_again_at = None;
        if all {
            self.inspect_at = begun + contest::pause(INSPECTION, fastrand::f64());
            self.reattach_broken();
        }
        let chosen = self.active.iter();
        let chosen = chosen.filter(|(_, active)| all || active.is_close(begun));
        let chosen: Vec<u32> = chosen.map(|(index, _)| *index).collect();
        if chosen.is_empty() {
            return;
        }
        let outlook = self.attacher.harmless().map(|harmless| Outlook {
            harmless,
            // Without the counters it is not noticed that packets do not reach us.
            packets: all.then(|| counters::packets().unwrap_or_default()),
        });
        let mut outlook = match outlook {
            Ok(outlook) => outlook,
            Err(error) => {
                tracing::warn!(%error, "the agent cannot find out which programs run before its own");
                return;
            }
        };
        for active in self.active.values_mut() {
            outlook.harmless.with(active.attachment.hooks_mut());
        }
        for index in chosen {
            if let Some(active) = self.active.remove(&index) {
                let active = self.look_after(active, &outlook);
                self.active.insert(index, active);
            }
        }
        let now = Instant::now();
        if self.active.values().any(|active| active.is_close(now)) {
            let pause = contest::pause(LOOK_AGAIN, fastrand::f64());
            self.look_again_at = Some(now + pause.max((now - begun) * SPARING));
        }
    }

    /// Inspects the hooks of one interface.
    fn look_after(&mut self, mut active: Active, outlook: &Outlook) -> Active {
        let shown = active.shown.clone();
        let mut blind = None;
        // The time is not that of the whole inspection: putting a thousand programs in front takes
        // a minute.
        let now = Instant::now();
        for hook in active.attachment.hooks_mut() {
            let watch = active.watches.entry(hook.slot).or_default();
            let index = shown.interface.index;
            let others = match self.attacher.standing(index, hook, &outlook.harmless) {
                Ok(Standing::Behind(others)) => others,
                Ok(Standing::First) => Vec::new(),
                // The next inspection attaches it again, or hears that the interface has gone.
                Ok(Standing::Gone) | Err(_) => continue,
            };
            let behind = if others.is_empty() {
                watch.contest.undisturbed(now, watch.passes);
                false
            } else {
                self.come_first(&shown, hook, watch, others, now)
            };
            if let Some(packets) = &outlook.packets
                && hook.slot != Slot::Joined
                && !watch.contest.is_contested()
            {
                let packets = packets.get(&shown.interface.name);
                self.listen_at(&shown, hook, watch, behind, packets, now);
            }
            blind = blind.or(watch.reason(behind).map(|reason| Blind {
                reason,
                direction: hook.slot.direction(),
                others: watch.others.clone(),
            }));
        }
        self.tell_blind(&mut active, blind);
        active
    }

    /// Puts our program in front of those of others, if possible and not done too often. False: it
    /// is in front.
    fn come_first(
        &mut self,
        shown: &AttachedInterface,
        hook: &mut Hook,
        watch: &mut Watch,
        others: Vec<Other>,
        now: Instant,
    ) -> bool {
        if watch.others != others {
            watch.passes = false;
            watch.silence.forget();
            watch.others.clone_from(&others);
        }
        if !watch.contest.disturbed(now) {
            return true;
        }
        let (interface, direction) = (&shown.interface, hook.slot.direction());
        match self.attacher.come_first(interface, hook, &others) {
            Ok(true) => {
                watch.contest.moved(now);
                watch.silence.forget();
                // A tug of war is reported once.
                if !watch.contest.is_contested() {
                    (self.on_event)(Event::Overtaken {
                        interface: interface.name.clone(),
                        direction,
                        others,
                    });
                }
                false
            }
            Ok(false) => true,
            Err(error) => {
                tracing::warn!(interface = interface.name, %direction, %error, "our program could not be put in front of another one; the agent will try again");
                true
            }
        }
    }

    /// Checks whether packets reach a hook. `behind`: another program is in front. `packets`: those
    /// that the interface has counted, if they are known.
    fn listen_at(
        &mut self,
        shown: &AttachedInterface,
        hook: &mut Hook,
        watch: &mut Watch,
        behind: bool,
        packets: Option<&Packets>,
        now: Instant,
    ) {
        let (interface, direction) = (&shown.interface, hook.slot.direction());
        let sides = self.sides.get(&interface.index).copied();
        // The interface also counts the packets that another's XDP program drops or redirects.
        let judged = self.evidence.is_some()
            && packets.is_some()
            && (direction == Direction::Egress || interface.xdp.is_none());
        let seen = Seen {
            passed: packets.map_or(0, |[received, sent]| match direction {
                Direction::Ingress => *received,
                Direction::Egress => *sent,
            }),
            flows: judged.then(|| flows(sides.unwrap_or_default(), shown.vantage, direction)),
            counted: hook.counted(),
        };
        let doubted = behind && !watch.passes;
        let done = match watch.silence.look(now, seen, doubted) {
            Step::Nothing => Ok(()),
            Step::Begin => self.attacher.count(hook),
            Step::End => {
                watch.passes = true;
                self.attacher.count_no_more(hook)
            }
        };
        if let Err(error) = done {
            tracing::debug!(interface = interface.name, %direction, %error, "the agent could not begin or end counting packets at this hook");
        }
    }

    /// Reports a blind hook, or the end of it, if that is new.
    fn tell_blind(&mut self, active: &mut Active, blind: Option<Blind>) {
        let key = |blind: &Option<Blind>| blind.as_ref().map(|b| (b.reason, b.direction));
        if key(&active.blind) != key(&blind) {
            active.blind.clone_from(&blind);
            (self.on_event)(Event::Blind {
                interface: active.shown.clone(),
                blind,
            });
        }
    }

    /// True if the flows of an interface may show one direction only because another program was in
    /// front.
    pub(super) fn was_disturbed(&self, index: u32) -> bool {
        let now = Instant::now();
        let watches = self
            .active
            .get(&index)
            .map(|active| active.watches.values());
        let mut watches = watches.into_iter().flatten();
        watches.any(|watch| watch.contest.is_disturbed(now, DISTURBANCE))
    }

    /// Removes all detours from the hooks, because the next agent knows our own programs only.
    pub(super) fn count_no_more(&mut self) {
        for active in self.active.values_mut() {
            for hook in active.attachment.hooks_mut() {
                if let Err(error) = self.attacher.count_no_more(hook) {
                    tracing::warn!(interface = active.shown.interface.name, %error, "a program that calls our program could not be removed from a hook");
                }
            }
        }
    }

    /// Attaches the hooks again that somebody detached.
    pub(super) fn reattach_broken(&mut self) {
        let broken: Vec<(u32, String)> = self
            .active
            .iter()
            .filter(|(index, active)| !self.attacher.is_intact(**index, &active.attachment))
            .map(|(index, active)| (*index, active.shown.interface.name.clone()))
            .collect();
        for (index, interface) in broken {
            // If the interface has gone, or moved to another namespace, a message about it is under
            // way.
            tracing::warn!(
                interface,
                index,
                "another process removed our programs from this interface; the agent attaches them \
                 again"
            );
            self.detach(index, !self.known.contains_key(&index));
            self.reconcile(index);
        }
    }
}

impl Active {
    /// True if one of the interface's hooks is due before the next inspection.
    fn is_close(&self, now: Instant) -> bool {
        let mut watches = self.watches.values();
        watches.any(|watch| watch.contest.is_close(now))
    }
}

/// Packets of all the flows that a hook sees.
fn flows(sides: DirectionCounts, vantage: Vantage, direction: Direction) -> u64 {
    let from_local = vantage.ingress_is_from_local() || vantage == Vantage::Node;
    match (direction, from_local) {
        (Direction::Ingress, true) | (Direction::Egress, false) => sides.from_local,
        (Direction::Ingress, false) | (Direction::Egress, true) => sides.to_local,
    }
}
