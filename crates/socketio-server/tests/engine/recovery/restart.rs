//! A session that outlives the server.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::json;
use socketio_server::{
    Before, Claimed, Config, Missed, MissedEvent, Namespace, NotRecalled, Position, Recalled, Recovery, SavedSession,
    Saving, SessionKeeper,
};
use tokio::sync::oneshot;

use super::client::{Client, Memory, studio};
use crate::{
    client::Ws,
    harness::{TestServer, eventually},
};

on_one_and_three_shards!(
    a_session_outlives_the_server,
    what_a_restarted_server_sent_is_sent_again_if_it_was_lost,
    what_a_session_may_no_longer_be_in_is_not_sent_after_a_restart,
    the_keeper_gets_the_position_that_every_client_has_received,
    a_change_is_saved_before_its_answer,
    a_session_on_its_way_back_can_be_claimed_by_the_next_connection,
    a_stop_without_a_grace_ends_no_session,
    a_stop_ends_no_session_on_its_way_back,
);

/// Keeps sessions and the events of earlier runs as an application would.
#[derive(Debug, Default)]
struct Cellar {
    sessions: Mutex<HashMap<String, SavedSession>>,
    events: Mutex<Vec<(String, u64, u32)>>,
    /// What the next session that is asked for waits for.
    gate: Mutex<Option<oneshot::Receiver<()>>>,
    /// The same of the next question for what was missed.
    missed_gate: Mutex<Option<oneshot::Receiver<()>>>,
    left: Mutex<HashMap<String, u64>>,
    confirmed: Mutex<u64>,
    /// The position before the current run.
    begun: Mutex<Position>,
}

impl SessionKeeper for Cellar {
    fn save(&self, pid: &str, session: SavedSession) -> Option<Saving> {
        self.sessions.lock().expect("no test panicked").insert(pid.to_owned(), session);
        None
    }

    fn left(&self, pid: &str, since: Position) {
        self.left.lock().expect("no test panicked").insert(pid.to_owned(), since.get());
    }

    fn confirmed(&self, up_to: Position) {
        *self.confirmed.lock().expect("no test panicked") = up_to.get();
    }

    fn forget(&self, pid: &str) {
        self.sessions.lock().expect("no test panicked").remove(pid);
    }

    fn claim(&self, pid: &str, _is_here: bool) -> Recalled<Claimed> {
        let session = self.sessions.lock().expect("no test panicked").get(pid).cloned();
        let gate = self.gate.lock().expect("no test panicked").take();
        Box::pin(async {
            if let Some(gate) = gate {
                let _ = gate.await;
            }
            session.map(Claimed::Saved).ok_or(NotRecalled::Gone)
        })
    }

    fn missed(
        &self,
        _namespace: &str,
        rooms: Vec<(Arc<str>, Position)>,
        offset: Position,
        _own_events: bool,
    ) -> Recalled<Missed> {
        let until = *self.begun.lock().expect("no test panicked");
        let events = self.events.lock().expect("no test panicked");
        let missed = events.iter().filter(|(room, number, _)| {
            rooms.iter().any(|(name, joined)| **name == **room && *number > offset.max(*joined).get())
        });
        let missed = missed.map(|(room, number, what)| {
            MissedEvent::new((*number).into(), "said", what.to_string()).to(vec![room.clone()])
        });
        let missed = missed.collect();
        let gate = self.missed_gate.lock().expect("no test panicked").take();
        Box::pin(async move {
            if let Some(gate) = gate {
                let _ = gate.await;
            }
            Ok(Missed { events: missed, until })
        })
    }
}

impl Cellar {
    /// A run of the server, whose first event is the one after this.
    fn start(self: &Arc<Self>, shards: usize, after: u64, namespace: Namespace) -> TestServer {
        self.start_with(shards, after, namespace, Config::default())
    }

    fn start_with(self: &Arc<Self>, shards: usize, after: u64, namespace: Namespace, config: Config) -> TestServer {
        let keeper: Arc<dyn SessionKeeper> = Arc::<Self>::clone(self);
        *self.begun.lock().expect("no test panicked") = after.into();
        let (after, id_key, keeper) = (Some(after.into()), Some([9; 16]), Some(keeper));
        let recovery = Recovery { after, id_key, keeper, ..Recovery::default() };
        let config = Config { shards, recovery: Some(recovery), ..config };
        TestServer::start(config, |server| server.namespace(namespace))
    }

    fn confirmed(&self) -> u64 {
        *self.confirmed.lock().expect("no test panicked")
    }

    /// Sends an event to a room, and keeps it.
    async fn say(&self, server: &TestServer, room: &str, number: u64, what: u32) -> u64 {
        self.events.lock().expect("no test panicked").push((room.to_owned(), number, what));
        server.handle.to("/", room).offset(number).emit("said", &what).expect("a name").await
    }

