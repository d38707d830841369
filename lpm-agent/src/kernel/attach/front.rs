//! Detects programs that run before ours on a hook, and moves ours to the front again.
//!
//! A program before ours may end the way of a packet (`TC_ACT_OK` does), and then we see nothing.
//! Our program always continues to the next one. So in front it takes nothing from anybody.

use std::{collections::BTreeSet, fmt, io, os::fd::AsFd, sync::Arc};

use super::{
    super::{
        bpf,
        detour::Detour,
        interfaces::Interface,
        liveness,
        load::LoadedProgram,
        tc::{self, Filter, Place},
    },
    Attacher, Hook, On,
    filters::free_place,
};

/// A program of another owner that runs before ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// The kernel's id of the program. None: a filter that runs none.
    pub program: Option<u32>,
    /// The name that the program's owner gave it. None: the kernel does not tell.
    pub name: Option<String>,
    /// Kind and priority of the TC filter. None: the program is in the TCX chain.
    pub filter: Option<(String, u16)>,
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(id) = self.program {
            write!(f, "program {id}")?;
            self.name
                .iter()
                .try_for_each(|name| write!(f, " ({name})"))?;
        }
        let comma = if self.program.is_some() { ", " } else { "" };
        match &self.filter {
            Some((kind, priority)) => write!(f, "{comma}a TC filter ({kind}, priority {priority})"),
            None => f.write_str(" in the TCX chain"),
        }
    }
}

/// State of one of our hooks.
#[derive(Debug)]
pub(crate) enum Standing {
    /// Our program is not on the hook any more.
    Gone,
    /// No program that could take packets from us runs before ours.
    First,
    /// These programs run before ours.
    Behind(Vec<Other>),
}

/// Ids of the programs that may run before ours: our own and those of other agents, which continue
/// to the next.
#[derive(Debug)]
pub(crate) struct Harmless(BTreeSet<u32>);

