//! Writes numbers as Go writes them.
//!
//! A bound of a classic histogram is a label, which is a text. Written in two ways, it is two
//! series. Prometheus makes the label itself when it reads protobuf. So the text formats must have
//! the label that its parser makes (`formatOpenMetricsFloat`): the shortest digits that read back
//! as the same number, in the form that Go's `strconv.FormatFloat(f, 'g', -1, 64)` chooses, with
//! `.0` behind what would be taken for an integer.

use std::{fmt::Write as _, ops::RangeInclusive};

/// The powers of ten that Go's `'g'` writes without an exponent, where it is asked for the shortest
/// digits.
const PLAIN: RangeInclusive<i32> = -4..=5;

/// A number as Prometheus writes it into the label `le`.
#[must_use]
pub fn bound(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if value == 0.0 {
        // Negative zero is written as `0.0`, too.
        return "0.0".to_owned();
    }
    // Rust's digits are the shortest, too: `-1.2345e-5`.
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if PLAIN.contains(&exponent) {
        let mut plain = value.to_string();
        if !plain.contains('.') {
            plain.push_str(".0");
        }
        return plain;
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    let mut out = digits.to_owned();
    // Writing to a string does not fail.
    let _ = write!(out, "e{sign}{:02}", exponent.unsigned_abs());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Go 1.26 printed for these by Prometheus' function.
    const GO: [(f64, &str); 20] = [
        (0.0, "0.0"),
        (-0.0, "0.0"),
        (1.0, "1.0"),
        (-2.5, "-2.5"),
        (0.1, "0.1"),
        (1e-4, "0.0001"),
        (9.999e-5, "9.999e-05"),
        (6.103_515_625e-5, "6.103515625e-05"),
        (1e-10, "1e-10"),
        (1e-100, "1e-100"),
        (1_000_000.0, "1e+06"),
        (1_234_567.0, "1.234567e+06"),
        (999_999.0, "999999.0"),
        (123_456.0, "123456.0"),
        (1e20, "1e+20"),
        (1e21, "1e+21"),
        (5e-324, "5e-324"),
        (f64::MAX, "1.7976931348623157e+308"),
        (f64::INFINITY, "+Inf"),
        (f64::NEG_INFINITY, "-Inf"),
    ];

    #[test]
    fn numbers_are_those_of_go() {
        for (value, written) in GO {
            assert_eq!(bound(value), written);
        }
        assert_eq!(bound(f64::NAN), "NaN");
    }
}
