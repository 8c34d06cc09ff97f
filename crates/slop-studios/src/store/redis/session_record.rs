//! A session as it stands in Redis.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::answer::{Answer, unexpected};
use super::{Before, ClaimedSession, Moment, SessionKey, SessionRecord, StoreError};

/// A session's record, without what changes apart from it.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    namespace: String,
    socket_id: String,
    rooms: Vec<(Arc<str>, u64)>,
    data: String,
    updated_at: u64,
}

/// The text of a session that does not change apart from it.
pub(super) fn text_of(record: &SessionRecord) -> Vec<u8> {
    let SessionRecord { namespace, socket_id, rooms, data, updated_at, .. } = record;
    let (namespace, socket_id, data) = (namespace.clone(), socket_id.clone(), data.clone());
    let record = Record { namespace, socket_id, rooms: rooms.clone(), data, updated_at: updated_at.epoch_ms() };
    // A record of texts and numbers always has a JSON form.
    serde_json::to_vec(&record).unwrap_or_default()
}

/// The session out of an answer, and whether it is this node's.
pub(super) fn session(mut answer: Answer, key: SessionKey) -> Result<Option<ClaimedSession>, StoreError> {
    let Some(record) = answer.optional()? else { return Ok(None) };
    let Record { namespace, socket_id, rooms, data, updated_at } =
        serde_json::from_str(&record).map_err(|_no_record| unexpected())?;
    let since_seq: u64 = answer.number()?;
    let left_at = answer.optional()?.map(|left| left.parse().map(Moment::from_epoch_ms)).transpose();
    let left_at = left_at.map_err(|_no_number| unexpected())?;
    let updated_at = Moment::from_epoch_ms(updated_at);
    let before = Before::Valid;
    let is_own = answer.number()? == 1;
    let own_events = answer.optional()?;
    let record =
        SessionRecord { key, namespace, socket_id, rooms, data, since_seq, updated_at, left_at, before, own_events };
    Ok(Some(if is_own { ClaimedSession::Own(record) } else { ClaimedSession::Stored(record) }))
}
