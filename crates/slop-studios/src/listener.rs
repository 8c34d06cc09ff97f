//! Takes the address that `HOST` and `PORT` name, and says plainly why that can't be done.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};

use anyhow::Context as _;
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;

use crate::config::Settings;

/// Connections that the kernel holds until they are accepted: what Linux allows by default (`net.core.somaxconn`), so
/// that a fleet that reconnects at once is not turned away.
const LISTEN_BACKLOG: u32 = 4096;

/// Listens on the first address of the host that can be.
///
/// # Errors
/// Why none can be, with the setting that would change it.
pub(crate) fn listen(runtime: &Runtime, settings: &Settings) -> anyhow::Result<TcpListener> {
    let (host, port) = (&*settings.host, settings.port);
    let _inside = runtime.enter();
    let unknown = || format!("HOST is {host}, which is no name of this machine");
    let addresses = (host, port).to_socket_addrs().with_context(unknown)?;
    let mut result = Err(io::Error::other("the name has no address"));
    for address in addresses {
        result = listen_on(address, settings.send_buffer_bytes);
        if result.is_ok() {
            break;
        }
    }
    result.map_err(|error| {
        let advice = advice(host, port, error.kind());
        anyhow::Error::from(error).context(advice)
    })
}

fn advice(host: &str, port: u16, error: ErrorKind) -> String {
    match error {
        ErrorKind::AddrInUse => format!(
            "port {port} of {host} is in use: end what listens there, or set PORT (--port) to another port, or to 0 for a free one"
        ),
        ErrorKind::PermissionDenied => format!(
            "this user may not listen on port {port}: set PORT (--port) to one above 1023, and let a proxy listen on {port}"
        ),
        ErrorKind::AddrNotAvailable => {
            format!(
                "HOST is {host}, which is no address of this machine: set HOST (--host) to one, or to 0.0.0.0 for all"
            )
        }
        _ => format!("listen on {host} port {port}"),
    }
}

fn listen_on(address: SocketAddr, send_buffer: u32) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A server that starts again must not wait for the connections of its predecessor to be forgotten.
    socket.set_reuseaddr(true)?;
    if send_buffer > 0 {
        // Every connection that is accepted inherits it.
        socket.set_send_buffer_size(send_buffer)?;
    }
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)?.into_std()
}
