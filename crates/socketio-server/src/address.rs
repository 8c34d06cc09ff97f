//! The identity of a client for the limits: its address, taken from its connection or from a trusted proxy.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU64,
};

use ipnet::IpNet;

/// Hops of `X-Forwarded-For`, `-Host` and `-Proto` that are read. A request passes two or three proxies; a longer
/// header is forged by the client.
pub(crate) const MAX_HOPS: usize = 16;

/// Longest hop that can be an address: `[` + 45 characters of IPv6 + `]:65535`.
const MAX_HOP_BYTES: usize = 53;

/// The proxies whose `X-Forwarded-For`, `X-Forwarded-Host` and `X-Forwarded-Proto` are trusted. These headers of other
/// peers are ignored. `Forwarded` is always ignored: a server that trusts two headers for the same fact also trusts the
/// one that its proxy passes on without reading it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Trusts the addresses of these networks.
    #[must_use]
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self(networks.into_iter().collect())
    }

    /// Reads a network, `10.0.0.0/8` or `fd00::/8`, or a single address.
    #[must_use]
    pub fn network(text: &str) -> Option<IpNet> {
        text.parse().ok().or_else(|| text.parse().ok().map(|address: IpAddr| IpNet::from(address.to_canonical())))
    }

    /// Whether the address is a proxy's.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client's address: the peer's or, if the peer is a proxy, the last address in the values of `X-Forwarded-For`
    /// that is not a proxy's. Each proxy adds the address of its peer at the right, so this is the last address that a
    /// trusted proxy has seen. Addresses further left may be forged. If all addresses are proxies', or the next entry
    /// is not an address, the result is the last proxy's address.
    #[must_use]
    pub fn client<'a>(&self, peer: IpAddr, values: impl DoubleEndedIterator<Item = &'a [u8]>) -> IpAddr {
        let mut nearest = peer.to_canonical();
        let mut hops = values.rev().flat_map(|value| value.rsplit(|byte| *byte == b',')).take(MAX_HOPS);
        while self.contains(nearest) {
            let Some(next) = hops.next().and_then(hop) else { break };
            nearest = next;
        }
        nearest
    }
}

/// The address of a hop; some proxies add the port.
fn hop(bytes: &[u8]) -> Option<IpAddr> {
    let text = bytes.trim_ascii();
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= MAX_HOP_BYTES)?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

/// The unit that counts as one client: an IPv4 address, or the /64 of IPv6 that one internet subscriber gets and may
/// choose addresses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Address(NonZeroU64);

impl Address {
    pub(crate) fn of(address: IpAddr) -> Self {
        let bits = match address.to_canonical() {
            // These values are among the /64s of ::/8. They are reserved, so no IPv6 client has one.
            IpAddr::V4(address) => (1 << 32) | u64::from(address.to_bits()),
            // The upper half of 128 bits fits.
            IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
        };
        // The first /64 contains only ::1. It shares the value of the second /64, which is empty.
        Self(NonZeroU64::new(bits).unwrap_or(NonZeroU64::MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn client(peer: &str, values: &[&str]) -> String {
        let networks = ["10.0.0.0/8", "192.0.2.7", "fd00::/8"];
        let trusted = TrustedProxies::new(networks.map(|text| TrustedProxies::network(text).expect("a network")));
        trusted.client(ip(peer), values.iter().map(|value| value.as_bytes())).to_string()
    }

    #[test]
    fn a_header_is_believed_of_a_trusted_peer_only() {
        assert_eq!(client("203.0.113.9", &["198.51.100.1"]), "203.0.113.9");
        assert_eq!(client("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("192.0.2.7", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("192.0.2.8", &["198.51.100.1"]), "192.0.2.8");
        assert_eq!(client("::ffff:10.0.0.1", &["::ffff:198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("fd00::1", &["2001:db8::5"]), "2001:db8::5");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn what_a_client_wrote_itself_is_not_believed() {
        assert_eq!(client("10.0.0.1", &["1.1.1.1, 198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1", "198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1,198.51.100.1,10.9.9.9", "10.2.2.2"]), "198.51.100.1");
        // Even if it is a proxy's address.
        assert_eq!(client("10.0.0.1", &["10.3.3.3, 198.51.100.1"]), "198.51.100.1");
    }

    #[test]
    fn what_is_no_address_ends_the_chain() {
        for broken in ["unknown", "", ",", "_hidden", "198.51.100.1.", "198.51.100.1 x", "[2001:db8::5", "\u{e9}"] {
            assert_eq!(client("10.0.0.1", &["198.51.100.1", broken]), "10.0.0.1", "{broken}");
            assert_eq!(client("10.0.0.1", &[&format!("198.51.100.1,{broken},10.1.1.1")]), "10.1.1.1", "{broken}");
        }
        assert_eq!(client("10.0.0.1", &[&"1".repeat(1 << 20)]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.1", "10.1.1.1,".repeat(100).trim_end_matches(',')]), "10.1.1.1");
    }

    #[test]
    fn ports_and_brackets_are_cut_off() {
        for (hop, address) in [
            ("198.51.100.1:4711", "198.51.100.1"),
            ("[2001:db8::5]:4711", "2001:db8::5"),
            ("[2001:db8::5]", "2001:db8::5"),
            (" 2001:db8::5\t", "2001:db8::5"),
        ] {
            assert_eq!(client("10.0.0.1", &[hop]), address);
        }
    }

    #[test]
    fn a_subscriber_is_one_client() {
        let of = |text| Address::of(ip(text));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("198.51.100.1"), of("::ffff:198.51.100.1"));
        assert_ne!(of("198.51.100.1"), of("198.51.100.2"));
        assert_ne!(of("::1"), of("0.0.0.1"));
    }
}
