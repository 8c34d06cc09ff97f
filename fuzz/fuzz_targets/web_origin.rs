//! `Origin` and `Host`: an origin has one form, which is read as itself, and is its own host's.

#![no_main]

use libfuzzer_sys::fuzz_target;
use socketio_server::WebOrigin;

fuzz_target!(|input: &str| {
    let Some((origin, host)) = input.split_once('\n') else { return };
    let Ok(origin) = origin.parse::<WebOrigin>() else { return };
    let text = origin.to_string();
    assert_eq!(text.parse::<WebOrigin>(), Ok(origin.clone()));
    assert_eq!(text.to_uppercase().parse::<WebOrigin>(), Ok(origin.clone()));
    let (scheme, at) = text.split_once("://").expect("a scheme");
    assert_eq!(origin.is_of(at.as_bytes()), matches!(scheme, "http" | "https"));
    // A port may have any number of zeros before it.
    if host.len() < 250 && origin.is_of(host.as_bytes()) {
        assert_eq!(format!("{scheme}://{}", host.trim()).parse::<WebOrigin>(), Ok(origin));
    }
});
