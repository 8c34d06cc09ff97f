//! Many come back at once, and the keeper is slow.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use socketio_server::{
    Claimed, Config, Missed, NotRecalled, Position, Recalled, Recovery, SavedSession, Saving, SessionKeeper,
};
use tokio::sync::Semaphore;

use super::client::studio;
use crate::{
    client::{Ask, Ws},
    harness::{TestServer, eventually},
};

/// Sessions that are read at a time for the clients of one address.
const AT_A_TIME: usize = 8;

/// Knows no session, and takes its time to say so.
#[derive(Debug, Clone)]
struct Slow {
    answers: Arc<Semaphore>,
    asked: Arc<AtomicUsize>,
    under_way: Arc<AtomicUsize>,
}

struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl SessionKeeper for Slow {
    fn save(&self, _pid: &str, _session: SavedSession) -> Option<Saving> {
        None
    }

    fn left(&self, _pid: &str, _since: Position) {}

    fn confirmed(&self, _up_to: Position) {}

    fn forget(&self, _pid: &str) {}

    fn claim(&self, _pid: &str, _is_here: bool) -> Recalled<Claimed> {
        self.asked.fetch_add(1, SeqCst);
        self.under_way.fetch_add(1, SeqCst);
        let (under_way, answers) = (UnderWay(self.under_way.clone()), self.answers.clone());
        Box::pin(async move {
            let _under_way = under_way;
            answers.acquire().await.expect("it stays open").forget();
            Err(NotRecalled::Gone)
        })
    }

    fn missed(
        &self,
        _namespace: &str,
        _rooms: Vec<(Arc<str>, Position)>,
        _offset: Position,
        _own_events: bool,
    ) -> Recalled<Missed> {
        Box::pin(std::future::ready(Err(NotRecalled::Gone)))
    }
}

impl Slow {
    fn new() -> Self {
        Self { answers: Arc::new(Semaphore::new(0)), asked: Arc::default(), under_way: Arc::default() }
    }

    fn start(&self) -> TestServer {
        let keeper: Arc<dyn SessionKeeper> = Arc::new(self.clone());
        let recovery = Recovery { keeper: Some(keeper), ..Recovery::default() };
        let config = Config {
            shards: 1,
            recovery: Some(recovery),
            connect_timeout: Duration::from_secs(60),
            ..Config::default()
        };
        TestServer::start(config, |server| server.namespace(studio("/")))
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

/// A client of this address that comes back for a session.
async fn back(server: &TestServer, from: &str, number: usize) -> Ws {
    let ask = Ask { from: Some(from), ..Ask::default() };
    let mut ws = Ws::ask(server.addr, "/socket.io/?EIO=4&transport=websocket", ask).await.expect("a WebSocket");
    assert!(ws.text().await.starts_with("0{"));
    ws.send(&format!(r#"40{{"pid":"{number:0>20}"}}"#)).await;
    ws
}

/// Fifty clients of one address that come back, of which some are read for.
async fn fifty_back(server: &TestServer, keeper: &Slow) -> Vec<Ws> {
    let mut clients = Vec::new();
    for number in 0..50 {
        clients.push(back(server, "127.0.0.1", number).await);
    }
    eventually("it is asked", || keeper.asked() == AT_A_TIME).await;
    clients
}

#[tokio::test]
async fn the_clients_of_an_address_wait_for_each_other() {
    let keeper = Slow::new();
    let server = keeper.start();
    let mut clients = fifty_back(&server, &keeper).await;
    server.settle().await;
    assert_eq!(keeper.asked(), AT_A_TIME);
    clients.push(back(&server, "127.0.0.2", 50).await);
    eventually("it is asked for another address", || keeper.asked() == AT_A_TIME + 1).await;
    keeper.answers.add_permits(51);
    for client in &mut clients {
        assert!(client.text().await.starts_with("40{"));
    }
    assert_eq!((keeper.asked(), keeper.under_way.load(SeqCst)), (51, 0));
}

#[tokio::test]
async fn nothing_is_read_for_who_is_gone() {
    let keeper = Slow::new();
    let server = keeper.start();
    let clients = fifty_back(&server, &keeper).await;
    drop(clients);
    eventually("they are gone", || server.metrics().connections == 0).await;
    eventually("nothing is read", || keeper.under_way.load(SeqCst) == 0).await;
    let mut client = back(&server, "127.0.0.1", 1).await;
    keeper.answers.add_permits(1);
    assert!(client.text().await.starts_with("40{"));
}
