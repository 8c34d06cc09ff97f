//! Incoming packets, and the handlers for them.

use std::rc::Rc;

use bytes::Bytes;
use socketio_protocol::{
    engine_io, msgpack,
    packet::{Args, DecodeError, Kind, Limits, Packet},
};

use super::{Assembling, Connection, Protocol, Violation};
use crate::{
    AckReply, ConnectError, DisconnectReason, Event, Limit, OwnedEvent, RawMessage, RawSocket, Refusal, Socket,
    api::namespace::{Handler, HandlerFuture, Namespace},
    config::SLICE,
    delivery::frame::Frame,
    http::handshake::Handshake,
    shard::held::HeldMessage,
};

impl Connection {
    /// Handles an Engine.IO packet in text form.
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
            // In revision 4, only the server sends OPEN and PING.
            engine_io::Packet::Open(_) | engine_io::Packet::Ping(_) => Err(DisconnectReason::ParseError),
        }
    }

    /// Handles an Engine.IO binary message, which is an attachment.
    pub(crate) fn on_binary(self: &Rc<Self>, data: &[u8]) -> Result<(), Violation> {
        if let Protocol::Raw(endpoint) = self.protocol {
            self.on_raw(endpoint, RawMessage::Binary(data));
            return Ok(());
        }
        if self.assembling.borrow().is_none() {
            return self.on_stray_binary(data);
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

    /// Handles a binary message that is not an attachment. A client with the MessagePack parser sends only binary
    /// messages. It gets the refusal in MessagePack, because it would try again for ever if the connection just ended.
    #[cold]
    fn on_stray_binary(self: &Rc<Self>, data: &[u8]) -> Result<(), Violation> {
        let is_new = self.connect_by.get().is_some();
        let Some(namespace) = msgpack::connect_namespace(data).filter(|_| is_new) else {
            return Err(DisconnectReason::ParseError);
        };
        self.shard.refuse(Refusal::Parser, self.client, self.handshake.as_deref().map(Handshake::headers));
        let mut answer = Vec::new();
        msgpack::encode_connect_error(
            &mut answer,
            namespace,
            "this server does not speak MessagePack: connect without `parser`",
        );
        self.queue(Rc::new(Frame::binary(&answer)));
        Ok(())
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

    /// Whether the socket's events are handled. They are not after a handler has ended the socket or has panicked.
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
            // A second CONNECT to the same namespace would replace the socket that the client uses.
            return match self.socket(namespace) {
                Some(_) => Err(DisconnectReason::ParseError),
                None if self.connecting.borrow().contains(&namespace) => Err(DisconnectReason::ParseError),
                None => self.connect(namespace, auth),
            };
        }
        let Some(socket) = namespace.and_then(|namespace| self.socket(namespace)) else {
            // The packet was on its way when the socket was disconnected. Before any socket was connected, it is an
            // error.
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
            // Only a server sends this packet.
            Kind::ConnectError { .. } => return Err(DisconnectReason::ParseError),
            Kind::Connect { .. } => {}
        }
        Ok(())
    }

    fn on_event<'a>(self: &Rc<Self>, socket: &Socket, args: Args<'a>, attachments: &'a [Bytes], ack: Option<u64>) {
        self.shard.metrics.events_received.increment();
        let Some(event) = Event::new(socket, args, attachments, ack) else { return };
        if self.is_over_rate() {
            return self.refuse_event(socket, event);
        }
        let namespace = self.shard.space(socket.reference().namespace).handlers();
        let known = namespace.handler(event.name());
        if known.is_none() {
            self.shard.metrics.events_unknown.increment();
        }
        let handler = known.or(namespace.fallback.as_ref());
        let overlaps = matches!(handler, Some(Handler::Overlapping(_)));
        let waits = socket.inner().backlog.borrow().as_ref().is_some_and(|backlog| {
            // While no handler runs, the waiting events are being handled.
            backlog.running == 0 || !backlog.waiting.is_empty() || !backlog.takes(overlaps) || self.is_over_soft_limit()
        });
        if waits {
            let Some(held) = HeldMessage::of(self, &event) else { return self.refuse_event(socket, event) };
            if let Some(backlog) = socket.inner().backlog.borrow_mut().as_mut() {
                backlog.waiting.push_back((event.into_owned(), held));
            }
            if self.has_full_backlog() {
                self.set_paused(true);
            }
            return;
        }
        if !self.admits(socket) {
            return self.refuse_event(socket, event);
        }
        let done = match handler {
            Some(Handler::Sync(f)) => self.shard.guarded(|| f(socket, event)),
            Some(Handler::Async(f) | Handler::Overlapping(f)) => match HeldMessage::of(self, &event) {
                Some(held) => self.start(socket, overlaps, held, || f(socket.clone(), event.into_owned())),
                None => {
                    self.refuse_event(socket, event);
                    Some(())
                }
            },
            None => Some(()),
        };
        if done.is_none() {
            self.close_later(DisconnectReason::HandlerPanic);
        }
        if self.has_full_backlog() {
            self.set_paused(true);
        }
    }

    fn overlaps(&self, socket: &Socket, event: &str) -> bool {
        matches!(self.handler(socket, event), Some(Handler::Overlapping(_)))
    }

    fn handler(&self, socket: &Socket, event: &str) -> Option<&Handler> {
        let namespace: &Namespace = self.shard.space(socket.reference().namespace).handlers();
        namespace.handler(event).or(namespace.fallback.as_ref())
    }

    fn on_raw(self: &Rc<Self>, endpoint: usize, message: RawMessage<'_>) {
        if self.close_due.get().is_none()
            && let Some(endpoint) = self.shard.application.raw_endpoints.get(endpoint)
            && self.shard.guarded(|| (endpoint.on_message)(&RawSocket(self.clone()), message)).is_none()
        {
            self.close_later(DisconnectReason::HandlerPanic);
        }
    }

    /// Runs a handler's future beside the running futures. Returns `None` if the handler panics.
    fn start(
        self: &Rc<Self>,
        socket: &Socket,
        overlaps: bool,
        held: HeldMessage,
        f: impl FnOnce() -> HandlerFuture,
    ) -> Option<()> {
        let future = self.shard.guarded(f)?;
        let mut backlog = socket.inner().backlog.borrow_mut();
        let backlog = backlog.get_or_insert_default();
        backlog.running += 1;
        backlog.overlaps = overlaps;
        tokio::task::spawn_local(run_handler(Running(socket.clone()), future, held));
        Some(())
    }

    /// Handles an event from the backlog.
    fn handle_waiting(self: &Rc<Self>, socket: &Socket, mut event: OwnedEvent, held: HeldMessage) {
        if !self.hears(socket) {
            return self.shard.metrics.events_stray.increment();
        }
        if !self.admits(socket) {
            let ack = event.take_ack();
            return event.with_borrowed(ack, |event| self.refuse_event(socket, event));
        }
        let name = event.name().to_owned();
        let done = match self.handler(socket, &name) {
            Some(Handler::Async(f)) => self.start(socket, false, held, || f(socket.clone(), event)),
            Some(Handler::Overlapping(f)) => self.start(socket, true, held, || f(socket.clone(), event)),
            Some(Handler::Sync(f)) => {
                let ack = event.take_ack();
                self.work(|| self.shard.guarded(|| event.with_borrowed(ack, |event| f(socket, event))))
            }
            None => Some(()),
        };
        if done.is_none() {
            self.close_later(DisconnectReason::HandlerPanic);
        }
    }
}

