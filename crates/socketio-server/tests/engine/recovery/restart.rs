//! A session that outlives the server.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use socketio_server::{MissedEvent, Recall, RecalledSession, Recovery, SavedSession, SessionKeeper};

use super::client::{Client, recovering, studio};
use crate::harness::{TestServer, eventually};

on_one_and_three_shards!(a_session_outlives_the_server);

/// Keeps sessions and the events of earlier lives as an application would.
#[derive(Debug, Default)]
struct Cellar {
    sessions: Mutex<HashMap<String, SavedSession>>,
    events: Mutex<Vec<(String, u64, u32)>>,
}

impl SessionKeeper for Cellar {
    fn save(&self, pid: &str, session: SavedSession) {
        self.sessions.lock().expect("no test panicked").insert(pid.to_owned(), session);
    }

    fn forget(&self, pid: &str) {
        self.sessions.lock().expect("no test panicked").remove(pid);
    }

    fn recall(&self, pid: &str, offset: u64) -> Recall {
        let session = self.sessions.lock().expect("no test panicked").get(pid).cloned();
        let recalled = session.map(|session| {
            let events = self.events.lock().expect("no test panicked");
            let missed = events.iter().filter(|(room, number, _)| {
                let joined = session.rooms.iter().find(|(name, _)| name == room).map(|(_, joined)| *joined);
                joined.is_some_and(|joined| *number > offset.max(session.since).max(joined))
            });
            let missed = missed.map(|(_, number, what)| MissedEvent::new(*number, "said", what.to_string())).collect();
            RecalledSession::new(session, missed)
        });
        Box::pin(std::future::ready(recalled))
    }
}

async fn a_session_outlives_the_server(shards: usize) {
    let cellar = Arc::new(Cellar::default());
    let start = |after: u64| {
        let keeper: Arc<dyn SessionKeeper> = Arc::<Cellar>::clone(&cellar);
        let (after, id_key, keeper) = (Some(after), Some([9; 16]), Some(keeper));
        let recovery = Recovery { after, id_key, keeper, ..Recovery::default() };
        TestServer::start(recovering(shards, recovery), |server| server.namespace(studio("/")))
    };
    let durable = |server: &TestServer, room: &str, number: u64, what: u32| {
        cellar.events.lock().expect("no test panicked").push((room.to_owned(), number, what));
        server.handle.to("/", room).offset(number).emit("said", &what).expect("a name")
    };
    let mut first = start(100);
    let mut client = Client::connect(&first).await;
    assert_eq!(durable(&first, "a", 101, 1).await, 0);
    client.join("a").await;
    assert_eq!(durable(&first, "a", 102, 2).await, 1);
    client.hears(&[2]).await;
    assert_eq!(client.memory.offset.as_deref(), Some("66"));
    durable(&first, "b", 103, 3).await;
    durable(&first, "a", 105, 4).await;
    // It is told of nothing that came after this.
    let (memory, pid) = (client.memory.clone(), client.memory.pid.clone().expect("a pid"));
    let knows = || cellar.sessions.lock().expect("no test panicked").get(&pid).map(|session| session.rooms.clone());
    eventually("the session is kept", || knows() == Some(vec![("a".to_owned(), 101)])).await;
    first.shut_down(Duration::from_millis(100)).await;

    let second = start(1_000);
    let mut stranger = Client::connect(&second).await;
    stranger.ws.send(&format!(r#"420["join","{}"]"#, memory.id)).await;
    let mut client = Client::back(&second, memory.clone()).await;
    assert!(client.memory.recovered);
    assert_eq!(client.memory.id, memory.id);
    client.hears(&[4]).await;
    assert_eq!(durable(&second, "a", 1_001, 5).await, 1);
    client.hears(&[5]).await;
    // Two lives later nobody asks what was in between.
    client.ws.send("41").await;
    eventually("it is forgotten", || knows().is_none()).await;
    assert!(!Client::back(&second, memory).await.memory.recovered);
    // The earlier life's ids are known: nobody else joins a room of that name.
    stranger.ws.closed().await;
    second.expect_panics(1);
}
