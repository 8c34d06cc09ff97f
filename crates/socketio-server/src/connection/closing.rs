//! How a socket and its connection end.

use std::rc::Rc;

use smallvec::SmallVec;
use socketio_protocol::{packet, websocket::CloseCode};
use tokio::{sync::oneshot, time::Instant};

use super::Connection;
use crate::{
    DisconnectReason, Socket,
    delivery::frame::Frame,
    recovery::{Away, SavedSession},
    shard::timers::Timer,
    writer::{Ending, Writer},
};

impl Connection {
    /// Disconnects one namespace, or all namespaces and the connection, when no handler runs.
    pub(crate) fn disconnect_later(self: &Rc<Self>, namespace: Option<u16>) {
        let sockets: SmallVec<[Socket; 1]> = match namespace {
            Some(namespace) => self.socket(namespace).into_iter().collect(),
            None => self.sockets.borrow().clone(),
        };
        for socket in &sockets {
            socket.queue([Frame::text(|out| packet::encode_disconnect(out, socket.namespace()))]);
            socket.set_connected(false);
        }
        if namespace.is_none() {
            self.close_later(DisconnectReason::ServerNamespace);
            return;
        }
        for socket in sockets {
            let connection = self.clone();
            // The handler that asked for the disconnect may hold the socket's data, so it returns first.
            tokio::task::spawn_local(async move {
                connection.detach(&socket, DisconnectReason::ServerNamespace);
            });
        }
    }

    pub(crate) fn close_later(self: &Rc<Self>, reason: DisconnectReason) {
        if self.close_due.get().is_none() {
            self.close_due.set(Some(reason));
        }
        self.want_flush();
    }

    /// Ends one socket: informs its handlers, and removes it from all rooms.
    pub(super) fn detach(&self, socket: &Socket, reason: DisconnectReason) {
        let known = {
            let mut sockets = self.sockets.borrow_mut();
            let position = sockets.iter().position(|known| known.reference() == socket.reference());
            position.map(|position| sockets.swap_remove(position)).is_some()
        };
        if known {
            self.end_socket(socket, reason);
            self.hold_remembered();
        }
    }

    fn end_socket(&self, socket: &Socket, reason: DisconnectReason) {
        let space = self.shard.space(socket.reference().namespace);
        self.end_session(socket, reason);
        socket.release();
        if let Some(on_disconnect) = &space.handlers().on_disconnect {
            self.shard.guarded(|| on_disconnect(socket, reason));
        }
        socket.leave_all();
        let mut sockets = space.sockets.borrow_mut();
        sockets.remove(&socket.inner().id);
        if sockets.len() * 4 < sockets.capacity() {
            let room_for = sockets.len() * 2;
            sockets.shrink_to(room_for);
        }
        drop(sockets);
        socket.drop_data();
        self.shard.metrics.sockets.decrement();
        self.shard.metrics.disconnected(reason);
    }

    /// Keeps the socket's session for the client's return, or ends it.
    fn end_session(&self, socket: &Socket, reason: DisconnectReason) {
        let (Some(recovery), Some(memory)) = (&socket.inner().recovery, self.shard.handle.recovery()) else { return };
        recovery.end(&mut self.shard.confirmed.borrow_mut());
        if !reason.is_recoverable() {
            return memory.end(&recovery.pid);
        }
        let session = socket.session(recovery);
        if let Some(keeper) = &memory.settings.keeper {
            if recovery.is_queued() {
                let session = SavedSession { before: recovery.save(), ..session.clone() };
                keeper.save(recovery.pid.as_str(), session);
            }
            keeper.left(recovery.pid.as_str(), session.since);
        }
        let (namespace, id) = (socket.reference().namespace, socket.inner().id);
        let direct = recovery.direct.take().pack();
        memory.keep(recovery.pid, Away::new(namespace, self.address(), id, session, direct));
    }