    /// Waits until what is kept of a session names these rooms.
    async fn knows(&self, memory: &Memory, rooms: &[&str]) {
        let pid = memory.pid.as_deref().expect("a pid");
        let known = || self.sessions.lock().expect("no test panicked").get(pid).map(|session| session.rooms.clone());
        let names = |rooms: Vec<(Arc<str>, Position)>| rooms.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        eventually("the session is kept", || {
            known().map(names).is_some_and(|known| known.iter().map(|name| &**name).eq(rooms.iter().copied()))
        })
        .await;
    }
}

/// The network takes the first answer with all that was missed: the client does not know that it was back.
async fn what_a_restarted_server_sent_is_sent_again_if_it_was_lost(shards: usize) {
    let cellar = Arc::<Cellar>::default();
    let mut first = cellar.start(shards, 100, studio("/"));
    let mut client = Client::connect(&first).await;
    client.join("a").await;
    cellar.say(&first, "a", 101, 1).await;
    client.hears(&[1]).await;
    cellar.knows(&client.memory, &["a"]).await;
    let memory = client.lose(&first).await;
    cellar.say(&first, "a", 102, 2).await;
    cellar.say(&first, &memory.id, 103, 3).await;
    first.shut_down(Duration::from_millis(100)).await;

    let second = cellar.start(shards, 1_000, studio("/"));
    for _ in 0..3 {
        let unheard = Client::back(&second, memory.clone()).await;
        assert!(unheard.memory.recovered);
        unheard.lose(&second).await;
    }
    cellar.say(&second, "a", 1_001, 4).await;
    let mut client = Client::back(&second, memory).await;
    assert!(client.memory.recovered);
    client.hears(&[2, 3, 4]).await;
    let memory = client.lose(&second).await;
    Client::back(&second, memory).await.hears(&[]).await;
}

async fn what_a_session_may_no_longer_be_in_is_not_sent_after_a_restart(shards: usize) {
    let cellar = Arc::<Cellar>::default();
    let mut first = cellar.start(shards, 100, studio("/"));
    let mut client = Client::connect(&first).await;
    client.join("open").await;
    client.join("secret").await;
    cellar.knows(&client.memory, &["open", "secret"]).await;
    let memory = client.lose(&first).await;
    cellar.say(&first, "secret", 101, 1).await;
    cellar.say(&first, "open", 102, 2).await;
    first.shut_down(Duration::from_millis(100)).await;

    let stricter = studio("/").restore(|socket, _, _| socket.leave("secret"));
    let second = cellar.start(shards, 1_000, stricter);
    let mut client = Client::back(&second, memory).await;
    assert!(client.memory.recovered);
    client.hears(&[2]).await;
    assert_eq!(client.ask("rooms", json!([])).await, json!(["open"]));
}

async fn a_change_is_saved_before_its_answer(shards: usize) {
    let cellar = Arc::<Cellar>::default();
    let server = cellar.start(shards, 100, studio("/"));
    let mut client = Client::connect(&server).await;
    let pid = client.memory.pid.clone().expect("a pid");
    let saved = || cellar.sessions.lock().expect("no test panicked").get(&pid).cloned().expect("it is saved");
    for round in 0..100 {
        client.join("a").await;
        assert_eq!((saved().rooms.len(), saved().before), (1, Before::Outdated), "round {round}");
        assert_eq!(client.ask("leave", json!(["a"])).await, true);
        assert_eq!(saved().rooms.len(), 0, "round {round}");
    }
}

async fn the_keeper_gets_the_position_that_every_client_has_received(shards: usize) {
    let cellar = Arc::<Cellar>::default();
    let config = Config { ping_interval: Duration::from_millis(50), ..Config::default() };
    let server = cellar.start_with(shards, 100, studio("/"), config);
    // It is in no room, and is sent nothing but heartbeats.
    let mut quiet = Client::connect(&server).await;
    let answers_until = async |quiet: &mut Client, number: u64| {
        while cellar.confirmed() != number {
            assert_eq!(quiet.ws.text().await, "2");
            quiet.ws.send("3").await;
        }
    };
    cellar.say(&server, "a", 101, 1).await;
    answers_until(&mut quiet, 101).await;
    let memory = Client::connect(&server).await.lose(&server).await;
    let pid = memory.pid.clone().expect("a pid");
    assert_eq!(cellar.left.lock().expect("no test panicked").get(&pid), Some(&101));
    cellar.say(&server, "a", 102, 2).await;
    answers_until(&mut quiet, 102).await;
    // Who comes back holds all back until it has received what the others have.
    let mut back = Client::back(&server, memory).await;
    assert_eq!(cellar.confirmed(), 101);
    assert_eq!(back.ws.text().await, "2");
    back.ws.send("3").await;
    answers_until(&mut quiet, 102).await;
}

