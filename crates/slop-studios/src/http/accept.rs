//! The headers `Accept` and `Accept-Encoding`, by which a client states what it accepts (RFC 9110 §12.5).

use http::{HeaderMap, HeaderName};

/// The maximum number of elements that are read. No client sends as many, and a longer header costs no more.
const MAX_ELEMENTS: usize = 32;

/// One element of an accept header.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Element<'a> {
    /// A media type, a media range, or a content coding.
    pub(super) name: &'a str,
    parameters: &'a str,
    /// The client's preference, from 0 (not acceptable) to 1.
    pub(super) quality: f32,
}

impl<'a> Element<'a> {
    fn parse(text: &'a str) -> Self {
        let (name, parameters) = text.split_once(';').unwrap_or((text, ""));
        let element = Self { name: name.trim(), parameters, quality: 1.0 };
        let quality = element.parameter("q").map(|text| text.parse().unwrap_or(0.0));
        Self { quality: quality.filter(|quality: &f32| quality.is_finite()).unwrap_or(1.0).clamp(0.0, 1.0), ..element }
    }

    /// A parameter's value, without its quotes.
    pub(super) fn parameter(&self, name: &str) -> Option<&'a str> {
        let mut parameters = self.parameters.split(';').filter_map(|parameter| parameter.split_once('='));
        let (_, value) = parameters.find(|(found, _)| found.trim().eq_ignore_ascii_case(name))?;
        Some(value.trim().trim_matches('"'))
    }

    pub(super) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// The elements of the named header, from all of its occurrences.
pub(super) fn elements(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = Element<'_>> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).take(MAX_ELEMENTS).map(Element::parse)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::ACCEPT;

    use super::*;

    #[test]
    fn elements_have_names_parameters_and_a_quality() {
        let mut headers = HeaderMap::new();
        headers.append(ACCEPT, HeaderValue::from_static("text/plain;version=0.0.4;q=0.2, */* ; Q=0"));
        headers.append(ACCEPT, HeaderValue::from_static("a/b;version=\"1.0.0\",c/d;q=x,e/f;q=NaN,g/h;q=7,"));
        let found: Vec<_> = elements(&headers, ACCEPT)
            .map(|element| (element.name, element.parameter("version"), element.quality))
            .collect();
        assert_eq!(
            found,
            [
                ("text/plain", Some("0.0.4"), 0.2),
                ("*/*", None, 0.0),
                ("a/b", Some("1.0.0"), 1.0),
                ("c/d", None, 0.0),
                ("e/f", None, 1.0),
                ("g/h", None, 1.0),
                ("", None, 1.0),
            ]
        );
    }
}
