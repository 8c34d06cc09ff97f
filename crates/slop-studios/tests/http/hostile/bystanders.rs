//! Those who do nothing wrong beside an attack, each from an address of its own: a client that pings, a publisher, and a
//! balancer that asks for the server's health.
//!
//! They run on a thread of their own, so that they do not wait for the attackers' work. Every request is measured from the
//! moment when it was due, and is sent then even if earlier ones are not answered yet: a stall counts for all that it delays.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};

use super::peer::{Frame, Peer};
use super::victim::Way;
use crate::server::KEY;

/// Their addresses. The attackers' are others.
const CLIENT: &str = "127.0.0.1";
const PUBLISHER: &str = "127.0.0.3";
const BALANCER: &str = "127.0.0.4";

/// Half of what the limits allow a client.
const PINGS_EVERY: Duration = Duration::from_millis(2);
const PUBLISHES_EVERY: Duration = Duration::from_millis(20);
const HEALTH_EVERY: Duration = Duration::from_millis(250);

/// How long a publisher and a balancer wait. Then they were not answered.
const PATIENCE: Duration = Duration::from_secs(20);

/// Publishes that are answered before an attack begins: the store has its memory by then.
const WARM_UP: usize = 10;

/// Publishes over one connection, as libraries and proxies end one after a while: who needs a new one gets it.
const PUBLISHES_OF_A_CONNECTION: usize = 25;

/// Connections that they may have at a time when the server is quick again.
pub(crate) const STREAMS: u64 = 24;

pub(crate) struct Bystanders {
    /// When they were told to stop.
    stop: watch::Sender<Option<Instant>>,
    thread: std::thread::JoinHandle<Seen>,
}

/// How long they waited for what.
pub(crate) struct Seen {
    pub(crate) pings: Vec<Duration>,
    pub(crate) publishes: Asked,
    pub(crate) health: Asked,
}

#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) took: Vec<Duration>,
    /// What came instead of 200.
    pub(crate) refused: Vec<String>,
}

impl Bystanders {
    /// They have all been answered when this returns.
    pub(crate) async fn begin(way: &Way, publishes: bool) -> Self {
        let (stop, stopped) = watch::channel(None);
        let (ready, mut are_ready) = mpsc::channel(1);
        let way = way.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let pings = tokio::spawn(ping(way.clone(), ready.clone(), stopped.clone()));
                let health = tokio::spawn(ask_for_health(way.clone(), ready.clone(), stopped.clone()));
                let publishes = async { if publishes { publish(way, ready, stopped).await } else { Asked::default() } };
                let publishes = publishes.await;
                let pings = pings.await.expect("the bystander is answered");
                Seen { pings, publishes, health: health.await.expect("no panic") }
            })
        });
        for _ in 0..if publishes { 3 } else { 2 } {
            are_ready.recv().await.expect("the bystanders are answered");
        }
        Self { stop, thread }
    }

    /// They end when all that was due by now is answered.
    pub(crate) fn end(self) -> Seen {
        let _ = self.stop.send(Some(Instant::now()));
        self.thread.join().expect("the bystanders are answered")
    }
}

fn is_over(stopped: &watch::Receiver<Option<Instant>>, due: Instant) -> bool {
    stopped.borrow().is_some_and(|at| due > at)
}

