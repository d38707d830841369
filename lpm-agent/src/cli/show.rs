//! Formats numbers and names for people.

use std::net::IpAddr;

use crate::{identity::Name, text};

/// Formats a time in nanoseconds with three digits and a unit.
pub(super) fn time(ns: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let ns = ns as f64;
    for (unit, size) in [("us", 1e3), ("ms", 1e6)] {
        let value = ns / size;
        if value < 999.5 {
            return digits(value, unit);
        }
    }
    digits(ns / 1e9, "s")
}

/// Formats a time that may not have been measured.
pub(super) fn maybe(ns: Option<u64>) -> String {
    ns.map_or_else(|| "-".to_owned(), time)
}

/// Formats a number with three digits and a power of a thousand.
pub(super) fn count(value: f64) -> String {
    for (unit, size) in [("", 1.0), ("k", 1e3), ("M", 1e6)] {
        if value / size < 999.5 {
            return digits(value / size, unit);
        }
    }
    digits(value / 1e9, "G")
}

fn digits(value: f64, unit: &str) -> String {
    let decimals = match value {
        v if v == 0.0 || v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}{unit}")
}

/// Formats an address and port, IPv6 in brackets.
pub(super) fn end(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// Most characters of a cell of a table: two names, two processes, and what stands between.
const LONGEST_CELL: usize = 1200;

/// A text as a cell of a table: without characters that a terminal obeys, and not longer than any
/// that this agent would make.
pub(super) fn cell(text: &str) -> String {
    text::plain_line(text).chars().take(LONGEST_CELL).collect()
}

/// A cell as wide as its column, of any width: what `format!` pads ends at 65,535.
pub(super) fn padded(cell: &str, width: usize, right: bool) -> String {
    let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
    if right {
        pad + cell
    } else {
        cell.to_owned() + &pad
    }
}

/// The shortest text that identifies the owner of an address.
pub(super) fn who(name: &Name) -> String {
    let thing = [&name.pod, &name.workload, &name.service, &name.node];
    let thing = thing.into_iter().flatten().next();
    match (&name.namespace, thing) {
        (Some(namespace), Some(thing)) => format!("{namespace}/{thing}"),
        (Some(one), None) | (None, Some(one)) => one.to_string(),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_hold_what_is_shown() {
        assert_eq!(cell("\u{1b}[31mx\n"), "\u{fffd}[31mx\u{fffd}");
        assert_eq!(cell(&"x".repeat(100_000)).len(), LONGEST_CELL);
        assert_eq!(padded("é", 3, true), "  é");
        assert_eq!(padded("é", 3, false), "é  ");
        assert_eq!(padded("x", 70_000, false).len(), 70_000);
    }

    #[test]
    fn three_digits() {
        for (ns, text) in [
            (0, "0us"),
            (640, "0.64us"),
            (12_345, "12.3us"),
            (999_400, "999us"),
            (999_600, "1.00ms"),
            (20_000_000, "20.0ms"),
            (1_500_000_000, "1.50s"),
        ] {
            assert_eq!(time(ns), text, "{ns}");
        }
        assert_eq!(maybe(None), "-", "not measured is not zero");
        assert_eq!(count(0.0), "0");
        assert_eq!(count(1234.0), "1.23k");
    }
}