/// Runs the future of a handler. The last running future then continues with the waiting events.
async fn run_handler(running: Running, future: HandlerFuture, held: HeldMessage) {
    future.await;
    drop(held);
    if running.end() {
        handle_backlog(&running.0).await;
    }
}

/// Handles the waiting events, until the next event must wait for running futures again.
async fn handle_backlog(socket: &Socket) {
    let connection = &socket.inner().connection;
    let shard = &connection.shard;
    let mut began = shard.now();
    loop {
        // The waiting events may cause as much output again as already waits for the client.
        connection.has_taken_enough().await;
        let next = {
            let mut slot = socket.inner().backlog.borrow_mut();
            let Some(backlog) = slot.as_mut() else { return };
            match backlog.waiting.front() {
                None if backlog.running == 0 => {
                    *slot = None;
                    return;
                }
                Some((event, _)) if backlog.takes(connection.overlaps(socket, event.name())) => {
                    backlog.waiting.pop_front()
                }
                // The last running future continues with the waiting events.
                _ => return,
            }
        };
        let Some((event, held)) = next else { return };
        connection.handle_waiting(socket, event, held);
        if shard.now() - began > SLICE.as_nanos() as u64 {
            shard.turn().await;
            began = shard.now();
        }
    }
}

/// A running future of a socket's handler. If it panics, the connection is closed, since the client cannot know what
/// was done.
struct Running(Socket);

impl Running {
    /// Records the end of the future. Returns `true` if no other future of the socket runs.
    fn end(&self) -> bool {
        let mut backlog = self.0.inner().backlog.borrow_mut();
        let Some(backlog) = backlog.as_mut() else { return false };
        backlog.running -= 1;
        backlog.running == 0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A future that is dropped because the server stops has not panicked.
        if std::thread::panicking() {
            self.0.inner().connection.shard.metrics.handler_panics.increment();
            self.0.inner().connection.close_later(DisconnectReason::HandlerPanic);
        }
    }
}
