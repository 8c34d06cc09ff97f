//! Names: unguessable ids of sessions (Engine.IO's `sid`) and sockets (Socket.IO's), and names within the process.
//!
//! Both ids are 20 characters of URL-safe base64, or 15 bytes. A session id ends with its shard, so that any shard can
//! find it. A socket id ends with a keyed checksum. With it, any shard can recognize a room name as a socket's id (and
//! refuse that room to other sockets) without asking the other shards.
//!
//! | id | alone | in a cluster |
//! |---|---|---|
//! | socket | 12 random bytes, 3 of checksum | 8 random bytes, 4 of the node's tag, 3 of checksum |
//! | session | 14 random bytes, 1 of the shard | 8 random bytes, 4 of the node's tag, 2 of checksum, 1 of the shard |
//!
//! A session that begins as a WebSocket is named by no request, so its id never has a tag.

use std::{
    collections::HashMap,
    fmt,
    hash::{DefaultHasher, Hasher},
};

use serde::{Deserialize, Serialize};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// A map of ids with a quick hash. Clients can't choose the keys: the server makes them, at random.
pub(crate) type IdMap<V> = HashMap<Id, V, foldhash::fast::RandomState>;

const BYTES: usize = 15;
pub(crate) const ID_LEN: usize = 20;

/// Bytes before the checksum: random ones alone, or random ones and the tag of a node.
const BODY: usize = 12;

/// The position of a node's tag. The 64 random bits before it are more than anyone can guess over a network.
const TAG: std::ops::Range<usize> = 8..BODY;

/// The position of the checksum in a session id with a tag. One in 65,536 forged ids passes, and costs one forwarded
/// request.
const SESSION_CHECKSUM: std::ops::Range<usize> = BODY..BYTES - 1;

/// Twenty ASCII characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Id([u8; ID_LEN]);