async fn ping(way: Way, ready: mpsc::Sender<()>, stopped: watch::Receiver<Option<Instant>>) -> Vec<Duration> {
    let mut peer = Peer::dial(CLIENT, &way).await.expect("a connection");
    assert_eq!(peer.upgrade("", "").await.status, 101);
    peer.text("40").await;
    peer.until(|text| text.starts_with("42[\"welcome\"")).await;
    let _ = ready.send(()).await;
    let (mut ticks, mut asked, mut took) = (interval(PINGS_EVERY), VecDeque::new(), Vec::new());
    let mut over = false;
    // At least one after the attack.
    while !over || !asked.is_empty() {
        tokio::select! {
            biased;
            // The asks first: an answer that is there is measured a moment later, an ask that is late is not made.
            due = ticks.tick(), if !over => {
                over = is_over(&stopped, due);
                asked.push_back(due);
                peer.text(r#"420["ping"]"#).await;
            }
            frame = peer.frame() => match frame {
                // Answers come in the order of the asks.
                Frame::Text(text) if text.starts_with("430[") => {
                    assert!(text.contains("timestamp"), "{text}");
                    took.push(asked.pop_front().expect("it was asked").elapsed());
                }
                Frame::Text(heartbeat) if heartbeat == "2" => _ = peer.text("3").await,
                Frame::Text(_) => {}
                end => panic!("{end:?}"),
            },
        }
    }
    took
}

/// Publishes over connections that are kept, as HTTP libraries do.
async fn publish(way: Way, ready: mpsc::Sender<()>, stopped: watch::Receiver<Option<Instant>>) -> Asked {
    let connections = Arc::new(Mutex::new(Vec::new()));
    let (mut ticks, mut under_way, mut asked) = (interval(PUBLISHES_EVERY), JoinSet::new(), Asked::default());
    for number in 0.. {
        let due = ticks.tick().await;
        if is_over(&stopped, due) {
            break;
        }
        // A durable one, and one that waits behind it.
        let (target, body) = match number % 2 {
            0 => ("/v1/users/bystander/notifications", r#"{"type":"info","title":"t","message":"m"}"#),
            _ => ("/v1/rooms/bystander/events", r#"{"event":"e"}"#),
        };
        let (way, connections) = (way.clone(), Arc::clone(&connections));
        under_way.spawn(async move {
            let answered = timeout(PATIENCE, publish_once(&way, &connections, target, body)).await;
            (due.elapsed(), answered.unwrap_or_else(|_| Err("no answer in time".to_owned())))
        });
        while let Some(done) = under_way.try_join_next() {
            asked.note(done.expect("no panic"));
        }
        if asked.took.len() >= WARM_UP {
            let _ = ready.try_send(());
        }
    }
    for done in under_way.join_all().await {
        asked.note(done);
    }
    asked
}

async fn publish_once(
    way: &Way,
    connections: &Mutex<Vec<(Peer, usize)>>,
    target: &str,
    body: &str,
) -> Result<(), String> {
    let headers = format!("Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n");
    // A kept connection may have been closed; a new one has no such excuse.
    loop {
        let kept = connections.lock().expect("no panic").pop();
        let is_new = kept.is_none();
        let (mut peer, uses) = match kept {
            Some(kept) => kept,
            None => (Peer::dial(PUBLISHER, way).await.map_err(|error| error.to_string())?, 0),
        };
        peer.request("POST", target, &headers, body.as_bytes()).await;
        match peer.answer().await {
            Some(answer) if answer.status == 200 => {
                if uses < PUBLISHES_OF_A_CONNECTION {
                    connections.lock().expect("no panic").push((peer, uses + 1));
                }
                return Ok(());
            }
            Some(answer) => return Err(answer.status.to_string()),
            None if is_new => return Err("closed".to_owned()),
            None => {}
        }
    }
}

async fn ask_for_health(way: Way, ready: mpsc::Sender<()>, stopped: watch::Receiver<Option<Instant>>) -> Asked {
    let (mut ticks, mut asked) = (interval(HEALTH_EVERY), Asked::default());
    loop {
        let due = ticks.tick().await;
        // At least one after the attack.
        let over = is_over(&stopped, due);
        let answered = timeout(PATIENCE, async {
            let mut peer = Peer::dial(BALANCER, &way).await.map_err(|error| error.to_string())?;
            peer.request("GET", "/health/live", "Connection: close\r\n", b"").await;
            match peer.answer().await {
                Some(answer) if answer.status == 200 => Ok(()),
                Some(answer) => Err(answer.status.to_string()),
                None => Err("closed".to_owned()),
            }
        });
        let answered = answered.await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        asked.note((due.elapsed(), answered));
        let _ = ready.try_send(());
        if over {
            return asked;
        }
    }
}

impl Asked {
    fn note(&mut self, (took, answered): (Duration, Result<(), String>)) {
        self.took.push(took);
        self.refused.extend(answered.err());
    }
}
