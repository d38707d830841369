//! Content negotiation: the exposition format that a scraper wants (RFC 9110 section 12.5.1).

use std::cmp::Reverse;

/// Most media ranges that are looked at; Prometheus sends six at most.
const RANGES: usize = 64;

/// A format of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Length-delimited protobuf, the only one with native histograms.
    Protobuf,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus text 0.0.4.
    Text,
}

impl Format {
    /// All formats, the easiest to read first. A client that accepts any gets the first.
    pub const ALL: [Self; 3] = [Self::Text, Self::OpenMetrics, Self::Protobuf];

    /// The value of the header `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    fn media_type(self) -> (&'static str, &'static str) {
        match self {
            Self::Protobuf => ("application", "vnd.google.protobuf"),
            Self::OpenMetrics => ("application", "openmetrics-text"),
            Self::Text => ("text", "plain"),
        }
    }

    /// True if the format has this parameter of a media range. Parameters that do not tell the
    /// formats apart (`charset`, `escaping`) are ignored.
    fn fits(self, name: &str, value: &str) -> bool {
        let is = |wanted: &str| value.eq_ignore_ascii_case(wanted);
        match (self, name) {
            (Self::Protobuf, "proto") => value == "io.prometheus.client.MetricFamily",
            (Self::Protobuf, "encoding") => is("delimited"),
            (Self::OpenMetrics, "version") => value.starts_with("1.") || value.starts_with("0."),
            (Self::Text, "version") => is("0.0.4"),
            _ => true,
        }
    }

    /// How exactly a media range names the format: 1 (`*/*`) to 3 (the very type). None: not at
    /// all.
    fn named_by(self, range: &MediaRange) -> Option<u8> {
        let (kind, subtype) = self.media_type();
        let exactness = match (&*range.kind, &*range.subtype) {
            ("*", "*") => 1,
            (of, "*") if of == kind => 2,
            (of, sub) if of == kind && sub == subtype => 3,
            _ => return None,
        };
        let parameters = &range.parameters;
        let fits = parameters
            .iter()
            .all(|(name, value)| self.fits(name, value));
        fits.then_some(exactness)
    }
}

/// One element of `Accept`.
#[derive(Debug, PartialEq, Eq)]
struct MediaRange {
    /// Type in lower case, such as `text`. The subtype is in lower case, too.
    kind: String,
    subtype: String,
    /// Parameters without `q`: names in lower case, and values.
    parameters: Vec<(String, String)>,
    /// Weight in thousandths. 0: refused.
    quality: u16,
}

impl MediaRange {
    /// Parses one media range. None: the text is not a media range.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = split(text, ';').into_iter().map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let mut range = Self {
            kind: kind.to_ascii_lowercase(),
            subtype: subtype.to_ascii_lowercase(),
            parameters: Vec::new(),
            quality: 1000,
        };
        for part in parts.filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=')?;
            let (name, value) = (name.trim().to_ascii_lowercase(), unquoted(value.trim()));
            if name == "q" {
                range.quality = quality(&value)?;
            } else {
                range.parameters.push((name, value));
            }
        }
        Some(range)
    }
}

/// Chooses the format of the answer from the lines of the header `Accept`. Of the acceptable
/// formats it takes the one of the highest weight; then the one named most exactly; then the one
/// named first.
///
/// Without the header, and where no listed format is served, the answer is text, which RFC 9110
/// allows: not everybody who asks for `text/html` wants an error. None: text was refused (`q=0`).
#[must_use]
pub fn format<'a>(accept: impl IntoIterator<Item = &'a [u8]>) -> Option<Format> {
    let lines: Vec<_> = accept.into_iter().map(String::from_utf8_lossy).collect();
    let elements = lines.iter().flat_map(|line| split(line, ','));
    // An element that is no media range, for instance because of its bytes, does not affect the
    // others.
    let ranges: Vec<MediaRange> = elements
        .take(RANGES)
        .filter_map(|element| MediaRange::parse(element.trim()))
        .collect();
    // The most exact range decides. Of equal ranges the first decides.
    let decides = |format: Format| {
        let named = ranges.iter().enumerate();
        let named = named
            .filter_map(|(at, range)| Some((format.named_by(range)?, Reverse(at), range.quality)));
        named.max()
    };
    let wanted = Format::ALL.into_iter().filter_map(|format| {
        let (exactness, at, quality) = decides(format)?;
        (quality > 0).then_some(((quality, exactness, at), format))
    });
    // The first of equals is wanted, and `max_by_key` takes the last.
    let best = wanted.rev().max_by_key(|(rank, _)| *rank);
    let refused = || decides(Format::Text).is_some_and(|(.., quality)| quality == 0);
    match best {
        Some((_, format)) => Some(format),
        None => (!refused()).then_some(Format::Text),
    }
}

