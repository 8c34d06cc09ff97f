//! How a client connects to a namespace.

use std::rc::Rc;

use serde_json::value::RawValue;
use socketio_protocol::packet;

use super::{
    Connection, Violation,
    resuming::{Wish, resume},
};
use crate::{
    ConnectError, DisconnectReason, Socket, SocketRef,
    api::namespace::{HandlerFuture, OnSocket},
    config::EVENT_OVERHEAD,
    delivery::frame::Frame,
    http::handshake::Handshake,
    recovery::SocketRecovery,
    shard::held::HeldMessage,
};

impl Connection {
    pub(super) fn connect(self: &Rc<Self>, namespace: u16, auth: Option<&RawValue>) -> Result<(), Violation> {
        // A token requires work: a signature to verify, or a session to find.
        if auth.is_none() && self.handshake.is_none() {
            return self.connect_now(namespace, auth);
        }
        let asked = if self.shard.try_turn() { Some(self.before_connect(namespace, auth)) } else { None };
        if let Some(None) = asked {
            self.work(|| self.connect_now(namespace, auth))
        } else {
            let Some((auth, held)) = self.keep_auth(auth) else { return Err(DisconnectReason::UnfinishedBytes) };
            self.connecting.borrow_mut().push(namespace);
            let connection = self.clone();
            tokio::task::spawn_local(async move {
                let ready = match asked {
                    Some(ready) => ready,
                    None => {
                        connection.shard.turn().await;
                        connection.before_connect(namespace, auth.as_deref())
                    }
                };
                if let Some(ready) = ready {
                    ready.await;
                    connection.shard.turn().await;
                }
                connection.no_longer_connecting(namespace);
                if !connection.is_closed() {
                    let connected =
                        connection.batch(|| connection.work(|| connection.connect_now(namespace, auth.as_deref())));
                    if let Err(reason) = connected {
                        connection.close(reason);
                    }
                }
                drop(held);
            });
            Ok(())
        }
    }

    /// The application's future that must end before the client is connected, if there is one.
    fn before_connect(self: &Rc<Self>, namespace: u16, auth: Option<&RawValue>) -> Option<HandlerFuture> {
        let before = self.shard.space(namespace).handlers().before_connect.as_ref()?;
        let headers = self.handshake.as_deref().map(Handshake::headers);
        self.work(|| self.shard.guarded(|| before(auth, headers))).flatten()
    }

    /// A copy of the client's `auth` object, kept while the client waits.
    fn keep_auth(self: &Rc<Self>, auth: Option<&RawValue>) -> Option<(Option<Box<RawValue>>, HeldMessage)> {
        let bytes = auth.map_or(0, |auth| auth.get().len());
        let held = HeldMessage::new(self, EVENT_OVERHEAD + bytes)?;
        Some((auth.map(ToOwned::to_owned), held))
    }

    fn connect_now(self: &Rc<Self>, namespace: u16, auth: Option<&RawValue>) -> Result<(), Violation> {
        let off = Wish::Session { recoverable: false };
        // Handlers in Python do not accept an additional argument, and the Python client never asks for a session.
        let usual = !self.is_python();
        match self.shard.handle.recovery().filter(|recovery| recovery.is_on()).map_or(off, |_| Wish::of(auth, usual)) {
            Wish::Session { recoverable } => self.connect_anew(namespace, auth, recoverable),
            Wish::Recovery(claim) => {
                let Some((auth, held)) = self.keep_auth(auth) else { return Err(DisconnectReason::UnfinishedBytes) };
                self.connecting.borrow_mut().push(namespace);
                let connection = self.clone();
                tokio::task::spawn_local(async move {
                    resume(connection, namespace, claim, auth).await;
                    drop(held);
                });
            }
        }
        Ok(())
    }

    pub(crate) fn no_longer_connecting(&self, namespace: u16) {
        self.connecting.borrow_mut().retain(|connecting| *connecting != namespace);
    }

    pub(crate) fn next_reference(&self, namespace: u16) -> SocketRef {
        let shard = &self.shard;
        SocketRef { connection: self.key, serial: shard.next_serial(), shard: u16::from(shard.id), namespace }
    }

    /// Connects the client to a namespace with a new session.
    pub(crate) fn connect_anew(self: &Rc<Self>, namespace: u16, auth: Option<&RawValue>, recoverable: bool) {
        if self.closed.get() || self.close_due.get().is_some() {
            return;
        }
        let shard = &self.shard;
        let id = shard.new_socket_id();
        let pid = recoverable.then(|| shard.entropy.borrow_mut().secret());
        let recovery = pid.map(|pid| SocketRecovery::begun(pid, shard.position()));
        let socket = Socket::new(self, self.next_reference(namespace), id, recovery);
        let handlers = shard.space(namespace).handlers();
        let admitted = match &handlers.authorize {
            Some(authorize) => shard
                .guarded(|| authorize(&socket, auth))
                .unwrap_or_else(|| Err(ConnectError::new("Internal server error"))),
            None => Ok(()),
        };
        if let Err(error) = admitted {
            socket.drop_data();
            if error.is_temporary {
                self.close_later(DisconnectReason::Unavailable);
            } else {
                self.refuse(handlers.name(), &error);
            }
            return;
        }
        shard.space(namespace).sockets.borrow_mut().insert(id, socket.clone());
        self.welcome(&socket);
        self.call(&socket, handlers.on_connect.as_deref());
    }

    /// Calls a handler, if there is one. A panic in the handler ends the connection.
    pub(crate) fn call(self: &Rc<Self>, socket: &Socket, handler: Option<&OnSocket>) {
        if let Some(handler) = handler
            && self.shard.guarded(|| handler(socket)).is_none()
        {
            self.close_later(DisconnectReason::HandlerPanic);
        }
    }

    /// Adds the socket to the connection's sockets.
    pub(crate) fn welcome(self: &Rc<Self>, socket: &Socket) {
        if self.connect_by.take().is_some() {
            self.settle();
        }
        self.sockets.borrow_mut().push(socket.clone());
        self.shard.metrics.sockets.increment();
        self.shard.metrics.sockets_connected.increment();
        socket.set_connected(true);
        socket.queue_timer();
        if let (Some(memory), Some(recovery)) = (self.shard.handle.recovery(), &socket.inner().recovery) {
            let mut confirmed = self.shard.confirmed.borrow_mut();
            recovery.begin(&mut confirmed);
            memory.is_with(recovery.pid, socket.reference(), confirmed.position());
            drop(confirmed);
            self.ping_soon();
        }
        socket.save_soon();
        let pid = socket.inner().recovery.as_ref().map(|recovery| recovery.pid.as_str());
        socket.queue([Frame::text(|out| packet::encode_connect(out, socket.namespace(), socket.id(), pid))]);
    }

    pub(super) fn refuse(self: &Rc<Self>, namespace: &str, error: &ConnectError) {
        self.queue(Rc::new(Frame::text(|out| {
            packet::encode_connect_error(out, namespace, &error.message, error.data.as_deref());
        })));
    }
}
