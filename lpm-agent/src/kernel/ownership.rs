//! Decides who owns a filter: a running agent, a gone agent, or somebody else.

use aya::{
    maps::MapInfo,
    programs::{ProgramInfo, loaded_programs},
};

use super::{detour, liveness::RunningAgent, load::is_program_name, tc::Filter};

/// Prefix of the kernel name of every program of ours.
const PROGRAM_PREFIX: &str = "lpm_";

/// Maps that each version of our programs uses. Nobody else's programs use both.
const MAPS: [&str; 2] = ["FLOWS", "INTERFACES"];

/// The first of our handles ("LP"). It is part of what marks a filter as ours.
pub(crate) const FIRST_HANDLE: u32 = 0x4C50;

/// The first handle of filters that belong to pins. They wait for the next agent. Only the owner of
/// the pins, or `lpm detach`, may remove them.
pub(crate) const FIRST_KEPT_HANDLE: u32 = 0x4C70;

/// Number of handles from the first one on that we use.
pub(crate) const HANDLES: u32 = 16;

/// Owner of a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// An agent that runs now, with this process id.
    Agent(u32),
    /// An agent that is gone. The filter is ours to remove.
    Leftover,
    /// An agent that is gone and left the filter for the next one.
    Persisted,
    /// Somebody else, or the owner is unknown.
    Other,
}

/// Finds the owner of a filter. `tags` are those of the programs that this process has loaded, if
/// any.
pub(crate) fn owner(filter: &Filter, agents: &[RunningAgent], tags: &[u64]) -> Owner {
    let Some(program) = filter.program else {
        return Owner::Other;
    };
    if let Some(agent) = agents
        .iter()
        .find(|agent| agent.programs.contains(&program))
    {
        return Owner::Agent(agent.pid);
    }
    let within = |first: u32| (first..first + HANDLES).contains(&filter.handle);
    let kept = within(FIRST_KEPT_HANDLE);
    let place = kept || within(FIRST_HANDLE);
    let name = filter.name.as_deref().is_some_and(is_program_name);
    if !place || !name {
        return Owner::Other;
    }
    // Anybody can choose handle and name. Nobody can choose the program: either its instructions
    // are those of a program that we loaded, too, or it works on our maps.
    if is_detour(program) {
        return Owner::Leftover;
    }
    if filter.tag.is_some_and(|tag| tags.contains(&tag)) || uses_our_maps(program) {
        if kept {
            Owner::Persisted
        } else {
            Owner::Leftover
        }
    } else {
        Owner::Other
    }
}

/// True if a program is one of our detours, which do nothing without their agent.
fn is_detour(id: u32) -> bool {
    uses(id, detour::NAME, &[detour::MAP])
}

/// True if a program has a name like ours and uses our maps.
fn uses_our_maps(id: u32) -> bool {
    uses(id, PROGRAM_PREFIX, &MAPS)
}

/// True if a program's name begins with `prefix` and it uses these maps. False if the kernel does
/// not tell (looking at another's program needs `CAP_SYS_ADMIN`).
fn uses(id: u32, prefix: &str, maps: &[&str]) -> bool {
    let mut programs = loaded_programs().filter_map(Result::ok);
    let program = programs.find(|program| program.id() == id);
    program.is_some_and(|program| maps_of(&program, prefix, maps).is_some())
}

/// A loaded program of ours, of any version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ours {
    /// The kernel's id of the program.
    pub(crate) id: u32,
    /// Name of the program.
    pub(crate) name: String,
    /// The kernel's ids of the maps that it uses.
    pub(crate) maps: Vec<u32>,
}

/// All programs of ours that are loaded, by name and maps. Empty if the kernel does not tell.
pub(crate) fn loaded() -> Vec<Ours> {
    let ours = |program: ProgramInfo| {
        let detour = || maps_of(&program, detour::NAME, &[detour::MAP]);
        let maps = maps_of(&program, PROGRAM_PREFIX, &MAPS).or_else(detour)?;
        Some(Ours {
            id: program.id(),
            name: program.name_as_str()?.to_owned(),
            maps,
        })
    };
    let programs = loaded_programs().filter_map(Result::ok);
    programs.filter_map(ours).collect()
}

/// The ids of a program's maps, if its name begins with `prefix` and it uses maps of these names.
fn maps_of(program: &ProgramInfo, prefix: &str, maps: &[&str]) -> Option<Vec<u32>> {
    if !program.name_as_str()?.starts_with(prefix) {
        return None;
    }
    let ids = program.map_ids().ok().flatten().unwrap_or_default();
    let name = |id: &u32| MapInfo::from_id(*id).ok()?.name_as_str().map(str::to_owned);
    let names: Vec<String> = ids.iter().filter_map(name).collect();
    let all = maps.iter().all(|map| names.iter().any(|name| name == map));
    all.then_some(ids)
}

#[cfg(test)]
mod tests {
    use super::{super::bpf::Direction, *};

    fn filter() -> Filter {
        Filter {
            interface: 2,
            direction: Direction::Ingress,
            priority: 1,
            protocol: 3u16.to_be(),
            handle: FIRST_HANDLE,
            kind: "bpf".to_owned(),
            chain: 0,
            name: Some("lpm_from_local".to_owned()),
            // No program has this id, so only the tag can identify it.
            program: Some(u32::MAX),
            tag: Some(42),
        }
    }

    #[test]
    fn all_marks_must_be_there() {
        assert_eq!(owner(&filter(), &[], &[41, 42]), Owner::Leftover);
        let kept = Filter {
            handle: FIRST_KEPT_HANDLE + 1,
            ..filter()
        };
        assert_eq!(owner(&kept, &[], &[42]), Owner::Persisted);
        let others = [
            Filter {
                handle: 1,
                ..filter()
            },
            Filter {
                name: Some("lpm_from_local.o:[tc]".to_owned()),
                ..filter()
            },
            Filter {
                name: None,
                ..filter()
            },
            Filter {
                program: None,
                ..filter()
            },
            Filter {
                tag: Some(43),
                ..filter()
            },
            Filter {
                tag: None,
                ..filter()
            },
        ];
        for other in others {
            assert_eq!(owner(&other, &[], &[41, 42]), Owner::Other, "{other:?}");
        }
    }

    #[test]
    fn what_a_running_agent_uses_is_no_leftover() {
        let agents = [RunningAgent {
            pid: 12,
            programs: vec![u32::MAX],
        }];
        assert_eq!(owner(&filter(), &agents, &[42]), Owner::Agent(12));
    }
}