/// True if the client names gzip in the lines of the header `Accept-Encoding`, and does not prefer
/// the plain page (RFC 9110 section 12.5.3).
#[must_use]
pub fn gzip<'a>(accept: impl IntoIterator<Item = &'a [u8]>) -> bool {
    let lines: Vec<_> = accept.into_iter().map(String::from_utf8_lossy).collect();
    let codings = lines.iter().flat_map(|line| line.split(','));
    let (mut gzip, mut identity) = (0, 0);
    for coding in codings.take(RANGES) {
        let (name, parameter) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let weight = parameter.split_once('=');
        let weight = weight.filter(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
        let weight = weight.and_then(|(_, value)| quality(value.trim()));
        let name = name.trim();
        if name.eq_ignore_ascii_case("gzip") {
            gzip = weight.unwrap_or(0);
        } else if name.eq_ignore_ascii_case("identity") {
            identity = weight.unwrap_or(0);
        }
    }
    gzip > 0 && gzip >= identity
}

/// True if a line of the header `Cache-Control` has `no-cache`.
#[must_use]
pub fn no_cache<'a>(control: impl IntoIterator<Item = &'a [u8]>) -> bool {
    control.into_iter().any(|line| {
        let mut directives = line.split(|byte| *byte == b',');
        directives.any(|directive| directive.trim_ascii().eq_ignore_ascii_case(b"no-cache"))
    })
}

/// Splits where a separator is not in a quoted string.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut from) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if character == separator && !quoted => {
                parts.push(&text[from..at]);
                from = at + character.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts
}

/// A parameter's value, which may be a quoted string.
fn unquoted(value: &str) -> String {
    let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    let Some(inner) = inner else {
        return value.to_owned();
    };
    let mut escaped = false;
    let keep = |character: &char| {
        escaped = *character == '\\' && !escaped;
        !escaped
    };
    inner.chars().filter(keep).collect()
}

