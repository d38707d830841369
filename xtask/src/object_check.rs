//! Checks a built kernel object for instructions and helpers that Linux 5.10 lacks, and for
//! functions that no kernel loads because they never return.
//!
//! The compiler is told to use BPF version 3, but a source-level atomic still becomes whatever
//! instruction it needs. So the check reads what was really built. Encodings are those of RFC 9669;
//! the versions are those of the kernel's `kernel/bpf/verifier.c`.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionFlags, SymbolKind, elf};

/// The last helper of 5.10, `bpf_redirect_peer`; its successor came with 5.11.
const LAST_HELPER: i32 = 155;

const EXIT: u8 = 0x95;
const JUMP: u8 = 0x05;

/// Reads the object at `path` and names each instruction that 5.10 lacks, with its section and
/// index.
///
/// # Errors
/// When the file is not an ELF object for BPF, or holds no program at all.
pub(crate) fn check(path: &Path) -> Result<Vec<String>> {
    let data = fs::read(path)
        .with_context(|| format!("cannot read {}; run `cargo xtask build`", path.display()))?;
    let file = object::File::parse(&*data)
        .with_context(|| format!("{} is not an ELF object", path.display()))?;
    if file.architecture() != object::Architecture::Bpf {
        bail!("{} is not for BPF", path.display());
    }
    let mut found = endless(&file);
    let mut instructions = 0;
    for section in file.sections() {
        let executable = matches!(section.flags(), SectionFlags::Elf { sh_flags }
            if sh_flags & u64::from(elf::SHF_EXECINSTR) != 0);
        if !executable {
            continue;
        }
        let name = section.name().unwrap_or("?").to_owned();
        let code = section
            .data()
            .with_context(|| format!("cannot read section {name}"))?;
        instructions += code.len() / 8;
        found.extend(scan(code).map(|(index, what)| format!("{name}[{index}]: {what}")));
    }
    if instructions == 0 {
        bail!("{} holds no program", path.display());
    }
    Ok(found)
}

/// Finds functions whose last instruction is neither exit nor jump. The compiler ends them with a
/// call of a panic, and the verifier refuses whatever calls them.
fn endless(file: &object::File) -> Vec<String> {
    let mut found = Vec::new();
    for symbol in file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text)
    {
        let section = symbol
            .section_index()
            .and_then(|index| file.section_by_index(index).ok());
        let Some(section) = section else { continue };
        let code = section.data_range(symbol.address() + symbol.size().saturating_sub(8), 8);
        if let Ok(Some(&[opcode, ..])) = code
            && symbol.size() >= 8
            && !matches!(opcode, EXIT | JUMP)
        {
            let name = symbol.name().unwrap_or("?");
            found.push(format!(
                "{name}: does not return: a division or an index may panic"
            ));
        }
    }
    found
}

/// One 8-byte BPF instruction.
#[derive(Clone, Copy)]
struct Instruction {
    opcode: u8,
    source: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    fn decode(bytes: [u8; 8]) -> Self {
        let [opcode, registers, o0, o1, i0, i1, i2, i3] = bytes;
        Self {
            opcode,
            source: registers >> 4,
            offset: i16::from_le_bytes([o0, o1]),
            immediate: i32::from_le_bytes([i0, i1, i2, i3]),
        }
    }
}

/// The instructions of `code` that 5.10 lacks, by index.
fn scan(code: &[u8]) -> impl Iterator<Item = (usize, String)> {
    const LOAD_IMMEDIATE_64: u8 = 0x18;
    let mut second_half = false;
    code.as_chunks::<8>()
        .0
        .iter()
        .enumerate()
        .filter_map(move |(index, &bytes)| {
            let instruction = Instruction::decode(bytes);
            if std::mem::take(&mut second_half) {
                return None;
            }
            second_half = instruction.opcode == LOAD_IMMEDIATE_64;
            objection(instruction).map(|what| (index, what))
        })
}

/// Says why 5.10 would refuse `instruction`; None: it would not.
fn objection(instruction: Instruction) -> Option<String> {
    match instruction.opcode & 0x07 {
        0x00 | 0x02 => None,
        0x01 => load(instruction),
        0x03 => store(instruction),
        0x05 | 0x06 => jump(instruction),
        _ => arithmetic(instruction),
    }
}

/// Checks an instruction of class LDX.
fn load(instruction: Instruction) -> Option<String> {
    match instruction.opcode & 0xe0 {
        0x80 => Some("sign-extending load (6.6)".to_owned()),
        _ => None,
    }
}

