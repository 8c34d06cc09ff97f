//! HTTP requests. The engine answers the requests to its own paths, and the fallback answers all others. After an
//! upgrade only the TCP stream is kept.

mod answer;
mod base_path;
mod body;
mod engine;
mod exchange;
mod first;
mod forward;
pub(crate) mod handshake;
mod page;
mod requests;
mod reread;
mod response;
mod splice;
mod stream;
mod tls;

use std::{convert::Infallible, error::Error, future::Future, net::SocketAddr, pin::Pin, rc::Rc};

use ::http::{Request, Response, request::Parts};
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, future::OptionFuture};
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use hyper::body::{Body, Incoming};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    task::yield_now,
    time::{Instant, timeout},
};

use crate::{
    Config, Limit,
    admission::HttpPermit,
    config::{CLOSE_LINGER, MIN_HEADER_BYTES, NODE_HEADER_TIMEOUT, SHORT_HEADER},
    connection::Origin,
    identifier::Id,
    shard::{Shard, StreamGuard},
    stream::Stream,
    transport::{EngineRequest, open_websocket},
};

use exchange::Exchange;
use first::Opening;
use requests::Served;
pub(crate) use response::turned_away;
use splice::OtherEnd;

type BoxError = Box<dyn Error + Send + Sync>;
pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;
type ResponseFuture = Pin<Box<dyn Future<Output = Response<ResponseBody>>>>;

/// The check that decides whether a connection may be opened.
pub(crate) type AllowRequest = dyn Fn(&Parts) -> Pin<Box<dyn Future<Output = bool>>> + Send + Sync;

/// The service for all requests that are not for the engine.
pub(crate) trait Fallback: Send + Sync {
    fn call(&self, request: Request<Incoming>) -> ResponseFuture;
}

impl<S, B> Fallback for S
where
    S: tower_service::Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync,
    S::Future: 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn call(&self, request: Request<Incoming>) -> ResponseFuture {
        let future = tower_service::Service::call(&mut self.clone(), request);
        Box::pin(async move {
            match future.await {
                Ok(response) => response.map(|body| body.map_err(Into::into).boxed_unsync()),
                Err(never) => match never {},
            }
        })
    }
}

/// The target of a connection's upgrade.
enum Upgrade {
    /// The WebSocket of a new session.
    Open(Origin),
    /// The WebSocket of a session that is polling.
    Session(Id),
    /// The WebSocket of another node's session.
    Forwarded(OtherEnd),
    /// An upgrade that the fallback handles, with the request's head and the client's address.
    Fallback(BytesMut, SocketAddr),
}

/// Serves one TCP connection until it ends.
pub(crate) fn serve_connection(
    shard: Rc<Shard>,
    stream: TcpStream,
    peer: SocketAddr,
    served: StreamGuard,
    permit: HttpPermit,
) -> impl Future<Output = ()> {
    // Boxed, so that the task of a WebSocket takes no memory for the state of what was before. An async block would reserve
    // space for the variables of both.
    let opening = Box::pin(until_websocket(shard.clone(), stream, peer, permit));
    let websocket = opening.map(move |opening| {
        OptionFuture::from(opening.map(|(stream, Opening { origin, answer, leftover })| {
            open_websocket(&shard, origin, stream, answer, &leftover, served)
        }))
    });
    websocket.flatten().map(drop)
}

