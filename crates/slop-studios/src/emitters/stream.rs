//! The stream of `@socket.io/redis-streams-emitter`: its entries are read in order, from a cursor that is kept in Redis.
//!
//! The id of an entry is its idempotency key, so an entry that is read twice is published once. Keys cost memory: entries of
//! the same minute share one, as the items of a batch do.
//!
//! Entries are published in batches that the store carries out in order. If it refuses some for a moment, as those that are on
//! their way when Redis restarts, they come after the later ones of the batch. One entry at a time would keep the order, at
//! the price of a round trip and a synchronisation to the disk for each.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, RedisResult, cmd};
use tokio::time::sleep;

use super::decode;
use super::reader::{Ended, Reader};
use crate::limits::EMITTER_BATCH;
use crate::metrics::Emitter;
use crate::publish::scope::Scopes;
use crate::publish::{Publish, Published, Refused, fingerprint};
use crate::store::IdempotencyKey;

/// The stream's name.
const STREAM: &str = "socket.io";

/// How long Redis waits for an entry before it answers that there is none.
const BLOCK: Duration = Duration::from_secs(1);

/// How long after a refusal by the store the entries are read again.
const RETRY: Duration = Duration::from_millis(500);

/// The publisher to whom the keys belong. No publisher of the HTTP API has a control character in its name.
const PUBLISHER: &str = "\0streams emitter";

/// Bits of an id's time, and of its number, that tell the entries of a key apart. The time is in milliseconds, so a key has
/// the entries of 66 s.
const ITEM_BITS: u32 = 16;

/// The fields of an entry.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// An answer to `XREAD`: the entries of each stream, each with its id.
type Entries = Option<HashMap<String, Vec<(String, Fields)>>>;

/// The idempotency key of an entry.
fn key_of(id: &str) -> IdempotencyKey {
    let parts = id.split_once('-').and_then(|(time, number)| Some((time.parse().ok()?, number.parse().ok()?)));
    let (key, item) = match parts {
        Some((time, number)) if number >> ITEM_BITS == 0 => {
            let (time, number): (u64, u64) = (time, number);
            let item = (time & ((1 << ITEM_BITS) - 1)) << ITEM_BITS | number;
            ((time >> ITEM_BITS).to_string(), u32::try_from(item).ok())
        }
        // An id that was chosen by hand.
        _ => (id.to_owned(), None),
    };
    IdempotencyKey {
        publisher: PUBLISHER.into(),
        key: key.into(),
        item,
        fingerprint: fingerprint(&[STREAM.as_bytes()]),
    }
}

/// Whether the store may accept the publish later.
fn is_for_now(refused: &Refused) -> bool {
    matches!(refused, Refused::Overloaded | Refused::Unavailable)
}

impl Reader {
    /// Reads the stream while the node has the lease.
    pub(super) async fn read_stream(&self, client: &Client) -> Result<Infallible, Ended> {
        let (mut commands, mut patient) = self.connect_stream(client, BLOCK).await?;
        let cursor_key = format!("{{{}}}:emitters:cursor", self.options.prefix);
        let mut cursor = self.cursor(&mut commands, &cursor_key).await?;
        loop {
            let entries = read(&mut patient, &cursor).await?;
            let Some(last) = entries.last().map(|(id, _)| id.clone()) else { continue };
            let (done, is_all) = self.publish_entries(entries).await?;
            let reached = if is_all { Some(last) } else { done };
            if let Some(reached) = reached {
                if !self.lease.save(&mut commands, &cursor_key, &reached).await? {
                    return Err(Ended::LeaseLost);
                }
                cursor = reached;
            }
            if !is_all {
                sleep(RETRY).await;
            }
        }
    }

