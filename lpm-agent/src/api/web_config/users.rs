//! The section `basic_auth_users`.

use std::collections::BTreeMap;

use super::{
    WebConfigError,
    file::{Place, Text},
};

/// The highest cost of a hash: a password of cost 16 takes a CPU for seconds, and each step doubles
/// that.
const MOST_COST: u32 = 16;

/// Length of a bcrypt hash.
const LENGTH: usize = 60;

/// Length of what stands before salt and digest: `$2y$10$`.
const HEAD: usize = 7;

/// Users with the hashes of their passwords.
pub(super) fn users(
    section: BTreeMap<String, Text>,
    place: Place<'_>,
) -> Result<BTreeMap<String, String>, WebConfigError> {
    for (name, hash) in &section {
        let wrong =
            |reason: &str| Err(place.wrong(hash, format!("basic_auth_users.{name}"), reason));
        if name.contains(':') || name.chars().any(char::is_control) {
            return wrong("a user's name cannot have a colon or a control character (RFC 7617)");
        }
        let Some(cost) = cost(&hash.value) else {
            return wrong("this is no bcrypt hash; `htpasswd -nBC 10 USER` makes one");
        };
        if !(4..=MOST_COST).contains(&cost) {
            return wrong("the cost of the hash must be 4 to 16: above, a login takes too long");
        }
    }
    Ok((section.into_iter())
        .map(|(name, hash)| (name, hash.value))
        .collect())
}

/// The cost of a bcrypt hash, such as 10 in `$2y$10$...`. None: it is no such hash.
fn cost(hash: &str) -> Option<u32> {
    let (head, rest) = hash.split_at_checked(HEAD)?;
    let known = ["$2a$", "$2b$", "$2x$", "$2y$"];
    let digits = known.iter().find_map(|known| head.strip_prefix(known))?;
    let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || b"./".contains(&byte);
    (hash.len() == LENGTH && rest.bytes().all(alphabet)).then_some(())?;
    digits.strip_suffix('$')?.parse().ok()
}
