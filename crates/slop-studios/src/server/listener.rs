//! Listens on the address in `HOST` and `PORT`, and gives a clear reason if that fails.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};

use anyhow::Context as _;
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;

use crate::config::Settings;

/// The number of connections that the kernel holds until they are accepted. It is Linux's default limit
/// (`net.core.somaxconn`), so that a crowd of clients that reconnects at once is not refused.
const LISTEN_BACKLOG: u32 = 4096;

/// Listens on the first usable address of the host.
///
/// # Errors
/// If no address is usable: the reason, and the setting that would change it.
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

/// Listens for the requests that other nodes forward. Returns the listener, and the address at which they reach it, if
/// there is one.
///
/// # Errors
/// If the address is not usable.
pub(super) fn listen_for_nodes(
    runtime: &Runtime,
    settings: &Settings,
) -> anyhow::Result<(TcpListener, Option<String>)> {
    let _inside = runtime.enter();
    let wanted = settings.node_address.as_deref();
    let context = || format!("NODE_ADDRESS is {}", wanted.unwrap_or("empty"));
    let mut addresses = wanted.unwrap_or("127.0.0.1:0").to_socket_addrs().with_context(context)?;
    let address = addresses.next().with_context(context)?;
    let listener = listen_on(address, 0).with_context(context)?;
    let port = listener.local_addr().with_context(context)?.port();
    // With port 0, it is the port that was found.
    let reached = wanted.and_then(|wanted| wanted.rsplit_once(':')).map(|(host, _)| format!("{host}:{port}"));
    Ok((listener, reached))
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
    // A restarted server must not wait until the system forgets the connections of its predecessor.
    socket.set_reuseaddr(true)?;
    if send_buffer > 0 {
        // Every accepted connection inherits it.
        socket.set_send_buffer_size(send_buffer)?;
    }
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)?.into_std()
}
