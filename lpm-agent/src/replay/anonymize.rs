//! Anonymises addresses and keeps their prefixes: two addresses that share their first n bits get
//! substitutes that share the first n bits, and no more.
//!
//! The construction is `ipcrypt-pfx` of draft-denis-ipcrypt. The idea is that of Crypto-PAn (Xu et
//! al., ICNP 2002). Who has the key can undo it. Who knows the substitutes of some addresses learns
//! the prefixes that others share with them.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    net::IpAddr,
};

use ipcrypt_rs::IpcryptPfx;

/// Bytes of a key.
const KEY: usize = IpcryptPfx::KEY_BYTES;
/// Number of addresses that are cached. An address costs 128 rounds of AES.
const REMEMBERED: usize = 1 << 16;

/// A key of the anonymisation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; KEY]);

impl Key {
    /// Makes a random key, which nobody knows and nobody can find again.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn random() -> io::Result<Self> {
        let mut source = File::open("/dev/urandom")?;
        loop {
            let mut key = [0; KEY];
            source.read_exact(&mut key)?;
            if let Some(key) = Self::of(key) {
                return Ok(key);
            }
        }
    }

    /// Parses a key of 64 hexadecimal digits. White space around them is ignored. None: the text is
    /// no key, or its halves are equal, which would hide nothing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.trim().as_bytes();
        if digits.len() != 2 * KEY {
            return None;
        }
        let mut key = [0; KEY];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = [pair[0], pair[1]].map(|digit| char::from(digit).to_digit(16));
            *byte = u8::try_from(high? << 4 | low?).ok()?;
        }
        Self::of(key)
    }

    fn of(key: [u8; KEY]) -> Option<Self> {
        let (one, other) = key.split_at(KEY / 2);
        (one != other).then_some(Self(key))
    }
}

/// Replaces addresses, each always by the same one.
pub struct Anonymizer {
    cipher: IpcryptPfx,
    known: HashMap<IpAddr, IpAddr>,
}

impl Anonymizer {
    /// Makes an anonymiser with a key.
    #[must_use]
    pub fn new(key: Key) -> Self {
        Self {
            cipher: IpcryptPfx::new(key.0),
            known: HashMap::new(),
        }
    }

    /// The substitute of an address, of the same family.
    pub fn address(&mut self, address: IpAddr) -> IpAddr {
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let cipher = &self.cipher;
        *self
            .known
            .entry(address)
            .or_insert_with(|| cipher.encrypt_ipaddr(address))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY_TEXT: &str = "0123456789abcdeffedcba98765432101032547698badcfeefcdab8967452301";

    fn anonymizer() -> Anonymizer {
        Anonymizer::new(Key::parse(KEY_TEXT).expect("a key"))
    }

    /// Compares with the first test vectors of `ipcrypt-pfx` in draft-denis-ipcrypt.
    #[test]
    fn it_is_what_the_draft_describes() {
        let mut anonymizer = anonymizer();
        for (plain, hidden) in [
            ("0.0.0.0", "151.82.155.134"),
            ("255.255.255.255", "94.185.169.89"),
            ("192.0.2.1", "100.115.72.131"),
            ("2001:db8::1", "c180:5dd4:2587:3524:30ab:fa65:6ab6:f88"),
        ] {
            let [plain, hidden] = [plain, hidden].map(|text| text.parse::<IpAddr>().expect(text));
            assert_eq!(anonymizer.address(plain), hidden);
        }
    }

    #[test]
    fn keys() {
        assert!(Key::parse(&format!(" {KEY_TEXT}\n")).is_some());
        for wrong in ["", "12", &"0".repeat(64), &"x".repeat(64), &KEY_TEXT[1..]] {
            assert!(Key::parse(wrong).is_none(), "{wrong}");
        }
        assert!(Key::random().expect("a key") != Key::random().expect("a key"));
    }

    fn common(a: IpAddr, b: IpAddr) -> u32 {
        match (a, b) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => panic!("two families"),
        }
    }

    proptest! {
        #[test]
        fn prefixes_are_kept(a: u32, flip in 0_u32..32, v6: u128, flip6 in 0_u32..128) {
            let mut anonymizer = anonymizer();
            let pairs = [
                (IpAddr::from(a.to_be_bytes()), IpAddr::from((a ^ 1 << flip).to_be_bytes())),
                (IpAddr::from(v6.to_be_bytes()), IpAddr::from((v6 ^ 1 << flip6).to_be_bytes())),
            ];
            for (one, other) in pairs {
                let hidden = (anonymizer.address(one), anonymizer.address(other));
                prop_assert_eq!(common(hidden.0, hidden.1), common(one, other));
            }
        }
    }
}
