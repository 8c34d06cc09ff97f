//! One connection, from the WebSocket's opening to its end.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::value::RawValue;
use socketio_protocol::{engine_io, packet};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_websockets::{ClientBuilder, MaybeTlsStream, Message, WebSocketStream};

use super::line::Line;
use super::{MEDIA, Output, Plan};
use crate::commands::terminal::printable;

const PATH: &str = "/socket.io/?EIO=4&transport=websocket";
/// The time that the contract's example client allows for a connection.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// A close that takes longer is cut off; nothing is lost by it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// An open connection.
#[derive(Debug)]
pub(super) struct Session<'a> {
    plan: &'a Plan,
    websocket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// How long the server may be silent.
    silence: Duration,
    /// Namespaces that are connected, or may still become so.
    open_namespaces: usize,
    /// Rooms and media items that are granted, or may still be.
    hopes: usize,
    /// The text of the request for each pending ack.
    acks: HashMap<u64, String>,
    next_ack: u64,
    /// An event that waits for its attachments.
    partial: Option<Partial>,
}

/// The reason for the final end of a session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// No more events are wanted.
    Enough,
    /// The server refused or disconnected every namespace.
    Refused,
    /// The server refused every room and media item, and nothing else was asked for.
    NothingLeft,
}

#[derive(Debug)]
struct Partial {
    packet: String,
    missing: usize,
    sizes: Vec<usize>,
}

/// The common fields of the contract's acks.
#[derive(Deserialize)]
struct Outcome {
    success: bool,
    error: Option<String>,
}

impl<'a> Session<'a> {
    /// Opens the WebSocket and connects to the namespaces.
    pub(super) async fn open(plan: &'a Plan) -> anyhow::Result<Self> {
        let opening = async {
            let stream = plan.url.connect(plan.ca.as_deref()).await?;
            let opened = ClientBuilder::from_uri(plan.url.websocket(PATH)?).connect_on(stream).await;
            let (mut websocket, _response) = match opened.with_context(|| format!("{} opens no WebSocket", plan.url)) {
                Ok(opened) => opened,
                Err(error) => return Err(plan.url.explain(error).await),
            };
            let first = next_message(&mut websocket).await?;
            let handshake = match first.as_text().map(engine_io::Packet::decode) {
                Some(Ok(engine_io::Packet::Open(data))) => {
                    engine_io::Handshake::decode(data).with_context(|| format!("{} speaks no Engine.IO 4", plan.url))?
                }
                _ => bail!("{} speaks no Engine.IO 4", plan.url),
            };
            Ok((websocket, handshake))
        };
        let (websocket, handshake) = timeout(OPEN_TIMEOUT, opening)
            .await
            .map_err(|_elapsed| anyhow!("{} took too long to open a connection", plan.url))??;
        let silence = handshake.ping_interval_ms.saturating_add(handshake.ping_timeout_ms);
        let mut session = Self {
            plan,
            websocket,
            silence: Duration::from_millis(silence),
            open_namespaces: plan.namespaces.len(),
            hopes: plan.rooms.len() + plan.media.len(),
            acks: HashMap::new(),
            next_ack: 0,
            partial: None,
        };
        // With recovery, each event would have one more argument: an offset, which means nothing to people.
        let mut auth = serde_json::json!({ "recovery": false });
        if let Some(token) = &plan.token {
            auth["token"] = token.expose_secret().into();
        }
        let auth = serde_json::value::to_raw_value(&auth).context("encode the token")?;
        for namespace in &plan.namespaces {
            let mut text = Vec::new();
            let auth = Some(&*auth);
            packet::Packet { namespace, kind: packet::Kind::Connect { auth } }.encode(&mut text);
            session.send(text).await?;
        }
        Ok(session)
    }

    /// Shows events until no more are wanted or allowed; an error when the connection is lost.
    pub(super) async fn run(mut self, output: &mut Output) -> anyhow::Result<End> {
        loop {
            let message = timeout(self.silence, next_message(&mut self.websocket))
                .await
                .map_err(|_elapsed| anyhow!("nothing was heard from the server for too long"))??;
            let end = if let Some(text) = message.as_text() {
                self.engine_packet(text, output).await?
            } else if message.is_binary() {
                self.attachment(message.as_payload().len(), output)?
            } else {
                None
            };
            if let Some(end) = end {
                // The session has ended, whether or not the server learns of it.
                let _closed = timeout(CLOSE_TIMEOUT, self.websocket.close()).await;
                return Ok(end);
            }
        }
    }

    async fn engine_packet(&mut self, text: &str, output: &mut Output) -> anyhow::Result<Option<End>> {
        match engine_io::Packet::decode(text).context("can't read the server's packet")? {
            engine_io::Packet::Ping(data) => {
                let mut pong = Vec::new();
                engine_io::Packet::Pong(data).encode(&mut pong);
                self.send(pong).await?;
                Ok(None)
            }
            engine_io::Packet::Message(text) => self.packet(text, output).await,
            engine_io::Packet::Close => bail!("the server closed the connection"),
            _ => Ok(None),
        }
    }

