//! Features that only Linux has, and their replacements on other systems.

use std::{net::TcpListener, time::Duration};

use rustix::net::SendFlags;
use tokio::net::TcpStream;

/// With this flag, a write to a closed peer returns an error and raises no signal. On other systems the signal is
/// ignored, which Rust's runtime sets at the start.
#[cfg(target_os = "linux")]
pub(crate) const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
#[cfg(not(target_os = "linux"))]
pub(crate) const NO_SIGNAL: SendFlags = SendFlags::empty();

/// Sets the TCP options of the listener's connections. Small packets do not wait for the acknowledgement of the packet
/// before, and a peer that acknowledges nothing for `timeout` counts as gone. On Linux, connections inherit the
/// options, which costs no call for each.
#[cfg(target_os = "linux")]
pub(crate) fn prepare_listener(listener: &TcpListener, timeout: Duration) {
    use rustix::net::sockopt::{set_tcp_nodelay, set_tcp_user_timeout};
    let _ = set_tcp_nodelay(listener, true);
    let _ = set_tcp_user_timeout(listener, u32::try_from(timeout.as_millis()).unwrap_or(0));
}
#[cfg(not(target_os = "linux"))]
pub(crate) fn prepare_listener(_listener: &TcpListener, _timeout: Duration) {}

/// Does the same for an accepted connection. On other systems, the system's own timeout decides when the peer is gone.
#[cfg(target_os = "linux")]
pub(crate) fn prepare_stream(_stream: &TcpStream) {}
#[cfg(not(target_os = "linux"))]
pub(crate) fn prepare_stream(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
}

/// Sets the options of a connection to another node. Its keep-alive probes begin after half of `timeout` without a
/// packet, so that a poll does not wait for a machine that is gone.
#[cfg(target_os = "linux")]
pub(crate) fn prepare_connection(stream: &TcpStream, timeout: Duration) {
    use rustix::net::sockopt::{
        set_socket_keepalive, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_nodelay, set_tcp_user_timeout,
    };
    let _ = set_tcp_nodelay(stream, true);
    let _ = set_tcp_user_timeout(stream, u32::try_from(timeout.as_millis()).unwrap_or(0));
    let _ = set_tcp_keepidle(stream, (timeout / 2).max(Duration::from_secs(1)));
    let _ = set_tcp_keepintvl(stream, (timeout / 8).max(Duration::from_secs(1)));
    let _ = set_socket_keepalive(stream, true);
}
#[cfg(not(target_os = "linux"))]
pub(crate) fn prepare_connection(stream: &TcpStream, _timeout: Duration) {
    let _ = stream.set_nodelay(true);
}
