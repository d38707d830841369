//! Keyed digests with a key of this process.
//!
//! A digest under a key that nobody else knows gives away nothing of what was digested, neither by
//! its value nor by the time that a comparison takes. So digests of passwords and tokens are compared
//! and looked up as any other value is.

use std::sync::LazyLock;

use ring::{hmac, rand::SystemRandom};

/// An HMAC-SHA-256.
pub(in crate::api) type Digest = [u8; 32];

/// The key of this process. It is random, and gone with the process.
static KEY: LazyLock<hmac::Key> = LazyLock::new(|| {
    // Without random numbers nothing that needs a secret can be served.
    hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
        .expect("the kernel gives random numbers")
});

/// Digests these parts under the key of this process. Each part goes in with its length, so that no
/// two lists of parts are the same text. `purpose` keeps the digests of one use apart from another's.
pub(in crate::api) fn digest(purpose: &str, parts: &[&[u8]]) -> Digest {
    let mut context = hmac::Context::with_key(&KEY);
    for part in std::iter::once(&purpose.as_bytes()).chain(parts) {
        context.update(&part.len().to_le_bytes());
        context.update(part);
    }
    let mut digest = Digest::default();
    digest.copy_from_slice(context.sign().as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_purposes_are_kept_apart() {
        let one = digest("a", &[b"x", b"yz"]);
        assert_eq!(one, digest("a", &[b"x", b"yz"]));
        for other in [
            digest("a", &[b"xy", b"z"]),
            digest("b", &[b"x", b"yz"]),
            digest("a", &[b"xyz"]),
        ] {
            assert_ne!(one, other);
        }
    }
}
