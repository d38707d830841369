//! A hash that is the same in every build and on every machine.

/// FNV-1a of the text, 64 bits (draft-eastlake-fnv section 2).
pub(crate) fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
