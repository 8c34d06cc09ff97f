//! Who comes in when the server is full: publishers, health checks and whoever else has few connections, whatever others hold.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;
use tokio::time::timeout;

use crate::api::{get, metric, post};
use crate::hostile::peer::{HANDSHAKE, Peer};
use crate::hostile::siege::{falls_to, limit_met};
use crate::hostile::victim::{Origin, Victim};
use crate::server::{KEY, Server};

/// How long somebody may wait who is nobody's victim. A test's server runs unoptimized beside others.
const SOON: Duration = Duration::from_secs(3);

/// Health and publishes are answered, on connections of their own.
async fn serves_others(server: &Server, when: &str) {
    let began = Instant::now();
    let answers = async {
        for _ in 0..5 {
            assert_eq!(get(server, "/health/ready").await.status, 200, "{when}");
            let progress = json!({"progress": 1, "stage": "render"});
            assert_eq!(post(server, "/v1/media/m/progress", &progress).await.status, 200, "{when}");
        }
    };
    timeout(SOON, answers).await.unwrap_or_else(|_| panic!("no answer in {:?} {when}", began.elapsed()));
}

fn victim(server: Server) -> Victim {
    Victim::new(server, None, Origin::OneAddress)
}

/// One of a thousand addresses that loopback has.
fn one_of_many(number: usize) -> String {
    format!("127.1.{}.{}", number / 250, number % 250 + 1)
}

#[tokio::test]
async fn a_server_that_is_full_of_clients_serves_publishers_and_health() {
    let server = victim(Server::start_with(&[
        ("MAX_CONNECTIONS", "10"),
        ("MAX_CONNECTIONS_PER_ADDRESS", "0"),
        ("MAX_HTTP_CONNECTIONS", "64"),
    ]));
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(Peer::client(&server).await);
    }
    let mut refused = Vec::new();
    for _ in 0..100 {
        let mut peer = Peer::connect(&server).await;
        peer.request("GET", HANDSHAKE, "", b"").await;
        let answer = peer.answer().await.expect("an answer");
        assert_eq!(answer.status, 503, "{answer:?}");
        answer.says_when_to_retry();
        refused.push(peer);
    }
    serves_others(&server, "after a hundred refusals").await;
    // Who is refused holds no place.
    for mut peer in refused {
        timeout(SOON, peer.closed()).await.expect("the refused are closed");
    }
    // Nor does who asks for something else and stays.
    let mut idle = Vec::new();
    for _ in 0..200 {
        let mut peer = Peer::connect(&server).await;
        peer.request("GET", "/health/live", "", b"").await;
        assert_eq!(peer.answer().await.expect("an answer").status, 200);
        idle.push(peer);
    }
    serves_others(&server, "beside idle connections").await;
    assert!(limit_met(&server, "http connections").await > 100);
    drop((clients, idle));
    falls_to(&server, "slop_http_connections", 1).await;
    falls_to(&server, "slop_client_addresses", 1).await;
}

#[tokio::test]
async fn clients_polls_leave_places_for_others() {
    let server = victim(Server::start_with(&[
        ("MAX_CONNECTIONS", "100"),
        ("MAX_CONNECTIONS_PER_ADDRESS", "0"),
        ("MAX_HTTP_CONNECTIONS", "16"),
    ]));
    // As many sessions as there may be, each of which polls and posts half of a body.
    let mut held = Vec::new();
    for number in 0..100 {
        let from = one_of_many(number);
        let mut peer = Peer::dial(&from, &server.way).await.expect("the server listens");
        peer.request("GET", HANDSHAKE, "", b"").await;
        let open = peer.answer().await.expect("an answer").body;
        let sid = open.split('"').nth(3).expect("a sid").to_owned();
        peer.request("POST", &format!("{HANDSHAKE}&sid={sid}"), "", b"40").await;
        if peer.answer().await.is_none_or(|answer| answer.status != 200) {
            continue;
        }
        // The answer to the connect is taken, so that the next poll waits.
        peer.request("GET", &format!("{HANDSHAKE}&sid={sid}"), "", b"").await;
        let Some(_greeting) = peer.answer().await else { continue };
        peer.request("GET", &format!("{HANDSHAKE}&sid={sid}"), "", b"").await;
        let mut posting = Peer::dial(&from, &server.way).await.expect("the server listens");
        posting
            .send(format!("POST {HANDSHAKE}&sid={sid} HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\n4").as_bytes())
            .await;
        held.push((peer, posting));
    }
    serves_others(&server, "beside polls and posts").await;
    assert!(limit_met(&server, "http connections").await > 0);
    drop(held);
}

/// A connection that the server closes is read for a moment more, which no place of a client stands for any longer.
#[tokio::test]
async fn websockets_that_end_leave_places_for_others() {
    let server = victim(Server::start_with(&[
        ("MAX_CONNECTIONS", "10"),
        ("MAX_CONNECTIONS_PER_ADDRESS", "0"),
        ("MAX_HTTP_CONNECTIONS", "16"),
    ]));
    let mut held = Vec::new();
    for number in 0..200 {
        let mut peer = Peer::connect(&server).await;
        let asked = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\n\
                     Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        peer.send(asked.as_bytes()).await;
        if peer.answer().await.is_some_and(|answer| answer.status == 101) {
            // A frame that is not masked.
            peer.send(b"\x81\x02hi").await;
        }
        held.push(peer);
        if number % 20 == 19 {
            serves_others(&server, &format!("beside {number} that end")).await;
        }
    }
    assert!(limit_met(&server, "http connections").await > 0);
}