/// Parses a weight into thousandths. None: the text is not a weight.
fn quality(value: &str) -> Option<u16> {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let digits = fraction.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return None;
    }
    // Digits after the third are too many by the RFC, and are ignored.
    let thousandths = fraction.chars().chain("000".chars()).take(3);
    let thousandths: u16 = thousandths.collect::<String>().parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if fraction.bytes().all(|byte| byte == b'0') => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_to_those_who_ask_for_it() {
        for (accept, packed) in [
            ("gzip", true),
            ("deflate;q=0.5, GZIP", true),
            ("gzip ; Q=0.3", true),
            ("gzip;q=0.3, identity;q=0.5", false),
            ("gzip;q=0, *", false),
            ("gzip;q=", false),
            ("gzip;x=1", false),
            ("*", false),
            ("br", false),
            ("", false),
        ] {
            assert_eq!(gzip([accept.as_bytes()]), packed, "{accept:?}");
        }
        assert!(!gzip([]) && gzip([&b"br"[..], b"gzip"]));
    }

    #[test]
    fn a_page_of_ones_own_is_asked_for_by_name() {
        for (control, own) in [
            ("max-age=0, No-Cache", true),
            ("no-cached", false),
            ("", false),
        ] {
            assert_eq!(no_cache([control.as_bytes()]), own, "{control:?}");
        }
    }

    const PROTOBUF: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";

    fn asked(lines: &[&str]) -> Option<Format> {
        format(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn scrapers_get_what_they_rank_highest() {
        // Prometheus 2.42 with native histograms, without, and 3.x.
        let native = format!(
            "{PROTOBUF},application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
        );
        let classic = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let three = format!(
            "{PROTOBUF};q=0.5,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,*/*;q=0.1"
        );
        assert_eq!(asked(&[&native]), Some(Format::Protobuf));
        assert_eq!(asked(&[classic]), Some(Format::OpenMetrics));
        assert_eq!(asked(&[&three]), Some(Format::OpenMetrics));
        assert_eq!(asked(&["*/*"]), Some(Format::Text));
        assert_eq!(asked(&["text/plain;version=0.0.4"]), Some(Format::Text));
        assert_eq!(asked(&[]), Some(Format::Text));
        assert_eq!(asked(&[""]), Some(Format::Text));
    }

    #[test]
    fn what_is_not_served_is_passed_over() {
        assert_eq!(asked(&["application/json"]), Some(Format::Text));
        assert_eq!(asked(&["text/plain;version=1.0.0"]), Some(Format::Text));
        let text =
            "application/vnd.google.protobuf;encoding=text,application/openmetrics-text;q=0.1";
        assert_eq!(asked(&[text]), Some(Format::OpenMetrics));
    }

    #[test]
    fn several_lines_are_one_list() {
        let lines = ["text/plain;q=0.5", "application/openmetrics-text"];
        assert_eq!(asked(&lines), Some(Format::OpenMetrics));
        assert_eq!(
            asked(&["application/json", PROTOBUF]),
            Some(Format::Protobuf)
        );
    }

    #[test]
    fn letters_may_be_capitals() {
        let capitals = "TEXT/PLAIN;Q=0.5, Application/OpenMetrics-Text;VERSION=1.0.0;Q=0.9";
        assert_eq!(asked(&[capitals]), Some(Format::OpenMetrics));
        let refused = "application/openmetrics-text;Q=0, text/plain;Q=0.1";
        assert_eq!(asked(&[refused]), Some(Format::Text));
    }

    #[test]
    fn types_with_a_star() {
        assert_eq!(asked(&["application/*"]), Some(Format::OpenMetrics));
        assert_eq!(asked(&["text/*;q=0.1"]), Some(Format::Text));
        let rather = "application/*;q=0.2, text/*;q=0.1";
        assert_eq!(asked(&[rather]), Some(Format::OpenMetrics));
        // The very type outranks the star, wherever it stands.
        let but_not = "application/openmetrics-text;q=0.1, application/*";
        assert_eq!(asked(&[but_not]), Some(Format::Protobuf));
        // The header that browsers send.
        assert_eq!(asked(&["text/html,*/*;q=0.8"]), Some(Format::Text));
        // `*` is no type of its own.
        assert_eq!(
            asked(&["*/plain, application/*;q=0.1"]),
            Some(Format::OpenMetrics)
        );
    }

    #[test]
    fn what_is_refused_is_not_sent() {
        let but = |refused: &str| format!("{refused};q=0, */*");
        assert_eq!(asked(&[&but("text/plain")]), Some(Format::OpenMetrics));
        assert_eq!(asked(&[&but("text/*")]), Some(Format::OpenMetrics));
        assert_eq!(asked(&[&but("application/*")]), Some(Format::Text));
        let only = "text/plain;q=0.000, application/openmetrics-text;q=0, */*;q=0.1";
        assert_eq!(asked(&[only]), Some(Format::Protobuf));
        assert_eq!(asked(&["text/plain;q=0"]), None);
        assert_eq!(asked(&["application/json, */*;q=0"]), None);
        let unheard = "application/openmetrics-text;q=0";
        assert_eq!(asked(&[unheard]), Some(Format::Text));
    }

    #[test]
    fn a_range_that_cannot_be_read_says_nothing_of_the_others() {
        let odd: [&[u8]; 3] = [
            b"text/plain;note=\"\xe4,\";q=0.3, application/openmetrics-text;q=0.4",
            b"te\xffxt/plain, application/openmetrics-text",
            b"text/plain;q=high, text/plain;q=1.5,;,/,=, application/openmetrics-text;q=0.2",
        ];
        for line in odd {
            assert_eq!(format([line]), Some(Format::OpenMetrics), "{line:?}");
        }
        let many = "a/b,".repeat(100_000);
        assert_eq!(asked(&[&many]), Some(Format::Text));
    }

    #[test]
    fn strings_may_be_quoted() {
        let quoted =
            "text/plain;q=0.1;x=\"a,\\\";b\", application/openmetrics-text;version=\"1.0.0\";q=0.2";
        assert_eq!(asked(&[quoted]), Some(Format::OpenMetrics));
        assert_eq!(unquoted("\"a\\\"b\\\\\""), "a\"b\\");
    }

    #[test]
    fn weights_have_three_digits() {
        let weights = [
            ("1", 1000),
            ("1.000", 1000),
            ("0.5", 500),
            ("0.123456", 123),
            ("0.", 0),
        ];
        for (text, weight) in weights {
            assert_eq!(quality(text), Some(weight), "{text}");
        }
        for text in ["", "2", "1.1", "-0.5", "0.5x", "1e-1", "NaN", ".5"] {
            assert_eq!(quality(text), None, "{text}");
        }
    }
}
