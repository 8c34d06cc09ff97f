//! WebSocket: a task that reads, and writes that go straight to the socket.

use std::{
    io::ErrorKind,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use rustix::{
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, recv, send, sendmsg},
};
use socketio_protocol::{
    engine_io::TextPacket,
    websocket::{CloseCode, Decoder, Message, encode_close},
};
use tokio::{
    io::{AsyncRead, Interest, ReadBuf},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    task::yield_now,
    time::timeout,
};

use crate::{
    DisconnectReason,
    config::{CLOSE_LINGER, CLOSE_LINGER_BYTES, READ_BUFFER, READS_PER_TURN, SMALL_WRITE},
    connection::{Connection, Origin},
    frame::Frame,
    metrics::ShardMetrics,
    outbox::Outbox,
    shard::{Shard, StreamGuard},
    system::NO_SIGNAL,
    transport::{
        Flushed, Transport,
        polling::open_packet,
        stream::{ReadHalf, Stream, WriteHalf},
    },
};

/// Opens a session that begins as a WebSocket. The request's `answer` is still to be written; `leftover` is what came with it.
pub(crate) fn open(
    shard: &Rc<Shard>,
    origin: Origin,
    stream: Stream,
    answer: Vec<u8>,
    leftover: &Bytes,
    served: StreamGuard,
) {
    let (read, write) = stream.into_split();
    let connection = Connection::open(shard, origin, Transport::WebSocket(write));
    let sid = shard.entropy.borrow_mut().session_id(shard.id);
    connection.turn(|| {
        connection.queue_uncounted(Rc::new(Frame::ahead(answer)));
        connection.queue_uncounted(Rc::new(Frame::text(|out| open_packet(shard, sid.as_str(), &[], out))));
    });
    start(connection, read, leftover, served);
}

/// Starts to read a connection.
pub(crate) fn start(connection: Rc<Connection>, read: ReadHalf, leftover: &[u8], served: StreamGuard) {
    connection.shard.metrics.websockets.increment();
    let decoder = Decoder::new(connection.shard.config.max_payload);
    let reader = Reader { read, decoder, carry: leftover.to_vec(), stopped: !leftover.is_empty() };
    tokio::task::spawn_local(run(connection, reader, served));
}

async fn run(connection: Rc<Connection>, mut reader: Reader, served: StreamGuard) {
    let guard = CloseGuard(&connection);
    let end = std::future::poll_fn(|cx| reader.poll(&connection, cx)).await;
    if connection.is_in_many_rooms() {
        // Boxed, as below.
        Box::pin(connection.shard.turn()).await;
    }
    connection.close_with(end.reason, end.code);
    drop(guard);
    let shard = connection.shard.clone();
    drop(connection);
    // Nothing that was held for it waits for the rest.
    let Reader { read, decoder, carry, .. } = reader;
    drop((decoder, carry));
    if !end.hung_up {
        // Boxed, since it would make room for itself in every idle connection's task.
        let _ = Box::pin(timeout(CLOSE_LINGER, linger(&shard, read.into_tcp()))).await;
    }
    drop(served);
}

/// Reads what still comes, so that the kernel does not answer it with a reset that overtakes our last frames.
async fn linger(shard: &Shard, read: OwnedReadHalf) {
    let mut left = CLOSE_LINGER_BYTES;
    while left > 0 && read.readable().await.is_ok() {
        let mut scratch = take_scratch(shard);
        let result = read.try_read(&mut scratch);
        shard.scratch.set(Some(scratch));
        match result {
            Ok(0) => return,
            Ok(count) => {
                left = left.saturating_sub(count);
                // Others send on, too, as fast as it is read.
                yield_now().await;
            }
            Err(error) if error.kind() != ErrorKind::WouldBlock => return,
            Err(_) => {}
        }
    }
}

/// The buffer that the shard's connections read into, each in its turn.
pub(crate) fn take_scratch(shard: &Shard) -> Box<[u8]> {
    shard.scratch.take().unwrap_or_else(|| vec![0; READ_BUFFER].into_boxed_slice())
}

/// However the task ends, the connection does too.
struct CloseGuard<'a>(&'a Rc<Connection>);

impl Drop for CloseGuard<'_> {
    fn drop(&mut self) {
        self.0.shard.metrics.websockets.decrement();
        // Without a panic it is a server that stops before it has closed all connections: their sessions are kept.
        let panicked = std::thread::panicking();
        self.0.close(if panicked { DisconnectReason::HandlerPanic } else { DisconnectReason::ServerShutdown });
    }
}

struct End {
    reason: DisconnectReason,
    code: Option<CloseCode>,
    /// The client's side of the stream has ended.
    hung_up: bool,
}