    async fn packet(&mut self, text: &str, output: &mut Output) -> anyhow::Result<Option<End>> {
        let packet = packet::Packet::decode(text).context("can't read the server's packet")?;
        let namespace = packet.namespace;
        match packet.kind {
            packet::Kind::Connect { .. } => {
                output.connected = true;
                output.note(&format!("connected to {}", printable(namespace)));
                self.join(namespace).await?;
            }
            packet::Kind::ConnectError { data } => {
                output.note(&format!("{} refuses us: {}", printable(namespace), message_of(data)));
                return Ok(self.namespace_closed(namespace));
            }
            packet::Kind::Disconnect => {
                output.note(&format!("the server disconnected us from {}", printable(namespace)));
                return Ok(self.namespace_closed(namespace));
            }
            packet::Kind::Ack { id, args, .. } => {
                if let Some(request) = self.acks.remove(&id) {
                    let (is_granted, text) = describe(&request, args.get(0));
                    output.note(&text);
                    return Ok(if is_granted { None } else { self.lose_hopes(1) });
                }
            }
            packet::Kind::Event { attachments: 0, .. } => return show(text, &[], output),
            packet::Kind::Event { attachments, .. } => {
                self.partial = Some(Partial { packet: text.to_owned(), missing: attachments, sizes: Vec::new() });
            }
        }
        Ok(None)
    }

    fn attachment(&mut self, size: usize, output: &mut Output) -> anyhow::Result<Option<End>> {
        let Some(mut partial) = self.partial.take() else {
            // The attachment belongs to an ack. Only the text of an ack is shown.
            return Ok(None);
        };
        partial.sizes.push(size);
        partial.missing -= 1;
        if partial.missing > 0 {
            self.partial = Some(partial);
            return Ok(None);
        }
        show(&partial.packet, &partial.sizes, output)
    }

    fn namespace_closed(&mut self, namespace: &str) -> Option<End> {
        self.open_namespaces = self.open_namespaces.saturating_sub(1);
        if self.open_namespaces == 0 {
            return Some(End::Refused);
        }
        let media = if namespace == MEDIA { self.plan.media.len() } else { 0 };
        self.lose_hopes(media + self.plan.rooms.iter().filter(|room| room.namespace == namespace).count())
    }

    /// Records the refusal of `count` rooms and media items.
    fn lose_hopes(&mut self, count: usize) -> Option<End> {
        self.hopes = self.hopes.saturating_sub(count);
        (self.hopes == 0 && !self.plan.wants_namespaces).then_some(End::NothingLeft)
    }

    /// Joins the rooms and subscribes to the media items that are on this namespace.
    async fn join(&mut self, namespace: &str) -> anyhow::Result<()> {
        let plan = self.plan;
        for room in plan.rooms.iter().filter(|room| room.namespace == namespace) {
            let what = format!("joined the room {:?} on {namespace}", room.name);
            self.request(namespace, "joinRoom", &room.name, what).await?;
        }
        if namespace == MEDIA {
            for id in &plan.media {
                let what = format!("subscribed to the media item {id:?}");
                self.request(namespace, "subscribeMedia", id, what).await?;
            }
        }
        Ok(())
    }

    /// Emits an event with one string and requests an ack. `what` describes the result if the request is granted.
    async fn request(&mut self, namespace: &str, event: &str, argument: &str, what: String) -> anyhow::Result<()> {
        let id = self.next_ack;
        self.next_ack += 1;
        self.acks.insert(id, what);
        let argument = serde_json::Value::from(argument).to_string();
        let mut text = Vec::new();
        packet::encode_event(&mut text, namespace, Some(id), 0, event, &argument);
        self.send(text).await
    }

    async fn send(&mut self, text: Vec<u8>) -> anyhow::Result<()> {
        let text = String::from_utf8(text).context("encode a packet")?;
        self.websocket.send(Message::text(text)).await.context("the connection is lost")
    }
}

async fn next_message(websocket: &mut WebSocketStream<MaybeTlsStream<TcpStream>>) -> anyhow::Result<Message> {
    match websocket.next().await {
        Some(Ok(message)) => match message.as_close() {
            Some((code, reason)) => {
                Err(anyhow!("the server closed the connection ({} {})", u16::from(code), printable(reason)))
            }
            None => Ok(message),
        },
        Some(Err(error)) => Err(error).context("the connection is lost"),
        None => Err(anyhow!("the server closed the connection")),
    }
}

fn show(text: &str, attachments: &[usize], output: &mut Output) -> anyhow::Result<Option<End>> {
    let packet = packet::Packet::decode(text).context("can't read the server's packet")?;
    let packet::Kind::Event { args, .. } = packet.kind else {
        return Ok(None);
    };
    let line = Line {
        time: format!("{:.3}", Timestamp::now()),
        namespace: packet.namespace,
        event: args.event_name().unwrap_or_default(),
        args: args.as_slice().get(1..).unwrap_or_default(),
        attachments,
    };
    Ok((!output.show(&line)?).then_some(End::Enough))
}

/// Whether a request was granted, and the text that reports it.
fn describe(what: &str, answer: Option<&RawValue>) -> (bool, String) {
    let outcome = answer.map(|answer| serde_json::from_str::<Outcome>(answer.get()));
    match outcome {
        Some(Ok(Outcome { success: true, .. })) => (true, what.to_owned()),
        Some(Ok(Outcome { error, .. })) => {
            let reason = error.as_deref().unwrap_or("the server gives no reason");
            (false, format!("not {what}: {}", printable(reason)))
        }
        _ => (false, format!("not {what}: the server's answer makes no sense")),
    }
}

/// The reason in a CONNECT_ERROR, which is an object or, from old servers, a string.
fn message_of(data: Option<&RawValue>) -> String {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Reason {
        Object { message: String },
        Text(String),
    }
    match data.map(|data| serde_json::from_str(data.get())) {
        Some(Ok(Reason::Object { message } | Reason::Text(message))) => printable(&message),
        _ => "it gives no reason".to_owned(),
    }
}
