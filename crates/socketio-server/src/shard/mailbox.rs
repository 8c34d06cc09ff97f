//! The commands of a shard, carried out in order: broadcasts, calls on sockets, new connections, the drain.

use std::{
    collections::{HashSet, VecDeque},
    net::{SocketAddr, TcpStream},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc::UnboundedReceiver, oneshot},
    task::yield_now,
    time::{Instant, sleep_until},
};

use super::Shard;
use crate::{
    DisconnectReason, Socket, SocketRef,
    admission::{HttpPermit, StreamPermit},
    connection::Connection,
    delivery::job::Job,
    identifier::{ConnectionKey, Id, Position},
    shard::fanout::{Fanout, Pace},
    transport::EngineRequest,
};

type SocketJob = Box<dyn FnOnce(Option<&Socket>) + Send>;
type EachJob = Arc<dyn Fn(&Socket) + Send + Sync>;

/// A command to a shard. Commands are carried out in order.
pub(crate) enum Command {
    Accept(TcpStream, SocketAddr, (StreamPermit, HttpPermit)),
    Broadcast(Arc<Job>),
    /// The broadcasts up to this offset are before this command, or are not for this server.
    Advance(Position),
    WithSocket(SocketRef, SocketJob),
    EachInRoom {
        namespace: u16,
        room: Arc<str>,
        f: EachJob,
    },
    EachInRooms {
        namespace: u16,
        rooms: Arc<dyn Fn(&str) -> bool + Send + Sync>,
        f: EachJob,
    },
    Each {
        namespace: u16,
        f: EachJob,
    },
    Engine(EngineRequest),
    /// Reports that all commands before it are carried out.
    Mark(oneshot::Sender<()>),
    /// Close all connections.
    CloseAll,
    /// Another shard has ended.
    ShardEnded,
    /// Close all connections, paced over the given time, and then stop.
    Drain(Duration),
}

/// Commands taken from the mailbox at a time.
const COMMANDS_PER_TURN: usize = 256;

impl Shard {
    pub(super) async fn serve_mailbox(self: Rc<Self>, mut mailbox: UnboundedReceiver<Command>) {
        let mut commands = VecDeque::with_capacity(COMMANDS_PER_TURN);
        let mut deadline: Option<Instant> = None;
        loop {
            let first = tokio::select! {
                // Commands come first: during a drain they bring the last replies.
                biased;
                first = mailbox.recv() => first,
                () = self.something_ended.notified(), if deadline.is_some() => if self.is_empty() { return } else { continue },
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => return,
            };
            let Some(first) = first else { return };
            let mut began = self.now();
            commands.push_back(first);
            take_waiting(&mut mailbox, &mut commands);
            while let Some(command) = commands.pop_front() {
                match command {
                    Command::Drain(grace) => {
                        deadline = Some(Instant::now() + grace);
                        if self.is_empty() {
                            return;
                        }
                        self.clone().drain(grace);
                    }
                    Command::Broadcast(job) => {
                        let fanout = Fanout::of(job, &self);
                        let is_large = fanout.is_large(&self.config);
                        *self.fanout.borrow_mut() = Some(fanout);
                        // If more broadcasts are arriving right now, they share the first write too.
                        while is_large && {
                            let known = commands.len();
                            yield_now().await;
                            take_waiting(&mut mailbox, &mut commands);
                            commands.len() > known
                        } {}
                        while !self.fan_out_for_a_while(is_large, &mut commands) {
                            // The first yield lets new data be read. The second lets the resulting frames be written.
                            yield_now().await;
                            yield_now().await;
                            take_waiting(&mut mailbox, &mut commands);
                        }
                    }
                    Command::EachInRoom { namespace, room, f } => {
                        let members = self.members(namespace, &room);
                        self.ask_each(members, namespace, Some(&room), &f, &mut began).await;
                    }
                    Command::EachInRooms { namespace, rooms, f } => {
                        self.ask_each_in_rooms(namespace, &*rooms, &f, &mut began).await;
                    }
                    Command::Each { namespace, f } => {
                        let sockets = self.space(namespace).sockets.borrow().values().cloned().collect();
                        self.ask_each(sockets, namespace, None, &f, &mut began).await;
                    }
                    command => self.carry_out(command),
                }
                self.give_way(&mut began).await;
            }
        }
    }

    fn carry_out(self: &Rc<Self>, command: Command) {
        match command {
            Command::Accept(stream, peer, permits) => match tokio::net::TcpStream::from_std(stream) {
                Ok(stream) => self.accept(stream, peer, permits),
                Err(error) => tracing::warn!(%error, "failed to register a connection"),
            },
            Command::WithSocket(socket, f) => {
                let socket = self.socket(socket);
                self.guarded(|| f(socket.as_ref()));
            }
            Command::Engine(request) => self.handle_request(request),
            Command::CloseAll => {
                let open: Vec<Rc<Connection>> =
                    self.connections.borrow().iter().map(|(_, connection)| connection.clone()).collect();
                open.iter().for_each(|connection| connection.close(DisconnectReason::Unavailable));
            }
            Command::Advance(to) => self.position.set(self.position.get().max(to)),
            Command::Mark(reached) => {
                let _ = reached.send(());
            }
            // Asks whether this shard can end too.
            Command::ShardEnded => self.something_ended(),
            Command::Broadcast(_)
            | Command::Drain(_)
            | Command::EachInRoom { .. }
            | Command::EachInRooms { .. }
            | Command::Each { .. } => {}
        }
    }