/// Serves a connection until HTTP ends on it. Returns the stream if it becomes the WebSocket of a new session.
async fn until_websocket(
    shard: Rc<Shard>,
    stream: TcpStream,
    peer: SocketAddr,
    permit: HttpPermit,
) -> Option<(Stream, Opening)> {
    // The first request shares the deadline of the TLS handshake, so a client that is slow at both does not get the
    // time twice.
    let deadline =
        Instant::now() + if permit.is_internal() { NODE_HEADER_TIMEOUT } else { shard.config.header_timeout };
    let mut stream = match &shard.application.tls {
        _ if permit.is_internal() => Stream::Plain(stream),
        None => Stream::Plain(stream),
        // Boxed: the state of a handshake is large.
        Some(tls) => Box::pin(tls::handshake(&shard, tls, stream, &permit, deadline)).await?,
    };
    let first = first::read(&shard, &mut stream, peer, &permit, deadline).await?;
    if let Some(opening) = first::accept_websocket(&shard, peer, &permit, &first) {
        return Some((stream, opening));
    }
    let exchange = Exchange::new(shard, peer, permit, deadline);
    // Boxed, so that the memory for HTTP is freed when HTTP ends.
    let served = Box::pin(requests::serve(&exchange, first, stream)).await?;
    match exchange.upgrade.take() {
        Some(upgrade) => carry_out(&exchange, upgrade, served).await,
        None => {
            close(&exchange, served).await;
            None
        }
    }
}

/// Closes a connection after HTTP.
async fn close(exchange: &Exchange, served: Served) {
    let Served { stream, leftover, may_send_on, is_parting } = served;
    // The bytes already read of a refused request are freed now, not after the linger.
    drop(leftover);
    if may_send_on {
        Box::pin(requests::linger(exchange, stream, is_parting)).await;
    } else if let Stream::Tls(stream) = stream.into_stream() {
        Box::pin(tls::shut_down(stream, &exchange.permit, is_parting)).await;
    }
}

/// Carries out an upgrade. Returns the stream if it becomes the WebSocket of a new session.
async fn carry_out(exchange: &Exchange, upgrade: Upgrade, served: Served) -> Option<(Stream, Opening)> {
    let Served { mut stream, leftover, .. } = served;
    let answer = stream.take_held_back();
    let stream = stream.into_stream();
    match upgrade {
        Upgrade::Open(origin) => return Some((stream, Opening { origin, answer, leftover })),
        Upgrade::Fallback(mut head, client) => {
            head.extend_from_slice(&leftover);
            Box::pin(serve_upgrade(exchange, stream, head.freeze(), client)).await;
        }
        Upgrade::Forwarded(other) => {
            // This connection must not be closed to make room, like a WebSocket of this node.
            if let Ok(_held) = exchange.permit.hold() {
                Box::pin(splice::run(&exchange.shard, stream, leftover, other)).await;
            } else {
                exchange.shard.metrics.limit_met(Limit::HttpConnections);
            }
        }
        Upgrade::Session(sid) => match stream.detach() {
            Ok(stream) => {
                let peer = exchange.peer.ip();
                exchange.shard.route(EngineRequest::Upgrade { sid, stream, leftover, peer });
            }
            Err(error) => tracing::debug!(%error, "failed to hand over a stream"),
        },
    }
    None
}

/// Passes an upgrade on to the fallback. `head` holds the request again.
async fn serve_upgrade(exchange: &Exchange, mut stream: Stream, head: Bytes, client: SocketAddr) {
    let Exchange { shard, permit, .. } = exchange;
    // This connection must not be closed to make room, like one with a client's request.
    let Ok(_held) = permit.hold() else {
        shard.metrics.limit_met(Limit::HttpConnections);
        let _ = timeout(CLOSE_LINGER, stream.write_all(turned_away(Limit::HttpConnections))).await;
        return;
    };
    reread::serve(shard, stream, head, client, permit.connection(), max_headers(&shard.config)).await;
}

/// Completes when the connection must make room for another. The runtime polls the network once more before, so a
/// request that has arrived by then is read.
async fn parting(permit: &HttpPermit) {
    permit.parting().await;
    yield_now().await;
}

fn max_headers(config: &Config) -> usize {
    max_header_bytes(config) / SHORT_HEADER
}

fn max_header_bytes(config: &Config) -> usize {
    config.max_header_bytes.max(MIN_HEADER_BYTES)
}
