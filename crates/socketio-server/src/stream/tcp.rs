//! Writing from an outbox to a plain TCP connection.

use std::io::ErrorKind;

use rustix::{
    io::Errno,
    net::{SendAncillaryBuffer, send, sendmsg},
};
use tokio::{io::Interest, net::tcp::OwnedWriteHalf};

use super::Flushed;
use crate::{config::SMALL_WRITE, delivery::outbox::Outbox, metrics::ShardMetrics, system::NO_SIGNAL};

/// Writes as many of the waiting bytes as the kernel takes. The runtime is not asked first whether the socket is
/// writable: reading tokio's readiness state costs a cache miss for each of thousands of connections.
pub(super) fn flush(stream: &OwnedWriteHalf, outbox: &mut Outbox, metrics: &ShardMetrics) -> Flushed {
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
                // This makes the runtime report when the socket has room again.
                let _ = stream.as_ref().try_io(Interest::WRITABLE, || Err::<(), _>(ErrorKind::WouldBlock.into()));
                return if progress { Flushed::Some } else { Flushed::Nothing };
            }
            Err(_) => return Flushed::Broken,
        }
    }
    Flushed::All
}

/// Sends bytes with one system call. The call is not `write`, which reads the file table before it finds the socket, at
/// the cost of a cache miss. That was a twentieth of a broadcast's cost.
pub(super) fn send_one(stream: &OwnedWriteHalf, bytes: &[u8], metrics: &ShardMetrics) -> Result<usize, Errno> {
    count(send(stream.as_ref(), bytes, NO_SIGNAL), metrics)
}

/// Sends the next waiting bytes. Small frames are copied together first, which takes less time than passing each one's
/// address to the kernel.
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
