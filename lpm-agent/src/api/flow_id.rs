//! Public ids of flows.

use super::auth::secret::digest;

/// The public id of a flow: its fingerprint, digested under a key of this process, as 16 hexadecimal
/// digits. Fingerprints are sums of products of addresses, ports and secrets ([`lpm_common::hash`]). A
/// few hundred of them would give sums of the secrets away.
pub(super) fn flow_id(fingerprint: u64) -> String {
    let digest = digest("flow", &[&fingerprint.to_le_bytes()]);
    let mut eight = [0; 8];
    eight.copy_from_slice(&digest[..8]);
    format!("{:016x}", u64::from_be_bytes(eight))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn an_id_is_stable_and_gives_no_fingerprint_away() {
        let fingerprints = (0..1000).map(|number: u64| number << 32 | 7);
        let ids: HashSet<_> = fingerprints.clone().map(flow_id).collect();
        assert_eq!(ids.len(), 1000);
        for fingerprint in fingerprints {
            let id = flow_id(fingerprint);
            assert!(ids.contains(&id) && id.len() == 16, "{id}");
            assert!(!ids.contains(&format!("{fingerprint:016x}")));
        }
        // The difference of two fingerprints shows in no difference of their ids.
        let number = |fingerprint| u64::from_str_radix(&flow_id(fingerprint), 16).expect("digits");
        assert_ne!(
            number(8).wrapping_sub(number(7)),
            number(10).wrapping_sub(number(9))
        );
        assert_ne!(number(8) ^ number(7), number(10) ^ number(9));
    }
}
