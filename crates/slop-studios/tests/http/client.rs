//! A Socket.IO client, just enough to be told what the server does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use socketio_protocol::packet::{Kind, Packet};
use tokio::sync::Mutex;

use crate::line::{Line, Transport};
use crate::server::Server;

const DEADLINE: Duration = Duration::from_secs(10);

/// A socket: one namespace of a connection.
pub(crate) struct Client {
    line: Arc<Mutex<Line>>,
    namespace: &'static str,
    pub(crate) id: String,
    /// Its session's secret, and how far it has got: what to come back for it with.
    pub(crate) pid: Option<String>,
    pub(crate) offset: Option<String>,
    next_ack: u64,
    early: VecDeque<(String, Value)>,
}

enum Incoming {
    Connected(String, Option<String>),
    Refused(Value),
    Event(String, Value),
    Ack(u64, Value),
    Disconnected,
    Closed,
}

impl Client {
    /// Connects without a token.
    pub(crate) async fn connect(server: &Server, namespace: &'static str) -> Self {
        Self::try_connect(server, namespace, json!({}), None).await.expect("the server takes it")
    }

    /// Connects with a token, and has been told so.
    pub(crate) async fn connect_as(server: &Server, namespace: &'static str, token: &str) -> Self {
        let connected = Self::try_connect(server, namespace, json!({"token": token}), None).await;
        let mut client = connected.expect("the server takes it");
        assert_eq!(client.next().await.0, "welcome");
        assert_eq!(client.next().await.0, "authenticated");
        client
    }

    /// Connects; the error is what the client is told.
    pub(crate) async fn try_connect(
        server: &Server,
        namespace: &'static str,
        auth: Value,
        bearer: Option<&str>,
    ) -> Result<Self, Value> {
        let line = Line::open_with(server, Transport::WebSocket, bearer).await;
        Self::on(Arc::new(Mutex::new(line)), namespace, auth).await
    }

    /// The same by either transport.
    pub(crate) async fn try_connect_by(
        transport: Transport,
        server: &Server,
        namespace: &'static str,
        auth: Value,
    ) -> Result<Self, Value> {
        let line = Line::open_with(server, transport, None).await;
        Self::on(Arc::new(Mutex::new(line)), namespace, auth).await
    }

    /// Comes back for its session, by a connection of its own, and says whether that is the old one.
    pub(crate) async fn come_back(&self, server: &Server, token: Option<&str>) -> (bool, Self) {
        let mut auth = json!({"pid": self.pid, "offset": self.offset});
        if let Some(token) = token {
            auth["token"] = token.into();
        }
        let back = Self::try_connect(server, self.namespace, auth, None).await.expect("the server takes it");
        (back.id == self.id, back)
    }

    /// Connects another namespace of its connection.
    pub(crate) async fn try_beside(&self, namespace: &'static str, auth: Value) -> Result<Self, Value> {
        Self::on(Arc::clone(&self.line), namespace, auth).await
    }

    async fn on(line: Arc<Mutex<Line>>, namespace: &'static str, auth: Value) -> Result<Self, Value> {
        let mut client =
            Self { line, namespace, id: String::new(), pid: None, offset: None, next_ack: 0, early: VecDeque::new() };
        client.write(format!("40{namespace},{auth}")).await;
        match client.incoming().await {
            Incoming::Connected(id, pid) => (client.id, client.pid) = (id, pid),
            Incoming::Refused(error) => return Err(error),
            _ => panic!("neither connected nor refused"),
        }
        Ok(client)
    }

    pub(crate) async fn transport(&self) -> Transport {
        self.line.lock().await.transport()
    }

