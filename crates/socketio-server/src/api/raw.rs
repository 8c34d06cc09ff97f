//! Engine.IO without Socket.IO: messages without namespaces and events, on a separate path.

use std::{fmt, rc::Rc};

use crate::{DisconnectReason, connection::Connection, delivery::frame::Frame};

type OnMessage = dyn Fn(&RawSocket, RawMessage<'_>) + Send + Sync;

/// A path that speaks Engine.IO without Socket.IO on top, for plain Engine.IO clients and the official protocol suite.
pub struct RawEndpoint {
    pub(crate) path: String,
    pub(crate) on_message: Box<OnMessage>,
}

impl fmt::Debug for RawEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawEndpoint").field("path", &self.path).finish_non_exhaustive()
    }
}

impl RawEndpoint {
    /// An endpoint at a path, such as `/engine.io`, and the handler of its messages.
    pub fn new(
        path: impl Into<String>,
        on_message: impl Fn(&RawSocket, RawMessage<'_>) + Send + Sync + 'static,
    ) -> Self {
        Self { path: path.into(), on_message: Box::new(on_message) }
    }
}

/// A message of an Engine.IO client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawMessage<'a> {
    /// Text.
    Text(&'a str),
    /// Bytes.
    Binary(&'a [u8]),
}

/// An Engine.IO connection, as passed to a [`RawEndpoint`]'s handler.
#[derive(Clone)]
pub struct RawSocket(pub(crate) Rc<Connection>);

impl fmt::Debug for RawSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawSocket").field("connection", &self.0.key).finish()
    }
}

impl RawSocket {
    /// Sends a message.
    pub fn send(&self, message: RawMessage<'_>) {
        let frame = match message {
            RawMessage::Text(text) => Frame::text(|out| {
                out.push(b'4');
                out.extend_from_slice(text.as_bytes());
            }),
            RawMessage::Binary(data) => Frame::binary(data),
        };
        self.0.queue(Rc::new(frame));
    }

    /// Closes the connection when the running handler has returned.
    pub fn close(&self) {
        self.0.close_later(DisconnectReason::ServerNamespace);
    }
}