/// All have its address.
#[tokio::test]
async fn behind_a_proxy_the_longest_idle_makes_room() {
    let server = victim(Server::start_with(&[
        ("TRUSTED_PROXIES", "127.0.0.2"),
        ("MAX_CONNECTIONS", "20"),
        ("MAX_CONNECTIONS_PER_ADDRESS", "1"),
        ("MAX_HTTP_CONNECTIONS", "40"),
        ("HEADER_TIMEOUT_MS", "60000"),
    ]));
    let head = format!("Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n");
    let publish = async |peer: &mut Peer| {
        peer.request("POST", "/v1/media/kept/progress", &head, br#"{"progress": 1, "stage": "render"}"#).await;
        peer.answer().await.map(|answer| answer.status)
    };
    let mut publisher = Peer::connect(&server).await;
    assert_eq!(publish(&mut publisher).await, Some(200));
    let mut idle = Vec::new();
    for number in 0..200 {
        let mut peer = Peer::connect(&server).await;
        let forwarded = format!("X-Forwarded-For: 203.0.113.{}\r\n", number % 250);
        peer.request("GET", "/health/live", &forwarded, b"").await;
        assert_eq!(peer.answer().await.expect("an answer").status, 200);
        idle.push(peer);
    }
    // The last ones are there still, and so is the publisher's.
    for peer in idle.iter_mut().rev().take(20) {
        peer.request("GET", "/health/live", "", b"").await;
        assert_eq!(peer.answer().await.expect("an answer").status, 200);
    }
    assert_eq!(publish(&mut publisher).await, Some(200));
    serves_others(&server, "beside a proxy").await;
}

#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    for addresses in [1, 400] {
        let server = victim(Server::start_with(&[
            ("MAX_CONNECTIONS", "100"),
            ("MAX_HTTP_CONNECTIONS", "100"),
            ("MAX_HANDSHAKES", "150"),
            ("HEADER_TIMEOUT_MS", "60000"),
        ]));
        let mut publisher = Peer::dial("127.0.0.1", &server.way).await.expect("the server listens");
        let publish = async |peer: &mut Peer| {
            let head = format!("Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n");
            peer.request("POST", "/v1/media/kept/progress", &head, br#"{"progress": 1, "stage": "render"}"#).await;
            peer.answer().await.map(|answer| answer.status)
        };
        assert_eq!(publish(&mut publisher).await, Some(200));
        let mut silent = Vec::new();
        for number in 0..800 {
            let from = one_of_many(number % addresses);
            let mut peer = Peer::dial(&from, &server.way).await.expect("the server listens");
            if number % 3 == 0 {
                peer.send(b"GET /health/live HTTP/1.1\r\nX-Half: ").await;
            }
            silent.push(peer);
            if number % 100 == 99 {
                serves_others(&server, &format!("beside {number} silent connections of {addresses} addresses")).await;
            }
        }
        assert!(metric(&server, "slop_http_connections").await <= 151.0 + 64.0);
        // A publisher's own connection was idle for longer than any of theirs, and is there.
        assert_eq!(publish(&mut publisher).await, Some(200), "{addresses} addresses");
        // So is a client.
        let mut client = Peer::dial("127.0.0.3", &server.way).await.expect("the server listens");
        assert_eq!(client.upgrade("", "").await.status, 101);
        drop(silent);
        falls_to(&server, "slop_handshakes", 1).await;
    }
}

#[tokio::test]
async fn a_low_limit_of_files_is_enough_for_all() {
    let server = victim(Server::start_after("ulimit -n 400", &[]));
    let mut peers = Vec::new();
    for number in 0..900 {
        let from = one_of_many(number);
        let mut peer = Peer::dial(&from, &server.way).await.expect("the server listens");
        if number % 3 == 0 {
            peer.request("GET", HANDSHAKE, "", b"").await;
        }
        peers.push(peer);
        if number % 100 == 99 {
            serves_others(&server, &format!("beside {number} connections")).await;
        }
    }
    assert_eq!(metric(&server, "slop_accept_failures_total").await, 0.0);
}

