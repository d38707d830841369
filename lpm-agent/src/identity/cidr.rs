//! Address ranges (CIDR) in the notation that people write.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error};

/// Parses a range. The error says what is wrong with the text.
fn parse(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| {
        let (address, length) = text
            .split_once('/')
            .map_or((text, None), |(address, length)| (address, Some(length)));
        let Ok(address) = address.parse::<IpAddr>() else {
            return format!(
                "{text} is not a range of addresses: give one such as 10.0.0.0/8 or fd00::/8"
            );
        };
        let most = if address.is_ipv4() { 32 } else { 128 };
        match length {
            Some(_) => format!("the prefix length of {text} is wrong: give 0 to {most}"),
            None => {
                format!("{text} has no prefix length: write {text}/{most} for that address alone")
            }
        }
    })
}

/// Deserialises one range.
pub(crate) fn one<'de, D: Deserializer<'de>>(from: D) -> Result<IpNet, D::Error> {
    Range::deserialize(from).map(|range| range.0)
}

/// Deserialises one range, or none.
pub(crate) fn some<'de, D: Deserializer<'de>>(from: D) -> Result<Option<IpNet>, D::Error> {
    let range = Option::<Range>::deserialize(from)?;
    Ok(range.map(|range| range.0))
}

/// Deserialises a list of ranges.
pub(crate) fn many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    let ranges = Vec::<Range>::deserialize(from)?;
    Ok(ranges.into_iter().map(|range| range.0).collect())
}

struct Range(IpNet);

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        parse(&text).map(Self).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_of_a_range_is_wrong_is_said() {
        for (text, said) in [
            (
                "10.0.0.0/33",
                "the prefix length of 10.0.0.0/33 is wrong: give 0 to 32",
            ),
            (
                "10.0.0.0/",
                "the prefix length of 10.0.0.0/ is wrong: give 0 to 32",
            ),
            (
                "10.0.0.0/-1",
                "the prefix length of 10.0.0.0/-1 is wrong: give 0 to 32",
            ),
            (
                "fd00::/129",
                "the prefix length of fd00::/129 is wrong: give 0 to 128",
            ),
            (
                "10.0.0.1",
                "10.0.0.1 has no prefix length: write 10.0.0.1/32 for that address alone",
            ),
            (
                "::1",
                "::1 has no prefix length: write ::1/128 for that address alone",
            ),
            ("10.0.0/8", "10.0.0/8 is not a range of addresses"),
            ("office", "office is not a range of addresses"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.starts_with(said), "{text}: {error}");
        }
        assert_eq!(parse("10.0.0.0/0").map(|range| range.prefix_len()), Ok(0));
        assert_eq!(parse("fd00::/128").map(|range| range.prefix_len()), Ok(128));
    }
}
