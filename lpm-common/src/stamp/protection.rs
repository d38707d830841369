//! HMACs of base packets and of TLVs (RFC 8762 section 4.4, RFC 8972 section 4.8).

use super::{
    HMAC, Mode, array,
    reflect::Refusal,
    tlv::{self, HEADER, kind},
};

/// HMAC-SHA-256 with one key, cut to 128 bits (RFC 8762 section 4.4).
pub trait Mac {
    /// Makes the HMAC of `parts`, one after the other.
    fn tag(&self, parts: &[&[u8]]) -> [u8; HMAC];

    /// Compares an HMAC, in a time that does not depend on where it differs.
    fn verify(&self, parts: &[&[u8]], tag: &[u8; HMAC]) -> bool;
}

/// Checks the base packet's HMAC, if the mode has one.
pub(super) fn verify_base<M: Mac>(
    packet: &[u8],
    mode: Mode,
    mac: Option<&M>,
) -> Result<(), Refusal> {
    let Some(covered) = mode.covered() else {
        return Ok(());
    };
    let mac = mac.ok_or(Refusal::NoKey)?;
    let (covered, rest) = packet.split_at_checked(covered).ok_or(Refusal::Short)?;
    let tag = rest.first_chunk().ok_or(Refusal::Short)?;
    if mac.verify(&[covered], tag) {
        Ok(())
    } else {
        Err(Refusal::Forged)
    }
}

/// The HMAC in a row of TLVs (RFC 8972 section 4.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protection {
    /// There is no HMAC TLV, and nothing that needs one in an authenticated session.
    Unneeded,
    /// There is no HMAC TLV.
    Missing,
    /// The HMAC TLV begins so many bytes from the row's beginning.
    At(usize),
    /// Another TLV than padding follows the HMAC TLV, or its length is wrong.
    Misplaced,
}

impl Protection {
    pub(super) fn of(row: &[u8]) -> Self {
        if row.iter().all(|byte| *byte == 0) {
            return Self::Unneeded;
        }
        let mut found = Self::Missing;
        let mut only_padding = true;
        for (nth, tlv) in tlv::Tlvs::new(row).enumerate() {
            let Ok(tlv) = tlv else {
                only_padding = false;
                break;
            };
            match (tlv.kind, found) {
                (kind::HMAC, Self::Missing) if tlv.value.len() == HMAC => {
                    found = Self::At(tlv.at);
                }
                (kind::EXTRA_PADDING, _) => {}
                (kind::HMAC, _) | (_, Self::At(_)) => return Self::Misplaced,
                _ => {}
            }
            only_padding &= tlv.kind == kind::EXTRA_PADDING && nth == 0;
        }
        if found == Self::Missing && only_padding {
            Self::Unneeded
        } else {
            found
        }
    }

    /// Whether the TLVs of `packet` may be believed.
    pub(super) fn holds<M: Mac>(
        self,
        packet: &[u8],
        row: &[u8],
        mode: Mode,
        mac: Option<&M>,
    ) -> bool {
        match self {
            Self::Unneeded => true,
            // A key in an unauthenticated session is there to protect the TLVs.
            Self::Missing => mode == Mode::Unauthenticated && mac.is_none(),
            Self::Misplaced => false,
            Self::At(at) => {
                let parts = (packet.get(..4), row.get(..at), array(row, at + HEADER));
                let (Some(mac), (Some(sequence), Some(covered), Some(tag))) = (mac, parts) else {
                    return false;
                };
                mac.verify(&[sequence, covered], &tag)
            }
        }
    }
}
