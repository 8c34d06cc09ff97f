//! Random sequences of everything that changes where a socket may be, against a model of a few lines: whatever happens,
//! no socket gets an event of a room, user or media item that it may not have, and it gets all of those that it may.

use std::cell::Cell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::api::{post, send};
use crate::client::Client;
use crate::line::Transport;
use crate::redis_server::Redis;
use crate::reload::Configured;
use crate::server::{SECRET, signed};

const ROOMS: [&str; 7] = ["project-p1", "project-p2", "team-red", "lobby", "anything", "user:alice", "user:bob"];
const NAMESPACES: [&str; 2] = ["/", "/media"];

/// What the items' ids begin with; the rest is the case's own.
const ITEMS: [&str; 4] = ["free.", "team-red-x.", "late.", "alices."];
const LATE: usize = 2;
const ALICES: usize = 3;

const POLICIES: [&str; 4] = [
    "",
    r#"
    [[rooms]]
    name = "project-{id}"
    allow = { claim = "projects", contains = "{id}" }
    [[rooms]]
    name = "team-{team}"
    allow = { claim = "team", equals = "{team}" }
    [[rooms]]
    name = "lobby"
    allow = "anyone"
    [[rooms]]
    name = "*"
    allow = "nobody"
    [[media]]
    name = "team-{team}-*"
    allow = { claim = "team", equals = "{team}" }
    allow_owned = { claim = "team", equals = "{team}" }
    [[media]]
    name = "*"
    allow = "authenticated"
    "#,
    r#"
    [[rooms]]
    name = "project-*"
    allow = "authenticated"
    [[rooms]]
    name = "*"
    namespace = "/media"
    allow = { user = "bob" }
    [[media]]
    name = "alices.*"
    allow = "nobody"
    allow_owned = { user = "bob" }
    [[media]]
    name = "free.*"
    allow = "nobody"
    "#,
    "auth_required = true\n",
];
/// The policy that looks at claims, and the one without anonymous clients.
const BY_CLAIMS: usize = 1;
const AUTH_REQUIRED: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Nobody,
    Alice,
    Bob,
}

impl Who {
    fn user(self) -> Option<&'static str> {
        match self {
            Self::Nobody => None,
            Self::Alice => Some("alice"),
            Self::Bob => Some("bob"),
        }
    }

    fn token(self) -> Option<String> {
        let (projects, team) = if self == Self::Alice { ("p1", "red") } else { ("p2", "blue") };
        self.user().map(|user| signed(json!({"userId": user, "projects": [projects], "team": team})))
    }
}

