//! Puts a kernel object's BTF into an order that does not depend on the run of the compiler.
//!
//! LLVM writes the forward declarations of types that are only pointed to in the order of their
//! addresses in its memory (`BTFDebug::FixupDerivedTypes`), which differs from run to run.
//!
//! The format: Linux, Documentation/bpf/btf.rst.

use std::ops::Range;

use anyhow::{Context as _, Result, bail};

/// Bytes of `struct btf_type`.
const TYPE: usize = 12;

/// The kind of a forward declaration, `BTF_KIND_FWD`.
const FORWARD: usize = 7;

/// A `.BTF` section: header, types, names.
struct Btf<'a> {
    bytes: &'a mut [u8],
    names: usize,
    /// Where each type begins. Type `i + 1` is the one at index `i`; type 0 is void.
    types: Vec<usize>,
}

/// Sorts the forward declarations of a `.BTF` section by name, where they follow each other, and
/// changes what refers to them.
///
/// # Errors
/// When `bytes` is no BTF, or has a kind of type that this does not know.
pub(crate) fn sort_forwards(bytes: &mut [u8]) -> Result<()> {
    let mut btf = Btf::read(bytes)?;
    let mut ids: Vec<u32> = (0..=u32::try_from(btf.types.len())?).collect();
    let mut at = 0;
    while at < btf.types.len() {
        let forwards = btf.types[at..].iter();
        let run = forwards
            .take_while(|&&start| kind(btf.bytes, start) == FORWARD)
            .count();
        btf.sort_run(at..at + run, &mut ids)?;
        at += run.max(1);
    }
    btf.rename(&ids)
}

impl<'a> Btf<'a> {
    fn read(bytes: &'a mut [u8]) -> Result<Self> {
        if bytes.get(..2) != Some(&0xeb9f_u16.to_le_bytes()) {
            bail!("the section .BTF does not begin with BTF's magic number");
        }
        let header = word(bytes, 4)?;
        let start = header + word(bytes, 8)?;
        let end = start + word(bytes, 12)?;
        let names = header + word(bytes, 16)?;
        let mut types = Vec::new();
        let mut at = start;
        while at < end {
            types.push(at);
            at += TYPE + tail(bytes, at)?;
        }
        if at != end {
            bail!("the last type of .BTF does not end where the types do");
        }
        Ok(Self {
            bytes,
            names,
            types,
        })
    }

    /// The name of the type that begins at `start`.
    fn name(&self, start: usize) -> Result<&[u8]> {
        let from = self.names + word(self.bytes, start)?;
        let rest = self.bytes.get(from..).context("a name lies outside")?;
        rest.split(|byte| *byte == 0).next().context("no name")
    }

    /// Sorts one run of forward declarations by name and kind of declaration (struct or union), and
    /// writes their new ids into `ids`.
    fn sort_run(&mut self, run: Range<usize>, ids: &mut [u32]) -> Result<()> {
        let mut sorted = Vec::new();
        for index in run.clone() {
            let start = self.types[index];
            let body: [u8; TYPE] = self.bytes[start..start + TYPE].try_into()?;
            let info = word(self.bytes, start + 4)?;
            sorted.push((self.name(start)?.to_owned(), info, index, body));
        }
        sorted.sort();
        for (to, (_, _, from, body)) in run.zip(sorted) {
            let start = self.types[to];
            self.bytes[start..start + TYPE].copy_from_slice(&body);
            ids[from + 1] = u32::try_from(to + 1)?;
        }
        Ok(())
    }

    /// Replaces each type id by `ids` at its index.
    fn rename(&mut self, ids: &[u32]) -> Result<()> {
        for &start in &self.types {
            for at in references(self.bytes, start)? {
                let new = ids.get(word(self.bytes, at)?);
                let new = new.context("a type refers to one that is not there")?;
                self.bytes[at..at + 4].copy_from_slice(&new.to_le_bytes());
            }
        }
        Ok(())
    }
}

/// Reads the 32-bit number at `at`.
fn word(bytes: &[u8], at: usize) -> Result<usize> {
    let word = bytes.get(at..at + 4).context(".BTF is cut off")?;
    Ok(u32::from_le_bytes(word.try_into()?) as usize)
}

/// The kind of the type that begins at `start`; 0, which is no kind, behind the end.
fn kind(bytes: &[u8], start: usize) -> usize {
    word(bytes, start + 4).map_or(0, |info| info >> 24 & 0x1f)
}

/// The number of members, parameters or values of the type that begins at `start`.
fn count(bytes: &[u8], start: usize) -> Result<usize> {
    Ok(word(bytes, start + 4)? & 0xffff)
}

