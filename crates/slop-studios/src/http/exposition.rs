//! The formats of `/metrics`: OpenMetrics 1.0, and the older text format 0.0.4 of Prometheus. The numbers are encoded
//! as OpenMetrics; the text format is made from it for clients that ask for it.

use http::HeaderMap;
use http::header::ACCEPT;

use super::accept::elements;

const OPEN_METRICS: &str = "application/openmetrics-text";
const TEXT: &str = "text/plain";

/// A format of the exposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    OpenMetrics,
    Text,
}

/// A client's preference for a format: the higher quality wins. At equal quality, a format that the client names wins.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd)]
struct Wish {
    quality: f32,
    is_named: bool,
}

impl Format {
    /// The format that the client prefers; OpenMetrics if it states no preference.
    pub(super) fn asked_for(headers: &HeaderMap) -> Self {
        let wish = |name: &str, range: &str, version: Option<&str>| {
            let (mut named, mut by_range, mut any) = (None, None, None);
            for element in elements(headers, ACCEPT) {
                let found = element.parameter("version");
                if element.is(name) && (version.is_none() || found.is_none() || found == version) {
                    // The highest quality among the versions: a scraper lists each version with its own quality.
                    named = Some(element.quality.max(named.unwrap_or_default()));
                } else if element.is(range) {
                    by_range = Some(element.quality);
                } else if element.is("*/*") {
                    any = Some(element.quality);
                }
            }
            let quality = named.or(by_range).or(any).unwrap_or_default();
            Wish { quality, is_named: named.is_some() }
        };
        match wish(TEXT, "text/*", Some("0.0.4")) > wish(OPEN_METRICS, "application/*", None) {
            true => Self::Text,
            false => Self::OpenMetrics,
        }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Converts an OpenMetrics exposition to this format.
    pub(super) fn form(self, open_metrics: String) -> String {
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Text => text(&open_metrics),
        }
    }
}

/// Converts OpenMetrics to the text format 0.0.4. There a family has the name of its samples, with `_total` and
/// `_info`. There are no units and no end marker.
fn text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = "";
    for line in open_metrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            // The help comes before the type, and the name depends on the type.
            help = described.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            text.push_str(&format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn asked_for(accept: &str) -> Format {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_str(accept).expect("a header"));
        Format::asked_for(&headers)
    }

    #[test]
    fn the_wish_of_the_scraper_decides() {
        assert_eq!(Format::asked_for(&HeaderMap::new()), Format::OpenMetrics);
        for accept in [
            // curl; Prometheus 2 and 3; the collector of OpenTelemetry.
            "*/*",
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            "application/openmetrics-text, text/plain",
            "application/json",
            "text/plain;q=0, */*",
            "text/plain;q=0.5, application/*",
            "text/plain;version=1.0.0",
            "",
        ] {
            assert_eq!(asked_for(accept), Format::OpenMetrics, "{accept}");
        }
        for accept in [
            "text/plain",
            "text/plain;version=0.0.4",
            "TEXT/Plain; Version=0.0.4",
            "text/plain;version=0.0.4;q=1,*/*;q=0.1",
            "text/plain, */*",
            "text/*",
            "text/plain;q=0.5, application/openmetrics-text;q=0.1",
            "application/openmetrics-text;q=0, */*;q=0.1",
            // Prometheus with `PrometheusText0.0.4` first.
            "text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5",
        ] {
            assert_eq!(asked_for(accept), Format::Text, "{accept}");
        }
    }

    #[test]
    fn families_of_the_text_format_are_named_as_their_samples() {
        let open_metrics = "\
# HELP slop_build The version.
# TYPE slop_build info
slop_build_info{version=\"1\"} 1
# HELP process_cpu_seconds Processor time.
# TYPE process_cpu_seconds counter
# UNIT process_cpu_seconds seconds
process_cpu_seconds_total 0.5
# HELP slop_sockets Sockets.
# TYPE slop_sockets gauge
slop_sockets 3
# HELP slop_took_seconds Time.
# TYPE slop_took_seconds histogram
# UNIT slop_took_seconds seconds
slop_took_seconds_sum 0.1
slop_took_seconds_count 2
slop_took_seconds_bucket{le=\"+Inf\"} 2
# EOF
";
        let expected = "\
# HELP slop_build_info The version.
# TYPE slop_build_info gauge
slop_build_info{version=\"1\"} 1
# HELP process_cpu_seconds_total Processor time.
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 0.5
# HELP slop_sockets Sockets.
# TYPE slop_sockets gauge
slop_sockets 3
# HELP slop_took_seconds Time.
# TYPE slop_took_seconds histogram
slop_took_seconds_sum 0.1
slop_took_seconds_count 2
slop_took_seconds_bucket{le=\"+Inf\"} 2
";
        assert_eq!(Format::Text.form(open_metrics.to_owned()), expected);
        assert_eq!(Format::OpenMetrics.form(open_metrics.to_owned()), open_metrics);
    }
}
