//! Text from strangers: how long a name may be, and what of it reaches a terminal.

use std::{
    borrow::Cow,
    io::{self, Write},
};

/// Most bytes of a name: as many as a name of an object may have in Kubernetes (RFC 1123).
pub(crate) const LONGEST_NAME: usize = 253;

/// The beginning of a name, at most [`LONGEST_NAME`] bytes and whole characters.
pub(crate) fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(LONGEST_NAME)]
}

/// True for a character that a terminal obeys instead of showing it: the control characters C0, DEL
/// and C1 (ECMA-48), and those that reorder text or break lines (Unicode, UAX #9 and #14).
fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A text for people, in which each character that a terminal would obey is U+FFFD. Line feeds and
/// tabs stay.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    let is_bad = |c: char| is_obeyed(c) && !matches!(c, '\n' | '\t');
    if !text.contains(is_bad) {
        return text.into();
    }
    let shown = text.chars();
    shown
        .map(|c| {
            if is_bad(c) {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect::<String>()
        .into()
}

/// A name or another text within one line, in which each character that a terminal would obey is
/// U+FFFD, line feeds and tabs among them.
pub(crate) fn plain_line(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return text.into();
    }
    let shown = text.chars();
    shown
        .map(|c| {
            if is_obeyed(c) {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect::<String>()
        .into()
}

/// A writer of text for people: what it is given passes [`plain`]. Each write should hold whole
/// characters; a part of one is written as U+FFFD.
#[derive(Debug)]
pub(crate) struct Plain<W>(pub(crate) W);

impl<W: Write> Write for Plain<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.0.write_all(plain(&text).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        let hostile = "\u{1b}]0;owned\u{7}a\u{9b}31mb\u{202e}c\u{2066}d\u{7f}\r";
        let shown = plain(hostile);
        assert!(!shown.chars().any(is_obeyed), "{shown:?}");
        assert!(shown.contains("owned") && shown.ends_with("d\u{fffd}\u{fffd}"));
        assert_eq!(plain("a\tb\nc é ✓"), "a\tb\nc é ✓");
        assert_eq!(plain_line("a\tb\nc"), "a\u{fffd}b\u{fffd}c");
        let mut out = Plain(Vec::new());
        writeln!(out, "{hostile}").expect("a vector");
        assert_eq!(out.0, format!("{shown}\n").as_bytes());
    }

    #[test]
    fn names_are_cut_between_characters() {
        assert_eq!(cut("web"), "web");
        let long = "é".repeat(LONGEST_NAME);
        assert_eq!(cut(&long).len(), LONGEST_NAME - 1);
        assert_eq!(cut(&"a".repeat(100_000)).len(), LONGEST_NAME);
    }
}
