//! Patterns of names, as rules of the configuration have them.

/// Whether a name fits a pattern of literal characters, `*` (any characters) and `?` (one).
pub(crate) fn glob(pattern: &str, name: &str) -> bool {
    let mut characters = pattern.chars();
    match characters.next() {
        None => name.is_empty(),
        Some('*') => {
            let rest = characters.as_str();
            name.char_indices().any(|(at, _)| glob(rest, &name[at..])) || glob(rest, "")
        }
        Some(wanted) => {
            let mut found = name.chars();
            found
                .next()
                .is_some_and(|character| wanted == '?' || wanted == character)
                && glob(characters.as_str(), found.as_str())
        }
    }
}

/// Whether a pattern may fit several names.
pub(crate) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, name, fits) in [
            ("veth*", "veth1a2b", true),
            ("veth*", "veth", true),
            ("veth*", "xveth1", false),
            ("eth?", "eth0", true),
            ("eth?", "eth", false),
            ("eth?", "eth10", false),
            ("*", "", true),
            ("c*i*1", "cali12341", true),
            ("c*i*1", "cali1234", false),
            ("lo", "lo", true),
            ("lo", "lo0", false),
        ] {
            assert_eq!(glob(pattern, name), fits, "{pattern} {name}");
        }
        assert!(is_pattern("l2sm-system/*") && !is_pattern("blue"));
    }
}
