//! `X-Forwarded-For`: nobody whom no proxy trusts is believed, and what a client writes before a proxy's word changes nothing.

#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use socketio_server::TrustedProxies;

fuzz_target!(|input: ([u8; 4], Vec<&[u8]>, &[u8])| {
    let (peer, values, made_up) = input;
    let peer = IpAddr::from(peer);
    let networks = ["128.0.0.0/1", "fd00::/8"].map(|text| TrustedProxies::network(text).expect("a network"));
    let proxies = TrustedProxies::new(networks);
    let client = proxies.client(peer, values.iter().copied());
    if !proxies.contains(peer) {
        assert_eq!(client, peer);
    }
    if !proxies.contains(client) {
        let forged = [&[made_up][..], &values].concat();
        assert_eq!(proxies.client(peer, forged.into_iter()), client);
    }
});