impl Id {
    fn encode(bytes: [u8; BYTES]) -> Self {
        let mut id = [b'-'; ID_LEN];
        // 15 bytes are exactly 20 characters, so this can't fail.
        let _ = URL_SAFE_NO_PAD.encode_slice(bytes, &mut id);
        Self(id)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        text.as_bytes().try_into().ok().map(Self)
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn decode(&self) -> Option<[u8; BYTES]> {
        let mut bytes = [0; BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(self.0, &mut bytes).ok()?;
        (length == BYTES).then_some(bytes)
    }

    /// The shard in a session id.
    pub(crate) fn shard(&self) -> Option<usize> {
        self.decode().map(|bytes| usize::from(bytes[BYTES - 1]))
    }
}

/// The position of a broadcast in the order of all broadcasts. The order has gaps, and it goes on where an earlier run
/// of the server has ended, if the application [says so](crate::Recovery::after).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(u64);

impl Position {
    /// The position before every broadcast.
    pub const NONE: Self = Self(0);

    /// The position with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The position right after this one.
    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The number of the position.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl From<u64> for Position {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies a connection of a shard. The generation distinguishes it from other connections that had the same index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnectionKey {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// A name of a socket, valid on any thread for as long as the process runs; see
/// [`Handle::with_socket`](crate::Handle::with_socket).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketRef {
    pub(crate) connection: ConnectionKey,
    pub(crate) serial: u32,
    pub(crate) shard: u16,
    pub(crate) namespace: u16,
}

impl SocketRef {
    /// Whether the socket belongs to this connection.
    pub(crate) fn is_of(&self, connection: ConnectionKey, shard: u8) -> bool {
        self.connection == connection && self.shard == u16::from(shard)
    }
}

/// The name of a node in the ids that it makes. A node takes a random one when it starts, so that ids of an earlier run
/// do not name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeTag(u32);

impl NodeTag {
    /// Takes a random tag.
    #[must_use]
    pub fn random() -> Self {
        Self(u32::from_le_bytes(Entropy::new().take()))
    }

    /// The tag with this number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number of the tag.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The tag in an id.
    fn of(bytes: &[u8; BYTES]) -> Self {
        let mut tag = [0; TAG.end - TAG.start];
        tag.copy_from_slice(&bytes[TAG]);
        Self(u32::from_le_bytes(tag))
    }
}

impl fmt::Display for NodeTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// Makes and checks ids: the key of their checksums, and the tag of this node, if it is in a cluster.
#[derive(Clone)]
pub(crate) struct IdKey {
    key: [u8; 16],
    tag: Option<NodeTag>,
}

impl IdKey {
    /// Uses the key of an earlier run of the server, so that the ids of that run are recognized, or a new key.
    pub(crate) fn new(key: Option<[u8; 16]>, tag: Option<NodeTag>) -> Self {
        Self { key: key.unwrap_or_else(|| Entropy::new().take()), tag }
    }

    /// The checksum of a text. The texts of socket ids and session ids have different lengths, so neither kind passes
    /// as the other.
    fn checksum(&self, text: &[u8]) -> [u8; 3] {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.key);
        hasher.write(text);
        let [a, b, c, ..] = hasher.finish().to_le_bytes();
        [a, b, c]
    }

    /// The bytes of a socket's id that was made with this key.
    fn socket_id(&self, name: &str) -> Option<[u8; BYTES]> {
        let bytes = Id::parse(name).and_then(|id| id.decode())?;
        let (body, checksum) = bytes.split_at(BODY);
        (self.checksum(body) == checksum).then_some(bytes)
    }

    /// Whether `name` was made as a socket's id, by this server or another one with its key. One in 16 million other
    /// names passes too.
    pub(crate) fn is_socket_id(&self, name: &str) -> bool {
        self.socket_id(name).is_some()
    }

    /// The node that made a socket's id. `None` without a cluster.
    pub(crate) fn node_of_socket_id(&self, name: &str) -> Option<NodeTag> {
        self.tag.and_then(|_| self.socket_id(name)).map(|bytes| NodeTag::of(&bytes))
    }

    fn session_checksum(&self, bytes: &[u8; BYTES]) -> [u8; 2] {
        let mut text = [0; BODY + 1];
        text[..BODY].copy_from_slice(&bytes[..BODY]);
        text[BODY] = bytes[BYTES - 1];
        let [a, b, _] = self.checksum(&text);
        [a, b]
    }

    /// The other node that made a session's id. `None` for an id of this node and for a forged one.
    pub(crate) fn other_node_of_session(&self, id: &Id) -> Option<NodeTag> {
        let own = self.tag?;
        let bytes = id.decode()?;
        let tag = NodeTag::of(&bytes);
        (tag != own && self.session_checksum(&bytes) == bytes[SESSION_CHECKSUM]).then_some(tag)
    }
}

/// Random bytes from the system, fetched a page at a time.
pub(crate) struct Entropy {
    pool: Box<[u8; 1024]>,
    used: usize,
}

impl Entropy {
    pub(crate) fn new() -> Self {
        Self { pool: Box::new([0; 1024]), used: 1024 }
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        if self.used + N > self.pool.len() {
            // Without randomness no identifier is secret: the server can't go on safely.
            getrandom::fill(self.pool.as_mut_slice()).expect("the system gives random bytes");
            self.used = 0;
        }
        let mut bytes = [0; N];
        let taken = &mut self.pool[self.used..self.used + N];
        bytes.copy_from_slice(taken);
        taken.fill(0);
        self.used += N;
        bytes
    }

    /// The secret of a session.
    pub(crate) fn secret(&mut self) -> Id {
        Id::encode(self.take())
    }

    /// The id of a session that no request names, or of a server that is not in a cluster.
    pub(crate) fn session_id(&mut self, shard: u8) -> Id {
        let mut bytes: [u8; BYTES] = self.take();
        bytes[BYTES - 1] = shard;
        Id::encode(bytes)
    }

    /// The id of a session that polls. It names this node, so that another node can forward the session's requests.
    pub(crate) fn polling_session_id(&mut self, shard: u8, key: &IdKey) -> Id {
        let Some(tag) = key.tag else { return self.session_id(shard) };
        let mut bytes: [u8; BYTES] = self.take();
        bytes[TAG].copy_from_slice(&tag.0.to_le_bytes());
        bytes[BYTES - 1] = shard;
        let checksum = key.session_checksum(&bytes);
        bytes[SESSION_CHECKSUM].copy_from_slice(&checksum);
        Id::encode(bytes)
    }

    pub(crate) fn socket_id(&mut self, key: &IdKey) -> Id {
        let mut body: [u8; BODY] = self.take();
        if let Some(tag) = key.tag {
            body[TAG].copy_from_slice(&tag.0.to_le_bytes());
        }
        let mut bytes = [0; BYTES];
        let (head, tail) = bytes.split_at_mut(BODY);
        head.copy_from_slice(&body);
        tail.copy_from_slice(&key.checksum(&body));
        Id::encode(bytes)
    }

    /// A number between 0 and 1, for jitter.
    pub(crate) fn fraction(&mut self) -> f64 {
        f64::from(u32::from_le_bytes(self.take())) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_names_its_shard() {
        let id = Entropy::new().session_id(7);
        assert_eq!(Id::parse(id.as_str()).and_then(|id| id.shard()), Some(7));
        assert_eq!(id.as_str().len(), ID_LEN);
    }

    #[test]
    fn socket_ids_are_distinguished_from_room_names() {
        let (ids, mut entropy) = (IdKey::new(Some([7; 16]), None), Entropy::new());
        let id = entropy.socket_id(&ids);
        assert!(ids.is_socket_id(id.as_str()));
        assert!(IdKey::new(Some([7; 16]), None).is_socket_id(id.as_str()), "a later run knows it");
        assert!(!IdKey::new(None, None).is_socket_id(id.as_str()));
        for name in ["", "project-123", "project-1234567890ab", "äöü"] {
            assert!(!ids.is_socket_id(name), "{name}");
        }
        assert!(!ids.is_socket_id(entropy.session_id(0).as_str()));
        assert_eq!(ids.node_of_socket_id(id.as_str()), None, "without a cluster no id names a node");
    }

    const KEY: Option<[u8; 16]> = Some([7; 16]);
    const A: NodeTag = NodeTag::new(0xa);
    const B: NodeTag = NodeTag::new(0xb00_0001);

    #[test]
    fn ids_of_a_cluster_name_their_node() {
        let (a, b, mut entropy) = (IdKey::new(KEY, Some(A)), IdKey::new(KEY, Some(B)), Entropy::new());
        let socket = entropy.socket_id(&a);
        assert!(b.is_socket_id(socket.as_str()));
        assert_eq!(b.node_of_socket_id(socket.as_str()), Some(A));
        assert_eq!(a.node_of_socket_id(socket.as_str()), Some(A));
        let session = entropy.polling_session_id(7, &a);
        assert_eq!((session.shard(), session.as_str().len()), (Some(7), ID_LEN));
        assert_eq!(b.other_node_of_session(&session), Some(A));
        assert_eq!(a.other_node_of_session(&session), None, "it is its own");
        assert!(!a.is_socket_id(session.as_str()));
        assert_eq!(b.other_node_of_session(&socket), None);
        let alone = IdKey::new(KEY, None);
        assert!(alone.is_socket_id(socket.as_str()));
        assert_eq!(alone.other_node_of_session(&session), None);
        assert_eq!(entropy.polling_session_id(3, &alone).shard(), Some(3));
        assert_ne!(NodeTag::random(), NodeTag::random());
    }

    #[test]
    fn an_id_with_another_byte_names_no_node() {
        let (a, b, mut entropy) = (IdKey::new(KEY, Some(A)), IdKey::new(KEY, Some(B)), Entropy::new());
        let others = IdKey::new(Some([8; 16]), Some(B));
        // One forged session id in 65,536 passes. The bytes here are many enough to notice a byte that does not count.
        let mut passed = 0;
        for _ in 0..20 {
            let session = entropy.polling_session_id(7, &a);
            let bytes = session.decode().expect("an id");
            for position in 0..BYTES {
                let mut forged = bytes;
                forged[position] ^= 1;
                passed += usize::from(b.other_node_of_session(&Id::encode(forged)).is_some());
            }
            passed += usize::from(others.other_node_of_session(&session).is_some());
            let socket = entropy.socket_id(&a);
            assert_eq!(others.node_of_socket_id(socket.as_str()), None, "one in 16 million passes");
        }
        assert!(passed <= 2, "{passed} forged ids passed");
    }
}