/// One of the two sockets is named by its number.
#[derive(Debug, Clone, Copy)]
enum Step {
    Join(usize, usize),
    Leave(usize, usize),
    Subscribe(usize),
    Unsubscribe(usize),
    Authenticate(usize, Who),
    BadToken(usize),
    Logout(usize),
    Reload(usize),
    LateIsAlices,
    LoseConnection(usize),
    ComeBack(usize, Transport),
    /// Away while other rules come into force: what is rare by chance, and where it matters most.
    BackToOtherRules(usize, usize),
    /// The server is stopped, and started with these rules; the socket was away before, and is back.
    Restart(usize, usize),
    ConnectAnew(usize, Transport, Who),
    /// Over the other's connection, which may have authenticated or not.
    ConnectBeside(usize, Who),
    /// Somebody else polls, and posts a join, with what others may know of the socket.
    PollAsAnother(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let who = || prop_oneof![Just(Who::Nobody), Just(Who::Alice), Just(Who::Bob)];
    let transport = || prop_oneof![Just(Transport::WebSocket), Just(Transport::Polling)];
    let user = prop_oneof![Just(Who::Alice), Just(Who::Bob)];
    prop_oneof![
        8 => (0..2usize, 0..ROOMS.len()).prop_map(|(socket, room)| Step::Join(socket, room)),
        1 => (0..2usize, 0..ROOMS.len()).prop_map(|(socket, room)| Step::Leave(socket, room)),
        6 => (0..ITEMS.len()).prop_map(Step::Subscribe),
        1 => (0..ITEMS.len()).prop_map(Step::Unsubscribe),
        4 => (0..2usize, user).prop_map(|(socket, who)| Step::Authenticate(socket, who)),
        1 => (0..2usize).prop_map(Step::BadToken),
        2 => (0..2usize).prop_map(Step::Logout),
        3 => (0..POLICIES.len()).prop_map(Step::Reload),
        1 => Just(Step::LateIsAlices),
        2 => (0..2usize).prop_map(Step::LoseConnection),
        3 => (0..2usize, transport()).prop_map(|(socket, transport)| Step::ComeBack(socket, transport)),
        3 => (0..2usize, 0..POLICIES.len()).prop_map(|(socket, policy)| Step::BackToOtherRules(socket, policy)),
        2 => (0..2usize, 0..POLICIES.len()).prop_map(|(socket, policy)| Step::Restart(socket, policy)),
        1 => (0..2usize, transport(), who()).prop_map(|(socket, by, who)| Step::ConnectAnew(socket, by, who)),
        3 => (0..2usize, who()).prop_map(|(socket, who)| Step::ConnectBeside(socket, who)),
        1 => (0..2usize).prop_map(Step::PollAsAnother),
    ]
}

/// What the model knows of a socket.
struct Seat {
    namespace: &'static str,
    client: Option<Client>,
    /// What to come back with.
    session: Option<(String, Option<String>)>,
    who: Who,
    /// The rules looked at claims when the token was verified, so they are kept.
    has_claims: bool,
    rooms: BTreeSet<&'static str>,
    items: BTreeSet<usize>,
}

impl Seat {
    fn is_beside(&self, client: &Client) -> bool {
        self.client.as_ref().is_some_and(|own| own.is_beside(client))
    }
}

fn auth(who: Who) -> Value {
    who.token().map_or(json!({}), |token| json!({"token": token}))
}

fn session(client: Client) -> (String, Option<String>) {
    (client.pid.expect("a session"), client.offset)
}

/// What the model knows of the server.
struct World {
    policy: usize,
    owners: [Option<&'static str>; 4],
}

impl World {
    fn may_join(&self, seat: &Seat, room: &str) -> bool {
        let (is_alice, is_bob) = (seat.who == Who::Alice, seat.who == Who::Bob);
        if let Some(user) = room.strip_prefix("user:") {
            return seat.who.user() == Some(user);
        }
        match (self.policy, room) {
            (AUTH_REQUIRED, _) => seat.who != Who::Nobody,
            (BY_CLAIMS, "project-p1" | "team-red") => is_alice && seat.has_claims,
            (BY_CLAIMS, "project-p2") => is_bob && seat.has_claims,
            (BY_CLAIMS, room) => room == "lobby",
            (2, "project-p1" | "project-p2") => seat.who != Who::Nobody,
            (2, _) => seat.namespace == "/" || is_bob,
            _ => true,
        }
    }

    fn may_subscribe(&self, seat: &Seat, item: usize) -> bool {
        let owner = self.owners[item];
        if owner.is_some() && owner == seat.who.user() {
            return true;
        }
        match (self.policy, ITEMS[item]) {
            (BY_CLAIMS, "team-red-x.") => seat.who == Who::Alice && seat.has_claims,
            (2, "alices.") => owner.is_some() && seat.who == Who::Bob,
            (2, "free.") => false,
            (BY_CLAIMS | AUTH_REQUIRED, _) => owner.is_none() && seat.who != Who::Nobody,
            _ => owner.is_none(),
        }
    }

    /// Takes a socket out of what it may not have.
    fn leave_what_is_denied(&self, seat: &mut Seat) {
        let (rooms, items) = (std::mem::take(&mut seat.rooms), std::mem::take(&mut seat.items));
        seat.rooms = rooms.into_iter().filter(|room| self.may_join(seat, room)).collect();
        seat.items = items.into_iter().filter(|item| self.may_subscribe(seat, *item)).collect();
    }

    /// The socket is somebody else, or the same with another token.
    fn becomes(&self, seat: &mut Seat, who: Who) {
        seat.who = who;
        seat.has_claims = self.policy == BY_CLAIMS;
        self.leave_what_is_denied(seat);
    }

    /// Whether an event of the item goes to the socket.
    fn follows(&self, seat: &Seat, item: usize) -> bool {
        let is_owner = self.owners[item].is_some() && self.owners[item] == seat.who.user();
        seat.namespace == "/media" && (is_owner || seat.items.contains(&item))
    }

    fn is_in(&self, seat: &Seat, room: &str) -> bool {
        seat.rooms.contains(room) || room.strip_prefix("user:").is_some_and(|user| seat.who.user() == Some(user))
    }
}

/// One server, or the nodes of a cluster.
struct Servers {
    nodes: Vec<Configured>,
    /// The node for the next question.
    next: Cell<usize>,
    _redis: Option<Redis>,
}

impl Servers {
    const SETTINGS: [(&str, &str); 2] = [("AUTH_FAILURE_LIMIT", "1000"), ("SHUTDOWN_GRACE_MS", "50")];

    fn one() -> Self {
        Self { nodes: vec![Configured::start_with("", &Self::SETTINGS)], next: Cell::new(0), _redis: None }
    }