/// The client's first connection after the restart is lost while its session is read.
async fn a_session_on_its_way_back_can_be_claimed_by_the_next_connection(shards: usize) {
    let cellar = Arc::<Cellar>::default();
    let mut first = cellar.start(shards, 100, studio("/"));
    let mut client = Client::connect(&first).await;
    client.join("a").await;
    cellar.knows(&client.memory, &["a"]).await;
    let memory = client.lose(&first).await;
    first.shut_down(Duration::from_millis(100)).await;

    let second = cellar.start(shards, 1_000, studio("/"));
    let (open, gate) = oneshot::channel();
    *cellar.gate.lock().expect("no test panicked") = Some(gate);
    let mut lost = Ws::open(second.addr).await;
    lost.send(&memory.connect_packet()).await;
    eventually("the session is asked for", || cellar.gate.lock().expect("no test panicked").is_none()).await;
    drop(lost);
    eventually("the loss is noticed", || second.metrics().connections == 0).await;
    let mut next = Ws::open(second.addr).await;
    next.send(&memory.connect_packet()).await;
    second.settle().await;
    drop(open);
    let mut back = memory.clone();
    back.connected(&next.text().await);
    assert!(back.recovered);
    assert_eq!(back.id, memory.id);
}

/// The threads end before all connections are closed.
async fn a_stop_without_a_grace_ends_no_session(shards: usize) {
    for _ in 0..20 {
        let cellar = Arc::<Cellar>::default();
        let mut server = cellar.start(shards, 100, studio("/"));
        let mut clients = Vec::new();
        for _ in 0..10 {
            let mut client = Client::connect(&server).await;
            client.join("a").await;
            clients.push(client);
        }
        server.shut_down(Duration::ZERO).await;
        assert_eq!(cellar.sessions.lock().expect("no test panicked").len(), 10);
    }
}

async fn a_stop_ends_no_session_on_its_way_back(shards: usize) {
    let cellar = Arc::<Cellar>::default();
    let mut first = cellar.start(shards, 100, studio("/"));
    let mut client = Client::connect(&first).await;
    client.join("a").await;
    cellar.knows(&client.memory, &["a"]).await;
    let memory = client.lose(&first).await;
    first.shut_down(Duration::from_millis(100)).await;

    let mut second = cellar.start(shards, 1_000, studio("/"));
    let (_open, gate) = oneshot::channel();
    *cellar.missed_gate.lock().expect("no test panicked") = Some(gate);
    let mut waiting = Ws::open(second.addr).await;
    waiting.send(&memory.connect_packet()).await;
    let is_asked = || cellar.missed_gate.lock().expect("no test panicked").is_none();
    eventually("what it missed is asked for", is_asked).await;
    second.shut_down(Duration::from_millis(100)).await;
    drop(waiting);

    let third = cellar.start(shards, 2_000, studio("/"));
    let back = Client::back(&third, memory.clone()).await;
    assert!(back.memory.recovered);
    assert_eq!(back.memory.id, memory.id);
}

async fn a_session_outlives_the_server(shards: usize) {
    let cellar = Arc::<Cellar>::default();
    let mut first = cellar.start(shards, 100, studio("/"));
    let mut client = Client::connect(&first).await;
    assert_eq!(cellar.say(&first, "a", 101, 1).await, 0);
    client.join("a").await;
    assert_eq!(cellar.say(&first, "a", 102, 2).await, 1);
    client.hears(&[2]).await;
    assert_eq!(client.memory.offset.as_deref(), Some("66"));
    cellar.say(&first, "b", 103, 3).await;
    cellar.say(&first, "a", 105, 4).await;
    // It is told of nothing that came after this.
    let (memory, pid) = (client.memory.clone(), client.memory.pid.clone().expect("a pid"));
    let knows = || cellar.sessions.lock().expect("no test panicked").get(&pid).map(|session| session.rooms.clone());
    eventually("the session is kept", || knows() == Some(vec![("a".into(), 101.into())])).await;
    first.shut_down(Duration::from_millis(100)).await;

    let second = cellar.start(shards, 1_000, studio("/"));
    let mut stranger = Client::connect(&second).await;
    stranger.ws.send(&format!(r#"420["join","{}"]"#, memory.id)).await;
    let mut client = Client::back(&second, memory.clone()).await;
    assert!(client.memory.recovered);
    assert_eq!(client.memory.id, memory.id);
    client.hears(&[4]).await;
    assert_eq!(cellar.say(&second, "a", 1_001, 5).await, 1);
    client.hears(&[5]).await;
    // Two runs later nobody asks what was in between.
    client.ws.send("41").await;
    eventually("it is forgotten", || knows().is_none()).await;
    assert!(!Client::back(&second, memory).await.memory.recovered);
    // The earlier run's ids are known: nobody else joins a room of that name.
    stranger.ws.closed().await;
    second.expect_panics(1);
}
