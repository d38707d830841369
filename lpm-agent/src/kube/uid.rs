//! Numbers of objects. A `uid` is 36 characters as text, and 16 bytes as a number.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The number that an object has for life. A text that is no UUID is hashed (FNV-1a, 128 bits).
pub(crate) fn uid(text: &str) -> u128 {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() == 32
        && let Ok(uid) = u128::from_str_radix(&digits, 16)
    {
        return uid;
    }
    text.bytes()
        .fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
            (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        })
}

/// The number of an object. Without `uid` it is the hash of its names.
pub(crate) fn uid_of(metadata: &ObjectMeta) -> u128 {
    metadata.uid.as_deref().map_or_else(
        || {
            let namespace = metadata.namespace.as_deref().unwrap_or_default();
            let name = metadata.name.as_deref().unwrap_or_default();
            uid(&format!("{namespace}/{name}"))
        },
        uid,
    )
}
