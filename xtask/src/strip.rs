//! Removes the debug sections from a kernel object: four fifths of it, of which no kernel reads
//! any. Kernels read `.BTF` and `.BTF.ext`, which stay; the first gets an order that each build
//! repeats.

use anyhow::{Context as _, Result};
use object::build::elf::{Builder, SectionData};

use crate::btf;

/// Whether a section is for debuggers only. Relocations of such a section are, too.
fn is_for_debuggers(name: &[u8]) -> bool {
    name.starts_with(b".debug_") || name.starts_with(b".rel.debug_")
}

/// Returns the object `bytes` without the sections for debuggers, and with sorted BTF.
///
/// # Errors
/// When `bytes` is no object, or its BTF cannot be read.
pub(crate) fn without_debug_sections(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(bytes).context("the kernel object is not an ELF object")?;
    for section in &mut builder.sections {
        section.delete = is_for_debuggers(section.name.as_slice());
        if section.name.as_slice() == b".BTF"
            && let SectionData::Data(data) = &mut section.data
        {
            btf::sort_forwards(data.to_mut())?;
        }
    }
    // LLVM keeps sections' names with the symbols'; the builder wants them apart.
    if !builder
        .sections
        .iter()
        .any(|section| matches!(section.data, SectionData::SectionString))
    {
        let names = builder.sections.add();
        names.name = b".shstrtab".as_slice().into();
        names.sh_type = object::elf::SHT_STRTAB;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::with_capacity(bytes.len());
    builder
        .write(&mut stripped)
        .context("the kernel object cannot be rewritten")?;
    Ok(stripped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debuggers_sections_and_no_others() {
        for name in [&b".debug_info"[..], b".rel.debug_line"] {
            assert!(is_for_debuggers(name));
        }
        for name in [&b".BTF"[..], b".BTF.ext", b".rel.BTF.ext", b"classifier"] {
            assert!(!is_for_debuggers(name));
        }
    }
}
