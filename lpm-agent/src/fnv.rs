//! Hashes that are the same in every build and on every machine.

/// FNV-1a of the text, 64 bits (draft-eastlake-fnv section 2).
pub(crate) fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// FNV-1 (not 1a) of the texts put together, 32 bits (draft-eastlake-fnv section 2).
pub(crate) fn fnv1_32(texts: &[&str]) -> u32 {
    let bytes = texts.iter().flat_map(|text| text.bytes());
    bytes.fold(0x811c_9dc5_u32, |hash, byte| {
        hash.wrapping_mul(0x0100_0193) ^ u32::from(byte)
    })
}
