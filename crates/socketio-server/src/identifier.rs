//! Names: unguessable ids of sessions (Engine.IO's `sid`) and sockets (Socket.IO's), and names within the process.
//!
//! Both ids are 20 characters of URL-safe base64. A session id ends with its shard, so that any shard can find it. A
//! socket id ends with a keyed checksum. With it, any shard can recognize a room name as a socket's id (and refuse that
//! room to other sockets) without asking the other shards.

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
const RANDOM_BYTES_OF_SOCKET_ID: usize = 12;

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

/// Distinguishes socket ids of this server from other names.
#[derive(Clone)]
pub(crate) struct SocketIds([u8; 16]);

impl SocketIds {
    /// Uses the key of an earlier run of the server, so that the ids of that run are recognized, or a new key.
    pub(crate) fn new(key: Option<[u8; 16]>) -> Self {
        Self(key.unwrap_or_else(|| Entropy::new().take()))
    }

    fn checksum(&self, random: &[u8]) -> [u8; 3] {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.0);
        hasher.write(random);
        let [a, b, c, ..] = hasher.finish().to_le_bytes();
        [a, b, c]
    }

    /// Whether this server made `name` as a socket's id. One in 16 million other names passes too.
    pub(crate) fn is_socket_id(&self, name: &str) -> bool {
        let Some(bytes) = Id::parse(name).and_then(|id| id.decode()) else { return false };
        let (random, checksum) = bytes.split_at(RANDOM_BYTES_OF_SOCKET_ID);
        self.checksum(random) == checksum
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

    pub(crate) fn session_id(&mut self, shard: u8) -> Id {
        let mut bytes: [u8; BYTES] = self.take();
        bytes[BYTES - 1] = shard;
        Id::encode(bytes)
    }

    pub(crate) fn socket_id(&mut self, ids: &SocketIds) -> Id {
        let random: [u8; RANDOM_BYTES_OF_SOCKET_ID] = self.take();
        let mut bytes = [0; BYTES];
        let (head, tail) = bytes.split_at_mut(RANDOM_BYTES_OF_SOCKET_ID);
        head.copy_from_slice(&random);
        tail.copy_from_slice(&ids.checksum(&random));
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
        let (ids, mut entropy) = (SocketIds::new(Some([7; 16])), Entropy::new());
        let id = entropy.socket_id(&ids);
        assert!(ids.is_socket_id(id.as_str()));
        assert!(SocketIds::new(Some([7; 16])).is_socket_id(id.as_str()), "a later run knows it");
        assert!(!SocketIds::new(None).is_socket_id(id.as_str()));
        for name in ["", "project-123", "project-1234567890ab", "äöü"] {
            assert!(!ids.is_socket_id(name), "{name}");
        }
        assert!(!ids.is_socket_id(entropy.session_id(0).as_str()));
    }
}