    /// Whether both are namespaces of one connection.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.line, &other.line)
    }

    /// The id of the connection's session, which nobody else is told.
    pub(crate) async fn session(&self) -> String {
        self.line.lock().await.session.clone()
    }

    /// Leaves the namespace; the connection stands.
    pub(crate) async fn leave(&self) {
        self.write(format!("41{},", self.namespace)).await;
    }

    /// Ends the connection, of which the server knows when this returns.
    pub(crate) async fn cut(&self) {
        self.line.lock().await.cut().await;
    }

    async fn write(&self, text: String) {
        self.line.lock().await.write(text).await;
    }

    async fn incoming(&mut self) -> Incoming {
        let next = async { self.line.lock().await.next_of(self.namespace).await };
        let next = tokio::time::timeout(DEADLINE, next).await.expect("something comes in time");
        let Some(text) = next else { return Incoming::Closed };
        let packet = Packet::decode(&text).expect("the server speaks the protocol");
        let value = |raw: Option<&serde_json::value::RawValue>| {
            raw.map_or(Value::Null, |raw| serde_json::from_str(raw.get()).expect("JSON"))
        };
        match packet.kind {
            Kind::Connect { auth } => {
                let text = |name: &str| value(auth)[name].as_str().map(str::to_owned);
                Incoming::Connected(text("sid").expect("an id"), text("pid"))
            }
            Kind::ConnectError { data } => Incoming::Refused(value(data)),
            Kind::Disconnect => Incoming::Disconnected,
            Kind::Event { args, .. } => {
                let name = args.event_name().expect("a name").into_owned();
                let last = args.get(args.len().saturating_sub(1));
                self.offset = value(last).as_str().map(str::to_owned).or(self.offset.take());
                Incoming::Event(name, value(args.get(1)))
            }
            Kind::Ack { id, args, .. } => Incoming::Ack(id, value(args.get(0))),
        }
    }

    /// The next event.
    pub(crate) async fn next(&mut self) -> (String, Value) {
        if let Some(early) = self.early.pop_front() {
            return early;
        }
        match self.incoming().await {
            Incoming::Event(name, payload) => (name, payload),
            Incoming::Closed | Incoming::Disconnected => panic!("closed"),
            _ => panic!("no event"),
        }
    }

    /// Checks that the next event is this one, and returns its payload.
    #[track_caller]
    pub(crate) fn expect(&mut self, name: &str) -> impl Future<Output = Value> {
        let name = name.to_owned();
        async move {
            let (event, payload) = self.next().await;
            assert_eq!(event, name, "{payload}");
            payload
        }
    }

    /// Sends an event without asking for an ack. `args` is an array.
    pub(crate) async fn emit(&self, event: &str, args: Value) {
        let text = format!("42{},{}", self.namespace, with_name(event, args));
        self.write(text).await;
    }

    /// Sends an event and waits for its ack. Events that come before are kept for [`Client::next`].
    pub(crate) async fn call(&mut self, event: &str, args: Value) -> Value {
        let (id, text) = self.asking(event, args);
        self.write(text).await;
        loop {
            match self.incoming().await {
                Incoming::Ack(acked, payload) if acked == id => return payload,
                Incoming::Event(name, payload) => self.early.push_back((name, payload)),
                Incoming::Closed | Incoming::Disconnected => panic!("closed before {event} was acknowledged"),
                _ => panic!("neither event nor ack"),
            }
        }
    }

    /// An event that asks for an ack.
    fn asking(&mut self, event: &str, args: Value) -> (u64, String) {
        let id = self.next_ack;
        self.next_ack += 1;
        (id, format!("42{},{id}{}", self.namespace, with_name(event, args)))
    }

    /// Sends events, over long-polling in one body, and waits for none of their acks.
    pub(crate) async fn ask_together(&mut self, events: impl IntoIterator<Item = (&str, Value)>) {
        let asked: Vec<String> = events.into_iter().map(|(event, args)| self.asking(event, args).1).collect();
        match self.transport().await {
            Transport::Polling => self.write(asked.join("\x1e")).await,
            Transport::WebSocket => {
                for text in asked {
                    self.write(text).await;
                }
            }
        }
    }

    /// The next ack. Events that come before are kept for [`Client::next`].
    pub(crate) async fn next_answer(&mut self) -> Value {
        loop {
            match self.incoming().await {
                Incoming::Ack(_, payload) => return payload,
                Incoming::Event(name, payload) => self.early.push_back((name, payload)),
                Incoming::Closed | Incoming::Disconnected => panic!("closed before an ack"),
                _ => panic!("neither event nor ack"),
            }
        }
    }

    /// Checks that nothing has come that was not looked at: what was on its way arrives before the answer.
    pub(crate) async fn nothing_else(&mut self) {
        self.call("getConnectionInfo", json!([])).await;
        assert_eq!(self.early, []);
    }

    /// What has come so far, besides answers.
    pub(crate) async fn events(&mut self) -> Vec<(String, Value)> {
        self.call("getConnectionInfo", json!([])).await;
        self.early.drain(..).collect()
    }

    /// Forgets what has come.
    pub(crate) fn forget(&mut self) {
        self.early.clear();
    }

    /// Waits until the server has closed.
    pub(crate) async fn closed(&mut self) {
        while !matches!(self.incoming().await, Incoming::Closed | Incoming::Disconnected) {}
    }

    /// Waits until the server has closed, without having told the client to stay away.
    pub(crate) async fn closed_by_transport(&mut self) {
        assert!(matches!(self.incoming().await, Incoming::Closed));
    }
}

fn with_name(event: &str, args: Value) -> Value {
    let Value::Array(mut args) = args else { panic!("arguments are an array") };
    args.insert(0, event.into());
    Value::Array(args)
}
