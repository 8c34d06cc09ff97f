//! The known name that a misspelt name most likely stands for.

/// The most similar of these names, if one is similar enough. Case does not count, and `-` equals `_`.
pub(crate) fn nearest<'n>(written: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    // Below this likeness the nearest of twenty names is a coincidence: `loglevel` and `log_level` have 0.98, `join` and
    // `joinRoom` 0.90, `redis_url` and `api_keys` 0.55.
    const LIKENESS: f64 = 0.75;
    let written = comparable(written);
    most_alike(LIKENESS, names.into_iter().map(|known| (strsim::jaro_winkler(&written, &comparable(known)), known)))
}

/// The candidate with the greatest likeness, if its likeness is at least `least`.
pub(crate) fn most_alike<T>(least: f64, candidates: impl Iterator<Item = (f64, T)>) -> Option<T> {
    candidates
        .filter(|(likeness, _)| *likeness >= least)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

fn comparable(name: &str) -> String {
    name.to_ascii_lowercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::nearest;
    use crate::contract::events::client;

    #[test]
    fn the_most_similar_name_is_found_and_coincidences_are_not() {
        let event = |written| nearest(written, client::ALL.iter().copied());
        for (written, known) in [
            ("join", client::JOIN_ROOM),
            ("join_room", client::JOIN_ROOM),
            ("JoinRoom", client::JOIN_ROOM),
            ("leave", client::LEAVE_ROOM),
            ("subscribe", client::SUBSCRIBE_MEDIA),
            ("unsubscribe", client::UNSUBSCRIBE_MEDIA),
            ("auth", client::AUTHENTICATE),
            ("heartBeat", client::HEARTBEAT),
        ] {
            assert_eq!(event(written), Some(known), "{written}");
        }
        for strange in ["", "x", "cursor", "chat message", "🟢"] {
            assert_eq!(event(strange), None, "{strange}");
        }
        assert_eq!(nearest("ping-interval-ms", ["ping_timeout_ms", "ping_interval_ms"]), Some("ping_interval_ms"));
    }
}