    /// The cursor in Redis. The first one of a cluster is the end of the stream: what is older was not for this server.
    async fn cursor(&self, commands: &mut MultiplexedConnection, key: &str) -> Result<String, Ended> {
        if let Some(cursor) = cmd("GET").arg(key).query_async(commands).await? {
            return Ok(cursor);
        }
        let mut command = cmd("XREVRANGE");
        command.arg(STREAM).arg("+").arg("-").arg("COUNT").arg(1);
        let last: Vec<(String, Fields)> = command.query_async(commands).await?;
        let cursor = last.into_iter().next().map_or_else(|| "0-0".to_owned(), |(id, _)| id);
        if self.lease.save(commands, key, &cursor).await? { Ok(cursor) } else { Err(Ended::LeaseLost) }
    }

    /// Publishes entries in order. Returns the last entry before the first one that is to be published again, if there is
    /// one, and whether there is none to be published again.
    async fn publish_entries(&self, entries: Vec<(String, Fields)>) -> Result<(Option<String>, bool), Ended> {
        let decoded: Vec<(String, Option<Publish>)> =
            entries.into_iter().map(|(id, fields)| (id, self.decode_entry(&fields))).collect();
        if !self.lease.is_valid() {
            return Err(Ended::LeaseLost);
        }
        let items: Vec<_> =
            decoded.iter().filter_map(|(id, publish)| Some((Ok(publish.clone()?), Some(key_of(id))))).collect();
        let results = self.executor.publish_each(&Scopes::all(), items.into_iter()).await;
        let mut results = results.into_iter();
        let mut done = None;
        for (id, publish) in decoded {
            if let Some(publish) = publish {
                let Some(result) = results.next() else { return Ok((done, false)) };
                if !self.note_entry(publish, result).await {
                    return Ok((done, false));
                }
            }
            done = Some(id);
        }
        Ok((done, true))
    }

    fn decode_entry(&self, fields: &[(Vec<u8>, Vec<u8>)]) -> Option<Publish> {
        let message = decode::stream(fields, self.options.most_bytes);
        let publish = message.and_then(|message| message.into_publish(&self.options.events));
        publish.inspect_err(|refusal| self.outcomes.refuse(Emitter::Streams, refusal)).ok()
    }

    /// Counts what became of an entry. If too many keys are remembered, it is published without one: a stream that stands
    /// still would lose entries. Returns false if it is to be published again.
    async fn note_entry(&self, publish: Publish, result: Result<Published, Refused>) -> bool {
        match result {
            Err(refused) if is_for_now(&refused) => false,
            Err(Refused::TooManyKeys { .. }) => {
                let result = self.executor.publish(&Scopes::all(), publish, None).await;
                match &result {
                    Err(refused) if is_for_now(refused) => return false,
                    Ok(_) => self.outcomes.without_key(Emitter::Streams),
                    Err(_) => self.outcomes.note(Emitter::Streams, result.as_ref()),
                }
                true
            }
            result => {
                self.outcomes.note(Emitter::Streams, result.as_ref());
                true
            }
        }
    }
}

/// The entries after the cursor.
async fn read(patient: &mut MultiplexedConnection, cursor: &str) -> RedisResult<Vec<(String, Fields)>> {
    let mut command = cmd("XREAD");
    command.arg("COUNT").arg(EMITTER_BATCH).arg("BLOCK").arg(BLOCK.as_millis() as u64).arg("STREAMS");
    let found: Entries = command.arg(STREAM).arg(cursor).query_async(patient).await?;
    Ok(found.unwrap_or_default().into_values().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_different_keys() {
        let parts = |id| {
            let key = key_of(id);
            (key.key.to_string(), key.item)
        };
        assert_eq!(parts("65535-3"), ("0".to_owned(), Some(0xffff_0003)));
        assert_eq!(parts("65536-65535"), ("1".to_owned(), Some(0xffff)));
        assert_eq!(parts("65536-65536"), ("65536-65536".to_owned(), None));
        assert_eq!(parts("odd"), ("odd".to_owned(), None));
        assert_eq!(key_of("1-0").fingerprint, key_of("2-0").fingerprint);
    }
}
