//! From long-polling to WebSocket without losing a packet: the client probes the new way, pauses the old one, and only
//! then changes over. A probe that fails or is given up leaves the session polling.

use std::{net::IpAddr, rc::Rc};

use bytes::Bytes;
use socketio_protocol::{
    engine_io::Packet,
    websocket::{Decoder, Message, OpCode, encode_header},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{interval, timeout},
};

use crate::{
    config::PROBE_NOOP_INTERVAL,
    connection::Connection,
    shard::StreamGuard,
    transport::{Transport, polling::with_polling, websocket},
};

/// A probe is two short packets; whatever else is as long is not one.
const MAX_PROBE_MESSAGE: usize = 1024;

/// Takes over a stream that asks to upgrade a session of this shard.
pub(super) fn adopt(session: &Rc<Connection>, stream: std::net::TcpStream, leftover: Bytes, peer: IpAddr) {
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let free = with_polling(session, |polling| !std::mem::replace(polling.probing_mut(), true));
    if free != Some(true) {
        return;
    }
    tracing::trace!(%peer, "probe began");
    let served = StreamGuard::adopted(&session.shard);
    let session = session.clone();
    tokio::task::spawn_local(async move {
        let shard = session.shard.clone();
        let guard = ProbeGuard(&session);
        match timeout(shard.config.upgrade_timeout, probe(&session, stream, leftover)).await {
            Ok(Some((stream, rest))) => {
                drop(guard);
                change_over(session, stream, &rest, served);
                shard.metrics.upgrades.increment();
            }
            Ok(None) | Err(_) => shard.metrics.upgrades_failed.increment(),
        }
    });
}

struct ProbeGuard<'a>(&'a Connection);

impl Drop for ProbeGuard<'_> {
    fn drop(&mut self) {
        with_polling(self.0, |polling| *polling.probing_mut() = false);
    }
}

/// Answers the probe and keeps ending polls until the client changes over. Returns what came after that.
async fn probe(session: &Connection, mut stream: TcpStream, leftover: Bytes) -> Option<(TcpStream, Vec<u8>)> {
    let mut decoder = Decoder::new(MAX_PROBE_MESSAGE);
    let mut input = leftover.to_vec();
    let mut probed = false;
    let mut noops = interval(PROBE_NOOP_INTERVAL);
    loop {
        while let Some((used, message)) = decoder.next(&mut input).ok()? {
            let Message::Text(text) = message else { return None };
            match Packet::decode(text).ok()? {
                Packet::Ping("probe") if !probed => {
                    probed = true;
                    let (header, length) = encode_header(OpCode::Text, b"3probe".len());
                    let mut answer = header.get(..length)?.to_vec();
                    answer.extend_from_slice(b"3probe");
                    stream.write_all(&answer).await.ok()?;
                    noops.reset_immediately();
                }
                Packet::Upgrade if probed => {
                    input.drain(..used);
                    return (!session.is_closed()).then_some((stream, input));
                }
                _ => return None,
            }
            input.drain(..used);
        }
        tokio::select! {
            read = stream.read_buf(&mut input) => if read.ok()? == 0 { return None },
            _ = noops.tick() => {
                if session.is_closed() {
                    return None;
                }
                if probed {
                    with_polling(session, |polling| polling.noop());
                }
            }
        }
    }
}

fn change_over(session: Rc<Connection>, stream: TcpStream, rest: &[u8], served: StreamGuard) {
    let (read, write) = stream.into_split();
    let before = std::mem::replace(&mut *session.transport.borrow_mut(), Transport::WebSocket(write));
    if let Transport::Polling(polling) = before {
        polling.end();
    }
    session.flush();
    websocket::start(session, read, rest, served);
}