impl From<DisconnectReason> for End {
    fn from(reason: DisconnectReason) -> Self {
        Self { reason, code: None, hung_up: false }
    }
}

/// The client has come back on another connection.
fn resumed() -> End {
    DisconnectReason::SessionResumed.into()
}

struct Reader {
    read: ReadHalf,
    decoder: Decoder,
    /// Bytes that are read but not handled: the beginning of a frame, or what came while the connection was paused.
    carry: Vec<u8>,
    /// There may be whole frames among them.
    stopped: bool,
}

impl Reader {
    fn poll(&mut self, connection: &Rc<Connection>, cx: &mut Context<'_>) -> Poll<End> {
        connection.set_reader(cx.waker());
        // Writing first: what a client does not take must not grow by what it sends.
        while connection.is_blocked() && !connection.is_closed() {
            match self.read.tcp().as_ref().poll_write_ready(cx) {
                Poll::Ready(Ok(())) => connection.flush(),
                Poll::Ready(Err(_)) => return Poll::Ready(DisconnectReason::TransportError.into()),
                Poll::Pending => break,
            }
        }
        connection.turn(|| self.poll_read(connection, cx))
    }

    fn poll_read(&mut self, connection: &Rc<Connection>, cx: &mut Context<'_>) -> Poll<End> {
        let mut has_begun = false;
        for _ in 0..READS_PER_TURN {
            if connection.is_closed() {
                // Closed from elsewhere: the reason is told already.
                return Poll::Ready(DisconnectReason::TransportClose.into());
            }
            if connection.is_paused() {
                return if connection.is_handed_over() { Poll::Ready(resumed()) } else { Poll::Pending };
            }
            if !std::mem::replace(&mut has_begun, true) && !connection.begin_slice() {
                return Poll::Pending;
            }
            if std::mem::take(&mut self.stopped) {
                if let Err(end) = self.handle(connection, None) {
                    return Poll::Ready(end);
                }
                if self.stopped {
                    break;
                }
            }
            let mut scratch = take_scratch(&connection.shard);
            let result = self.read_and_handle(connection, cx, &mut scratch);
            connection.shard.scratch.set(Some(scratch));
            match result {
                // A client that fills whole buffers lets others have their turn after each.
                Poll::Ready(Ok(was_full)) if was_full || self.stopped => break,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending if connection.is_handed_over() && self.has_read_all() => return Poll::Ready(resumed()),
                Poll::Pending => return Poll::Pending,
            }
        }
        // More may be there; what this turn caused leaves first, and others get theirs.
        if !connection.is_waiting_for_turn() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Whether the kernel has nothing more of the client. The runtime may not have heard yet of what it has.
    fn has_read_all(&self) -> bool {
        recv(self.read.tcp().as_ref(), &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT) == Err(Errno::AGAIN)
    }

    /// Reads once; true if as much came as could.
    fn read_and_handle(
        &mut self,
        connection: &Rc<Connection>,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Poll<Result<bool, End>> {
        let mut buffer = ReadBuf::new(scratch);
        if ready!(Pin::new(&mut self.read).poll_read(cx, &mut buffer)).is_err() {
            return Poll::Ready(Err(End { reason: DisconnectReason::TransportError, code: None, hung_up: true }));
        }
        let input = buffer.filled_mut();
        if input.is_empty() {
            return Poll::Ready(Err(End { reason: DisconnectReason::TransportClose, code: None, hung_up: true }));
        }
        connection.shard.metrics.bytes_read.add(input.len() as u64);
        let was_full = input.len() == READ_BUFFER;
        Poll::Ready(self.handle(connection, Some(input)).map(|()| was_full))
    }

    /// Handles the frames that are whole and keeps the rest.
    fn handle(&mut self, connection: &Rc<Connection>, input: Option<&mut [u8]>) -> Result<(), End> {
        if self.carry.is_empty() {
            // Also with nothing, which lets the decoder give back a message's memory.
            let input = input.unwrap_or_default();
            let used = handle_frames(&mut self.decoder, connection, input, &mut self.stopped)?;
            self.carry.extend_from_slice(input.get(used..).unwrap_or_default());
        } else {
            self.carry.extend_from_slice(input.as_deref().unwrap_or_default());
            let used = handle_frames(&mut self.decoder, connection, &mut self.carry, &mut self.stopped)?;
            if used == self.carry.len() {
                self.carry = Vec::new();
            } else {
                self.carry.drain(..used);
                if self.carry.len() < self.carry.capacity() / 4 {
                    self.carry.shrink_to_fit();
                }
            }
        }
        connection.hold(self.carry.capacity() + self.decoder.held())?;
        Ok(())
    }
}

fn handle_frames(
    decoder: &mut Decoder,
    connection: &Rc<Connection>,
    input: &mut [u8],
    stopped: &mut bool,
) -> Result<usize, End> {
    let mut used = 0;
    // The last call, with nothing left, lets the decoder give back a fragmented message's memory.
    while let Some(rest) = input.get_mut(used..) {
        let next = decoder.next(rest).map_err(|error| {
            tracing::debug!(%error, "bad websocket frame");
            let reason = match error.close_code() {
                CloseCode::TOO_BIG => DisconnectReason::PayloadTooLarge,
                _ => DisconnectReason::ParseError,
            };
            End { reason, code: Some(error.close_code()), hung_up: false }
        })?;
        let Some((consumed, message)) = next else { break };
        connection.pay()?;
        match message {
            Message::Text(text) => match TextPacket::decode(text).map_err(|_| DisconnectReason::ParseError)? {
                TextPacket::Packet(packet) => connection.on_text(packet)?,
                TextPacket::Binary(data) => connection.on_binary(&data)?,
            },
            Message::Binary(data) => connection.on_binary(data)?,
            Message::Ping(data) => connection.queue_uncounted(Rc::new(Frame::pong(data))),
            Message::Close(_) => return Err(DisconnectReason::TransportClose.into()),
            Message::Fragment | Message::Pong => {}
        }
        used += consumed;
        if !connection.goes_on()? || connection.is_paused() || connection.is_over_soft_limit() {
            *stopped = true;
            break;
        }
    }
    Ok(used)
}

/// Writes what waits, as much as the kernel takes. The runtime is not asked first whether it takes any: a pass over
/// thousands of connections would fetch its books on each from memory only to hear that there is room.
pub(crate) fn flush(stream: &OwnedWriteHalf, outbox: &mut Outbox, metrics: &ShardMetrics) -> Flushed {
    if outbox.is_abandoned() {
        return Flushed::Broken;
    }
    let mut progress = false;
    while !outbox.is_empty() {
        let result = send_next(stream, outbox, metrics);
        match result {
            Ok(0) => return Flushed::Broken,
            Ok(written) => {
                outbox.advance(written);
                progress = true;
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                // So that the runtime tells when there is room again.
                let _ = stream.as_ref().try_io(Interest::WRITABLE, || Err::<(), _>(ErrorKind::WouldBlock.into()));
                return if progress { Flushed::Some } else { Flushed::Nothing };
            }
            Err(_) => return Flushed::Broken,
        }
    }
    Flushed::All
}

/// One system call. Not `write`, which fetches the books of files from memory before it finds that this is a socket:
/// of a broadcast's cost that was a twentieth.
pub(crate) fn send_one(stream: &OwnedWriteHalf, bytes: &[u8], metrics: &ShardMetrics) -> Result<usize, Errno> {
    count(send(stream.as_ref(), bytes, NO_SIGNAL), metrics)
}

/// The same for what waits. Small frames are put together first: that takes less than telling the kernel where each is.
fn send_next(stream: &OwnedWriteHalf, outbox: &Outbox, metrics: &ShardMetrics) -> Result<usize, Errno> {
    if let Some(one) = outbox.only() {
        return send_one(stream, one, metrics);
    }
    let mut together = [0; SMALL_WRITE];
    if let Some(all) = outbox.copy_to(&mut together) {
        return send_one(stream, all, metrics);
    }
    count(sendmsg(stream.as_ref(), &outbox.gather(), &mut SendAncillaryBuffer::default(), NO_SIGNAL), metrics)
}

fn count(result: Result<usize, Errno>, metrics: &ShardMetrics) -> Result<usize, Errno> {
    if let Ok(written) = result {
        metrics.writes.increment();
        metrics.bytes_written.add(written as u64);
    }
    result
}

/// Says goodbye if that can be done at once, and ends our side of the stream.
pub(crate) fn close(
    stream: &WriteHalf,
    connection: &Rc<Connection>,
    reason: DisconnectReason,
    code: Option<CloseCode>,
    outbox: &mut Outbox,
) {
    let code = code.unwrap_or(match reason {
        DisconnectReason::ServerShutdown => CloseCode::GOING_AWAY,
        DisconnectReason::ParseError => CloseCode::PROTOCOL,
        DisconnectReason::PayloadTooLarge => CloseCode::TOO_BIG,
        DisconnectReason::TooManyEvents => CloseCode::POLICY,
        DisconnectReason::HandlerPanic => CloseCode::INTERNAL,
        _ => CloseCode::NORMAL,
    });
    // What was queued before may still leave; behind half a frame no other may begin.
    if stream.flush(outbox, &connection.shard.metrics) == Flushed::All {
        stream.write_last(&encode_close(code, reason.as_str()));
    }
    // The caller drops the writing half, which ends our side of the stream after what is written.
}
