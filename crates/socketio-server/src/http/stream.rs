//! The connection that hyper reads, and the state of a request's headers.

use std::{
    cell::Cell,
    io::{self, ErrorKind, IoSlice},
    net::IpAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::{
    Limit,
    admission::HttpPermit,
    config::SMALL_READ,
    http::{BoxError, ResponseBody},
    shard::Shard,
    transport::{Stream, read_at_most, take_scratch},
};

/// Polls that a handler gets to take its body. A body that has arrived reaches the handler at its next poll, or after a
/// few turns of other tasks.
const END_PATIENCE: u8 = 16;

/// The received part of a request's headers, and their deadline. hyper holds the headers, but does not report these.
pub(super) struct Headers {
    shard: Rc<Shard>,
    peer: IpAddr,
    place: Rc<HttpPermit>,
    count: Cell<usize>,
    /// The bytes counted in the shard's account.
    held: Cell<usize>,
    /// No request is under way.
    are_awaited: Cell<bool>,
    /// Some header bytes have arrived, or the headers are the connection's first: the connection is not idle.
    have_begun: Cell<bool>,
    deadline: Cell<Instant>,
    /// The request has its answer, but the answer is not written yet.
    is_answering: Cell<bool>,
    /// The answer's last byte is on its way to the stream.
    answer_ends: Cell<bool>,
    /// Remaining polls of the handler before the end of the client's data counts as a cut-off body.
    patience: Cell<u8>,
    /// The last answer is written together with the first data after HTTP.
    is_held_back: Cell<bool>,
}

impl Headers {
    /// Creates the state for a connection with this peer address. The first headers must arrive by `deadline`, if there
    /// is one.
    pub(super) fn new(shard: &Rc<Shard>, peer: IpAddr, place: &Rc<HttpPermit>, deadline: Option<Instant>) -> Rc<Self> {
        let deadline = deadline.unwrap_or_else(|| Instant::now() + shard.config.header_timeout);
        Rc::new(Self {
            shard: shard.clone(),
            peer,
            place: place.clone(),
            count: Cell::new(0),
            held: Cell::new(0),
            are_awaited: Cell::new(true),
            have_begun: Cell::new(true),
            deadline: Cell::new(deadline),
            is_answering: Cell::new(false),
            answer_ends: Cell::new(false),
            patience: Cell::new(0),
            is_held_back: Cell::new(false),
        })
    }

    /// Records that the headers are complete.
    pub(super) fn came(&self, has_body: bool) {
        self.place.request_came(has_body);
        self.are_awaited.set(false);
        self.is_answering.set(false);
        self.answer_ends.set(false);
        self.patience.set(END_PATIENCE);
        self.release();
    }

    /// Records that the request has its answer, and returns the body to write.
    pub(super) fn answer_with(self: &Rc<Self>, body: ResponseBody) -> AnswerBody {
        self.is_answering.set(true);
        AnswerBody { body, headers: self.clone() }
    }

    /// Whether the server still has to answer a request.
    pub(super) fn lack_answer(&self) -> bool {
        self.place.owes_answer() && !self.is_answering.get()
    }

    /// Records that all pending output is written.
    fn flushed(&self) {
        if self.answer_ends.take() {
            self.answered();
        }
    }

    /// Records that the request is answered. The next request's headers are now awaited.
    fn answered(&self) {
        self.place.answered();
        self.are_awaited.set(true);
        self.have_begun.set(false);
        self.deadline.set(Instant::now() + self.shard.config.keep_alive_timeout);
    }

    /// Holds the next answer back, to write it together with the data after it. This saves a write and a packet for
    /// every WebSocket.
    pub(super) fn hold_answer_back(&self) {
        self.is_held_back.set(true);
    }

    /// Releases the bytes counted for the headers.
    fn release(&self) {
        self.count.set(0);
        self.shard.hold(self.peer, self.held.take(), 0);
    }

    pub(super) fn are_awaited(&self) -> bool {
        self.are_awaited.get()
    }

    pub(super) fn have_begun(&self) -> bool {
        self.have_begun.get()
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline.get()
    }

    /// Prepares for the next read of headers.
    fn go_on(&self) -> Result<(), Limit> {
        // Headers that arrive in one piece are not counted. Most do, and the server does not wait for them.
        if self.count.get() > 0 { self.place.request_began() } else { Ok(()) }
    }

    fn add(&self, read: usize) -> Result<(), Limit> {
        if read > 0 && !self.have_begun.replace(true) {
            self.deadline.set(Instant::now() + self.shard.config.header_timeout);
        }
        let count = self.count.get() + read;
        self.count.set(count);
        if count <= SMALL_READ {
            return Ok(());
        }
        // hyper's buffer grows in the same way.
        let held = count.next_power_of_two();
        let before = self.held.replace(held);
        // The shard has already counted that the limit was met.
        if self.shard.hold(self.peer, before, held) { Ok(()) } else { Err(Limit::UnfinishedBytes) }
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        self.shard.hold(self.peer, self.held.get(), 0);
    }
}

/// An answer's body. hyper drops it after it has taken the last part.
pub(super) struct AnswerBody {
    body: ResponseBody,
    headers: Rc<Headers>,
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
        self.headers.answer_ends.set(true);
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
    stream: Stream,
    headers: Rc<Headers>,
    has_ended: bool,
    /// The bytes held back.
    held_back: Vec<u8>,
}

impl HttpStream {
    pub(super) fn new(stream: Stream, headers: Rc<Headers>) -> Self {
        Self { stream, headers, has_ended: false, held_back: Vec::new() }
    }

    pub(super) fn into_stream(self) -> Stream {
        self.stream
    }

    /// Takes the bytes that must be written before anything else.
    pub(super) fn take_held_back(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held_back)
    }

    fn holds_back(&self) -> bool {
        self.headers.is_held_back.get()
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
        self.headers.release();
    }

    /// Reads and discards bytes. Returns 0 at the end of the stream.
    pub(super) async fn read_and_forget(&mut self, shard: &Shard) -> io::Result<usize> {
        std::future::poll_fn(|cx| {
            let mut scratch = take_scratch(shard);
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
            self.headers.shard.metrics.limit_met(limit);
        }
        io::Error::new(io::ErrorKind::QuotaExceeded, limit.as_str())
    }
}

impl AsyncRead for HttpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let place = &this.headers.place;
        let is_header = !place.is_busy();
        if is_header && let Err(limit) = this.headers.go_on() {
            return Poll::Ready(Err(this.refuse(limit)));
        }
        if !this.has_ended {
            let read = if place.reads_body() {
                let before = buffer.filled().len();
                ready!(Pin::new(&mut this.stream).poll_read(cx, buffer)).or_else(without_notice)?;
                buffer.filled().len() - before
            } else {
                ready!(read_at_most(Pin::new(&mut this.stream), SMALL_READ, cx, buffer))
                    .or_else(|error| without_notice(error).map(|()| 0))?
            };
            if read > 0 {
                let counted = if is_header { this.headers.add(read) } else { Ok(()) };
                return Poll::Ready(counted.map_err(|limit| this.refuse(limit)));
            }
            this.has_ended = true;
        }
        if place.ignores_end() {
            place.hide_end_from(cx.waker());
            return Poll::Pending;
        }
        // hyper may already have the whole body while the handler does not.
        let patience = this.headers.patience.get();
        if place.owes_answer() && patience > 0 {
            this.headers.patience.set(patience - 1);
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
        if this.holds_back() {
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
        if this.holds_back() {
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
        this.headers.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
