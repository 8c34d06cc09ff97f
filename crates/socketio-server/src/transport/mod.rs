//! Bytes in: the transports, which read the packets of a connection.

mod polling;
mod upgrade;
mod websocket;

use socketio_protocol::engine_io::Open;

use crate::{
    connection::Connection,
    shard::Shard,
    writer::{Writer, polling::Polling},
};

pub(crate) use polling::{EngineRequest, handle_post, open as open_polling};
pub(crate) use websocket::open as open_websocket;

/// Writes the handshake of Engine.IO.
fn open_packet(shard: &Shard, sid: &str, upgrades: &[&str], out: &mut Vec<u8>) {
    let open = Open {
        sid,
        upgrades,
        ping_interval_ms: shard.config.ping_interval.as_millis() as u64,
        ping_timeout_ms: shard.config.ping_timeout.as_millis() as u64,
        max_payload: shard.config.max_payload,
    };
    open.encode(out);
}

/// Calls `f` with the session's polling transport, unless the session has changed to another transport.
fn with_polling<T>(session: &Connection, f: impl FnOnce(&mut Polling) -> T) -> Option<T> {
    match &mut *session.writer.borrow_mut() {
        Writer::Polling(polling) => Some(f(polling)),
        _ => None,
    }
}
