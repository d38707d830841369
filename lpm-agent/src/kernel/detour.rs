//! Detours: programs of a dozen instructions that stand on a hook in place of one of ours for a
//! while, and call it.
//!
//! The kernel can replace the program in a filter or link at once, but cannot move one to the front
//! at once. The same program on both places would see each packet twice, and on neither one it
//! would miss some. A pair of gates moves it. Both call our program: the one in the old place while
//! a word is 0, the one in the new place while it is 1. Setting the word is the move. No packet is
//! seen twice. A packet that is between both places at that instant, on each CPU, is missed.
//!
//! Another detour counts packets, and so shows whether any reach a hook at all.
//!
//! A detour calls our program through a map of programs. The kernel empties that map when the agent
//! ends. So the detours of an agent that was killed measure nothing twice.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::MapData;
use aya_obj::generated::bpf_map_type;

use super::{bpf, load::LoadedProgram, mmap::MmapArray};

/// Kernel name of the detour programs.
pub(crate) const NAME: &str = "lpm_detour";

/// Kernel name of the map with a detour's word.
pub(crate) const MAP: &str = "LPM_DETOUR";

/// Map flag `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// Helper number of `bpf_tail_call`.
const TAIL_CALL: i32 = 12;

/// Return code `TC_ACT_UNSPEC`, which equals `TCX_NEXT`: as if there were no program.
const GO_ON: i32 = -1;

/// One detour program, and the word that it counts in or reads.
#[derive(Debug)]
pub(crate) struct Detour {
    program: OwnedFd,
    /// The kernel's id of the program.
    pub(crate) id: u32,
    word: MmapArray<AtomicU64>,
    /// The map of programs. Closing it would empty it.
    _target: OwnedFd,
}

impl AsFd for Detour {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

impl Detour {
    /// Makes a detour that counts packets, and calls the program with each.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn counting(program: &LoadedProgram) -> io::Result<Self> {
        let (word, map) = word()?;
        // r2 = 1; lock *(u64 *)(r1 + 0) += r2
        let count = [instruction(0xb7, 2, 0, 1), instruction(0xdb, 1, 2, 0)];
        Self::load(program, &word, map, &count)
    }

    /// Makes two gates that share a word, which is 0: one for the old place of a program, one for
    /// the new.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn gates(program: &LoadedProgram) -> io::Result<[Self; 2]> {
        let (word, map) = word()?;
        let again = mapped(word.try_clone()?)?;
        // r2 = *(u64 *)(r1 + 0); if r2 != wanted go to the end.
        let gate = |wanted| {
            let mut unless = instruction(0x55, 2, 0, wanted);
            unless[2] = 5;
            [instruction(0x79, 2, 1, 0), unless]
        };
        Ok([
            Self::load(program, &word, map, &gate(0))?,
            Self::load(program, &word, again, &gate(1))?,
        ])
    }

    fn load(
        program: &LoadedProgram,
        word: &OwnedFd,
        map: MmapArray<AtomicU64>,
        first: &[[u8; 8]],
    ) -> io::Result<Self> {
        let array = bpf_map_type::BPF_MAP_TYPE_PROG_ARRAY;
        let target = bpf::create_map("LPM_TARGET", array, [4, 4, 1, 0])?;
        bpf::map_put(&target, 0, program.as_fd().as_raw_fd().cast_unsigned())?;
        // r6 = r1; r1 = address of the word
        let mut code = vec![
            instruction(0xbf, 6, 1, 0),
            instruction(0x18, 1, 2, word.as_raw_fd()),
            instruction(0, 0, 0, 0),
        ];
        code.extend_from_slice(first);
        // r1 = r6; r2 = the map of programs; r3 = 0; call; return.
        code.extend([
            instruction(0xbf, 1, 6, 0),
            instruction(0x18, 2, 1, target.as_raw_fd()),
            instruction(0, 0, 0, 0),
            instruction(0xb7, 3, 0, 0),
            instruction(0x85, 0, 0, TAIL_CALL),
            instruction(0xb7, 0, 0, GO_ON),
            instruction(0x95, 0, 0, 0),
        ]);
        let detour = bpf::load_classifier(NAME, &code)?;
        Ok(Self {
            id: bpf::program_id(&detour)?,
            program: detour,
            word: map,
            _target: target,
        })
    }

    /// The detour's word: packets counted so far, or the position of the gates.
    pub(crate) fn word(&self) -> &AtomicU64 {
        // The array was made with one element.
        self.word.get(0).unwrap_or(&NONE)
    }

    /// Opens the gate in the new place and closes that in the old one.
    pub(crate) fn switch(&self) {
        self.word().store(1, Ordering::SeqCst);
    }
}

/// The value read where the array has no element.
static NONE: AtomicU64 = AtomicU64::new(0);

fn word() -> io::Result<(OwnedFd, MmapArray<AtomicU64>)> {
    let array = bpf_map_type::BPF_MAP_TYPE_ARRAY;
    let map = bpf::create_map(MAP, array, [4, 8, 1, MMAPABLE])?;
    let mapped = mapped(map.try_clone()?)?;
    Ok((map, mapped))
}

fn mapped(map: OwnedFd) -> io::Result<MmapArray<AtomicU64>> {
    let map = MapData::from_fd(map).map_err(io::Error::other)?;
    MmapArray::new(&map).map_err(io::Error::other)
}

/// One instruction, as `struct bpf_insn` lies in memory where the first nibble is the low one.
fn instruction(code: u8, to: u8, from: u8, value: i32) -> [u8; 8] {
    let [a, b, c, d] = value.to_le_bytes();
    [code, from << 4 | to, 0, 0, a, b, c, d]
}
