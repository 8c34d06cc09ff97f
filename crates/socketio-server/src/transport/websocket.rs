//! The WebSocket transport: reads the frames of a connection.

use std::{
    io::ErrorKind,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};
use socketio_protocol::{
    engine_io::TextPacket,
    websocket::{CloseCode, Decoder, Message},
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::tcp::OwnedReadHalf,
    task::yield_now,
    time::timeout,
};

use crate::{
    DisconnectReason,
    config::{CLOSE_LINGER, CLOSE_LINGER_BYTES, READ_BUFFER, READS_PER_TURN},
    connection::{Connection, Origin},
    delivery::frame::Frame,
    shard::{Shard, StreamGuard},
    stream::{ReadHalf, Stream},
    transport::open_packet,
    writer::Writer,
};

/// Opens a session that begins as a WebSocket. The `answer` to the request is still to be written. `leftover` holds the
/// bytes that came with the request. Returns the future that serves the connection until it ends.
pub(crate) fn open(
    shard: &Rc<Shard>,
    origin: Origin,
    stream: Stream,
    answer: Vec<u8>,
    leftover: &[u8],
    served: StreamGuard,
) -> impl Future<Output = ()> + use<> {
    let (read, write) = stream.into_split();
    let connection = Connection::open(shard, origin, Writer::WebSocket(write));
    let sid = shard.entropy.borrow_mut().session_id(shard.id);
    connection.batch(|| {
        connection.queue_uncounted(Rc::new(Frame::ahead(answer)));
        connection.queue_uncounted(Rc::new(Frame::text(|out| open_packet(shard, sid.as_str(), &[], out))));
    });
    serve(connection, read, leftover, served)
}

/// Serves a connection until it ends.
pub(crate) fn serve(
    connection: Rc<Connection>,
    read: ReadHalf,
    leftover: &[u8],
    served: StreamGuard,
) -> impl Future<Output = ()> + use<> {
    connection.shard.metrics.websockets.increment();
    let decoder = Decoder::new(connection.shard.config.max_payload);
    let reader = Reader { read, decoder, carry: leftover.to_vec(), stopped: !leftover.is_empty() };
    run(connection, reader, served)
}

async fn run(connection: Rc<Connection>, mut reader: Reader, served: StreamGuard) {
    let guard = CloseGuard(&connection);
    let end = std::future::poll_fn(|cx| reader.poll(&connection, cx)).await;
    if connection.is_in_many_rooms() {
        // Boxed for the same reason as below.
        Box::pin(connection.shard.turn()).await;
    }
    connection.close_with(end.reason, end.code);
    drop(guard);
    let shard = connection.shard.clone();
    drop(connection);
    // The connection's buffers are released before the wait below.
    let Reader { read, decoder, carry, .. } = reader;
    drop((decoder, carry));
    if !end.hung_up {
        // Boxed, since it would otherwise take space in every idle connection's task.
        let _ = Box::pin(timeout(CLOSE_LINGER, linger(&shard, read.into_tcp()))).await;
    }
    drop(served);
}

/// Reads the remaining input. Otherwise the kernel answers it with a reset, which overtakes the last frames.
async fn linger(shard: &Shard, read: OwnedReadHalf) {
    let mut left = CLOSE_LINGER_BYTES;
    while left > 0 && read.readable().await.is_ok() {
        let mut scratch = shard.take_scratch();
        let result = read.try_read(&mut scratch);
        shard.scratch.set(Some(scratch));
        match result {
            Ok(0) => return,
            Ok(count) => {
                left = left.saturating_sub(count);
                // Other connections get their turn, even if this client sends as fast as it is read.
                yield_now().await;
            }
            Err(error) if error.kind() != ErrorKind::WouldBlock => return,
            Err(_) => {}
        }
    }
}

/// Closes the connection when the task ends, for any reason.
struct CloseGuard<'a>(&'a Rc<Connection>);

impl Drop for CloseGuard<'_> {
    fn drop(&mut self) {
        self.0.shard.metrics.websockets.decrement();
        // Without a panic, the server stops before it has closed all connections. Their sessions are kept.
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

/// The end of a connection whose client has come back on another one.
fn resumed() -> End {
    DisconnectReason::SessionResumed.into()
}

struct Reader {
    read: ReadHalf,
    decoder: Decoder,
    /// Bytes that are read but not handled: the beginning of a frame, or bytes that came while the connection was
    /// paused.
    carry: Vec<u8>,
    /// `carry` may hold whole frames.
    stopped: bool,
}

impl Reader {
    fn poll(&mut self, connection: &Rc<Connection>, cx: &mut Context<'_>) -> Poll<End> {
        connection.set_reader(cx.waker());
        // Writing comes first: the outbox of a client that does not take its frames must not grow by the client's
        // input.
        while connection.is_blocked() && !connection.is_closed() {
            match self.read.tcp().as_ref().poll_write_ready(cx) {
                Poll::Ready(Ok(())) => connection.flush(),
                Poll::Ready(Err(_)) => return Poll::Ready(DisconnectReason::TransportError.into()),
                Poll::Pending => break,
            }
        }
        connection.batch(|| self.poll_read(connection, cx))
    }

    fn poll_read(&mut self, connection: &Rc<Connection>, cx: &mut Context<'_>) -> Poll<End> {
        let mut has_begun = false;
        for _ in 0..READS_PER_TURN {
            if connection.is_closed() {
                // The connection was closed elsewhere, and the reason is already reported.
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
            let mut scratch = connection.shard.take_scratch();
            let result = self.read_and_handle(connection, cx, &mut scratch);
            connection.shard.scratch.set(Some(scratch));
            match result {
                // A client that fills whole buffers gives way to other clients after each buffer.
                Poll::Ready(Ok(was_full)) if was_full || self.stopped => break,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending if connection.is_handed_over() && self.has_read_all() => return Poll::Ready(resumed()),
                Poll::Pending => return Poll::Pending,
            }
        }
        // More input may be ready. The output of this batch leaves first, and other connections get their turns.
        if !connection.is_waiting_for_turn() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Whether the kernel has no more bytes of the client. The runtime may not know yet of bytes that the kernel has.
    fn has_read_all(&self) -> bool {
        recv(self.read.tcp().as_ref(), &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT) == Err(Errno::AGAIN)
    }

    /// Reads once. Returns `true` if the read filled the buffer.
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

    /// Handles the complete frames and keeps the rest.
    fn handle(&mut self, connection: &Rc<Connection>, input: Option<&mut [u8]>) -> Result<(), End> {
        if self.carry.is_empty() {
            // An empty input also goes to the decoder, which can then release a message's memory.
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
    // The last call has no input left. It lets the decoder release a fragmented message's memory.
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
        connection.count_message()?;
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
