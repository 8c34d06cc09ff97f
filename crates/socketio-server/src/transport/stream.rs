//! A client's TCP connection, plain or with TLS on it. HTTP reads and writes it as one [`Stream`]; a WebSocket has its two
//! halves, which work on the socket directly and hold no buffers of their own.

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

use super::{
    Flushed,
    tls::{self, TlsReadHalf, TlsWriteHalf},
    websocket,
};
use crate::{config::SMALL_READ, metrics::ShardMetrics, outbox::Outbox};

/// As HTTP sees it.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<Measured>>),
}

/// A connection that makes its TLS handshake, of which it takes in no more than it may; later there is no measure.
pub(crate) struct Measured {
    tcp: TcpStream,
    left: usize,
}

/// Where a WebSocket's bytes come from.
pub(crate) enum ReadHalf {
    Plain(OwnedReadHalf),
    Tls(Box<TlsReadHalf>),
}

/// Where its frames go. Dropped, it ends our side of the stream.
pub(crate) enum WriteHalf {
    Plain(OwnedWriteHalf),
    Tls(Box<TlsWriteHalf>),
}

/// A stream on its way to another shard.
pub(crate) struct Detached {
    tcp: std::net::TcpStream,
    session: Option<Box<ServerConnection>>,
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

    /// Whether something has come that is not read.
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
    /// On the shard that it came to.
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

    /// What is left when nobody wants to know what the bytes mean.
    pub(crate) fn into_tcp(self) -> OwnedReadHalf {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.tcp,
        }
    }
}

impl WriteHalf {
    /// Writes what waits, as much as the kernel takes.
    // Of a plain connection, which is what a flush pass meets by the thousand, nothing is left of this but a comparison.
    #[inline(always)]
    pub(crate) fn flush(&self, outbox: &mut Outbox, metrics: &ShardMetrics) -> Flushed {
        match self {
            Self::Plain(tcp) => websocket::flush(tcp, outbox, metrics),
            Self::Tls(tls) => tls.flush(outbox, metrics),
        }
    }

    /// Touches what a write needs.
    #[inline(always)]
    pub(crate) fn prefetch(&self) -> RawFd {
        match self {
            Self::Plain(tcp) => tcp.as_ref().as_raw_fd(),
            Self::Tls(_) => -1,
        }
    }

    /// Writes frames ahead of the outbox. Returns how many bytes went out: none with TLS, whose records are filled from
    /// the outbox.
    #[inline(always)]
    pub(crate) fn write(&self, frames: &[u8], metrics: &ShardMetrics) -> usize {
        match self {
            // Whatever is wrong with the stream, the flush that follows is told too.
            Self::Plain(tcp) => websocket::send_one(tcp, frames, metrics).unwrap_or_default(),
            Self::Tls(_) => 0,
        }
    }

    /// Writes a last frame behind an empty outbox, if that can be done at once.
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
            // Nothing wakes it: either the handshake is done, and what came with it is enough for now, or it is refused.
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

/// Reads no more than so many bytes, and no more than [`SMALL_READ`]; returns how many.
pub(crate) fn read_at_most(
    stream: Pin<&mut impl AsyncRead>,
    most: usize,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<usize>> {
    // By way of the stack. A part of the buffer would have to be written first, and then even a connection that says nothing
    // would have memory for it.
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
    use crate::transport::Transport;

    /// Every idle connection pays for these: TLS must not make plain ones larger.
    #[test]
    fn a_plain_connection_is_as_small_as_without_tls() {
        assert_eq!(size_of::<WriteHalf>(), size_of::<OwnedWriteHalf>());
        assert_eq!(size_of::<Transport>(), size_of::<OwnedWriteHalf>());
        assert_eq!(size_of::<ReadHalf>(), size_of::<OwnedReadHalf>() + size_of::<usize>());
    }
}
