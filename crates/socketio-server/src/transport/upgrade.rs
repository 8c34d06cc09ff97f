//! The upgrade from long-polling to WebSocket, without the loss of a packet. The client probes the new transport,
//! pauses the old one, and only then changes over. A failed or abandoned probe leaves the session polling.

use std::{net::IpAddr, rc::Rc};

use bytes::Bytes;
use socketio_protocol::{
    engine_io::Packet,
    websocket::{Decoder, Message},
};
use tokio::{
    io::AsyncReadExt,
    time::{interval, timeout},
};

use crate::{
    config::PROBE_NOOP_INTERVAL,
    connection::Connection,
    delivery::{frame::Frame, outbox::Outbox},
    shard::StreamGuard,
    stream::{Detached, Flushed, ReadHalf, WriteHalf},
    transport::{websocket, with_polling},
    writer::Writer,
};

/// The largest message of a probe, which is two short packets. A longer message is not part of a probe.
const MAX_PROBE_MESSAGE: usize = 1024;

/// Adopts a stream that asks to upgrade a session of this shard.
pub(super) fn adopt(session: &Rc<Connection>, stream: Detached, leftover: Bytes, peer: IpAddr) {
    let Ok((read, write)) = stream.attach() else { return };
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
        match timeout(shard.config.upgrade_timeout, probe(&session, read, &write, leftover)).await {
            Ok(Some((read, rest))) => {
                drop(guard);
                change_over(session, read, write, &rest, served);
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

/// Answers the probe, and keeps ending polls until the client changes over. Returns the bytes that came after that.
async fn probe(
    session: &Connection,
    mut read: ReadHalf,
    write: &WriteHalf,
    leftover: Bytes,
) -> Option<(ReadHalf, Vec<u8>)> {
    let mut decoder = Decoder::new(MAX_PROBE_MESSAGE);
    let mut input = leftover.to_vec();
    // `leftover` is a part of the whole buffer that HTTP has read, and keeps it in memory.
    drop(leftover);
    let mut probed = false;
    let mut noops = interval(PROBE_NOOP_INTERVAL);
    loop {
        while let Some((used, message)) = decoder.next(&mut input).ok()? {
            let Message::Text(text) = message else { return None };
            match Packet::decode(text).ok()? {
                Packet::Ping("probe") if !probed => {
                    probed = true;
                    send(session, &read, write, Frame::text(|out| out.extend_from_slice(b"3probe"))).await?;
                    noops.reset();
                }
                Packet::Upgrade if probed => {
                    input.drain(..used);
                    // A client waits for the response to its last request before it changes over.
                    let is_done = with_polling(session, |polling| polling.has_post()) == Some(false);
                    return (is_done && !session.is_closed()).then_some((read, input));
                }
                _ => return None,
            }
            input.drain(..used);
        }
        tokio::select! {
            count = read.read_buf(&mut input) => if count.ok()? == 0 { return None },
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

/// Writes a frame that is not in the session's outbox.
async fn send(session: &Connection, read: &ReadHalf, write: &WriteHalf, frame: Frame) -> Option<()> {
    let mut outbox = Outbox::default();
    outbox.push(Rc::new(frame));
    loop {
        match write.flush(&mut outbox, &session.shard.metrics) {
            Flushed::All => return Some(()),
            Flushed::Some | Flushed::Nothing => read.tcp().as_ref().writable().await.ok()?,
            Flushed::Waiting | Flushed::Broken => return None,
        }
    }
}

fn change_over(session: Rc<Connection>, read: ReadHalf, write: WriteHalf, rest: &[u8], served: StreamGuard) {
    let before = std::mem::replace(&mut *session.writer.borrow_mut(), Writer::WebSocket(write));
    if let Writer::Polling(polling) = before {
        polling.end();
    }
    session.flush();
    tokio::task::spawn_local(websocket::serve(session, read, rest, served));
}
