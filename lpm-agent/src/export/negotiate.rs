//! Which exposition format a scraper wants (RFC 9110 section 12.5.1).

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

    /// What a media range of `Accept` asks for; `None`: something that is not served.
    fn asked_by(range: &str) -> Option<Self> {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next()?.to_ascii_lowercase();
        let parameter = |name: &str| {
            range.split(';').skip(1).find_map(|part| {
                let (key, value) = part.split_once('=')?;
                key.trim()
                    .eq_ignore_ascii_case(name)
                    .then(|| value.trim().trim_matches('"'))
            })
        };
        match media.as_str() {
            "application/vnd.google.protobuf" => {
                let fits = parameter("proto")
                    .is_none_or(|proto| proto == "io.prometheus.client.MetricFamily")
                    && parameter("encoding").is_none_or(|encoding| encoding == "delimited");
                fits.then_some(Self::Protobuf)
            }
            "application/openmetrics-text" => parameter("version")
                .is_none_or(|version| version.starts_with("1.") || version.starts_with("0."))
                .then_some(Self::OpenMetrics),
            "text/plain" | "text/*" | "*/*" => Some(Self::Text),
            _ => None,
        }
    }
}

/// The served format that the header `Accept` ranks highest, the first of equals; text without
/// one.
#[must_use]
pub fn format(accept: Option<&str>) -> Format {
    let mut best = (Format::Text, 0);
    for range in accept.unwrap_or_default().split(',') {
        let quality = quality(range);
        if let Some(format) = Format::asked_by(range)
            && quality > best.1
        {
            best = (format, quality);
        }
    }
    best.0
}

/// The weight of a media range, thousandths.
fn quality(range: &str) -> u32 {
    let given = range
        .split(';')
        .find_map(|part| part.trim().strip_prefix("q="));
    let Some(given) = given else { return 1000 };
    let value: f32 = given.trim().parse().unwrap_or(0.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to 1000"
    )]
    let thousandths = (value.clamp(0.0, 1.0) * 1000.0).round() as u32;
    thousandths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrapers_get_what_they_rank_highest() {
        // Prometheus 2.42 with native histograms, without, and 3.x.
        let native = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let classic = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let three = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.5,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,*/*;q=0.1";
        assert_eq!(format(Some(native)), Format::Protobuf);
        assert_eq!(format(Some(classic)), Format::OpenMetrics);
        assert_eq!(format(Some(three)), Format::OpenMetrics);
        assert_eq!(format(Some("*/*")), Format::Text);
        assert_eq!(format(Some("text/plain;version=0.0.4")), Format::Text);
        assert_eq!(format(None), Format::Text);
    }

    #[test]
    fn what_is_not_served_is_passed_over() {
        assert_eq!(format(Some("application/json")), Format::Text);
        assert_eq!(
            format(Some(
                "application/vnd.google.protobuf;encoding=text,application/openmetrics-text;q=0.1"
            )),
            Format::OpenMetrics
        );
        assert_eq!(
            format(Some("application/openmetrics-text;q=0")),
            Format::Text
        );
    }
}