/// Checks an instruction of class STX.
fn store(
    Instruction {
        opcode, immediate, ..
    }: Instruction,
) -> Option<String> {
    if opcode & 0xe0 != 0xc0 || immediate == 0 {
        // A plain store, or the one atomic of 5.10: add without fetch.
        return None;
    }
    let name = match immediate & !0x01 {
        0x00 => "fetching add",
        0x40 => "or",
        0x50 => "and",
        0xa0 => "xor",
        0xe0 => "exchange",
        0xf0 => "compare and exchange",
        _ => "unknown operation",
    };
    Some(format!("atomic {name} (5.12)"))
}

/// Checks an instruction of class JMP or JMP32.
fn jump(
    Instruction {
        opcode,
        source,
        immediate,
        ..
    }: Instruction,
) -> Option<String> {
    match (opcode, source) {
        (0x06, _) => Some("32-bit jump always, gotol (6.6)".to_owned()),
        (0x8d, _) => Some("call through a register".to_owned()),
        (0xe5, _) => Some("may_goto (6.9)".to_owned()),
        (0x85, 2) => Some("call of a kernel function (5.13)".to_owned()),
        (0x85, 0) if immediate > LAST_HELPER => Some(format!("helper {immediate} (5.11 or later)")),
        _ => None,
    }
}

/// Checks an instruction of class ALU or ALU64.
fn arithmetic(Instruction { opcode, offset, .. }: Instruction) -> Option<String> {
    match (opcode & 0xf0, offset) {
        (0xd0, _) if opcode & 0x07 == 0x07 => Some("unconditional byte swap (6.6)".to_owned()),
        (0x30 | 0x90, 1..) => Some("signed division (6.6)".to_owned()),
        (0xb0, 1..) => Some("sign-extending move (6.6)".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objections(code: &[[u8; 8]]) -> Vec<(usize, String)> {
        scan(&code.concat()).collect()
    }

    #[test]
    fn takes_what_5_10_knows() {
        let code = [
            [0xdb, 0x10, 0, 0, 0, 0, 0, 0],    // lock *(u64 *)(r0) += r1
            [0xc3, 0x10, 0, 0, 0, 0, 0, 0],    // lock *(u32 *)(r0) += w1
            [0x85, 0, 0, 0, 5, 0, 0, 0],       // call bpf_ktime_get_ns
            [0x85, 0x10, 0, 0, 0xff, 1, 0, 0], // call a function of this object
            [0xdc, 0, 0, 0, 16, 0, 0, 0],      // r0 = be16 r0
            [0x3f, 0x10, 0, 0, 0, 0, 0, 0],    // r0 /= r1
            [0x16, 0, 1, 0, 0, 0, 0, 0],       // if w0 == 0 goto +1
            [0x05, 0, 1, 0, 0, 0, 0, 0],       // goto +1
            [0x95, 0, 0, 0, 0, 0, 0, 0],       // exit
        ];
        assert_eq!(objections(&code), []);
    }

    #[test]
    fn finds_each_that_it_lacks() {
        let code = [
            ([0xdb, 0x10, 0, 0, 0x01, 0, 0, 0], "fetching add"),
            ([0xdb, 0x10, 0, 0, 0x40, 0, 0, 0], "atomic or"),
            ([0xdb, 0x10, 0, 0, 0xe1, 0, 0, 0], "exchange"),
            ([0xdb, 0x10, 0, 0, 0xf1, 0, 0, 0], "compare and exchange"),
            ([0x81, 0x10, 0, 0, 0, 0, 0, 0], "sign-extending load"),
            ([0xbf, 0x10, 8, 0, 0, 0, 0, 0], "sign-extending move"),
            ([0x3f, 0x10, 1, 0, 0, 0, 0, 0], "signed division"),
            ([0xd7, 0, 0, 0, 16, 0, 0, 0], "byte swap"),
            ([0x06, 0, 0, 0, 1, 0, 0, 0], "gotol"),
            ([0x85, 0x20, 0, 0, 1, 0, 0, 0], "kernel function"),
            ([0x85, 0, 0, 0, 156, 0, 0, 0], "helper 156"),
            ([0xe5, 0, 0, 0, 0, 0, 0, 0], "may_goto"),
        ];
        for (bytes, name) in code {
            let found = objections(&[bytes]);
            assert!(
                found.len() == 1 && found[0].1.contains(name),
                "{name}: {found:?}"
            );
        }
    }

    #[test]
    fn the_second_half_of_a_wide_load_is_no_instruction() {
        let code = [
            [0x18, 0, 0, 0, 1, 2, 3, 4],
            [0x81, 0, 0, 0, 1, 0, 0, 0],
            [0x81; 8],
        ];
        let indexes: Vec<usize> = objections(&code).iter().map(|(index, _)| *index).collect();
        assert_eq!(indexes, [2]);
    }
}
