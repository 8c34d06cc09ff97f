//! Who gets what, how often, in which order, and what that costs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use socketio_server::{Config, Event, EventArgs, JoinError, Namespace, Socket, SocketRef};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::{
    client::{Packet, Polling, Received, Via, Ws},
    harness::{TestServer, recorder, within},
};

on_one_and_three_shards!(
    sockets_join_and_leave_rooms,
    a_socket_has_a_room_of_its_own,
    a_broadcast_reaches_whom_it_names_once,
    a_broadcast_of_a_handler_leaves_its_socket_out,
    a_delivery_counts_sockets_on_all_shards,
    a_broadcast_is_encoded_once_for_any_number_of_members,
    a_broadcast_that_takes_turns_misses_and_doubles_nothing,
    broadcasts_and_work_on_sockets_keep_their_order,
    work_is_done_on_each_socket,
    rooms_agree_with_a_model,
    polling_and_websocket_members_get_the_same,
);

fn done(result: Result<bool, JoinError>) -> Value {
    result.map_or_else(|error| json!(error.to_string()), |joined| json!(joined))
}

fn text(event: &Event<'_>, index: usize) -> String {
    event.parse(index).expect("a string")
}

/// A namespace whose clients say what its handlers do.
fn obedient(name: &'static str) -> Namespace {
    Namespace::new(name)
        .on("join", |socket, event| {
            let joined = done(socket.join(&text(&event, 0)));
            event.ack(&joined);
        })
        .on("leave", |socket, event| {
            let left = socket.leave(&text(&event, 0));
            event.ack(&left);
        })
        .on("in", |socket, event| {
            let is_in = socket.in_room(&text(&event, 0));
            event.ack(&is_in);
        })
        .on("rooms", |socket, event| {
            let mut rooms = socket.rooms();
            rooms.sort();
            event.ack(&rooms);
        })
        // Rooms, exceptions, what to say.
        .on("say", |socket, event| {
            let (rooms, except): (Vec<String>, Vec<String>) =
                (event.parse(0).expect("rooms"), event.parse(1).expect("exceptions"));
            let mut broadcast = socket.broadcast();
            for room in &rooms {
                broadcast = broadcast.room(room);
            }
            for room in &except {
                broadcast = broadcast.except(room);
            }
            drop(broadcast.emit("said", &event.arg(2)).expect("a name"));
            event.ack(&true);
        })
        .on("ping", |_, event| event.ack(&"pong"))
}

/// A client with its socket's id.
struct Member {
    ws: Ws,
    id: String,
}

impl Member {
    async fn of(server: &TestServer) -> Self {
        let (ws, id) = Ws::connected(server.addr).await;
        Self { ws, id }
    }

    async fn ask(&mut self, event: &str, args: Value) -> Value {
        let mut packet = vec![json!(event)];
        packet.extend(args.as_array().expect("arguments").iter().cloned());
        self.ws.send(&format!("427{}", Value::from(packet))).await;
        let answer = self.ws.text().await;
        let answer: Vec<Value> = serde_json::from_str(answer.strip_prefix("437").expect("the ack")).expect("JSON");
        answer.into_iter().next().expect("one argument")
    }

    async fn join(&mut self, room: &str) {
        assert_eq!(self.ask("join", json!([room])).await, true);
    }