impl Attacher {
    /// Collects the harmless programs of this moment.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(crate) fn harmless(&self) -> io::Result<Harmless> {
        let agents = liveness::running_agents()?.into_iter();
        let theirs = agents.flat_map(|agent| agent.programs);
        let ours = self.programs.iter().map(|program| program.id);
        Ok(Harmless(ours.chain(theirs).collect()))
    }

    /// Reads the state of a hook. Detours of ours on other hooks of the interface are not known
    /// here. The programs that they call continue to the next as well, see [`Harmless::with`].
    ///
    /// # Errors
    /// The kernel's; `ENODEV`: the interface has gone.
    pub(crate) fn standing(
        &mut self,
        interface: u32,
        hook: &Hook,
        harmless: &Harmless,
    ) -> io::Result<Standing> {
        let direction = hook.slot.direction();
        let chain = bpf::tcx_chain(interface, direction)?;
        let mut others = Vec::new();
        let known = |id: u32| harmless.0.contains(&id);
        match &hook.on {
            On::Xdp(..) => return Ok(Standing::First),
            On::Tcx(link, _) => {
                if bpf::tcx_link_interface(link)? != interface {
                    return Ok(Standing::Gone);
                }
                let before = chain.iter().take_while(|id| **id != hook.there());
                others.extend(before.filter(|id| !known(**id)).map(|id| of_chain(*id)));
            }
            On::Filter(place) => {
                let filters = tc::filters(&mut self.route, interface, direction)?;
                let mut run = filters.iter().filter(|filter| filter.chain == 0);
                let ours = |filter: &&Filter| {
                    (filter.priority, filter.handle) == (place.priority, place.handle)
                        && filter.program == Some(hook.there())
                };
                others.extend(
                    chain
                        .iter()
                        .filter(|id| !known(**id))
                        .map(|id| of_chain(*id)),
                );
                loop {
                    let Some(filter) = run.next() else {
                        return Ok(Standing::Gone);
                    };
                    if ours(&filter) {
                        break;
                    }
                    // A filter that names no program or handle is the head of others.
                    if !filter.program.is_some_and(known) && filter.handle != 0 {
                        others.push(of_filter(filter));
                    }
                }
            }
        }
        Ok(if others.is_empty() {
            Standing::First
        } else {
            Standing::Behind(others)
        })
    }

    /// Puts our program in front of those that `standing` found there, if possible. No packet meets
    /// it twice (see [`Detour`]), and nobody else's program is touched. False: it is not possible.
    ///
    /// # Errors
    /// The kernel's. Our program is where it was then, or gone.
    pub(crate) fn come_first(
        &mut self,
        interface: &Interface,
        hook: &mut Hook,
        others: &[Other],
    ) -> io::Result<bool> {
        let programs = Arc::clone(&self.programs);
        let Some(program) = programs.iter().find(|known| known.id == hook.program) else {
            return Ok(false);
        };
        match &hook.on {
            On::Xdp(..) => Ok(false),
            On::Tcx(..) => self.move_link(interface, hook, program),
            On::Filter(place) => {
                let (old, direction) = (*place, hook.slot.direction());
                let filters = tc::filters(&mut self.route, interface.index, direction)?;
                let first_handle = self.first_handle();
                let place = free_place(interface.index, direction, &filters, 1, first_handle);
                // The filter that was added last to a priority runs first.
                let passes = |place: &Place| {
                    let priorities = others.iter().filter_map(|other| other.filter.as_ref());
                    let mut priorities = priorities.map(|(_, priority)| *priority);
                    priorities.any(|priority| priority >= place.priority)
                };
                let place = place.filter(|place| place.priority <= old.priority && passes(place));
                match place {
                    Some(new) => self.move_filter(hook, program, old, new).map(|()| true),
                    None => Ok(false),
                }
            }
        }
    }

    /// Makes a link at the head of the chain in place of the hook's link.
    fn move_link(
        &mut self,
        interface: &Interface,
        hook: &mut Hook,
        program: &LoadedProgram,
    ) -> io::Result<bool> {
        let On::Tcx(link, pin) = &mut hook.on else {
            return Ok(false);
        };
        let [old, new] = Detour::gates(program)?;
        bpf::link_update(&*link, &old)?;
        let front = bpf::tcx_attach_first(&new, interface.index, hook.slot.direction());
        let front = match front {
            Ok(front) => front,
            Err(error) => {
                bpf::link_update(&*link, program)?;
                hook.detour = None;
                return Err(error);
            }
        };
        old.switch();
        bpf::link_update(&front, program)?;
        if pin.is_some() {
            let pinned = self.pin(&front, interface, hook.slot);
            *pin = pinned.map_err(io::Error::other)?;
        }
        *link = front;
        hook.detour = None;
        Ok(true)
    }

    /// Makes a filter at the new place in place of the filter at the old one.
    fn move_filter(
        &mut self,
        hook: &mut Hook,
        program: &LoadedProgram,
        old_place: Place,
        new_place: Place,
    ) -> io::Result<()> {
        let [old, new] = Detour::gates(program)?;
        self.put(hook, &old, program.name)?;
        if let Err(error) = tc::add(&mut self.route, new_place, &new, program.name) {
            tc::replace(&mut self.route, old_place, program, program.name)?;
            hook.detour = None;
            return Err(error);
        }
        old.switch();
        tc::replace(&mut self.route, new_place, program, program.name)?;
        hook.on = On::Filter(new_place);
        hook.detour = None;
        if let Some(filter) = self.our_filter(old_place, old.id)? {
            tc::delete(&mut self.route, &filter)?;
        }
        Ok(())
    }

    /// Starts to count the packets that reach the hook, see [`Hook::counted`].
    ///
    /// # Errors
    /// The kernel's. Our program is where it was then.
    pub(crate) fn count(&mut self, hook: &mut Hook) -> io::Result<()> {
        let programs = Arc::clone(&self.programs);
        let program = programs.iter().find(|known| known.id == hook.program);
        let program = program.ok_or(io::ErrorKind::NotFound)?;
        let detour = Detour::counting(program)?;
        self.put(hook, &detour, program.name)?;
        hook.detour = Some(detour);
        Ok(())
    }

    /// Stops the counting of packets at the hook.
    ///
    /// # Errors
    /// The kernel's. The detour goes on calling our program then.
    pub(crate) fn count_no_more(&mut self, hook: &mut Hook) -> io::Result<()> {
        if hook.detour.is_none() {
            return Ok(());
        }
        let programs = Arc::clone(&self.programs);
        let program = programs.iter().find(|known| known.id == hook.program);
        let program = program.ok_or(io::ErrorKind::NotFound)?;
        self.put(hook, program, program.name)?;
        hook.detour = None;
        Ok(())
    }

    /// Replaces the program in a hook of ours.
    fn put(&mut self, hook: &Hook, program: impl AsFd, name: &str) -> io::Result<()> {
        match &hook.on {
            On::Tcx(link, _) | On::Xdp(link, _) => bpf::link_update(link, program),
            On::Filter(place) => {
                let there = self.our_filter(*place, hook.there())?;
                there.ok_or(io::ErrorKind::NotFound)?;
                tc::replace(&mut self.route, *place, program, name)
            }
        }
    }
}

impl Harmless {
    /// Adds the programs that are on our hooks now, detours included.
    pub(crate) fn with<'h>(&mut self, hooks: impl Iterator<Item = &'h mut Hook>) {
        self.0.extend(hooks.map(|hook| hook.there()));
    }
}

impl Hook {
    /// Packets that reached the hook since [`Attacher::count`]. None: they are not counted.
    pub(crate) fn counted(&self) -> Option<u64> {
        let detour = self.detour.as_ref()?;
        Some(detour.word().load(std::sync::atomic::Ordering::Relaxed))
    }
}

fn of_chain(id: u32) -> Other {
    Other {
        program: Some(id),
        name: bpf::program_name(id),
        filter: None,
    }
}

fn of_filter(filter: &Filter) -> Other {
    Other {
        program: filter.program,
        name: filter.name.clone(),
        filter: Some((filter.kind.clone(), filter.priority)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_named_how() {
        let mut other = of_chain(u32::MAX);
        assert_eq!(other.to_string(), "program 4294967295 in the TCX chain");
        other.filter = Some(("bpf".to_owned(), 1));
        other.name = Some("cil_from_container".to_owned());
        let said = "program 4294967295 (cil_from_container), a TC filter (bpf, priority 1)";
        assert_eq!(other.to_string(), said);
        other.program = None;
        assert_eq!(other.to_string(), "a TC filter (bpf, priority 1)");
    }
}
