//! The bytes of an upgraded connection on their way between its client and the node that has its session.

use std::{
    cell::Cell,
    future::poll_fn,
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use crate::{
    admission::StreamPermit,
    config::{CLOSE_LINGER, READS_PER_TURN},
    shard::Shard,
    stream::Stream,
};

/// The connection to the other node after its answer.
pub(super) struct OtherEnd {
    pub(super) stream: TcpStream,
    /// The bytes that came with the answer.
    pub(super) read: Bytes,
    pub(super) _permit: StreamPermit,
}

/// Passes bytes both ways until one side ends its data or this node leaves. The other side then has a moment to end its
/// own data, so that the last bytes arrive. `leftover` holds the bytes that came with the client's request.
///
/// The session's node sends heartbeats and closes the connection of a client that does not answer. So a connection
/// without a byte for longer than that is given up: both its ends are gone.
pub(super) async fn run(shard: &Shard, mut client: Stream, leftover: Bytes, other: OtherEnd) {
    let OtherEnd { stream: mut node, read, _permit } = other;
    let has_moved = Cell::new(false);
    let mut up = Direction::new(leftover, &has_moved);
    let mut down = Direction::new(read, &has_moved);
    let mut pass = |cx: &mut Context<'_>, is_over: fn(bool, bool) -> bool| {
        // Both are polled each time, so that both wake the task.
        let (up_ended, down_ended) =
            (up.poll(cx, shard, &mut client, &mut node), down.poll(cx, shard, &mut node, &mut client));
        match (up_ended, down_ended) {
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (up, down) if is_over(up.is_ready(), down.is_ready()) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    };
    let passing = async {
        loop {
            let first_end = poll_fn(|cx| pass(cx, |up, down| up || down));
            match timeout(shard.config.longest_silence(), first_end).await {
                Ok(ended) => break ended?,
                Err(_) if has_moved.take() => {}
                Err(_) => return Err(ErrorKind::TimedOut.into()),
            }
        }
        let last_bytes = timeout(CLOSE_LINGER, poll_fn(|cx| pass(cx, |up, down| up && down)));
        last_bytes.await.unwrap_or(Ok(()))
    };
    let ended: io::Result<()> = tokio::select! {
        biased;
        ended = passing => ended,
        () = shard.time_to_leave() => Ok(()),
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "forwarded websocket ended");
    }
}

/// The bytes from one side to the other.
struct Direction<'a> {
    /// Bytes that the receiver has not taken yet: at most one buffer.
    pending: Bytes,
    /// The sender has ended its data.
    has_ended: bool,
    /// The receiver knows that the data has ended.
    is_done: bool,
    /// Set when bytes come, in either direction.
    has_moved: &'a Cell<bool>,
}

impl<'a> Direction<'a> {
    fn new(pending: Bytes, has_moved: &'a Cell<bool>) -> Self {
        Self { pending, has_ended: false, is_done: false, has_moved }
    }

    /// Passes bytes on. Completes at the end of the data.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        shard: &Shard,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        if self.is_done {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..READS_PER_TURN {
            while !self.pending.is_empty() {
                match ready!(Pin::new(&mut *to).poll_write(cx, &self.pending))? {
                    0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                    written => self.pending.advance(written),
                }
            }
            if self.has_ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.is_done = true;
                return Poll::Ready(Ok(()));
            }
            ready!(Pin::new(&mut *to).poll_flush(cx))?;
            // The shard's buffer: an idle connection holds none of its own.
            let mut scratch = shard.take_scratch();
            let passed = self.read_and_write(cx, from, to, &mut scratch);
            shard.scratch.set(Some(scratch));
            ready!(passed)?;
        }
        // Other connections get their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once, and writes what the receiver takes at once.
    fn read_and_write(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        scratch: &mut [u8],
    ) -> Poll<io::Result<()>> {
        let mut buffer = ReadBuf::new(scratch);
        match ready!(Pin::new(from).poll_read(cx, &mut buffer)) {
            // The end of a stream without TLS's `close_notify` is an end like any other.
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Poll::Ready(Err(error)),
            _ => {}
        }
        let read = buffer.filled();
        self.has_moved.set(true);
        self.has_ended = read.is_empty();
        if !self.has_ended {
            let written = match Pin::new(to).poll_write(cx, read) {
                Poll::Ready(written) => written?,
                Poll::Pending => 0,
            };
            self.pending = Bytes::copy_from_slice(read.get(written..).unwrap_or_default());
        }
        Poll::Ready(Ok(()))
    }
}