/// Bytes behind the `struct btf_type` that begins at `start`, by its kind.
fn tail(bytes: &[u8], start: usize) -> Result<usize> {
    let count = count(bytes, start)?;
    Ok(match kind(bytes, start) {
        // INT, VAR, DECL_TAG.
        1 | 14 | 17 => 4,
        // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG.
        2 | 7..=12 | 16 | 18 => 0,
        // ARRAY.
        3 => 12,
        // STRUCT, UNION, DATASEC, ENUM64.
        4 | 5 | 15 | 19 => 12 * count,
        // ENUM, FUNC_PROTO.
        6 | 13 => 8 * count,
        other => bail!("the kernel object's BTF has a type of the unknown kind {other}"),
    })
}

/// Where the type that begins at `start` holds ids of types.
fn references(bytes: &[u8], start: usize) -> Result<Vec<usize>> {
    let own = start + 8;
    let behind = start + TYPE;
    let count = count(bytes, start)?;
    Ok(match kind(bytes, start) {
        // PTR, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, VAR, DECL_TAG, TYPE_TAG.
        2 | 8..=12 | 14 | 17 | 18 => vec![own],
        // ARRAY: the element, then the index.
        3 => vec![behind, behind + 4],
        // STRUCT, UNION: the second word of each member.
        4 | 5 => (0..count).map(|i| behind + 12 * i + 4).collect(),
        // FUNC_PROTO: what it returns, then the second word of each parameter.
        13 => std::iter::once(own)
            .chain((0..count).map(|i| behind + 8 * i + 4))
            .collect(),
        // DATASEC: the first word of each variable.
        15 => (0..count).map(|i| behind + 12 * i).collect(),
        // INT, ENUM, FWD, FLOAT, ENUM64.
        _ => vec![],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offsets of `a`, `b` and `s` in [`NAMES`].
    const A: u32 = 1;
    const B: u32 = 3;
    const S: u32 = 5;
    const NAMES: &[u8] = b"\0a\0b\0s\0";

    /// Makes a section of these 32-bit numbers as types, by the layout of `struct btf_header`.
    fn section(types: &[u32]) -> Vec<u8> {
        let length = u32::try_from(4 * types.len()).unwrap();
        let names = u32::try_from(NAMES.len()).unwrap();
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, length, length, names] {
            bytes.extend(u32::to_le_bytes(word));
        }
        bytes.extend(types.iter().copied().flat_map(u32::to_le_bytes));
        bytes.extend(NAMES);
        bytes
    }

    /// A struct with a member for each of two pointers; what the pointers point to is a forward
    /// declaration each, `first` as type 4 and `second` as type 5.
    fn pointers(targets: [u32; 2], first: u32, second: u32) -> Vec<u8> {
        let to_a = [0, 2 << 24, targets[0]];
        let to_b = [0, 2 << 24, targets[1]];
        let structure = [S, 4 << 24 | 2, 16, A, 1, 0, B, 2, 64];
        let forwards = [first, 7 << 24, 0, second, 7 << 24, 0];
        section(&[&to_a[..], &to_b, &structure, &forwards].concat())
    }

    #[test]
    fn both_orders_become_the_one_by_name() {
        let sorted = pointers([4, 5], A, B);
        let mut other = pointers([5, 4], B, A);
        sort_forwards(&mut other).unwrap();
        assert_eq!(other, sorted);
        sort_forwards(&mut other).unwrap();
        assert_eq!(other, sorted);
    }

    #[test]
    fn what_is_between_stays_in_its_place() {
        let b = [B, 7 << 24, 0];
        let constant = [0, 10 << 24, 1];
        let a = [A, 7 << 24, 0];
        let types = section(&[b, constant, a].concat());
        let mut sorted = types.clone();
        sort_forwards(&mut sorted).unwrap();
        assert_eq!(sorted, types);
    }

    /// Two forward declarations, then each kind that refers to others, here to the type `id`.
    fn referring(forwards: [[u32; 3]; 2], id: u32) -> Vec<u8> {
        let pointer = [0, 2 << 24, id];
        let array = [0, 3 << 24, 0, id, id, 7];
        let prototype = [0, 13 << 24 | 1, id, A, id];
        let variable = [S, 14 << 24, id, 0];
        let section_of_data = [S, 15 << 24 | 1, 0, id, 0, 8];
        let types = [
            &forwards.concat()[..],
            &pointer,
            &array,
            &prototype,
            &variable,
            &section_of_data,
        ];
        section(&types.concat())
    }

    #[test]
    fn a_struct_comes_before_a_union_of_its_name() {
        let union = [A, 7 << 24 | 1 << 31, 0];
        let structure = [A, 7 << 24, 0];
        let mut sorted = referring([union, structure], 1);
        sort_forwards(&mut sorted).unwrap();
        assert_eq!(sorted, referring([structure, union], 2));
    }

    #[test]
    fn what_is_no_btf_is_refused() {
        assert!(sort_forwards(&mut []).is_err());
        let mut cut = pointers([4, 5], A, B);
        cut.truncate(40);
        assert!(sort_forwards(&mut cut).is_err());
        assert!(sort_forwards(&mut section(&[0, 29 << 24, 0])).is_err());
        assert!(sort_forwards(&mut section(&[0, 2 << 24, 9])).is_err());
    }
}
