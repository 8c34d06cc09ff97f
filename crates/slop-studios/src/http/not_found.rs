//! The answer to an unknown path: it names the path that was probably meant.

use http::Uri;

use super::problem::Problem;
use crate::text::nearest::most_alike;

/// The similarity below which the nearest path is a coincidence: `progres` has 0.98 with `progress`, `/health` 0.92
/// with `/health/live`, `user` 0.96 with `users`.
const LIKENESS: f64 = 0.85;

/// The longest path that is compared: the time of a comparison grows with the square of the length.
const MAX_PATH: usize = 128;

/// The problem for an unknown path. `patterns` are the patterns of the known paths.
pub(super) fn problem(uri: &Uri, base_path: &str, patterns: &[String]) -> Problem {
    let is_engine_io = uri.query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("EIO=")));
    let meant = match is_engine_io {
        true => Some("/socket.io/"),
        false => nearest(uri.path(), patterns),
    };
    match meant {
        None => Problem::not_found("there is nothing at this path"),
        Some(meant) if is_engine_io => {
            Problem::not_found(format!("there is nothing at this path; Socket.IO is at {base_path}{meant}"))
        }
        Some(meant) => Problem::not_found(format!("there is nothing at this path; did you mean {base_path}{meant}?")),
    }
}

/// The most similar pattern. The path may lack the version.
fn nearest<'p>(path: &str, patterns: &'p [String]) -> Option<&'p str> {
    if path.len() > MAX_PATH {
        return None;
    }
    let written = [path.to_owned(), format!("/v1{path}")];
    let likeness = |pattern: &str| written.iter().map(|path| likeness(path, pattern)).fold(0.0, f64::max);
    most_alike(LIKENESS, patterns.iter().map(|pattern| (likeness(pattern), pattern.as_str())))
}

/// The similarity of the whole path. If the pattern has parameters, which match any text, it is the similarity of the
/// least similar other segment.
fn likeness(path: &str, pattern: &str) -> f64 {
    if !pattern.contains('{') {
        return strsim::jaro_winkler(path, pattern);
    }
    if path.split('/').count() != pattern.split('/').count() {
        return 0.0;
    }
    let segments = path.split('/').zip(pattern.split('/')).filter(|(_, segment)| !segment.starts_with('{'));
    segments.map(|(written, segment)| strsim::jaro_winkler(written, segment)).fold(1.0, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_that_was_meant_is_named_and_coincidences_are_not() {
        let patterns: Vec<String> = super::super::description().paths.paths.into_keys().collect();
        for (path, meant) in [
            ("/v1/medai/job-1/progress", Some("/v1/media/{mediaId}/progress")),
            ("/v1/media/a-rather-long-name-of-an-item/progres", Some("/v1/media/{mediaId}/progress")),
            ("/media/job-1/complete", Some("/v1/media/{mediaId}/complete")),
            ("/v1/user/ada/notifications", Some("/v1/users/{userId}/notifications")),
            ("/health", Some("/health/live")),
            ("/metric", Some("/metrics")),
            (&format!("/v1/media/{}/progres", "x".repeat(30_000)), None),
            ("/realtime/health/ready", None),
            ("/favicon.png", None),
            ("/wp-login.php", None),
        ] {
            assert_eq!(nearest(path, &patterns), meant, "{path}");
        }
    }
}
