//! As much of the stock client as recovery concerns, and a server for it.

use std::{collections::HashMap, net::SocketAddr};

use serde_json::{Value, json};
use socketio_server::{Config, Event, Namespace, Recovery, RecoveryFailure};

use crate::{
    client::Ws,
    harness::{TestServer, eventually, within},
};

pub(super) fn config(shards: usize) -> Config {
    recovering(shards, Recovery::default())
}

pub(super) fn recovering(shards: usize, recovery: Recovery) -> Config {
    Config { shards, recovery: Some(recovery), ..Config::default() }
}

pub(super) fn text(event: &Event<'_>, index: usize) -> String {
    event.parse(index).expect("a string")
}

/// Rooms, and events to whom one likes.
pub(super) fn studio(name: &'static str) -> Namespace {
    Namespace::new(name)
        .on("join", |socket, event| {
            socket.join(&text(&event, 0)).expect("a room");
            event.ack(&true);
        })
        .on("leave", |socket, event| {
            let left = socket.leave(&text(&event, 0));
            event.ack(&left);
        })
        .on("rooms", |socket, event| {
            let mut rooms = socket.rooms();
            rooms.sort();
            event.ack(&rooms);
        })
        // Emits its argument to the socket alone.
        .on("echo", |socket, event| socket.emit("said", &event.arg(0)).expect("a name"))
        .on("say", |socket, event| {
            drop(socket.to(&text(&event, 0)).emit("said", &event.arg(1)).expect("a name"));
            event.ack(&true);
        })
}

pub(super) fn server(shards: usize) -> TestServer {
    TestServer::start(config(shards), |server| server.namespace(studio("/")).namespace(studio("/other")))
}

/// As much of the stock client as recovery concerns: what it remembers, and when it says so.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    pub(super) pid: Option<String>,
    pub(super) offset: Option<String>,
    pub(super) id: String,
    pub(super) recovered: bool,
}

impl Memory {
    pub(super) fn connect_packet(&self) -> String {
        match (&self.pid, &self.offset) {
            (None, _) => "40".to_owned(),
            (Some(pid), None) => format!("40{}", json!({ "pid": pid })),
            (Some(pid), Some(offset)) => format!("40{}", json!({ "pid": pid, "offset": offset })),
        }
    }

    pub(super) fn connected(&mut self, packet: &str) {
        let reply: HashMap<String, String> =
            serde_json::from_str(packet.strip_prefix("40").expect("the reply to CONNECT")).expect("an object");
        self.recovered = self.pid.as_ref() == Some(&reply["pid"]);
        self.pid = Some(reply["pid"].clone());
        self.id.clone_from(&reply["sid"]);
    }

    /// An event's name and arguments; the offset, which every one must have, is remembered and taken off.
    pub(super) fn event(&mut self, packet: &str) -> (String, Vec<Value>) {
        let mut args: Vec<Value> = serde_json::from_str(packet.strip_prefix("42").expect("an event")).expect("JSON");
        let Some(Value::String(offset)) = args.pop() else { panic!("no offset: {packet}") };
        self.offset = Some(offset);
        let Value::String(name) = args.remove(0) else { panic!("no name: {packet}") };
        (name, args)
    }
}

pub(super) struct Client {
    pub(super) ws: Ws,
    pub(super) memory: Memory,
}

impl Client {
    pub(super) async fn connect(server: &TestServer) -> Self {
        Self::back(server, Memory::default()).await
    }

    /// Comes back with what it remembers.
    pub(super) async fn back(server: &TestServer, memory: Memory) -> Self {
        Self::back_at(server.addr, memory).await
    }

    pub(super) async fn back_at(addr: SocketAddr, mut memory: Memory) -> Self {
        let mut ws = Ws::open(addr).await;
        ws.send(&memory.connect_packet()).await;
        memory.connected(&ws.text().await);
        Self { ws, memory }
    }

    /// Loses its connection, as the server soon notices.
    pub(super) async fn lose(self, server: &TestServer) -> Memory {
        let (before, Self { ws, memory }) = (server.metrics().sessions_away, self);
        drop(ws);
        eventually("the loss is noticed", || server.metrics().sessions_away > before).await;
        memory
    }

    pub(super) async fn ask(&mut self, event: &str, args: Value) -> Value {
        let mut packet = vec![json!(event)];
        packet.extend(args.as_array().expect("arguments").iter().cloned());
        self.ws.send(&format!("427{}", Value::from(packet))).await;
        let mut answer = self.ws.text().await;
        // What it was sent again is asked for by a heartbeat, which it leaves unanswered.
        if answer == "2" {
            answer = self.ws.text().await;
        }
        let answer: Vec<Value> = serde_json::from_str(answer.strip_prefix("437").expect("the ack")).expect("JSON");
        answer.into_iter().next().expect("one argument")
    }

    pub(super) async fn join(&mut self, room: &str) {
        assert_eq!(self.ask("join", json!([room])).await, true);
    }

    /// Asserts that these come next, and nothing else before the answer to a question.
    pub(super) async fn hears(&mut self, said: &[u32]) {
        for expected in said {
            let packet = self.ws.text().await;
            assert_eq!(self.memory.event(&packet), ("said".to_owned(), vec![json!(expected)]));
        }
        assert!(self.ask("rooms", json!([])).await.is_array());
    }

    /// Waits until the server has queued so many packets.
    pub(super) async fn has_been_sent(&self, server: &TestServer, packets: u64) {
        eventually("it is sent", || server.metrics().packets_queued >= packets).await;
    }
}

/// A broadcast that has gone to all.
pub(super) async fn say(server: &TestServer, room: &str, what: u32) -> u64 {
    let said = server.handle.to("/", room).emit("said", &what).expect("a name");
    within("a delivery", said).await
}

pub(super) fn failed(server: &TestServer, failure: RecoveryFailure) -> u64 {
    server.metrics().recovery_failures.iter().find(|(known, _)| *known == failure).map_or(0, |(_, count)| *count)
}
