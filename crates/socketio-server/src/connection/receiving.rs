//! What the client sends: its packets, and the handlers that they are for.

use std::rc::Rc;

use bytes::Bytes;
use socketio_protocol::{
    engine_io,
    packet::{Args, DecodeError, Kind, Limits, Packet},
};

use super::{Assembling, Connection, Protocol, Violation};
use crate::{
    AckReply, ConnectError, DisconnectReason, Event, Limit, OwnedEvent, RawMessage, RawSocket, Socket,
    namespace::{Handler, HandlerFuture, Namespace},
};

impl Connection {
    /// An Engine.IO packet in text form.
    pub(crate) fn on_text(self: &Rc<Self>, packet: engine_io::Packet<'_>) -> Result<(), Violation> {
        match packet {
            engine_io::Packet::Message(message) => match self.protocol {
                Protocol::SocketIo => self.on_packet(message),
                Protocol::Raw(endpoint) => {
                    self.on_raw(endpoint, RawMessage::Text(message));
                    Ok(())
                }
            },
            engine_io::Packet::Pong(_) => {
                self.on_pong();
                Ok(())
            }
            engine_io::Packet::Close => Err(DisconnectReason::TransportClose),
            engine_io::Packet::Upgrade | engine_io::Packet::Noop => Ok(()),
            // In revision 4 the server opens and pings.
            engine_io::Packet::Open(_) | engine_io::Packet::Ping(_) => Err(DisconnectReason::ParseError),
        }
    }

    /// An Engine.IO binary message: an attachment.
    pub(crate) fn on_binary(self: &Rc<Self>, data: &[u8]) -> Result<(), Violation> {
        if let Protocol::Raw(endpoint) = self.protocol {
            self.on_raw(endpoint, RawMessage::Binary(data));
            return Ok(());
        }
        let complete = {
            let mut slot = self.assembling.borrow_mut();
            let Some(assembling) = slot.as_mut() else { return Err(DisconnectReason::ParseError) };
            assembling.bytes += data.len();
            if assembling.bytes > self.shard.config.max_payload {
                return Err(DisconnectReason::PayloadTooLarge);
            }
            assembling.attachments.push(Bytes::copy_from_slice(data));
            if assembling.attachments.len() < assembling.expected {
                return Ok(());
            }
            slot.take()
        };
        let Some(complete) = complete else { return Ok(()) };
        let packet = self.decode(&complete.text)?;
        self.dispatch(packet, &complete.attachments)
    }

