//! A client with much to do leaves others their turn.

use std::{
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use http::Response;
use socketio_protocol::websocket::OpCode;
use socketio_server::{Config, Namespace, Socket};
use tokio::sync::Semaphore;

use crate::{
    client::{Http, Polling, Ws, text_frames},
    harness::{TestServer, answering, eventually},
    websocket::fragment,
};

const MANY: usize = 300;

/// Without rates, whose limits many of them would meet.
fn one_shard() -> Config {
    Config { shards: 1, event_rate_per_socket: 0, ..Config::default() }
}

/// How often work was done, and the gate.
fn begin() -> (Arc<AtomicUsize>, Arc<Semaphore>) {
    (Arc::default(), Arc::new(Semaphore::new(0)))
}

fn work(done: &AtomicUsize) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(3) {
        std::hint::spin_loop();
    }
    done.fetch_add(1, Relaxed);
}

/// `work` takes a while, `count` says how often it was done, `wait` waits for the gate.
fn busy(done: &Arc<AtomicUsize>, gate: &Arc<Semaphore>) -> Namespace {
    let (working, done, gate) = (done.clone(), done.clone(), gate.clone());
    Namespace::new("/")
        .on("work", move |_, _| work(&working))
        .on("count", move |_, event| event.ack(&done.load(Relaxed)))
        .on_async("wait", move |_, _| {
            let gate = gate.clone();
            async move { gate.acquire().await.expect("the gate stays").forget() }
        })
}

struct Bystander(Ws);

impl Bystander {
    async fn connected(server: &TestServer) -> Self {
        Self(Ws::connected(server.addr).await.0)
    }

