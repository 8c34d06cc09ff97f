//! The path prefix under which a proxy serves this server.

use ::http::{Uri, uri::PathAndQuery};

/// Removes the prefix from a request's path, if the path has it.
pub(super) fn take_off(base: &str, uri: &mut Uri) {
    let Some(rest) = uri.path().strip_prefix(base).filter(|_| !base.is_empty()) else { return };
    let target = match (rest.is_empty(), rest.starts_with('/'), uri.query()) {
        (true, _, None) => "/".to_owned(),
        (true, _, Some(query)) => format!("/?{query}"),
        (_, true, None) => rest.to_owned(),
        (_, true, Some(query)) => format!("{rest}?{query}"),
        // Another path that begins with the same letters.
        _ => return,
    };
    // The remaining part of a valid target is also a valid target.
    let Ok(target) = PathAndQuery::try_from(target) else { return };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target);
    if let Ok(shorter) = Uri::from_parts(parts) {
        *uri = shorter;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_prefix_is_taken_off() {
        for (target, left) in [
            ("/realtime", "/"),
            ("/realtime?x=/realtime", "/?x=/realtime"),
            ("/realtime/", "/"),
            ("/realtime/socket.io/?EIO=4", "/socket.io/?EIO=4"),
            ("/realtime/v1/rooms/a%2Fb/events", "/v1/rooms/a%2Fb/events"),
            ("/realtime/realtime/", "/realtime/"),
            ("/realtime//socket.io/", "//socket.io/"),
            ("/socket.io/?EIO=4", "/socket.io/?EIO=4"),
            ("/realtimes/", "/realtimes/"),
            ("/Realtime/", "/Realtime/"),
            ("/", "/"),
            ("*", "*"),
            ("http://studio.example/realtime/docs/?a", "http://studio.example/docs/?a"),
            ("http://studio.example/realtime", "http://studio.example/"),
        ] {
            let mut uri: Uri = target.parse().expect("a target");
            take_off("/realtime", &mut uri);
            assert_eq!(uri.to_string(), left, "{target}");
            let mut same: Uri = target.parse().expect("a target");
            take_off("", &mut same);
            assert_eq!(same, target.parse::<Uri>().expect("a target"));
        }
    }
}