    fn decode<'a>(&self, text: &'a str) -> Result<Packet<'a>, Violation> {
        let config = &self.shard.config;
        let limits = Limits { max_attachments: config.max_attachments, max_depth: config.max_json_depth };
        Packet::decode_with(text, limits).map_err(|error| {
            match error {
                DecodeError::TooManyAttachments => self.shard.metrics.limit_met(Limit::Attachments),
                DecodeError::TooDeep => self.shard.metrics.limit_met(Limit::JsonDepth),
                _ => {}
            }
            tracing::debug!(%error, "bad packet");
            DisconnectReason::ParseError
        })
    }

    fn on_packet(self: &Rc<Self>, text: &str) -> Result<(), Violation> {
        if self.assembling.borrow().is_some() {
            return Err(DisconnectReason::ParseError);
        }
        let packet = self.decode(text)?;
        match packet.kind {
            Kind::Event { attachments, .. } | Kind::Ack { attachments, .. } if attachments > 0 => {
                let assembling = Assembling {
                    text: text.to_owned(),
                    expected: attachments,
                    attachments: Vec::new(),
                    bytes: text.len(),
                };
                *self.assembling.borrow_mut() = Some(Box::new(assembling));
                Ok(())
            }
            _ => self.dispatch(packet, &[]),
        }
    }

    /// Whether events of a socket are handled: no longer so once a handler has ended it, or panicked.
    pub(super) fn hears(&self, socket: &Socket) -> bool {
        socket.is_connected() && self.close_due.get().is_none()
    }

    fn dispatch<'a>(self: &Rc<Self>, packet: Packet<'a>, attachments: &'a [Bytes]) -> Result<(), Violation> {
        if self.close_due.get().is_some() {
            self.shard.metrics.events_stray.increment();
            return Ok(());
        }
        let namespace = self.shard.space_named(packet.namespace);
        if let Kind::Connect { auth } = packet.kind {
            let Some(namespace) = namespace else {
                self.refuse(packet.namespace, &ConnectError::new("Invalid namespace"));
                return Ok(());
            };
            // A second one for the same namespace would replace the first under the client's feet.
            return match self.socket(namespace) {
                Some(_) => Err(DisconnectReason::ParseError),
                None if self.connecting.borrow().contains(&namespace) => Err(DisconnectReason::ParseError),
                None => {
                    self.connect(namespace, auth);
                    Ok(())
                }
            };
        }
        let Some(socket) = namespace.and_then(|namespace| self.socket(namespace)) else {
            // On its way when the socket was disconnected; before any was connected it makes no sense.
            self.shard.metrics.events_stray.increment();
            let too_early = self.connect_by.get().is_some() && self.connecting.borrow().is_empty();
            return if too_early { Err(DisconnectReason::ParseError) } else { Ok(()) };
        };
        match packet.kind {
            Kind::Event { .. } if !self.hears(&socket) => self.shard.metrics.events_stray.increment(),
            Kind::Event { ack, args, .. } => self.on_event(&socket, args, attachments, ack),
            Kind::Ack { id, args, .. } => socket.acknowledged(
                id,
                AckReply { args: args.iter().map(ToOwned::to_owned).collect(), attachments: attachments.to_vec() },
            ),
            Kind::Disconnect => self.detach(&socket, DisconnectReason::ClientNamespace),
            // Only a server sends it.
            Kind::ConnectError { .. } => return Err(DisconnectReason::ParseError),
            Kind::Connect { .. } => {}
        }
        Ok(())
    }

    fn on_event<'a>(self: &Rc<Self>, socket: &Socket, args: Args<'a>, attachments: &'a [Bytes], ack: Option<u64>) {
        self.shard.metrics.events_received.increment();
        let Some(event) = Event::new(socket, args, attachments, ack) else { return };
        if self.refuses(socket) {
            return self.refuse_event(socket, event);
        }
        if let Some(backlog) = socket.inner().backlog.borrow_mut().as_mut() {
            backlog.0.push_back(event.into_owned());
            if backlog.0.len() >= self.shard.config.handler_backlog {
                self.set_paused(true);
            }
            return;
        }
        let done = match self.handler(socket, event.name()) {
            Some(Handler::Sync(f)) => self.shard.guarded(|| f(socket, event)),
            Some(Handler::Async(f)) => self.shard.guarded(|| f(socket.clone(), event.into_owned())).map(|future| {
                *socket.inner().backlog.borrow_mut() = Some(Box::default());
                tokio::task::spawn_local(run_handlers(socket.clone(), future));
            }),
            None => Some(()),
        };
        if done.is_none() {
            self.close_later(DisconnectReason::HandlerPanic);
        }
    }

    fn handler(&self, socket: &Socket, event: &str) -> Option<&Handler> {
        let namespace: &Namespace = self.shard.space(socket.reference().namespace).handlers();
        namespace.handler(event).or_else(|| {
            self.shard.metrics.events_unknown.increment();
            namespace.fallback.as_ref()
        })
    }

    fn on_raw(self: &Rc<Self>, endpoint: usize, message: RawMessage<'_>) {
        if self.close_due.get().is_none()
            && let Some(endpoint) = self.shard.application.raw_endpoints.get(endpoint)
            && self.shard.guarded(|| (endpoint.on_message)(&RawSocket(self.clone()), message)).is_none()
        {
            self.close_later(DisconnectReason::HandlerPanic);
        }
    }

    async fn run_owned(self: &Rc<Self>, socket: &Socket, mut event: OwnedEvent) {
        let name = event.name().to_owned();
        match self.handler(socket, &name) {
            Some(Handler::Async(f)) => {
                let future = self.shard.guarded(|| f(socket.clone(), event));
                match future {
                    Some(future) => future.await,
                    None => self.close_later(DisconnectReason::HandlerPanic),
                }
            }
            Some(Handler::Sync(f)) => {
                let ack = event.take_ack();
                if self.shard.guarded(|| event.with_borrowed(ack, |event| f(socket, event))).is_none() {
                    self.close_later(DisconnectReason::HandlerPanic);
                }
            }
            None => {}
        }
    }
}

/// Runs an asynchronous handler, and then the events that came meanwhile.
async fn run_handlers(socket: Socket, first: HandlerFuture) {
    let guard = BacklogGuard(socket.clone());
    first.await;
    loop {
        let next = socket.inner().backlog.borrow_mut().as_mut().and_then(|backlog| backlog.0.pop_front());
        let connection = &socket.inner().connection;
        let Some(event) = next else { break };
        if !connection.hears(&socket) {
            connection.shard.metrics.events_stray.increment();
            continue;
        }
        if connection.is_paused() {
            connection.want_flush();
        }
        connection.run_owned(&socket, event).await;
    }
    guard.finish();
}

/// Lets the socket's next event be handled at once again. If a handler panicked, closes the connection instead: its
/// client can't know what was done.
struct BacklogGuard(Socket);

impl BacklogGuard {
    fn finish(self) {
        let socket = &self.0;
        socket.inner().backlog.borrow_mut().take();
        let connection = &socket.inner().connection;
        if connection.is_paused() {
            connection.want_flush();
        }
    }
}

impl Drop for BacklogGuard {
    fn drop(&mut self) {
        // A handler that is dropped as the server stops has not panicked.
        if std::thread::panicking() && self.0.inner().backlog.borrow().is_some() {
            self.0.inner().connection.shard.metrics.handler_panics.increment();
            self.0.inner().connection.close_later(DisconnectReason::HandlerPanic);
        }
    }
}
