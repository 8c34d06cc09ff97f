//! A connection as hyper reads it, and what it has of a request's headers.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    net::IpAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    Limit,
    admission::HttpPlace,
    config::SMALL_READ,
    shard::Shard,
    transport::{Stream, read_at_most},
};

/// What has come of a request's headers. hyper, which has them, does not tell.
pub(super) struct Headers {
    shard: Rc<Shard>,
    peer: IpAddr,
    place: Rc<HttpPlace>,
    count: Cell<usize>,
    /// As the shard knows it.
    held: Cell<usize>,
}

impl Headers {
    /// Of a connection whose other end has this address.
    pub(super) fn new(shard: &Rc<Shard>, peer: IpAddr, place: &Rc<HttpPlace>) -> Rc<Self> {
        let (count, held) = (Cell::new(0), Cell::new(0));
        Rc::new(Self { shard: shard.clone(), peer, place: place.clone(), count, held })
    }

    /// They are whole.
    pub(super) fn came(&self) {
        self.place.request_came();
        self.count.set(0);
        self.shard.hold(self.peer, self.held.take(), 0);
    }

    /// More is about to be read.
    fn go_on(&self) -> Result<(), Limit> {
        // Those that came in one piece are not counted: most do, and are not waited for.
        if self.count.get() > 0 { self.place.request_began() } else { Ok(()) }
    }

    fn add(&self, read: usize) -> Result<(), Limit> {
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

/// A connection as hyper reads it. What is read of headers is counted, in small pieces: hyper does not read on while a request
/// is under way and some of the next is there, so a piece is all that it holds of that.
pub(super) struct HttpStream {
    stream: Stream,
    headers: Rc<Headers>,
}

impl HttpStream {
    pub(super) fn new(stream: Stream, headers: Rc<Headers>) -> Self {
        Self { stream, headers }
    }

    pub(super) fn into_stream(self) -> Stream {
        self.stream
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
        if place.reads_body() {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        }
        let is_header = !place.is_busy();
        if is_header && let Err(limit) = this.headers.go_on() {
            return Poll::Ready(Err(this.refuse(limit)));
        }
        let read = ready!(read_at_most(Pin::new(&mut this.stream), SMALL_READ, cx, buffer))?;
        if is_header && let Err(limit) = this.headers.add(read) {
            return Poll::Ready(Err(this.refuse(limit)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