    fn members(&self, namespace: u16, room: &str) -> Vec<Socket> {
        let space = self.space(namespace);
        let (rooms, sockets) = (space.rooms.borrow(), space.sockets.borrow());
        let own = Id::parse(room).and_then(|id| sockets.get(&id));
        rooms.members(room).iter().map(|member| &member.socket).chain(own).cloned().collect()
    }

    /// Calls `f` for each socket that is still connected, and still in the room if one is given, when its turn comes.
    async fn ask_each(&self, sockets: Vec<Socket>, namespace: u16, room: Option<&str>, f: &EachJob, began: &mut u64) {
        let mut was_interrupted = false;
        for socket in &sockets {
            let is_still_there =
                |room: &str| room == socket.id() || self.space(namespace).rooms.borrow().contains(socket, room);
            if was_interrupted && !(socket.is_connected() && room.is_none_or(is_still_there)) {
                continue;
            }
            self.guarded(|| f(socket));
            was_interrupted |= self.give_way(began).await;
        }
    }

    async fn ask_each_in_rooms(
        &self,
        namespace: u16,
        is_meant: &(dyn Fn(&str) -> bool + Send + Sync),
        f: &EachJob,
        began: &mut u64,
    ) {
        let mut asked = HashSet::new();
        let rooms = &self.space(namespace).rooms;
        let index_bound = rooms.borrow().index_bound();
        for index in 0..index_bound {
            let members = {
                let rooms = rooms.borrow();
                let room = rooms.at(index).filter(|(name, _)| self.guarded(|| is_meant(name)) == Some(true));
                let members = room.into_iter().flat_map(|(_, members)| members).map(|member| &member.socket);
                members.filter(|socket| asked.insert(socket.reference())).cloned().collect()
            };
            self.ask_each(members, namespace, None, f, began).await;
            self.give_way(began).await;
        }
    }

    /// Continues the broadcast under way, together with the commands that can join it. Returns true if no broadcast is
    /// left.
    fn fan_out_for_a_while(&self, writes: bool, commands: &mut VecDeque<Command>) -> bool {
        if let Some(fanout) = self.fanout.borrow_mut().as_mut() {
            while let Some(Command::Broadcast(next)) = commands.front()
                && fanout.take(next, self)
            {
                commands.pop_front();
            }
        }
        let limit = self.config.fanout_per_turn.max(1);
        self.fan_out(if writes && commands.is_empty() { Pace::Write(limit) } else { Pace::Queue(limit) })
    }

    /// Continues the broadcast under way. Returns true if no broadcast is left.
    fn fan_out(&self, pace: Pace) -> bool {
        let mut fanout = self.fanout.borrow_mut();
        let done = fanout.as_mut().is_none_or(|fanout| fanout.advance(self, pace));
        if done && let Some(fanout) = fanout.take() {
            self.position.set(fanout.last_offset());
        }
        done
    }

    /// Closes the connections one after the other over most of the grace period.
    fn drain(self: Rc<Self>, grace: Duration) {
        // The last fifth is for frames that are still being written.
        let pace = grace.mul_f64(0.8);
        self.leave_by.set(Some(Instant::now() + pace));
        self.draining.set(true);
        self.drain_began.notify_waiters();
        let keys: Vec<ConnectionKey> = self.connections.borrow().iter().map(|(_, connection)| connection.key).collect();
        let step = Duration::from_millis(20);
        let turns = (pace.as_millis() / step.as_millis()).max(1) as usize;
        let per_turn = keys.len().div_ceil(turns).max(1);
        tokio::task::spawn_local(async move {
            let mut ticks = tokio::time::interval(step);
            for keys in keys.chunks(per_turn) {
                ticks.tick().await;
                for &key in keys {
                    if let Some(connection) = self.connection(key) {
                        connection.close(DisconnectReason::ServerShutdown);
                    }
                }
            }
            // Connections whose handshake was under way when the drain began.
            loop {
                ticks.tick().await;
                let late: Vec<Rc<Connection>> =
                    self.connections.borrow().iter().map(|(_, late)| late.clone()).collect();
                late.iter().for_each(|connection| connection.close(DisconnectReason::ServerShutdown));
            }
        });
    }
}

/// Takes the pending commands, up to the number for one turn.
fn take_waiting(mailbox: &mut UnboundedReceiver<Command>, commands: &mut VecDeque<Command>) {
    while commands.len() < COMMANDS_PER_TURN
        && let Ok(command) = mailbox.try_recv()
    {
        commands.push_back(command);
    }
}
