//! What only Linux has, and what other systems do instead.

use std::{net::TcpListener, time::Duration};

use rustix::net::SendFlags;
use tokio::net::TcpStream;

/// A peer that is gone is an error, and no signal. Elsewhere the signal is ignored, as Rust's runtime has it from the start.
#[cfg(target_os = "linux")]
pub(crate) const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
#[cfg(not(target_os = "linux"))]
pub(crate) const NO_SIGNAL: SendFlags = SendFlags::empty();

/// How connections treat what was sent: small packets do not wait for the acknowledgement of the one before, and a peer that
/// acknowledges nothing for `timeout` is gone. On Linux they inherit it, which costs no call for each.
#[cfg(target_os = "linux")]
pub(crate) fn prepare_listener(listener: &TcpListener, timeout: Duration) {
    use rustix::net::sockopt::{set_tcp_nodelay, set_tcp_user_timeout};
    let _ = set_tcp_nodelay(listener, true);
    let _ = set_tcp_user_timeout(listener, u32::try_from(timeout.as_millis()).unwrap_or(0));
}
#[cfg(not(target_os = "linux"))]
pub(crate) fn prepare_listener(_listener: &TcpListener, _timeout: Duration) {}

/// The same for a connection that was accepted. Elsewhere the system's own patience decides when the peer is gone.
#[cfg(target_os = "linux")]
pub(crate) fn prepare_stream(_stream: &TcpStream) {}
#[cfg(not(target_os = "linux"))]
pub(crate) fn prepare_stream(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
}