#[tokio::test]
async fn a_limit_of_files_that_is_too_low_ends_the_start() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let direct = Server::command(data.path(), &[]);
    let mut command = std::process::Command::new("sh");
    // One that starts all the same is ended.
    let script = "ulimit -n 120; exec timeout 20 \"$0\" \"$@\"";
    command.arg("-c").arg(script).arg(direct.get_program()).args(direct.get_args());
    command.envs(direct.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.stdin(Stdio::null()).output().expect("sh runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("the system's limit of open files is 120, and 200 are needed at least"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// The limit sinks below what is open, so that no accept can succeed.
#[tokio::test]
async fn without_file_descriptors_everybody_is_answered_all_the_same() {
    let server = victim(Server::start());
    let pid = Pid::from_raw(i32::try_from(server.pid()).expect("a number")).expect("a process");
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Peer::client(&server).await);
    }
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(Peer::connect(&server).await);
    }
    serves_others(&server, "before").await;
    let limit = |current| prlimit(Some(pid), Resource::Nofile, current).expect("its limit can be set");
    let maximum = getrlimit(Resource::Nofile).maximum;
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("it runs").count();
    // All are in use, the 20 silent ones among them: those make room.
    limit(Rlimit { current: Some(open as u64), maximum });
    for _ in 0..10 {
        serves_others(&server, "while silent connections can leave").await;
    }
    // WebSockets do not leave. Whoever comes is told so, and the server does not spin.
    limit(Rlimit { current: Some(25), maximum });
    let used = processor_time(&server);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        let mut peer = Peer::dial("127.0.0.1", &server.way).await.expect("the server listens");
        peer.request("GET", "/health/live", "", b"").await;
        // An answer, or the connection's end: never silence.
        if let Some(answer) = timeout(SOON, peer.answer()).await.expect("an end") {
            assert_eq!(answer.status, 503);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let used = processor_time(&server) - used;
    assert!(used < Duration::from_secs(1), "{used:?} of processor time");
    limit(Rlimit { current: maximum, maximum });
    serves_others(&server, "after").await;
    assert!(metric(&server, "slop_accept_failures_total").await > 0.0);
    for client in &mut clients {
        client.text("2").await;
    }
}

/// Of all threads together.
fn processor_time(server: &Server) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|field| fields[*field].parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

#[tokio::test]
async fn every_request_that_is_begun_is_counted() {
    let server = victim(Server::start_with(&[
        ("SHARDS", "1"),
        ("MAX_HANDSHAKES_PER_ADDRESS", "100"),
        ("MAX_UNFINISHED_BYTES", "2000000"),
        ("HEADER_TIMEOUT_MS", "30000"),
    ]));
    let mut peers = Vec::new();
    for _ in 0..300 {
        let mut peer = Peer::connect(&server).await;
        peer.request("GET", "/health/live", "", b"").await;
        assert_eq!(peer.answer().await.expect("an answer").status, 200);
        peers.push(peer);
    }
    assert_eq!(metric(&server, "slop_handshakes").await, 0.0);
    let begun = format!("GET /health/live HTTP/1.1\r\nX-Half: {}", "x".repeat(6 * 1024));
    for peer in &mut peers {
        peer.send(begun.as_bytes()).await;
    }
    // 200 are too many of an address. Then 62 of the others hold what may be held, 32 KiB each.
    let closed = async |limit, at_least| {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let met = limit_met(&server, limit).await;
            let (counted, held) =
                (metric(&server, "slop_handshakes").await, metric(&server, "slop_unfinished_bytes").await);
            assert!(counted <= 100.0 && held <= 2_100_000.0, "{counted} handshakes, {held} bytes");
            if met >= at_least {
                return (counted, held);
            }
            assert!(Instant::now() < deadline, "{met} closed, {counted} handshakes, {held} bytes");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(closed("handshakes per address", 200).await, (100.0, 819_200.0));
    for peer in &mut peers {
        peer.send(&[b'x'; 25 * 1024]).await;
    }
    let (counted, held) = closed("unfinished bytes", 30).await;
    assert!(counted > 50.0 && held > 1_900_000.0, "{counted} handshakes, {held} bytes");
    serves_others(&server, "beside headers that do not end").await;
    drop(peers);
    falls_to(&server, "slop_unfinished_bytes", 0).await;
    falls_to(&server, "slop_handshakes", 0).await;
}

#[tokio::test]
async fn the_bodies_of_publishers_are_counted_and_nobody_elses_stand_in_their_way() {
    let server = victim(Server::start_with(&[("MAX_HANDSHAKES", "5"), ("MAX_HANDSHAKES_PER_ADDRESS", "0")]));
    let begun = format!(
        "POST /v1/publish HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n\r\n["
    );
    let mut publishers = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    for number in 1..=5 {
        let mut peer = Peer::connect(&server).await;
        peer.send(begun.as_bytes()).await;
        publishers.push(peer);
        // One after the other, since few may be strangers.
        while metric(&server, "slop_handshakes").await < f64::from(number) {
            assert!(Instant::now() < deadline, "{number} are not counted");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let refused = loop {
        let answer = post(&server, "/v1/media/m/progress", &json!({"progress": 1, "stage": "s"})).await;
        if answer.status != 200 {
            break answer;
        }
        assert!(Instant::now() < deadline, "they are not counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    refused.problem(503, "overloaded");
    assert_eq!(metric(&server, "slop_handshakes").await, 5.0);
    assert_eq!(limit_met(&server, "bodies of publishers").await, 1);
    // Clients are not concerned.
    let client = Peer::client(&server).await;
    drop(publishers);
    falls_to(&server, "slop_handshakes", 0).await;
    serves_others(&server, "when they are gone").await;
    drop(client);
}
