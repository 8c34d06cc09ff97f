//! A client's TCP connection, plain or with TLS. HTTP reads and writes it as one [`Stream`]. A WebSocket uses its two
//! halves, which work on the socket directly and hold no buffers of their own.

mod tcp;
mod tls;

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, RawFd},
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustix::net::{RecvFlags, recv};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tokio_rustls::{rustls::ServerConnection, server::TlsStream};

use crate::{config::SMALL_READ, delivery::outbox::Outbox, metrics::ShardMetrics};
use tls::{TlsReadHalf, TlsWriteHalf};

/// A connection as HTTP uses it.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<Measured>>),
}

/// A connection with a limit on the bytes that it takes in during its TLS handshake. Afterwards there is no limit.
pub(crate) struct Measured {
    tcp: TcpStream,
    left: usize,
}

/// The read half of a WebSocket's connection.
pub(crate) enum ReadHalf {
    Plain(OwnedReadHalf),
    Tls(Box<TlsReadHalf>),
}

/// The write half of a WebSocket's connection. Its drop ends the server's side of the stream.
pub(crate) enum WriteHalf {
    Plain(OwnedWriteHalf),
    Tls(Box<TlsWriteHalf>),
}

/// A stream on its way to another shard.
pub(crate) struct Detached {
    tcp: std::net::TcpStream,
    session: Option<Box<ServerConnection>>,
}

/// The result of a flush of an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// The outbox is empty.
    All,
    /// The client took some bytes, and takes no more now.
    Some,
    /// The client takes no bytes now.
    Nothing,
    /// The outbox waits for the client's next poll.
    Waiting,
    /// The connection to the client is lost.
    Broken,
}

impl Stream {
    pub(crate) fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Plain(tcp) => split(tcp, None),
            Self::Tls(stream) => {
                let (stream, session) = stream.into_inner();
                split(stream.tcp, Some(session))
            }
        }
    }

    /// Whether some received bytes are not read yet.
    pub(crate) fn has_more(&self) -> bool {
        let tcp = match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(stream) => &stream.get_ref().0.tcp,
        };
        recv(tcp, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT).is_ok_and(|(_, length)| length > 0)
    }

    pub(crate) fn detach(self) -> io::Result<Detached> {
        let (tcp, session) = match self {
            Self::Plain(tcp) => (tcp, None),
            Self::Tls(stream) => {
                let (stream, session) = stream.into_inner();
                (stream.tcp, Some(Box::new(session)))
            }
        };
        Ok(Detached { tcp: tcp.into_std()?, session })
    }
}

impl Detached {
    /// Attaches the stream to the shard that received it.
    pub(crate) fn attach(self) -> io::Result<(ReadHalf, WriteHalf)> {
        Ok(split(TcpStream::from_std(self.tcp)?, self.session.map(|session| *session)))
    }
}

fn split(tcp: TcpStream, session: Option<ServerConnection>) -> (ReadHalf, WriteHalf) {
    let (read, write) = tcp.into_split();
    match session {
        None => (ReadHalf::Plain(read), WriteHalf::Plain(write)),
        Some(session) => {
            let (read, write) = tls::halves(read, write, session);
            (ReadHalf::Tls(Box::new(read)), WriteHalf::Tls(Box::new(write)))
        }
    }
}

impl ReadHalf {
    pub(crate) fn tcp(&self) -> &OwnedReadHalf {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => &tls.tcp,
        }
    }

    /// The plain TCP half, for a reader that ignores the meaning of the bytes.
    pub(crate) fn into_tcp(self) -> OwnedReadHalf {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.tcp,
        }
    }
}

impl WriteHalf {
    /// Writes as many of the waiting bytes as the kernel takes.
    // Inlined: a flush pass meets thousands of plain connections, for which only a comparison is left of this function.
    #[inline(always)]
    pub(crate) fn flush(&self, outbox: &mut Outbox, metrics: &ShardMetrics) -> Flushed {
        match self {
            Self::Plain(half) => tcp::flush(half, outbox, metrics),
            Self::Tls(tls) => tls.flush(outbox, metrics),
        }
    }

    /// Touches the memory that a write needs.
    #[inline(always)]
    pub(crate) fn prefetch(&self) -> RawFd {
        match self {
            Self::Plain(tcp) => tcp.as_ref().as_raw_fd(),
            Self::Tls(_) => -1,
        }
    }

    /// Writes frames ahead of the outbox. Returns the number of written bytes: 0 with TLS, whose records are filled
    /// from the outbox.
    #[inline(always)]
    pub(crate) fn write(&self, frames: &[u8], metrics: &ShardMetrics) -> usize {
        match self {
            // The flush that follows gets any error of the stream too.
            Self::Plain(half) => tcp::send_one(half, frames, metrics).unwrap_or_default(),
            Self::Tls(_) => 0,
        }
    }

    /// Writes a last frame after an empty outbox, if that is possible at once.
    pub(crate) fn write_last(&self, frame: &[u8]) {
        match self {
            Self::Plain(tcp) => {
                let _ = tcp.try_write(frame);
            }
            Self::Tls(tls) => tls.write_last(frame),
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Tls(tls) => tls.poll_read(cx, buffer),
        }
    }
}

impl Measured {
    pub(crate) fn new(tcp: TcpStream, bytes: usize) -> Self {
        Self { tcp, left: bytes }
    }

    pub(crate) fn is_used_up(&self) -> bool {
        self.left == 0
    }

    pub(crate) fn be_endless(&mut self) {
        self.left = usize::MAX;
    }
}

impl AsyncRead for Measured {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.left == usize::MAX {
            return Pin::new(&mut this.tcp).poll_read(cx, buffer);
        }
        if this.left == 0 {
            // Nothing wakes the task. Either the handshake is done and the bytes that came with it are enough for now,
            // or it is refused.
            return Poll::Pending;
        }
        let read = ready!(read_at_most(Pin::new(&mut this.tcp), this.left, cx, buffer))?;
        this.left -= read;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Measured {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}

/// Reads at most `most` bytes, and at most [`SMALL_READ`]. Returns the number of bytes.
pub(crate) fn read_at_most(
    stream: Pin<&mut impl AsyncRead>,
    most: usize,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<usize>> {
    // Reads through a buffer on the stack. A part of `buffer` would have to be written first, and then even a silent
    // connection would take memory for it.
    let mut space = [MaybeUninit::uninit(); SMALL_READ];
    let most = most.min(buffer.remaining());
    let mut space = ReadBuf::uninit(&mut space);
    let mut part = space.take(most);
    ready!(stream.poll_read(cx, &mut part))?;
    buffer.put_slice(part.filled());
    Poll::Ready(Ok(part.filled().len()))
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, data),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, data),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every idle connection holds these types, so TLS must not make plain connections larger.
    #[test]
    fn a_plain_connection_is_as_small_as_without_tls() {
        assert_eq!(size_of::<WriteHalf>(), size_of::<OwnedWriteHalf>());
        assert_eq!(size_of::<ReadHalf>(), size_of::<OwnedReadHalf>() + size_of::<usize>());
    }
}
