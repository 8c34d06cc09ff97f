//! The other nodes of a cluster, as the engine knows them: which node has a session, and how to reach it.
//!
//! A load balancer in front of the nodes needs no sticky sessions. The id of a polling session names its node. If a
//! request or a WebSocket upgrade of the session reaches another node, that node forwards it over HTTP to the *internal
//! listener* of the session's node, with two headers: the secret that all nodes share, and the client's address. The
//! internal listener serves nothing else.

use std::{
    fmt,
    net::{IpAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ::http::{HeaderMap, HeaderName, HeaderValue};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq as _;

use crate::identifier::NodeTag;

/// The secret of the nodes, in a forwarded request.
const X_NODE_SECRET: HeaderName = HeaderName::from_static("x-node-secret");

/// The address of the client, in a forwarded request.
const X_NODE_CLIENT: HeaderName = HeaderName::from_static("x-node-client");

type AddressOf = dyn Fn(NodeTag) -> Option<Arc<str>> + Send + Sync;

/// The membership of a node in a cluster; see [`ServerBuilder::cluster`](crate::ServerBuilder::cluster).
pub struct Cluster {
    pub(crate) listener: TcpListener,
    pub(crate) nodes: Nodes,
}

impl Cluster {
    /// Describes a node and its cluster.
    ///
    /// - `tag`: the name of this node in the ids that it makes, [random](NodeTag::random) for each run.
    /// - `secret`: the same for all nodes. A request without it gets 403 from the internal listener.
    /// - `listener`: the internal listener, for the requests that other nodes forward. It speaks plain HTTP, the secret
    ///   included, so its network must be private.
    /// - `address_of`: the address of another node's internal listener, `host:port`. `None` if the node is not known to
    ///   be alive. It is called for each forwarded request, on the shard's thread, so it must not wait for anything.
    #[must_use]
    pub fn new(
        tag: NodeTag,
        secret: &[u8; 32],
        listener: TcpListener,
        address_of: impl Fn(NodeTag) -> Option<Arc<str>> + Send + Sync + 'static,
    ) -> Self {
        // The alphabet of base64 makes a valid header value.
        let secret = HeaderValue::try_from(URL_SAFE_NO_PAD.encode(secret)).ok().map(|mut secret| {
            secret.set_sensitive(true);
            secret
        });
        let address_of: Box<AddressOf> = Box::new(address_of);
        Self { listener, nodes: Nodes { tag, secret, address_of, has_complained: AtomicBool::new(false) } }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listener, nodes } = self;
        f.debug_struct("Cluster").field("tag", &nodes.tag).field("listener", listener).finish_non_exhaustive()
    }
}

/// The nodes of the cluster.
pub(crate) struct Nodes {
    pub(crate) tag: NodeTag,
    secret: Option<HeaderValue>,
    address_of: Box<AddressOf>,
    /// It is logged that another node does not accept the secret.
    has_complained: AtomicBool,
}

impl Nodes {
    /// The address of a node's internal listener, if the node is alive.
    pub(crate) fn address_of(&self, node: NodeTag) -> Option<Arc<str>> {
        (self.address_of)(node)
    }

    /// Adds the headers of a forwarded request.
    pub(crate) fn vouch_for(&self, client: IpAddr, headers: &mut HeaderMap) {
        headers.extend(self.secret.clone().map(|secret| (X_NODE_SECRET, secret)));
        // An address always makes a valid header value.
        headers.extend(HeaderValue::try_from(client.to_string()).ok().map(|client| (X_NODE_CLIENT, client)));
    }

    /// The client of a request that another node forwarded. `None` if the request does not have the secret.
    pub(crate) fn client_of(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let (secret, given) = (self.secret.as_ref()?, headers.get(X_NODE_SECRET)?);
        if !bool::from(secret.as_bytes().ct_eq(given.as_bytes())) {
            return None;
        }
        headers.get(X_NODE_CLIENT)?.to_str().ok()?.parse().ok()
    }

    /// Whether this is the first time that another node does not accept the secret.
    pub(crate) fn is_first_mismatch(&self) -> bool {
        !self.has_complained.swap(true, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(secret: u8) -> Nodes {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Cluster::new(NodeTag::new(1), &[secret; 32], listener, |_| None).nodes
    }

    #[test]
    fn a_client_is_believed_with_the_secret_only() {
        let client: IpAddr = "2001:db8::5".parse().expect("an address");
        let mut headers = HeaderMap::new();
        nodes(1).vouch_for(client, &mut headers);
        assert_eq!(nodes(1).client_of(&headers), Some(client));
        assert_eq!(nodes(2).client_of(&headers), None);
        let own = nodes(1);
        let secret = headers.get(X_NODE_SECRET).expect("the secret").clone();
        for wrong in [&secret.as_bytes()[1..], &[secret.as_bytes(), b"A"].concat(), b""] {
            headers.insert(X_NODE_SECRET, HeaderValue::from_bytes(wrong).expect("a value"));
            assert_eq!(own.client_of(&headers), None);
        }
        headers.insert(X_NODE_SECRET, secret);
        headers.insert(X_NODE_CLIENT, HeaderValue::from_static("localhost"));
        assert_eq!(own.client_of(&headers), None);
        headers.remove(X_NODE_CLIENT);
        assert_eq!(own.client_of(&headers), None);
        assert!(own.is_first_mismatch() && !own.is_first_mismatch());
    }
}