    fn two() -> Self {
        let redis = Redis::start(&[]);
        let url = redis.url();
        let cluster = [("REDIS_URL", &*url), ("CLUSTER_SECRET", SECRET), ("NODE_ADDRESS", "127.0.0.1:0")];
        let settings = [&Self::SETTINGS[..], &cluster].concat();
        let nodes = vec![Configured::start_with("", &settings), Configured::start_with("", &settings)];
        Self { nodes, next: Cell::new(0), _redis: Some(redis) }
    }

    /// The next node: what happens on one is asked of another.
    fn next(&self) -> &Configured {
        self.next.set(self.next.get() + 1);
        &self.nodes[self.next.get() % self.nodes.len()]
    }

    async fn reload(&self, toml: &str) {
        for node in &self.nodes {
            node.reload(toml).await;
        }
    }

    async fn restart(&mut self, toml: &str) {
        for node in &mut self.nodes {
            node.restart(toml).await;
        }
    }

    /// Waits until every node has dispatched what was published: the answer of a node comes after that.
    async fn have_dispatched(&self) {
        for node in self.nodes.iter().filter(|_| self.nodes.len() > 1) {
            let answer = post(node, "/v1/rooms/nobody-is-here/events", &json!({"event": "e"})).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
    }
}

/// A case under way.
struct Run<'s> {
    servers: &'s mut Servers,
    world: World,
    seats: [Seat; 2],
    /// Ends the items' ids.
    case: u32,
    published: u32,
}

impl<'s> Run<'s> {
    async fn begin(servers: &'s mut Servers, case: u32) -> Self {
        servers.reload(POLICIES[0]).await;
        let seat = async |namespace| Seat {
            namespace,
            client: Some(Client::connect(servers.next(), namespace).await),
            session: None,
            who: Who::Nobody,
            has_claims: false,
            rooms: BTreeSet::new(),
            items: BTreeSet::new(),
        };
        let seats = [seat(NAMESPACES[0]).await, seat(NAMESPACES[1]).await];
        let world = World { policy: 0, owners: [None; 4] };
        let mut run = Self { servers, world, seats, case, published: 0 };
        run.name_owner(ALICES, "alice").await;
        run.check().await;
        run
    }

    fn item(&self, item: usize) -> String {
        format!("{}{}", ITEMS[item], self.case)
    }

    async fn name_owner(&mut self, item: usize, owner: &'static str) {
        self.world.owners[item] = Some(owner);
        for seat in &mut self.seats {
            // One that is away learns it when it comes back.
            if seat.client.is_some() {
                self.world.leave_what_is_denied(seat);
            }
        }
        let progress = json!({"progress": f64::from(self.published) / 1e6, "stage": "s", "ownerId": owner});
        let answer = post(self.servers.next(), &format!("/v1/media/{}/progress", self.item(item)), &progress).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        self.servers.have_dispatched().await;
    }

