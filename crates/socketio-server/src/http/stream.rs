//! The connection as hyper reads and writes it.

use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{BoxError, ResponseBody, exchange::Exchange};
use crate::{
    Limit,
    config::SMALL_READ,
    shard::Shard,
    stream::{Stream, read_at_most},
};

/// An answer's body. hyper drops it after it has taken the last part.
pub(super) struct AnswerBody {
    body: ResponseBody,
    exchange: Rc<Exchange>,
}

impl AnswerBody {
    /// The body of the answer that is written now.
    pub(super) fn new(body: ResponseBody, exchange: Rc<Exchange>) -> Self {
        exchange.begin_answer();
        Self { body, exchange }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.exchange.answer_ends();
    }
}

/// The connection that hyper reads. Header bytes are counted, and are read in small pieces. While a request is in
/// progress and a part of the next request has arrived, hyper reads no further. So hyper holds at most one piece of the
/// next request.
///
/// hyper takes the end of a client's data for the end of the connection. So this end is hidden from hyper while the
/// client waits for an answer: `printf … | nc` gets an answer, too. The exception is a client that waits for a long
/// time and would come back.
pub(super) struct HttpStream {
    /// Bytes that were read before.
    first: Bytes,
    stream: Stream,
    exchange: Rc<Exchange>,
    has_ended: bool,
    /// The bytes held back.
    held_back: Vec<u8>,
}

impl HttpStream {
    /// `first` holds the bytes that were already read.
    pub(super) fn new(first: Bytes, stream: Stream, exchange: Rc<Exchange>) -> Self {
        Self { first, stream, exchange, has_ended: false, held_back: Vec::new() }
    }

    pub(super) fn into_stream(self) -> Stream {
        self.stream
    }

    /// Takes the bytes that must be written before anything else.
    pub(super) fn take_held_back(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held_back)
    }

    /// Whether the client has ended its side of the stream.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Whether unread bytes have arrived.
    pub(super) fn has_more(&self) -> bool {
        self.stream.has_more()
    }

    /// Releases the bytes counted for the headers: hyper and its buffer are gone.
    pub(super) fn forget_headers(&self) {
        self.exchange.release();
    }

    /// Reads and discards bytes. Returns 0 at the end of the stream.
    pub(super) async fn read_and_forget(&mut self, shard: &Shard) -> io::Result<usize> {
        std::future::poll_fn(|cx| {
            let mut scratch = shard.take_scratch();
            let mut buffer = ReadBuf::new(&mut scratch);
            let result = Pin::new(&mut self.stream).poll_read(cx, &mut buffer);
            let count = buffer.filled().len();
            shard.scratch.set(Some(scratch));
            result.map_ok(|()| count)
        })
        .await
    }

    fn refuse(&self, limit: Limit) -> io::Error {
        if limit != Limit::UnfinishedBytes {
            self.exchange.shard.metrics.limit_met(limit);
        }
        io::Error::new(io::ErrorKind::QuotaExceeded, limit.as_str())
    }
}

impl AsyncRead for HttpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let permit = &this.exchange.permit;
        let is_header = !permit.is_busy();
        if is_header && let Err(limit) = this.exchange.before_read() {
            return Poll::Ready(Err(this.refuse(limit)));
        }
        if !this.has_ended {
            let read = if !this.first.is_empty() {
                let first = this.first.split_to(this.first.len().min(buffer.remaining()));
                buffer.put_slice(&first);
                first.len()
            } else if permit.reads_body() {
                let before = buffer.filled().len();
                ready!(Pin::new(&mut this.stream).poll_read(cx, buffer)).or_else(without_notice)?;
                buffer.filled().len() - before
            } else {
                ready!(read_at_most(Pin::new(&mut this.stream), SMALL_READ, cx, buffer))
                    .or_else(|error| without_notice(error).map(|()| 0))?
            };
            if read > 0 {
                let counted = if is_header { this.exchange.count_header_bytes(read) } else { Ok(()) };
                return Poll::Ready(counted.map_err(|limit| this.refuse(limit)));
            }
            this.has_ended = true;
        }
        if permit.ignores_end() {
            permit.hide_end_from(cx.waker());
            return Poll::Pending;
        }
        // hyper may already have the whole body while the handler does not.
        if permit.owes_answer() && this.exchange.is_patient() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

/// Accepts the end of a stream without TLS's `close_notify`. A request states its length, so a cut-off part is noticed.
fn without_notice(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::UnexpectedEof { Ok(()) } else { Err(error) }
}

impl AsyncWrite for HttpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.exchange.holds_back() {
            this.held_back.extend_from_slice(data);
            return Poll::Ready(Ok(data.len()));
        }
        Pin::new(&mut this.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.exchange.holds_back() {
            data.iter().for_each(|data| this.held_back.extend_from_slice(data));
            return Poll::Ready(Ok(data.iter().map(|data| data.len()).sum()));
        }
        Pin::new(&mut this.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper calls this after it has written all its output.
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        this.exchange.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
