//! A connection as hyper reads it, and what it has of a request's headers.

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
    admission::HttpPlace,
    config::SMALL_READ,
    http::{BoxError, ResponseBody},
    shard::Shard,
    transport::{Stream, read_at_most, take_scratch},
};

/// A handler has a body that has come when it is polled again, or after a few turns of others.
const END_PATIENCE: u8 = 16;

/// What has come of a request's headers, and until when they have to. hyper, which has them, does not tell.
pub(super) struct Headers {
    shard: Rc<Shard>,
    peer: IpAddr,
    place: Rc<HttpPlace>,
    count: Cell<usize>,
    /// As the shard knows it.
    held: Cell<usize>,
    /// No request is under way.
    are_awaited: Cell<bool>,
    /// Some have come, or they are the first ones: the connection is not idle.
    have_begun: Cell<bool>,
    deadline: Cell<Instant>,
    /// The request has its answer, which is not written yet.
    is_answering: Cell<bool>,
    /// Its last byte is on its way to the stream.
    answer_ends: Cell<bool>,
    /// How often its handler may yet be polled before the end of what the client sends is taken for a body that was cut off.
    patience: Cell<u8>,
    /// The last answer is written with what comes after HTTP.
    is_held_back: Cell<bool>,
}

impl Headers {
    /// Of a connection whose other end has this address. The first ones have to come until `deadline`, if there is one.
    pub(super) fn new(shard: &Rc<Shard>, peer: IpAddr, place: &Rc<HttpPlace>, deadline: Option<Instant>) -> Rc<Self> {
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

    /// They are whole.
    pub(super) fn came(&self, has_body: bool) {
        self.place.request_came(has_body);
        self.are_awaited.set(false);
        self.is_answering.set(false);
        self.answer_ends.set(false);
        self.patience.set(END_PATIENCE);
        self.release();
    }

    /// The request has its answer, which is to be written.
    pub(super) fn answer_with(self: &Rc<Self>, body: ResponseBody) -> AnswerBody {
        self.is_answering.set(true);
        AnswerBody { body, headers: self.clone() }
    }

    /// Whether the server has yet to answer a request.
    pub(super) fn lack_answer(&self) -> bool {
        self.place.owes_answer() && !self.is_answering.get()
    }

    /// All that there was is written.
    fn flushed(&self) {
        if self.answer_ends.take() {
            self.answered();
        }
    }

    /// The request has its answer: the next one's are awaited.
    fn answered(&self) {
        self.place.answered();
        self.are_awaited.set(true);
        self.have_begun.set(false);
        self.deadline.set(Instant::now() + self.shard.config.keep_alive_timeout);
    }

    /// The answer that comes now goes out with what follows it: a write and a packet less for every WebSocket.
    pub(super) fn hold_answer_back(&self) {
        self.is_held_back.set(true);
    }

    /// Nothing is held of them any more.
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

    /// More is about to be read.
    fn go_on(&self) -> Result<(), Limit> {
        // Those that came in one piece are not counted: most do, and are not waited for.
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
        // As hyper's buffer grows.
        let held = count.next_power_of_two();
        let before = self.held.replace(held);
        // The shard has counted that it was met.
        if self.shard.hold(self.peer, before, held) { Ok(()) } else { Err(Limit::UnfinishedBytes) }
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        self.shard.hold(self.peer, self.held.get(), 0);
    }
}

/// An answer's body. hyper drops it when it has taken the last of it.
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

/// A connection as hyper reads it. What is read of headers is counted, in small pieces: hyper does not read on while a request
/// is under way and some of the next is there, so a piece is all that it holds of that.
///
/// hyper takes the end of what a client sends for the end of the client. So it is not told of it while it waits for an answer, unless
/// the client waits for long and would come back: `printf … | nc` gets an answer too.
pub(super) struct HttpStream {
    stream: Stream,
    headers: Rc<Headers>,
    has_ended: bool,
    /// What was held back.
    held_back: Vec<u8>,
}

impl HttpStream {
    pub(super) fn new(stream: Stream, headers: Rc<Headers>) -> Self {
        Self { stream, headers, has_ended: false, held_back: Vec::new() }
    }

    pub(super) fn into_stream(self) -> Stream {
        self.stream
    }

    /// What is to go out before anything else is written.
    pub(super) fn take_held_back(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held_back)
    }

    fn holds_back(&self) -> bool {
        self.headers.is_held_back.get()
    }

    /// Whether the client has sent all that it will.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Whether something has come that is not read.
    pub(super) fn has_more(&self) -> bool {
        self.stream.has_more()
    }

    /// hyper, and what it has read, is gone.
    pub(super) fn forget_headers(&self) {
        self.headers.release();
    }

    /// Reads what nobody wants; 0 at the end.
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
        // hyper may have the whole body by now, and the handler not yet.
        let patience = this.headers.patience.get();
        if place.owes_answer() && patience > 0 {
            this.headers.patience.set(patience - 1);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

/// An end without TLS's `close_notify` is one all the same: a request says how long it is, so nobody can cut a part off.
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
        // hyper calls it when it has written all that it had.
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        this.headers.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