    async fn count(&mut self) -> usize {
        self.0.send(r#"420["count"]"#).await;
        let answer = self.0.text().await;
        let count = answer.strip_prefix("430[").and_then(|answer| answer.strip_suffix(']'));
        count.and_then(|count| count.parse().ok()).expect("a count")
    }

    /// Work has begun, and is not done, when it is answered.
    async fn is_heard_in_between(&mut self) {
        let heard = loop {
            match self.count().await {
                0 => {}
                count => break count,
            }
        };
        assert!(heard < MANY, "heard when all was done");
        while self.count().await < MANY {}
    }
}

#[tokio::test]
async fn one_body_is_handled_in_turns() {
    let (done, gate) = begin();
    let server = TestServer::start(one_shard(), |server| server.namespace(busy(&done, &gate)));
    let mut bystander = Bystander::connected(&server).await;
    let session = Polling::connected(server.addr).await.0;
    let mut post = Http::connect(server.addr).await;
    post.send("POST", &session.target(), &[], [r#"42["work"]"#; MANY].join("\x1e").as_bytes()).await;
    bystander.is_heard_in_between().await;
    assert_eq!(post.response().await.expect("a response").parts(), (200, "ok"));
    // Another one is taken.
    session.send(r#"42["work"]"#).await;
    eventually("it is done", || done.load(Relaxed) == MANY + 1).await;
    assert!(server.metrics().longest_turn >= Duration::from_millis(3));
}

#[tokio::test]
async fn what_one_read_brings_is_handled_in_turns() {
    let (done, gate) = begin();
    let server = TestServer::start(one_shard(), |server| server.namespace(busy(&done, &gate)));
    let mut bystander = Bystander::connected(&server).await;
    let (mut ws, _) = Ws::connected(server.addr).await;
    ws.send_raw(&text_frames([r#"42["work"]"#; MANY])).await;
    bystander.is_heard_in_between().await;
}

/// The client sends nothing more, and stays.
#[tokio::test]
async fn a_message_in_fragments_is_given_back_when_it_is_handled() {
    let (done, gate) = begin();
    let server = TestServer::start(one_shard(), |server| server.namespace(busy(&done, &gate)));
    let (mut ws, _) = Ws::connected(server.addr).await;
    let message = format!(r#"42["work","{}"]"#, "x".repeat(400_000));
    let (first, rest) = message.as_bytes().split_at(200_000);
    ws.send_raw(&fragment(OpCode::Text, false, first)).await;
    eventually("half of it is held", || server.metrics().unfinished_bytes >= 200_000).await;
    ws.send_raw(&fragment(OpCode::Continuation, true, rest)).await;
    eventually("it is handled", || done.load(Relaxed) == 1).await;
    eventually("nothing is held", || server.metrics().unfinished_bytes == 0).await;
}

#[tokio::test]
async fn what_waited_for_a_handler_is_handled_in_turns() {
    let (done, gate) = begin();
    let server = TestServer::start(one_shard(), |server| server.namespace(busy(&done, &gate)));
    let mut bystander = Bystander::connected(&server).await;
    let (mut ws, _) = Ws::connected(server.addr).await;
    ws.send(r#"42["wait"]"#).await;
    ws.send_raw(&text_frames([r#"42["work"]"#; MANY])).await;
    eventually("they wait", || server.metrics().events_received > MANY as u64).await;
    assert_eq!(bystander.count().await, 0);
    gate.add_permits(1);
    bystander.is_heard_in_between().await;
}

#[tokio::test]
async fn many_clients_take_turns() {
    let (done, gate) = begin();
    let server = TestServer::start(one_shard(), |server| server.namespace(busy(&done, &gate)));
    let mut bystander = Bystander::connected(&server).await;
    let mut clients = Vec::new();
    for _ in 0..MANY / 5 {
        clients.push(Ws::connected(server.addr).await.0);
    }
    for client in &mut clients {
        client.send_raw(&text_frames([r#"42["work"]"#; 5])).await;
    }
    bystander.is_heard_in_between().await;
}

#[tokio::test]
async fn every_socket_is_asked_in_turns() {
    let (done, gate) = begin();
    let server = TestServer::start(one_shard(), |server| {
        server.namespace(busy(&done, &gate)).namespace(Namespace::new("/asked").on_connect(|socket: &Socket| {
            socket.join("room").expect("there is room");
        }))
    });
    let mut bystander = Bystander::connected(&server).await;
    let mut clients = Vec::new();
    for _ in 0..MANY / 2 {
        let mut ws = Ws::open(server.addr).await;
        ws.enter("/asked").await;
        clients.push(ws);
    }
    let asked = done.clone();
    server.handle.for_each("/asked", move |_| work(&asked));
    let asked = done.clone();
    server.handle.for_each_in_room("/asked", "room", move |_| work(&asked));
    bystander.is_heard_in_between().await;
}

#[tokio::test]
async fn requests_behind_others_are_answered_in_turns() {
    let (done, gate) = begin();
    let is_done = done.clone();
    let works = move |_| {
        work(&is_done);
        ready(Response::default())
    };
    let server =
        TestServer::start(one_shard(), |server| server.namespace(busy(&done, &gate)).fallback(answering(works)));
    let mut bystander = Bystander::connected(&server).await;
    let mut pipelined = Http::connect(server.addr).await;
    pipelined.send_raw("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(MANY).as_bytes()).await;
    bystander.is_heard_in_between().await;
    for _ in 0..MANY {
        assert_eq!(pipelined.response().await.expect("a response").status, 200);
    }
}

/// Clients that come back for sessions, or with tokens, take turns as well.
#[tokio::test]
async fn who_is_let_in_takes_a_turn() {
    let (done, gate) = begin();
    let server = TestServer::start(one_shard(), |server| {
        let done = done.clone();
        server.namespace(busy(&done, &gate)).namespace(Namespace::new("/guarded").authorize(move |_, _| {
            work(&done);
            Ok(())
        }))
    });
    let mut bystander = Bystander::connected(&server).await;
    let mut clients = Vec::new();
    for _ in 0..MANY {
        clients.push(Ws::open(server.addr).await);
    }
    for client in &mut clients {
        client.send(r#"40/guarded,{"token":"t"}"#).await;
    }
    bystander.is_heard_in_between().await;
}
