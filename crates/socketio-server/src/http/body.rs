//! Receiving a request's body, within the limits of bytes and time.

use std::{net::IpAddr, pin::pin};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

use crate::{engine_error::EngineError, shard::Shard};

/// Receives the body of a client's request.
pub(super) async fn read(shard: &Shard, client: IpAddr, body: Incoming) -> Result<Bytes, EngineError> {
    if body.size_hint().lower() > shard.config.max_payload as u64 {
        return Err(EngineError::TooLarge);
    }
    timeout(shard.config.body_timeout, collect(shard, client, body)).await.unwrap_or(Err(EngineError::Timeout))
}

async fn collect(shard: &Shard, client: IpAddr, body: Incoming) -> Result<Bytes, EngineError> {
    let mut body = pin!(Limited::new(body, shard.config.max_payload));
    let mut held = HeldBody { shard, client, bytes: Vec::new(), count: 0 };
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => held.add(&frame.into_data().unwrap_or_default())?,
            Err(error) if error.is::<http_body_util::LengthLimitError>() => return Err(EngineError::TooLarge),
            Err(_) => return Err(EngineError::BadRequest),
        }
    }
    Ok(std::mem::take(&mut held.bytes).into())
}

/// The received part of a body.
struct HeldBody<'a> {
    shard: &'a Shard,
    client: IpAddr,
    bytes: Vec<u8>,
    /// The bytes counted in the shard's account.
    count: usize,
}

impl HeldBody<'_> {
    fn add(&mut self, data: &[u8]) -> Result<(), EngineError> {
        self.bytes.extend_from_slice(data);
        let before = std::mem::replace(&mut self.count, self.bytes.capacity());
        if self.shard.hold(self.client, before, self.count) { Ok(()) } else { Err(EngineError::NoRoom) }
    }
}

impl Drop for HeldBody<'_> {
    fn drop(&mut self) {
        self.shard.hold(self.client, self.count, 0);
    }
}