    /// Asserts that these messages come next, and no other before the answer to a question.
    async fn hears(&mut self, messages: &[Value]) {
        for message in messages {
            assert_eq!(self.ws.text().await, format!(r#"42["said",{message}]"#));
        }
        assert_eq!(self.ask("ping", json!([])).await, "pong");
    }
}

async fn members<const N: usize>(server: &TestServer) -> [Member; N] {
    let mut members = Vec::new();
    for _ in 0..N {
        members.push(Member::of(server).await);
    }
    members.try_into().unwrap_or_else(|_| unreachable!("as many as asked for"))
}

fn obedient_server(shards: usize) -> TestServer {
    let config = Config { shards, max_rooms_per_socket: 5, ..Config::default() };
    TestServer::start(config, |server| server.namespace(obedient("/")).namespace(obedient("/other")))
}

async fn sockets_join_and_leave_rooms(shards: usize) {
    let server = obedient_server(shards);
    let [mut member] = members(&server).await;
    assert_eq!(member.ask("rooms", json!([])).await, json!([]));
    assert_eq!(member.ask("join", json!(["a"])).await, true);
    assert_eq!(member.ask("join", json!(["a"])).await, false, "it is in it already");
    assert_eq!(member.ask("in", json!(["a"])).await, true);
    assert_eq!(member.ask("in", json!(["b"])).await, false);
    assert_eq!(member.ask("leave", json!(["b"])).await, false);
    for room in ["b", "", "\u{20ac} \"x\"", "d"] {
        assert_eq!(member.ask("join", json!([room])).await, true);
    }
    assert_eq!(member.ask("rooms", json!([])).await, json!(["", "a", "b", "d", "\u{20ac} \"x\""]));
    assert_eq!(member.ask("join", json!(["e"])).await, "too many rooms");
    assert_eq!(member.ask("join", json!(["a"])).await, false, "that one is no more");
    assert_eq!(member.ask("leave", json!(["a"])).await, true);
    assert_eq!(member.ask("leave", json!(["a"])).await, false);
    assert_eq!(member.ask("in", json!(["a"])).await, false);
    assert_eq!(member.ask("join", json!(["e"])).await, true);

    // In another namespace a room of that name is another room, and nothing is kept for who comes back.
    member.ws.enter("/other").await;
    member.ws.send(r#"42/other,1["rooms"]"#).await;
    assert_eq!(member.ws.text().await, "43/other,1[[]]");
    member.ws.send("41").await;
    member.ws.enter("/").await;
    assert_eq!(member.ask("rooms", json!([])).await, json!([]));
}

async fn a_socket_has_a_room_of_its_own(shards: usize) {
    let server = obedient_server(shards);
    let [mut a, mut b, mut c] = members(&server).await;
    let own = a.id.clone();
    assert_eq!(a.ask("join", json!([own])).await, false, "it is always in it");
    assert_eq!(a.ask("rooms", json!([])).await, json!([]));
    assert_eq!(b.ask("join", json!([own])).await, "name is reserved");
    assert_eq!(server.handle.to("/", &own).emit("said", &1).expect("a name").await, 1);
    a.hears(&[json!(1)]).await;
    b.ask("say", json!([[own], [], 2])).await;
    a.hears(&[json!(2)]).await;
    // To itself it says nothing.
    a.ask("say", json!([[own], [], 3])).await;
    b.ask("say", json!([[], [own], 4])).await;
    c.hears(&[json!(4)]).await;
    a.hears(&[]).await;
    b.hears(&[]).await;
    // Nor does it belong to anyone when it is gone.
    drop(a);
    crate::harness::eventually("it is gone", || server.metrics().sockets == 2).await;
    assert_eq!(server.handle.to("/", &own).emit("said", &5).expect("a name").await, 0);
    assert_eq!(b.ask("join", json!([own])).await, "name is reserved");
    b.hears(&[]).await;
}

async fn a_broadcast_reaches_whom_it_names_once(shards: usize) {
    let server = obedient_server(shards);
    let [mut a, mut b, mut c, mut d] = members(&server).await;
    for (member, rooms) in [(&mut a, &["x", "y"][..]), (&mut b, &["x"]), (&mut c, &["y", "z"])] {
        for room in rooms {
            member.join(room).await;
        }
    }
    let mut other = Ws::open(server.addr).await;
    other.enter("/other").await;
    other.send(r#"42/other,0["join","x"]"#).await;
    assert_eq!(other.text().await, "43/other,0[true]");

    let handle = &server.handle;
    for (message, broadcast, count) in [
        (0, handle.to("/", "x"), 2),
        (1, handle.to("/", "x").room("y").room("x"), 3),
        (2, handle.to("/", "x").room(&a.id).room(&d.id), 3),
        (3, handle.broadcast("/"), 4),
        (4, handle.broadcast("/").except("x"), 2),
        (5, handle.broadcast("/").except("y").except(&d.id), 1),
        (6, handle.to("/", "y").except("z"), 1),
        (7, handle.to("/", "x").except("x"), 0),
        (8, handle.to("/", "nobody"), 0),
        (9, handle.to("/", "z").except("nobody"), 1),
        (10, handle.to("/", &b.id).except(&b.id), 0),
    ] {
        assert_eq!(broadcast.emit("said", &message).expect("a name").await, count, "message {message}");
    }
    let hears = |messages: &[u32]| messages.iter().map(|message| json!(message)).collect::<Vec<_>>();
    a.hears(&hears(&[0, 1, 2, 3, 6])).await;
    b.hears(&hears(&[0, 1, 2, 3, 5])).await;
    c.hears(&hears(&[1, 3, 4, 9])).await;
    d.hears(&hears(&[2, 3, 4])).await;
    assert_eq!(server.handle.broadcast("/other").emit("said", &1).expect("a name").await, 1);
    assert_eq!(other.text().await, r#"42/other,["said",1]"#);
}

async fn a_broadcast_of_a_handler_leaves_its_socket_out(shards: usize) {
    let server = obedient_server(shards);
    let [mut a, mut b, mut c] = members(&server).await;
    for member in [&mut a, &mut b] {
        member.join("x").await;
        member.join("y").await;
    }
    a.ask("say", json!([["x"], [], 1])).await;
    a.ask("say", json!([["x", "y"], [], 2])).await;
    a.ask("say", json!([[], [], 3])).await;
    a.ask("say", json!([[], ["x"], 4])).await;
    c.hears(&[json!(3), json!(4)]).await;
    c.ask("say", json!([["x"], [a.id], 5])).await;
    // They may be on shards of their own, so what two of them say comes in either order.
    let mut heard = Vec::new();
    for _ in 0..4 {
        heard.push(b.ws.text().await);
    }
    heard.sort();
    assert_eq!(heard, [1, 2, 3, 5].map(|message| format!(r#"42["said",{message}]"#)));
    c.hears(&[]).await;
    a.hears(&[]).await;
    b.hears(&[]).await;
}

async fn a_delivery_counts_sockets_on_all_shards(shards: usize) {
    let server = obedient_server(shards);
    let mut all: [Member; 20] = members(&server).await;
    assert_eq!(server.handle.to("/", "room").emit("said", &0).expect("a name").await, 0);
    for (index, member) in all.iter_mut().enumerate() {
        member.join("room").await;
        let count = server.handle.to("/", "room").emit("said", &index).expect("a name").await;
        assert_eq!(count, index as u64 + 1);
    }
    for (index, member) in all.iter_mut().enumerate() {
        let messages: Vec<Value> = (index..20).map(|message| json!(message)).collect();
        member.hears(&messages).await;
    }
    // It may be dropped, and the event goes out nonetheless.
    drop(server.handle.to("/", "room").emit("said", &"unattended").expect("a name"));
    all[19].hears(&[json!("unattended")]).await;
}

async fn a_broadcast_is_encoded_once_for_any_number_of_members(shards: usize) {
    let server = obedient_server(shards);
    let mut clients = Vec::new();
    for _ in 0..200 {
        let mut member = Member::of(&server).await;
        member.join("room").await;
        clients.push(member);
    }
    let before = server.metrics();
    let args = EventArgs::from_raw(r#"{"_placeholder":true,"num":0}"#).with_attachments(vec![vec![5; 10].into()]);
    assert_eq!(server.handle.to("/", "room").emit("said", &"all").expect("a name").await, 200);
    assert_eq!(server.metrics().packets_encoded, before.packets_encoded + 1);
    assert_eq!(server.metrics().packets_queued, before.packets_queued + 200);
    assert_eq!(server.handle.to("/", "room").emit_args("said", &args).expect("a name").await, 200);
    assert_eq!(server.metrics().packets_encoded, before.packets_encoded + 2);
    assert_eq!(server.metrics().broadcasts, before.broadcasts + 2 * shards as u64);
    for client in &mut clients {
        assert_eq!(client.ws.text().await, r#"42["said","all"]"#);
        assert_eq!(client.ws.text().await, r#"451-["said",{"_placeholder":true,"num":0}]"#);
        assert_eq!(client.ws.binary().await, [5; 10]);
    }
    // The same from a handler; the second packet is its ack.
    let encoded = server.metrics().packets_encoded;
    clients[0].ask("say", json!([["room"], [], "others"])).await;
    assert_eq!(server.metrics().packets_encoded, encoded + 2);
    for client in &mut clients[1..] {
        assert_eq!(client.ws.text().await, r#"42["said","others"]"#);
    }
}

async fn a_broadcast_that_takes_turns_misses_and_doubles_nothing(shards: usize) {
    const BROADCASTS: u32 = 600;
    // So few that a broadcast rests many times, and members leave and come back in between.
    let config = Config { shards, fanout_per_turn: 2, large_room: 8, ..Config::default() };
    let restless = obedient("/").on("again", |socket, _| {
        socket.leave("room");
        socket.join("room").expect("a room");
    });
    let server = TestServer::start(config, |server| server.namespace(restless));
    let mut all: [Member; 30] = members(&server).await;
    for member in &mut all {
        member.join("room").await;
    }
    let clients = all.into_iter().enumerate().map(|(index, member)| {
        let Ws { mut reader, mut writer } = member.ws;
        let stays = index % 2 == 0;
        let moves = tokio::spawn(async move {
            for _ in 0..if stays { 0 } else { 200 } {
                writer.send(r#"42["again"]"#).await;
                tokio::task::yield_now().await;
            }
            writer
        });
        tokio::spawn(async move {
            let mut heard = Vec::new();
            while heard.last() != Some(&BROADCASTS) {
                let Received::Text(text) = reader.recv().await else { panic!("it is connected") };
                let number = text.strip_prefix(r#"42["said","#).and_then(|rest| rest.strip_suffix(']'));
                heard.push(number.expect("an event").parse::<u32>().expect("a number"));
            }
            let _writer = moves.await.expect("it moves");
            if stays {
                assert_eq!(heard, (0..=BROADCASTS).collect::<Vec<_>>());
            }
            assert!(heard.is_sorted_by(|before, next| before < next), "{heard:?}");
        })
    });
    let clients: Vec<_> = clients.collect();
    for number in 0..BROADCASTS {
        // Of these some go together, and some alone.
        let delivery = server.handle.to("/", "room").emit("said", &number).expect("a name");
        if number % 8 == 0 {
            assert!(within("a delivery", delivery).await >= 15);
        }
    }
    drop(server.handle.broadcast("/").emit("said", &BROADCASTS).expect("a name"));
    for client in clients {
        within("all events", client).await.expect("it heard what it should");
    }
}

/// A namespace that tells the test of each socket.
fn announced() -> (Namespace, UnboundedReceiver<SocketRef>) {
    let (sender, receiver) = unbounded_channel();
    let namespace = Namespace::new("/").on_connect(move |socket| {
        socket.join("room").expect("a room");
        let _ = sender.send(socket.reference());
    });
    (namespace, receiver)
}

async fn broadcasts_and_work_on_sockets_keep_their_order(shards: usize) {
    let (namespace, mut references) = announced();
    let server = TestServer::start(Config { shards, ..Config::default() }, |server| server.namespace(namespace));
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push((Ws::connected(server.addr).await, references.recv().await.expect("a socket")));
    }
    for number in 0..400_u32 {
        match number % 4 {
            0 => drop(server.handle.to("/", "room").emit("n", &number).expect("a name")),
            1 => {
                for (_, socket) in &clients {
                    let emit = move |socket: Option<&Socket>| socket.expect("a client").emit("n", &number);
                    server.handle.with_socket(*socket, move |socket| emit(socket).expect("a name"));
                }
            }
            2 => drop(server.handle.broadcast("/").emit("n", &number).expect("a name")),
            _ => server.handle.for_each_in_room("/", "room", move |socket| socket.emit("n", &number).expect("a name")),
        }
    }
    for ((ws, _), _) in &mut clients {
        for number in 0..400 {
            assert_eq!(ws.text().await, format!(r#"42["n",{number}]"#));
        }
    }
}

async fn work_is_done_on_each_socket(shards: usize) {
    let (namespace, mut references) = announced();
    let (recorder, mut seen) = recorder();
    let server = TestServer::start(Config { shards, ..Config::default() }, |server| {
        server.namespace(namespace).namespace(Namespace::new("/other"))
    });
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push((Ws::connected(server.addr).await, references.recv().await.expect("a socket")));
    }
    let mut ids: Vec<String> = clients.iter().map(|((_, id), _)| id.clone()).collect();
    ids.sort();
    let note = |recorder: &crate::harness::Recorder| {
        let recorder = recorder.clone();
        move |socket: &Socket| recorder.note(socket.id())
    };
    server.handle.for_each("/", note(&recorder));
    assert_eq!(seen.next_sorted(5).await, ids);
    server.handle.for_each_in_room("/", "room", note(&recorder));
    assert_eq!(seen.next_sorted(5).await, ids);
    server.handle.for_each_in_room("/", "nobody", note(&recorder));
    server.handle.for_each_in_room("/other", "room", note(&recorder));
    server.handle.for_each("/other", note(&recorder));
    server.handle.for_each("/nowhere", note(&recorder));

    // Work may well change what it is done on.
    server.handle.for_each_in_room("/", "room", |socket| {
        assert!(socket.leave("room"));
        socket.join("moved").expect("a room");
    });
    assert_eq!(server.handle.to("/", "moved").emit("n", &1).expect("a name").await, 5);
    server.handle.for_each("/", Socket::disconnect);
    crate::harness::eventually("all were sent away", || server.metrics().sockets == 0).await;
    assert_eq!(seen.so_far(), [""; 0]);

    // A name of a socket never means another.
    let ((first, _), gone) = &mut clients[0];
    assert_eq!(first.text().await, r#"42["n",1]"#);
    assert_eq!(first.text().await, "41");
    let id = first.enter("/").await;
    let back = references.recv().await.expect("a socket");
    assert_ne!(back, *gone);
    for (socket, expected) in [(*gone, "none".to_owned()), (back, id)] {
        let recorder = recorder.clone();
        server.handle.with_socket(socket, move |socket| recorder.note(socket.map_or("none", Socket::id)));
        assert_eq!(seen.next().await, expected);
    }
}

/// Joins and leaves at random, and clients that go; what the engine then says of its rooms is what a simple model says.
async fn rooms_agree_with_a_model(shards: usize) {
    let (namespace, mut references) = announced();
    let server = TestServer::start(Config { shards, ..Config::default() }, |server| server.namespace(namespace));
    let mut clients = Vec::new();
    let mut model: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for index in 0..12 {
        let (ws, _) = Ws::connected(server.addr).await;
        clients.push(Some((ws, references.recv().await.expect("a socket"))));
        model.insert(index, BTreeSet::new());
    }
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for step in 0..4000 {
        let (client, room) = (random(12), random(9));
        if step % 1000 == 999 {
            // What was asked of it before was asked of a socket that is there. A broadcast is behind it in the mailbox.
            assert_eq!(server.handle.to("/", "nobody").emit("n", &1).expect("a name").await, 0);
            clients[client] = None;
            model.remove(&client);
            crate::harness::eventually("it is gone", || server.metrics().sockets == model.len() as u64).await;
            continue;
        }
        let Some((_, socket)) = &clients[client] else { continue };
        let rooms = model.get_mut(&client).expect("a client");
        let (joins, changes) = if random(2) == 0 { (true, rooms.insert(room)) } else { (false, rooms.remove(&room)) };
        server.handle.with_socket(*socket, move |socket| {
            let socket = socket.expect("a client");
            let room = format!("room {room}");
            let changed = if joins { socket.join(&room).expect("a room") } else { socket.leave(&room) };
            assert_eq!(changed, changes);
        });
    }
    for room in 0..9 {
        let expected = model.values().filter(|rooms| rooms.contains(&room)).count() as u64;
        let count = server.handle.to("/", &format!("room {room}")).emit("n", &1).expect("a name").await;
        assert_eq!(count, expected, "room {room}");
    }
    let rooms_of = Arc::new(Mutex::new(BTreeSet::new()));
    server.handle.for_each("/", {
        let rooms_of = rooms_of.clone();
        move |socket| {
            let mut rooms: Vec<String> = socket.rooms().into_iter().filter(|room| room != "room").collect();
            rooms.sort();
            rooms_of.lock().expect("no panic").insert((format!("{:?}", socket.reference()), rooms));
        }
    });
    server.settle().await;
    let expected: BTreeSet<(String, Vec<String>)> = model
        .iter()
        .map(|(client, rooms)| {
            let socket = clients[*client].as_ref().map(|(_, socket)| format!("{socket:?}")).expect("a client");
            (socket, rooms.iter().map(|room| format!("room {room}")).collect())
        })
        .collect();
    assert_eq!(*rooms_of.lock().expect("no panic"), expected);
}

async fn polling_and_websocket_members_get_the_same(shards: usize) {
    let (namespace, _references) = announced();
    let server = TestServer::start(Config { shards, ..Config::default() }, |server| server.namespace(namespace));
    let mut clients = Vec::new();
    for _ in 0..3 {
        for via in Via::BOTH {
            clients.push(crate::client::Client::connected(server.addr, via).await);
        }
    }
    let args = EventArgs::from_raw(r#"{"_placeholder":true,"num":0},"€""#).with_attachments(vec![vec![1, 2].into()]);
    assert_eq!(server.handle.to("/", "room").emit_args("n", &args).expect("a name").await, 6);
    for client in &mut clients {
        let event = r#"451-["n",{"_placeholder":true,"num":0},"€"]"#;
        assert_eq!(client.packet().await, Packet::Text(event.to_owned()));
        assert_eq!(client.packet().await, Packet::Binary(vec![1, 2]));
    }
}

#[tokio::test]
async fn volatile_events_are_for_who_is_ready() {
    let config = Config { shards: 1, outbox_soft_limit: 64 << 20, outbox_hard_limit: 64 << 20, ..Config::default() };
    let (namespace, mut references) = announced();
    let server = TestServer::start(config, |server| {
        server.namespace(namespace.on("fill", |socket, _| {
            for _ in 0..80 {
                socket.emit("large", &"x".repeat(100_000)).expect("a name");
            }
        }))
    });
    let (mut ready, _) = Ws::connected(server.addr).await;
    let (mut busy, _) = Ws::connected_with_small_buffer(server.addr).await;
    let mut session = Polling::connected(server.addr).await.0;
    references.recv().await.expect("the ready one");
    let busy_ref = references.recv().await.expect("the busy one");
    busy.send(r#"42["fill"]"#).await;
    server.settle().await;

    // The busy one has more waiting than the kernel takes, and no poll of the session's is there.
    let before = server.metrics().volatile_dropped;
    assert_eq!(server.handle.to("/", "room").volatile().emit("v", &1).expect("a name").await, 1);
    server.handle.with_socket(busy_ref, |socket| socket.expect("a client").emit_volatile("v", &2).expect("a name"));
    assert_eq!(server.handle.to("/", "room").emit("n", &3).expect("a name").await, 3);
    assert_eq!(server.metrics().volatile_dropped, before + 3);
    let poll = session.begin_poll().await;
    assert_eq!(poll.response().await.body, r#"42["n",3]"#);
    let poll = session.begin_poll().await;
    server.settle().await;
    assert_eq!(server.handle.to("/", "room").volatile().emit("v", &4).expect("a name").await, 2);
    assert_eq!(poll.response().await.body, r#"42["v",4]"#);
    assert_eq!(session.take_inbox(), []);

    for expected in [r#"42["v",1]"#, r#"42["n",3]"#, r#"42["v",4]"#] {
        assert_eq!(ready.text().await, expected);
    }
    for _ in 0..80 {
        assert!(busy.text().await.starts_with(r#"42["large","#));
    }
    assert_eq!(busy.text().await, r#"42["n",3]"#);
    // It has read all, so it is ready again.
    let emit = |number: u32| server.handle.to("/", "room").volatile().emit("v", &number).expect("a name");
    within("it is ready", async {
        while emit(5).await < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(busy.recv().await, Received::Text(r#"42["v",5]"#.to_owned()));
}