    async fn carry_out(&mut self, step: Step) {
        match step {
            Step::BackToOtherRules(socket, policy) => {
                self.lose_connection(socket).await;
                self.check().await;
                self.reload(policy).await;
                self.check().await;
                self.come_back(socket, Transport::WebSocket).await;
            }
            Step::Restart(socket, policy) => {
                self.lose_connection(socket).await;
                self.check().await;
                self.lose_connection(1 - socket).await;
                self.servers.restart(POLICIES[policy]).await;
                self.world.policy = policy;
                self.check().await;
                self.come_back(socket, Transport::WebSocket).await;
            }
            Step::LoseConnection(socket) => self.lose_connection(socket).await,
            Step::Reload(policy) => self.reload(policy).await,
            Step::Join(socket, room) => {
                let (seat, room) = (&mut self.seats[socket], ROOMS[room]);
                let may = self.world.may_join(seat, room);
                let Some(client) = &mut seat.client else { return };
                assert_eq!(client.call("joinRoom", json!([room])).await["success"], may, "join {room}");
                if may && !room.starts_with("user:") {
                    seat.rooms.insert(room);
                }
            }
            Step::Leave(socket, room) => {
                let (seat, room) = (&mut self.seats[socket], ROOMS[room]);
                let Some(client) = &mut seat.client else { return };
                let may = !room.starts_with("user:");
                assert_eq!(client.call("leaveRoom", json!([room])).await["success"], may, "leave {room}");
                seat.rooms.remove(room);
            }
            Step::Subscribe(item) => {
                let id = self.item(item);
                let may = self.world.may_subscribe(&self.seats[1], item);
                let Some(client) = &mut self.seats[1].client else { return };
                assert_eq!(client.call("subscribeMedia", json!([id])).await["success"], may, "subscribe {id}");
                if may {
                    self.seats[1].items.insert(item);
                }
            }
            Step::Unsubscribe(item) => {
                let id = self.item(item);
                let Some(client) = &mut self.seats[1].client else { return };
                assert_eq!(client.call("unsubscribeMedia", json!([id])).await["success"], true);
                self.seats[1].items.remove(&item);
            }
            Step::Authenticate(socket, who) => {
                let seat = &mut self.seats[socket];
                let Some(client) = &mut seat.client else { return };
                let answer = client.call("authenticate", json!([{"token": who.token()}])).await;
                assert_eq!(answer["success"], true, "{answer}");
                self.world.becomes(seat, who);
            }
            Step::BadToken(socket) => {
                let Some(client) = &mut self.seats[socket].client else { return };
                assert_eq!(client.call("authenticate", json!([{"token": "x.y.z"}])).await["success"], false);
            }
            Step::Logout(socket) => {
                let seat = &mut self.seats[socket];
                let Some(client) = &mut seat.client else { return };
                assert_eq!(client.call("logout", json!([])).await["success"], true);
                self.world.becomes(seat, Who::Nobody);
            }
            Step::LateIsAlices => self.name_owner(LATE, "alice").await,
            Step::ComeBack(socket, transport) => self.come_back(socket, transport).await,
            Step::ConnectAnew(socket, transport, who) => {
                let namespace = self.seats[socket].namespace;
                let connected = Client::try_connect_by(transport, self.servers.next(), namespace, auth(who)).await;
                self.leave(socket).await;
                self.sit_down(socket, who, connected.ok());
            }
            Step::ConnectBeside(socket, who) => {
                let namespace = self.seats[socket].namespace;
                if self.seats[1 - socket].client.is_none() {
                    return;
                }
                self.leave(socket).await;
                let Some(other) = &self.seats[1 - socket].client else { return };
                let connected = other.try_beside(namespace, auth(who)).await;
                self.sit_down(socket, who, connected.ok());
            }
            Step::PollAsAnother(socket) => {
                let Some(client) = &self.seats[socket].client else { return };
                let mut known = vec![client.id.clone()];
                // A secret, but even then: nobody gets in beside a WebSocket.
                if client.transport().await == Transport::WebSocket {
                    known.push(client.session().await);
                }
                for id in known {
                    let path = format!("/socket.io/?EIO=4&transport=polling&sid={id}");
                    for (method, body) in [("GET", ""), ("POST", r#"42["joinRoom","anything"]"#)] {
                        let answer = send(self.servers.next(), method, &path, &[], body.as_bytes()).await;
                        assert_eq!(answer.status, 400, "{}", answer.text);
                    }
                }
            }
        }
    }

    /// Leaves the namespace, and the connection if nobody else is on it.
    async fn leave(&mut self, socket: usize) {
        let Some(client) = self.seats[socket].client.take() else { return };
        if self.seats[1 - socket].is_beside(&client) {
            client.leave().await;
        } else {
            client.cut().await;
        }
    }

    fn sit_down(&mut self, socket: usize, who: Who, connected: Option<Client>) {
        let is_refused = self.world.policy == AUTH_REQUIRED && who == Who::Nobody;
        assert_eq!(connected.is_none(), is_refused);
        let seat = &mut self.seats[socket];
        (seat.client, seat.session) = (connected, None);
        (seat.rooms, seat.items) = Default::default();
        self.world.becomes(seat, who);
    }

    async fn reload(&mut self, policy: usize) {
        self.servers.reload(POLICIES[policy]).await;
        self.world.policy = policy;
        for seat in &mut self.seats {
            if seat.client.is_some() {
                self.world.leave_what_is_denied(seat);
            }
        }
    }

    /// With what else goes over it.
    async fn lose_connection(&mut self, socket: usize) {
        let Some(lost) = self.seats[socket].client.take() else { return };
        lost.cut().await;
        let other = &mut self.seats[1 - socket];
        if other.is_beside(&lost) {
            other.session = other.client.take().map(session);
        }
        self.seats[socket].session = Some(session(lost));
    }

    /// With its session, if it may have it.
    async fn come_back(&mut self, socket: usize, transport: Transport) {
        let seat = &mut self.seats[socket];
        let Some((pid, offset)) = seat.session.take() else { return };
        let auth = json!({"pid": pid, "offset": offset});
        match Client::try_connect_by(transport, self.servers.next(), seat.namespace, auth).await {
            Ok(client) => {
                assert_eq!(client.pid, Some(pid), "it is the same session");
                seat.client = Some(client);
                self.world.leave_what_is_denied(seat);
            }
            Err(_) => {
                assert!(self.world.policy == AUTH_REQUIRED && seat.who == Who::Nobody, "nothing else is refused");
                (seat.rooms, seat.items) = Default::default();
            }
        }
    }

    /// What has come since the last check, which is what a step sends by itself: the state of an item, or what was missed.
    async fn nothing_denied(&mut self, socket: usize) {
        let events = match &mut self.seats[socket].client {
            Some(client) => client.events().await,
            None => return,
        };
        let seat = &self.seats[socket];
        for (event, payload) in events {
            match event.as_str() {
                "e" => assert!(self.world.is_in(seat, payload["room"].as_str().expect("a room")), "{payload}"),
                "mediaProgress" => {
                    let item = self.item_of(&payload);
                    assert!(self.world.follows(seat, item), "{payload}");
                }
                _ => {}
            }
        }
    }

    fn item_of(&self, payload: &Value) -> usize {
        let item = (0..ITEMS.len()).find(|item| payload["mediaId"] == self.item(*item).as_str());
        item.expect("an item of this case")
    }

    /// Publishes to everything, and compares what each socket gets and where it is with the model.
    async fn check(&mut self) {
        for socket in 0..self.seats.len() {
            self.nothing_denied(socket).await;
        }
        self.published += 1;
        let n = self.published;
        let mut batch = Vec::new();
        for room in ROOMS {
            for namespace in NAMESPACES {
                let data = json!({"room": room, "n": n});
                let delivery = if n.is_multiple_of(2) { "durable" } else { "recoverable" };
                batch.push(json!({
                    "kind": "roomEvent", "room": room, "event": "e", "namespace": namespace, "data": data,
                    "delivery": delivery,
                }));
            }
        }
        for item in 0..ITEMS.len() {
            let progress = f64::from(n) / 1e6;
            batch.push(json!({"kind": "progress", "mediaId": self.item(item), "progress": progress, "stage": "s"}));
        }
        let answer = post(self.servers.next(), "/v1/publish", &Value::Array(batch)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        self.servers.have_dispatched().await;

        for socket in 0..self.seats.len() {
            let Some(client) = &mut self.seats[socket].client else { continue };
            let events = client.events().await;
            let info = client.call("getConnectionInfo", json!([])).await;
            let seat = &self.seats[socket];
            let rooms = ROOMS.into_iter().filter(|room| self.world.is_in(seat, room)).map(str::to_owned);
            let items = (0..ITEMS.len()).filter(|item| self.world.follows(seat, *item)).map(|item| self.item(item));
            let expected: BTreeSet<String> = rooms.chain(items).collect();
            let name = |(_, payload): &(String, Value)| {
                let name = payload["room"].as_str().or(payload["mediaId"].as_str());
                name.expect("a room or an item").to_owned()
            };
            let got: Vec<String> = events.iter().map(name).collect();
            assert_eq!(got.iter().cloned().collect::<BTreeSet<_>>(), expected, "{} as {:?}", seat.namespace, seat.who);
            assert_eq!(got.len(), expected.len(), "each once: {got:?}");

            let listed = info["rooms"].as_array().expect("a list").iter().filter_map(Value::as_str);
            let listed: BTreeSet<&str> = listed.skip(1).collect();
            let own = seat.who.user().map(|user| format!("user:{user}"));
            let expected: BTreeSet<&str> = seat.rooms.iter().copied().chain(own.as_deref()).collect();
            assert_eq!(listed, expected, "getConnectionInfo");
        }
    }
}

#[test]
fn no_sequence_brings_a_socket_where_it_may_not_be() {
    no_sequence_of(32, Servers::one);
}

/// The sockets come back to the other node, and the other node is told what changes.
#[test]
fn no_sequence_brings_a_socket_where_it_may_not_be_on_two_nodes() {
    no_sequence_of(16, Servers::two);
}

fn no_sequence_of(few: u32, start: fn() -> Servers) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    // One for all cases, unless one failed.
    let kept = Cell::new(None);
    // PROPTEST_CASES asks for more.
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let cases = if asked { Config::default().cases } else { few };
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    let case = Cell::new(0);
    let outcome = TestRunner::new(config).run(&prop::collection::vec(step(), 1..40), |steps| {
        case.set(case.get() + 1);
        let mut servers = kept.take().unwrap_or_else(start);
        runtime.block_on(async {
            let mut run = Run::begin(&mut servers, case.get()).await;
            for step in steps {
                run.carry_out(step).await;
                run.check().await;
            }
        });
        kept.set(Some(servers));
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
