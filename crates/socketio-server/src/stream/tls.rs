//! TLS below a WebSocket: frames go from the outbox into TLS records, and the records go straight to the socket.

use std::{
    cell::RefCell,
    io::{self, ErrorKind, IoSlice, Read, Write},
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::ReadBuf,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tokio_rustls::rustls::ServerConnection;

use super::Flushed;
use crate::{delivery::outbox::Outbox, metrics::ShardMetrics};

/// The TLS session, which the two halves share.
type Session = Rc<RefCell<ServerConnection>>;

pub(crate) struct TlsReadHalf {
    pub(super) tcp: OwnedReadHalf,
    session: Session,
}

pub(crate) struct TlsWriteHalf {
    tcp: OwnedWriteHalf,
    session: Session,
}

pub(super) fn halves(
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    session: ServerConnection,
) -> (TlsReadHalf, TlsWriteHalf) {
    let session = Rc::new(RefCell::new(session));
    (TlsReadHalf { tcp: read, session: session.clone() }, TlsWriteHalf { tcp: write, session })
}

impl TlsReadHalf {
    /// Reads the client's data. Reads nothing at the end of the stream.
    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut session = self.session.borrow_mut();
        loop {
            match session.reader().read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // The stream was cut off without a TLS close notice. This is the end of the stream, since a WebSocket's
                // frames mark their own end.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(error)),
            }
            // This stops a client that sends many records without data: the runtime limits how often in a row a task
            // finds its socket ready.
            ready!(self.tcp.as_ref().poll_read_ready(cx))?;
            match session.read_tls(&mut Socket(self.tcp.as_ref())) {
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
                Err(error) => return Poll::Ready(Err(error)),
            }
            let processed = session.process_new_packets();
            // An alert, or the response to a key update. If the socket takes no bytes now, the next flush writes it.
            if session.wants_write() {
                let _ = session.write_tls(&mut Socket(self.tcp.as_ref()));
            }
            if let Err(error) = processed {
                tracing::debug!(%error, "bad tls record");
                return Poll::Ready(Err(io::Error::new(ErrorKind::InvalidData, error)));
            }
        }
    }
}

impl TlsWriteHalf {
    /// Writes the waiting frames. At most one record's bytes are taken from the outbox before the socket has taken the
    /// previous record. They count as waiting until they are written, so a client that reads nothing holds no more than
    /// the outbox allows.
    // A separate function, so that the flush of a plain connection has a stack frame of its own size.
    #[inline(never)]
    pub(super) fn flush(&self, outbox: &mut Outbox, metrics: &ShardMetrics) -> Flushed {
        if outbox.is_abandoned() {
            return Flushed::Broken;
        }
        let mut session = self.session.borrow_mut();
        let mut progress = false;
        loop {
            while session.wants_write() {
                match session.write_tls(&mut Socket(self.tcp.as_ref())) {
                    Ok(0) => return Flushed::Broken,
                    Ok(written) => {
                        metrics.writes.increment();
                        metrics.bytes_written.add(written as u64);
                        progress = true;
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        return if progress { Flushed::Some } else { Flushed::Nothing };
                    }
                    Err(_) => return Flushed::Broken,
                }
            }
            outbox.sealed_are_written();
            if outbox.is_empty() {
                return Flushed::All;
            }
            let taken = session.writer().write_vectored(&outbox.gather());
            match taken {
                Ok(0) | Err(_) => return Flushed::Broken,
                Ok(taken) => outbox.seal(taken),
            }
        }
    }

    /// Writes a last frame and the TLS close notice, if that is possible at once.
    pub(super) fn write_last(&self, frame: &[u8]) {
        let mut session = self.session.borrow_mut();
        let _ = session.writer().write_all(frame);
        session.send_close_notify();
        while session.wants_write() && session.write_tls(&mut Socket(self.tcp.as_ref())).is_ok_and(|count| count > 0) {}
    }
}

/// The socket as rustls uses it: an operation that would block is an error.
struct Socket<'a>(&'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.try_write(data)
    }

    fn write_vectored(&mut self, data: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