    /// Ends the connection because its client has come back on another one. `done` is dropped when this connection has
    /// ended. Bytes already received are processed first: they may hold a DISCONNECT.
    pub(crate) fn hand_over(self: &Rc<Self>, done: oneshot::Sender<()>) {
        let is_being_handled = !self.is_paused() && self.writer.borrow().has_unhandled();
        if self.reader.borrow().is_none() && !is_being_handled {
            return self.close(DisconnectReason::SessionResumed);
        }
        let mut arrivals = self.arrivals.borrow_mut();
        let handed_over = &mut arrivals.get_or_insert_default().handed_over;
        handed_over.retain(|waiting| !waiting.is_closed());
        handed_over.push(done);
        drop(arrivals);
        self.wake_reader();
    }

    pub(crate) fn is_handed_over(&self) -> bool {
        self.arrivals.borrow().as_ref().is_some_and(|arrivals| !arrivals.handed_over.is_empty())
    }

    /// Ends the connection now. It must not be called while one of the connection's handlers runs; `close_later` is for
    /// that case.
    pub(crate) fn close(self: &Rc<Self>, reason: DisconnectReason) {
        self.close_with(reason, None);
    }

    /// As `close`, with a close code for a WebSocket client.
    pub(crate) fn close_with(self: &Rc<Self>, reason: DisconnectReason, code: Option<CloseCode>) {
        if self.closed.replace(true) {
            return;
        }
        let sockets = std::mem::take(&mut *self.sockets.borrow_mut());
        for socket in &sockets {
            self.end_socket(socket, reason);
        }
        if sockets.is_empty() {
            self.shard.metrics.disconnected(reason);
        }
        if let Some(sid) = self.sid {
            self.shard.sessions.borrow_mut().remove(&sid);
        }
        let writer = std::mem::replace(&mut *self.writer.borrow_mut(), Writer::Closed);
        let shard = &self.shard;
        let ending = Ending {
            reason,
            code,
            is_python: self.is_python,
            farewells: &shard.farewells,
            keep: shard.config.ping_timeout,
            metrics: &shard.metrics,
        };
        writer.close(&ending, &mut self.outbox.borrow_mut());
        self.outbox.borrow_mut().clear();
        self.count_waiting();
        self.assembling.borrow_mut().take();
        self.release_unfinished();
        self.hold_remembered();
        self.permit.take();
        self.arrivals.borrow_mut().take();
        self.shard.metrics.connections.decrement();
        let mut connections = self.shard.connections.borrow_mut();
        if connections.get(self.key.index as usize).is_some_and(|known| known.key == self.key) {
            connections.remove(self.key.index as usize);
        }
        if connections.is_empty() {
            connections.shrink_to_fit();
        }
        drop(connections);
        self.shard.tidy_timers();
        self.wake_reader();
        self.shard.something_ended();
    }

    /// The result of `f`, or `None` if the connection ends first.
    pub(crate) async fn unless_ended<T>(&self, f: impl Future<Output = T>) -> Option<T> {
        if self.is_closed() {
            return None;
        }
        let (ends, ended) = oneshot::channel();
        {
            let mut arrivals = self.arrivals.borrow_mut();
            let waiting = &mut arrivals.get_or_insert_default().ended;
            waiting.retain(|waiting| !waiting.is_closed());
            waiting.push(ends);
        }
        let result = tokio::select! {
            biased;
            result = f => Some(result),
            _ = ended => None,
        };
        let mut arrivals = self.arrivals.borrow_mut();
        if let Some(known) = arrivals.as_mut() {
            known.ended.retain(|waiting| !waiting.is_closed());
            if known.is_empty() {
                *arrivals = None;
            }
        }
        result
    }

    /// Adds the valid timer entries of the connection and its sockets, while the connection is open.
    pub(crate) fn add_timers(&self, deadlines: &mut Vec<(Instant, Timer)>) {
        deadlines.extend(self.timer_at.get().map(|at| (at, Timer::Connection(self.key))));
        for socket in self.sockets.borrow().iter() {
            deadlines.extend(socket.timer_at().map(|at| (at, Timer::Socket(socket.reference()))));
        }
    }
}
