//! The load against the floor, itself and through a proxy that breaks what it passes on: what the bench must notice.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use loadgen::frame;
use loadgen::http;
use loadgen::net::{Idle, Leave, Net, Plan};
use loadgen::publishing::{Door, Entrance, Lanes, Publishing, Shape};
use loadgen::server::{Kind, Places, Server};
use loadgen::workload::{Pace, Workload};

const SHAPE: Shape = Shape { rooms: 3, slow: 1, ..Shape::room(4, 6, 200) };

fn floor() -> Server {
    let floor = PathBuf::from(env!("CARGO_BIN_EXE_floor"));
    let places = Places {
        launcher: env!("CARGO_BIN_EXE_loadgen").into(),
        binaries: floor.parent().unwrap().to_owned(),
        peers: PathBuf::new(),
    };
    Server::start(Kind::Floor, &places, &[]).unwrap()
}

fn net(server: SocketAddr) -> Net {
    Net::new(server, Instant::now() + Duration::from_secs(30)).unwrap()
}

fn publish_to(server: SocketAddr, lanes: Lanes) -> anyhow::Result<Publishing> {
    let mut net = net(server);
    let mut publishing = Publishing::begin(&mut net, Entrance { door: Door::Socket, lanes }, SHAPE)?;
    publishing.run(&mut net, Duration::from_millis(50))?;
    Ok(publishing)
}

#[test]
fn every_publish_reaches_every_member() {
    let server = floor();
    for lanes in [Lanes::Together, Lanes::Each] {
        let publishing = publish_to(server.address(), lanes).unwrap();
        assert!(publishing.publishes() >= SHAPE.in_flight as u64);
        // Four members in each of three rooms, and a slow one in the first.
        let (least, most) = (4 * publishing.publishes(), 5 * publishing.publishes());
        assert!((least..=most).contains(&publishing.deliveries()), "{publishing:?}");
    }
}

#[test]
fn workloads_find_costs() {
    let pace = Pace {
        warm_up: Duration::from_millis(20),
        measure: Duration::from_millis(60),
        settle: Duration::from_millis(20),
        ..Pace::QUICK
    };
    let small = Workload::Fanout { members: 50, in_flight: 4, bytes: 4096 };
    let growth = Workload::Growth { connections: 60 };
    for workload in [small, growth, Workload::Ping, Workload::Connect, Workload::Publish] {
        let server = floor();
        let sample = workload.run(&server, &pace).unwrap();
        assert!(sample.cost > 0.0 && sample.cost < 10_000.0, "{workload:?}: {sample:?}");
        assert!(sample.latency.is_some_and(|it| it.p50 <= it.p99 && it.p99 <= it.max), "{workload:?}: {sample:?}");
    }
    let idle = Workload::Idle { connections: 100, three_namespaces: true };
    let sample = idle.run(&floor(), &pace).unwrap();
    assert!(sample.memory.is_some_and(|it| it.empty > 0.0 && it.full >= it.empty && it.after.is_some()), "{sample:?}");
}

#[test]
fn clients_come_and_go() {
    let server = floor();
    let mut net = net(server.address());
    let three = Plan::Client { three_namespaces: true, room: Some(7) };
    for how in [Leave::Disconnect, Leave::ClosePage] {
        let (conns, latencies) = net.connect_all(std::iter::repeat_n(three, 20), 5).unwrap();
        assert_eq!((conns.len(), latencies.len(), net.open()), (20, 20, 20));
        net.turn(&mut Idle, Duration::from_millis(1)).unwrap();
        net.leave_all(&conns, how, 5).unwrap();
        assert_eq!(net.open(), 0);
    }
}

#[test]
fn a_server_ends_with_its_handle() {
    let server = floor();
    let address = server.address();
    drop(server);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_lost_delivery_fails() {
    let error = broken(|number, frame| if number == 40 { Vec::new() } else { frame.to_vec() });
    assert!(error.contains("lost"), "{error}");
}

#[test]
fn a_doubled_delivery_fails() {
    let error = broken(|number, frame| if number == 40 { [frame, frame].concat() } else { frame.to_vec() });
    assert!(error.contains("doubled"), "{error}");
}

#[test]
fn a_changed_delivery_fails() {
    let error = broken(|number, frame| {
        let mut frame = frame.to_vec();
        if number == 40 {
            let last = frame.len() - 3;
            frame[last] = b'?';
        }
        frame
    });
    assert!(error.contains("not published"), "{error}");
}

/// What publishing says when the n-th delivery of the server, of all members, is passed on as `change` makes it.
fn broken(change: fn(u64, &[u8]) -> Vec<u8>) -> String {
    let server = floor();
    let target = server.address();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = listener.local_addr().unwrap();
    let deliveries = Arc::new(AtomicU64::new(0));
    // These threads end with their connections, and the first one with the test.
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(target).unwrap();
            let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from_client, &mut to_server);
                let _ = to_server.shutdown(Shutdown::Both);
            });
            let deliveries = Arc::clone(&deliveries);
            std::thread::spawn(move || pass_on(server, client, &deliveries, change));
        }
    });
    match publish_to(proxy, Lanes::Together) {
        Ok(publishing) => panic!("nothing was noticed: {publishing:?}"),
        Err(error) => format!("{error:#}"),
    }
}

fn pass_on(mut server: TcpStream, mut client: TcpStream, deliveries: &AtomicU64, change: fn(u64, &[u8]) -> Vec<u8>) {
    let (mut input, mut buffer, mut upgraded) = (Vec::new(), [0; 4096], false);
    while let Ok(len @ 1..) = server.read(&mut buffer) {
        input.extend_from_slice(&buffer[..len]);
        if !upgraded {
            let Some(response) = http::response(&input).unwrap() else { continue };
            client.write_all(&input[..response.len]).unwrap();
            input.drain(..response.len);
            upgraded = true;
        }
        while let Some(frame) = frame::next(&input).unwrap() {
            let (len, is_update) = (frame.len, frame.payload.starts_with(br#"42["update""#));
            let number = if is_update { deliveries.fetch_add(1, Ordering::Relaxed) } else { 0 };
            let sent = if is_update { change(number, &input[..len]) } else { input[..len].to_vec() };
            if client.write_all(&sent).is_err() {
                return;
            }
            input.drain(..len);
        }
    }
}
