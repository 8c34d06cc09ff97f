//! HTTP requests. The engine answers the requests to its own paths, and the fallback answers all others. After an
//! upgrade only the TCP stream is kept.

mod answer;
mod base_path;
mod body;
mod engine;
mod exchange;
mod first;
mod requests;
mod reread;
mod stream;

use std::{convert::Infallible, error::Error, future::Future, net::SocketAddr, pin::Pin, rc::Rc};

use ::http::{Request, Response, request::Parts};
use bytes::{Bytes, BytesMut};
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
    config::{CLOSE_LINGER, MIN_HEADER_BYTES, SHORT_HEADER},
    connection::Origin,
    identifier::Id,
    server::turned_away,
    shard::{Shard, StreamGuard},
    tls,
    transport::{EngineRequest, Stream, open_websocket},
};

use exchange::Exchange;
use first::Opening;
use requests::Served;

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
    /// An upgrade that the fallback handles, with the request's head and the client's address.
    Fallback(BytesMut, SocketAddr),
}

/// Serves one TCP connection until it ends or becomes a WebSocket.
pub(crate) async fn serve_connection(
    shard: Rc<Shard>,
    stream: TcpStream,
    peer: SocketAddr,
    served: StreamGuard,
    place: HttpPermit,
) {
    // The first request shares the deadline of the TLS handshake, so a client that is slow at both does not get the
    // time twice.
    let deadline = Instant::now() + shard.config.header_timeout;
    let mut stream = match &shard.application.tls {
        None => Stream::Plain(stream),
        // Boxed, so that the handshake's state takes no memory in the connection's task afterwards.
        Some(tls) => match Box::pin(tls::handshake(&shard, tls, stream, &place, deadline)).await {
            Some(stream) => stream,
            None => return,
        },
    };
    let Some(first) = first::read(&shard, &mut stream, peer, &place, deadline).await else { return };
    if let Some(Opening { origin, answer, leftover }) = first::accept_websocket(&shard, peer, &place, &first) {
        drop((place, first));
        return open_websocket(&shard, origin, stream, answer, &leftover, served);
    }
    let exchange = Exchange::new(shard, peer, place, deadline);
    // Boxed, so that the memory of the HTTP connection is freed when HTTP ends.
    let Some(ended) = Box::pin(requests::serve(&exchange, first, stream)).await else { return };
    match exchange.upgrade.take() {
        Some(upgrade) => carry_out(exchange, upgrade, ended, served).await,
        None => close(&exchange, ended).await,
    }
}

/// Closes a connection after HTTP.
async fn close(exchange: &Exchange, Served { stream, leftover, may_send_on, is_parting }: Served) {
    // The bytes already read of a refused request are freed now, not after the linger.
    drop(leftover);
    if may_send_on {
        Box::pin(requests::linger(exchange, stream, is_parting)).await;
    } else if let Stream::Tls(stream) = stream.into_stream() {
        Box::pin(tls::shut_down(stream, &exchange.place)).await;
    }
}

/// Passes the stream on to the target of its upgrade.
async fn carry_out(exchange: Rc<Exchange>, upgrade: Upgrade, ended: Served, served: StreamGuard) {
    let (shard, peer) = (exchange.shard.clone(), exchange.peer);
    let Served { mut stream, leftover, .. } = ended;
    let answer = stream.take_held_back();
    let mut stream = stream.into_stream();
    match upgrade {
        Upgrade::Fallback(mut head, client) => {
            head.extend_from_slice(&leftover);
            let place = &exchange.place;
            // This connection must not be closed to make room, like one with a client's request.
            let Ok(_held) = place.hold() else {
                shard.metrics.limit_met(Limit::HttpConnections);
                let _ = timeout(CLOSE_LINGER, stream.write_all(turned_away(Limit::HttpConnections))).await;
                return;
            };
            let max_headers = max_headers(&shard.config);
            Box::pin(reread::serve(&shard, stream, head.freeze(), client, place.connection(), max_headers)).await;
        }
        Upgrade::Open(origin) => {
            drop(exchange);
            open_websocket(&shard, origin, stream, answer, &leftover, served);
        }
        Upgrade::Session(sid) => {
            drop(exchange);
            match stream.detach() {
                Ok(stream) => shard.route(EngineRequest::Upgrade { sid, stream, leftover, peer: peer.ip() }),
                Err(error) => tracing::debug!(%error, "failed to hand over a stream"),
            }
        }
    }
}

/// Completes when the connection must make room for another. The runtime polls the network once more before, so a
/// request that has arrived by then is read.
async fn parting(place: &HttpPermit) {
    place.parting().await;
    yield_now().await;
}

fn max_headers(config: &Config) -> usize {
    max_header_bytes(config) / SHORT_HEADER
}

fn max_header_bytes(config: &Config) -> usize {
    config.max_header_bytes.max(MIN_HEADER_BYTES)
}
