//! HTTP requests. The engine answers the requests to its own paths, and the fallback answers all others. After an
//! upgrade only the TCP stream is kept.

mod base_path;
mod reread;
mod stream;

use std::{
    borrow::Cow,
    cell::Cell,
    convert::Infallible,
    error::Error,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    rc::Rc,
    task::{Poll, ready},
};

use ::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, CACHE_CONTROL, CONNECTION,
        CONTENT_ENCODING, CONTENT_TYPE, ORIGIN, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE, VARY, X_CONTENT_TYPE_OPTIONS,
    },
};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use socketio_protocol::websocket;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    sync::oneshot,
    task::yield_now,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    Config, Limit, Origins, Refusal,
    admission::{BodyPermit, HttpPermit},
    config::{CLOSE_LINGER, CLOSE_LINGER_BYTES, HTTP_LINGER, HTTP_LINGER_SILENCE, MIN_HEADER_BYTES, SHORT_HEADER},
    connection::{Origin, Protocol},
    handshake::{Handshake, Query, detached},
    identifier::Id,
    origin,
    server::turned_away,
    shard::{Shard, StreamGuard},
    tls,
    transport::{EngineError, EngineRequest, Stream, open_polling, open_websocket},
};

use reread::has_token;
use stream::{Headers, HttpStream};

type BoxError = Box<dyn Error + Send + Sync>;
pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;
type ResponseFuture = Pin<Box<dyn Future<Output = Response<ResponseBody>>>>;

/// The check that decides whether a connection may be opened.
pub(crate) type AllowRequest = dyn Fn(&Request<Incoming>) -> Pin<Box<dyn Future<Output = bool>>> + Send + Sync;

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
    let (stream, deadline) = match &shard.application.tls {
        None => (Stream::Plain(stream), None),
        Some(tls) => {
            // The first request shares this deadline, so a client that is slow at both does not get the time twice.
            let deadline = Instant::now() + shard.config.header_timeout;
            // Boxed, so that the handshake's state takes no memory in the connection's task afterwards.
            match Box::pin(tls::handshake(&shard, tls, stream, &place, deadline)).await {
                Some(stream) => (stream, Some(deadline)),
                None => return,
            }
        }
    };
    let place = Rc::new(place);
    let upgrade: Rc<Cell<Option<Upgrade>>> = Rc::default();
    // Boxed, so that the memory of the HTTP connection is freed when HTTP ends.
    let served_http = serve_http(shard.clone(), stream, peer, place.clone(), upgrade.clone(), deadline);
    let Some(Served { mut stream, leftover, may_send_on, is_parting }) = Box::pin(served_http).await else { return };
    let Some(upgrade) = upgrade.take() else {
        // The bytes already read of a refused request are freed now, not after the linger.
        drop(leftover);
        if may_send_on {
            Box::pin(linger(&shard, stream, &place, is_parting)).await;
        } else if let Stream::Tls(stream) = stream.into_stream() {
            Box::pin(tls::shut_down(stream, &place)).await;
        }
        return;
    };
    let answer = stream.take_held_back();
    let mut stream = stream.into_stream();
    if let Upgrade::Fallback(mut head, client) = upgrade {
        head.extend_from_slice(&leftover);
        // This connection must not be closed to make room, like one with a client's request.
        let Ok(_held) = place.hold() else {
            shard.metrics.limit_met(Limit::HttpConnections);
            let _ = timeout(CLOSE_LINGER, stream.write_all(turned_away(Limit::HttpConnections))).await;
            return;
        };
        let max_headers = max_headers(&shard.config);
        return Box::pin(reread::serve(&shard, stream, head.freeze(), client, place.connection(), max_headers)).await;
    }
    drop(place);
    match upgrade {
        Upgrade::Fallback(..) => {}
        Upgrade::Open(origin) => open_websocket(&shard, origin, stream, answer, &leftover, served),
        Upgrade::Session(sid) => match stream.detach() {
            Ok(stream) => shard.route(EngineRequest::Upgrade { sid, stream, leftover, peer: peer.ip() }),
            Err(error) => tracing::debug!(%error, "failed to hand over a stream"),
        },
    }
}

async fn serve_http(
    shard: Rc<Shard>,
    stream: Stream,
    peer: SocketAddr,
    place: Rc<HttpPermit>,
    upgrade: Rc<Cell<Option<Upgrade>>>,
    deadline: Option<Instant>,
) -> Option<Served> {
    let config = &shard.config;
    let headers = Headers::new(&shard, peer.ip(), &place, deadline);
    // Whether a request has been answered since other tasks last had their turn.
    let has_answered = Rc::new(Cell::new(false));
    // Whether the last request is answered elsewhere.
    let is_handed_over = Rc::new(Cell::new(false));
    // Whether the last request had a body. A part of it may be unread.
    let had_body = Rc::new(Cell::new(false));
    let service = {
        let (shard, place, upgrade) = (shard.clone(), place.clone(), upgrade.clone());
        let (headers, has_answered, had_body) = (headers.clone(), has_answered.clone(), had_body.clone());
        let is_handed_over = is_handed_over.clone();
        service_fn(move |request: Request<Incoming>| {
            let has_body = !request.body().is_end_stream();
            headers.came(has_body);
            had_body.set(has_body);
            let (shard, place, upgrade, headers) = (shard.clone(), place.clone(), upgrade.clone(), headers.clone());
            let is_handed_over = is_handed_over.clone();
            let is_behind_another = has_answered.replace(true);
            Box::pin(async move {
                if is_behind_another {
                    yield_now().await;
                }
                let may_stay = may_stay(&request);
                let Some(mut response) = answer(&shard, request, peer, &place, &upgrade).await else {
                    is_handed_over.set(true);
                    return std::future::pending().await;
                };
                if may_stay && !shard.is_draining() {
                    announce_keep_alive(&shard, &mut response);
                }
                if opens_websocket(&upgrade) {
                    headers.hold_answer_back();
                }
                Ok::<_, Infallible>(response.map(|body| headers.answer_with(body)))
            })
        })
    };
    let mut connection = http1::Builder::new()
        .max_buf_size(max_header_bytes(config))
        .max_headers(max_headers(config))
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(HttpStream::new(stream, headers.clone())), service);
    let mut drained = pin!(shard.drain_began.notified());
    // The runtime polls the network once more, so a request that has arrived by then is read.
    let mut parting = pin!(async {
        place.parting().await;
        yield_now().await;
    });
    let mut time_up = pin!(sleep_until(headers.deadline()));
    let (mut draining, mut is_parting) = (false, false);
    let ended = std::future::poll_fn(|cx| {
        has_answered.set(false);
        if !draining && (shard.is_draining() || drained.as_mut().poll(cx).is_ready()) {
            draining = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        if let Poll::Ready(ended) = connection.poll_without_shutdown(cx) {
            return Poll::Ready(Ended::Itself(ended));
        }
        if is_handed_over.get() {
            return Poll::Ready(Ended::Itself(Ok(())));
        }
        if !is_parting && parting.as_mut().poll(cx).is_ready() {
            // A request may have arrived since this connection was chosen as idle. The request is answered, which takes
            // only as long as the server needs: the server does not wait for a client that does not read its answer.
            if !headers.lack_answer() {
                return Poll::Ready(Ended::MakesRoom);
            }
            is_parting = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        // The timer is reset only when it has fired too early or would fire too late. Most requests need no reset.
        while headers.are_awaited() {
            let deadline = headers.deadline();
            if time_up.is_elapsed() || deadline < time_up.deadline() {
                time_up.as_mut().reset(deadline);
            }
            ready!(time_up.as_mut().poll(cx));
            if deadline <= Instant::now() {
                return Poll::Ready(Ended::TooLate);
            }
        }
        Poll::Pending
    })
    .await;
    let mut may_send_on = had_body.get();
    let ended = match ended {
        Ended::Itself(ended) => ended,
        Ended::MakesRoom => {
            shard.metrics.limit_met(Limit::HttpConnections);
            tracing::debug!(%peer, "close an idle connection to make room");
            return None;
        }
        Ended::TooLate => {
            // An idle connection whose requests are all answered also ends by this deadline.
            if headers.have_begun() {
                shard.metrics.limit_met(Limit::HeaderTime);
                tracing::debug!(%peer, "no request in time");
                return None;
            }
            may_send_on = false;
            Ok(())
        }
    };
    if let Err(error) = ended {
        if error.is_parse_too_large() {
            shard.metrics.limit_met(Limit::HeaderSize);
        }
        tracing::debug!(%error, %peer, "http connection ended");
        if !error.is_parse() {
            return None;
        }
        may_send_on = true;
    }
    let parts = connection.into_parts();
    Some(Served { stream: parts.io.into_inner(), leftover: parts.read_buf, may_send_on, is_parting })
}

/// Whether the client's request allows another request on the connection.
fn may_stay(request: &Request<Incoming>) -> bool {
    request.version() == Version::HTTP_11 && !has_token(request.headers(), &CONNECTION, "close")
}

fn opens_websocket(upgrade: &Cell<Option<Upgrade>>) -> bool {
    let wanted = upgrade.take();
    let opens = matches!(wanted, Some(Upgrade::Open(_)));
    upgrade.set(wanted);
    opens
}

fn max_header_bytes(config: &Config) -> usize {
    config.max_header_bytes.max(MIN_HEADER_BYTES)
}

fn max_headers(config: &Config) -> usize {
    max_header_bytes(config) / SHORT_HEADER
}

/// Tells the client how long it may keep the connection idle.
fn announce_keep_alive(shard: &Shard, response: &mut Response<ResponseBody>) {
    let headers = response.headers_mut();
    if !headers.contains_key(CONNECTION) {
        headers.insert(KEEP_ALIVE, shard.keep_alive.clone());
    }
}

/// Reads the remaining bytes of a request that is already answered. Otherwise the kernel would answer them with a reset
/// that overtakes our answer. A client that sends its whole body before it reads would then never learn why it was
/// refused.
async fn linger(shard: &Shard, mut stream: HttpStream, place: &HttpPermit, is_parting: bool) {
    stream.forget_headers();
    place.is_done();
    let mut drained = pin!(shard.drain_began.notified());
    let is_urgent = is_parting || shard.is_draining();
    let until = Instant::now() + if is_urgent { CLOSE_LINGER } else { HTTP_LINGER };
    let mut left = CLOSE_LINGER_BYTES;
    let reading = async {
        let is_shut = timeout(CLOSE_LINGER, stream.shutdown()).await.is_ok();
        if !is_shut || stream.has_ended() || (is_urgent && !stream.has_more()) {
            return;
        }
        while left > 0 && Instant::now() < until {
            match timeout(HTTP_LINGER_SILENCE, stream.read_and_forget(shard)).await {
                Ok(Ok(count)) if count > 0 => left = left.saturating_sub(count),
                _ => return,
            }
            // Other clients also send as fast as the server reads. Lingering does not queue for a turn: with a crowd of
            // such clients it would never end.
            yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = place.parting(), if !is_parting => {}
        () = &mut drained, if !is_urgent => {}
        () = reading => {}
    }
}

/// A connection after the end of HTTP on it.
struct Served {
    stream: HttpStream,
    leftover: Bytes,
    /// The last request was answered, but a part of it may not have arrived yet.
    may_send_on: bool,
    /// The connection is being closed to make room for another.
    is_parting: bool,
}

/// How HTTP ended on a connection.
enum Ended {
    Itself(hyper::Result<()>),
    MakesRoom,
    TooLate,
}

/// Answers a request. `None` if the request is answered elsewhere.
async fn answer(
    shard: &Rc<Shard>,
    mut request: Request<Incoming>,
    peer: SocketAddr,
    place: &HttpPermit,
    upgrade: &Cell<Option<Upgrade>>,
) -> Option<Response<ResponseBody>> {
    let client = client_of(shard, peer.ip(), request.headers());
    base_path::take_off(&shard.config.base_path, request.uri_mut());
    let Some(protocol) = protocol_of(shard, request.uri().path()) else {
        let Some(fallback) = &shard.application.fallback else {
            let mut response = text(StatusCode::NOT_FOUND, "not found");
            say_close(place, &mut response);
            return Some(response);
        };
        let client = SocketAddr::new(client, peer.port());
        if reread::wants_upgrade(&request) {
            upgrade.set(Some(Upgrade::Fallback(reread::head_of(&request), client)));
            return None;
        }
        request.extensions_mut().insert(client);
        request.extensions_mut().insert(place.connection());
        return Some(fallback.call(request).await);
    };
    let origin = request.headers().get(ORIGIN).and_then(detached);
    let over_tls = shard.application.tls.is_some();
    let allowed = origin::is_allowed(&shard.config, peer.ip(), over_tls, request.headers());
    let result = if !allowed {
        shard.refuse(Refusal::Origin, client, Some(request.headers()));
        Err(EngineError::Forbidden)
    } else if request.method() == Method::OPTIONS {
        Ok(preflight(request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS).cloned()))
    } else {
        engine(shard, request, peer, client, protocol, place, upgrade).await
    };
    let mut response = result.unwrap_or_else(|error| {
        shard.metrics.bad_requests.increment();
        if let Some(limit) = error.limit() {
            shard.metrics.limit_met(limit);
            tracing::debug!(%client, limit = limit.as_str(), "refuse a request");
        }
        let (status, code, message) = error.describe();
        // Other refusals have nothing to do with the page's origin.
        let message = if allowed { Cow::Borrowed(message) } else { Cow::Owned(origin::refusal(&shard.config)) };
        let message = serde_json::to_string(&message).unwrap_or_default();
        let body = format!("{{\"code\":{code},\"message\":{message}}}");
        let mut response = text(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), body);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = error.retry_after() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if error.ends_connection() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    });
    say_close(place, &mut response);
    if allowed && let Some(origin) = origin {
        allow_origin(&shard.config.origins, origin, response.headers_mut());
    }
    Some(response)
}

/// Announces the end of the connection after this answer if the request's body is unread. A client that used the
/// connection again would lose its next request.
fn say_close(place: &HttpPermit, response: &mut Response<ResponseBody>) {
    if place.lacks_body() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client's address, as reported by a trusted proxy.
fn client_of(shard: &Shard, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let trusted = &shard.config.trusted_proxies;
    if !headers.contains_key(X_FORWARDED_FOR) {
        return peer;
    }
    if !trusted.contains(peer.to_canonical()) && shard.handle.is_first_untrusted_proxy() {
        tracing::warn!(%peer, "X-Forwarded-For is ignored: it came from an address that is not a trusted proxy's, so if it \
            is a proxy, the limits take all its clients for one; this is said only once");
    }
    trusted.client(peer, headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes))
}

/// The protocol of a path, if the path is the engine's. A trailing slash makes no difference.
fn protocol_of(shard: &Shard, path: &str) -> Option<Protocol> {
    let path = path.strip_suffix('/').unwrap_or(path);
    if path == shard.config.path {
        return Some(Protocol::SocketIo);
    }
    shard.application.raw_endpoints.iter().position(|endpoint| endpoint.path == path).map(Protocol::Raw)
}

fn allow_origin(origins: &Origins, origin: HeaderValue, headers: &mut HeaderMap) {
    match origins {
        Origins::Any => {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        }
        Origins::List(_) => {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(VARY, HeaderValue::from_static("Origin"));
        }
    }
}

fn preflight(requested_headers: Option<HeaderValue>) -> Response<ResponseBody> {
    let mut response = text(StatusCode::NO_CONTENT, "");
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    if let Some(requested) = requested_headers {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, requested);
    }
    response
}

async fn engine(
    shard: &Rc<Shard>,
    request: Request<Incoming>,
    peer: SocketAddr,
    client: IpAddr,
    protocol: Protocol,
    place: &HttpPermit,
    upgrade: &Cell<Option<Upgrade>>,
) -> Result<Response<ResponseBody>, EngineError> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let origin = |request: &Request<Incoming>| {
        let handshake = Handshake::of(request, peer, &shard.config)?;
        let place = shard.handle.0.admission.connection(client).map_err(EngineError::Limit)?;
        Ok(Origin { client, place, handshake, abilities: query.client, protocol })
    };
    if query.version.as_deref() != Some("4") {
        shard.refuse(Refusal::Protocol, client, Some(request.headers()));
        return Err(EngineError::UnsupportedVersion);
    }
    let sid = match &query.sid {
        Some(sid) => Some(Id::parse(sid).ok_or(EngineError::UnknownSession)?),
        None => None,
    };
    if sid.is_none()
        && let Some(allow) = &shard.application.allow_request
        && !allow(&request).await
    {
        return Err(EngineError::Forbidden);
    }
    match query.transport.as_deref() {
        Some("polling") => match sid {
            Some(sid) => polling_request(shard, request, client, place, sid).await,
            None if request.method() != Method::GET => Err(EngineError::BadHandshakeMethod),
            None if shard.is_draining() => Err(EngineError::Unavailable),
            None => Ok(packets(open_polling(shard, origin(&request)?))),
        },
        Some("websocket") => {
            let response = accept_websocket(&request)?;
            // From now on the stream counts as a client's, also for a moment after its session has ended.
            drop(place.hold().map_err(EngineError::Limit)?);
            match sid {
                Some(sid) => {
                    let (reply, found) = oneshot::channel();
                    shard.route(EngineRequest::Find { sid, reply });
                    found.await.map_err(|_| EngineError::UnknownSession)?;
                    // The session's shard checks whether the session can be upgraded when it receives the stream. If it
                    // can't, the stream is closed.
                    upgrade.set(Some(Upgrade::Session(sid)));
                }
                None if shard.is_draining() => return Err(EngineError::Unavailable),
                None => upgrade.set(Some(Upgrade::Open(origin(&request)?))),
            }
            Ok(response)
        }
        _ => Err(EngineError::UnknownTransport),
    }
}

fn accept_websocket(request: &Request<Incoming>) -> Result<Response<ResponseBody>, EngineError> {
    let headers = request.headers();
    let key =
        headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).filter(|key| websocket::is_valid_key(key));
    let version = headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let (Some(key), true, true, true, &Method::GET) = (
        key,
        version,
        has_token(headers, &UPGRADE, "websocket"),
        has_token(headers, &CONNECTION, "upgrade"),
        request.method(),
    ) else {
        return Err(EngineError::BadRequest);
    };
    let accept = HeaderValue::try_from(websocket::accept_key(key)).map_err(|_| EngineError::BadRequest)?;
    // A browser that asks for subprotocols rejects an answer without one of them. They have no meaning here, so the
    // answer names the first one, as in the reference.
    let subprotocol = headers.get(SEC_WEBSOCKET_PROTOCOL).and_then(|list| list.to_str().ok()?.split(',').next());
    let subprotocol =
        subprotocol.and_then(|name| HeaderValue::from_str(name.trim()).ok()).filter(|name| !name.is_empty());
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.clear();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    headers.extend(subprotocol.map(|name| (SEC_WEBSOCKET_PROTOCOL, name)));
    Ok(response)
}

async fn polling_request(
    shard: &Rc<Shard>,
    request: Request<Incoming>,
    client: IpAddr,
    place: &HttpPermit,
    sid: Id,
) -> Result<Response<ResponseBody>, EngineError> {
    let (reply, answer) = oneshot::channel();
    let _held = place.hold().map_err(EngineError::Limit)?;
    match *request.method() {
        Method::GET => {
            // A poll may wait for a long time. The memory of its request is freed first.
            drop(request);
            place.watch_for_hang_up();
            shard.route(EngineRequest::Poll { sid, reply });
            let dropped = PollGuard { shard, sid, answered: Cell::new(false) };
            let answer = answer.await;
            dropped.answered.set(true);
            answer.unwrap_or(Err(EngineError::UnknownSession)).map(packets)
        }
        Method::POST => {
            // A body is read only for an existing session, and only one per session at a time.
            let abandoned = PostGuard { shard, sid, came: Cell::new(false) };
            let (begin, begun) = oneshot::channel();
            shard.route(EngineRequest::BeginPost { sid, reply: begin });
            begun.await.unwrap_or(Err(EngineError::UnknownSession))?;
            let encoding = request.headers().get(CONTENT_ENCODING);
            if encoding.is_some_and(|encoding| encoding != "identity") {
                return Err(EngineError::UnsupportedEncoding);
            }
            let waiting: BodyPermit = place.await_body().map_err(EngineError::Limit)?;
            let body = match read_body(shard, client, request.into_body()).await {
                Err(EngineError::TooLarge) => {
                    let (done, closed) = oneshot::channel();
                    shard.route(EngineRequest::Oversized { sid, done });
                    // The client gets its answer only after the session is closed, so it can't find the session open
                    // afterwards.
                    let _ = closed.await;
                    Err(EngineError::TooLarge)
                }
                body => body,
            }?;
            waiting.came();
            abandoned.came.set(true);
            shard.route(EngineRequest::Post { sid, body, reply });
            answer.await.unwrap_or(Err(EngineError::UnknownSession)).map(packets)
        }
        _ => Err(EngineError::BadRequest),
    }
}

async fn read_body(shard: &Shard, client: IpAddr, body: Incoming) -> Result<Bytes, EngineError> {
    if body.size_hint().lower() > shard.config.max_payload as u64 {
        return Err(EngineError::TooLarge);
    }
    timeout(shard.config.body_timeout, collect(shard, client, body)).await.unwrap_or(Err(EngineError::Timeout))
}

async fn collect(shard: &Shard, client: IpAddr, body: Incoming) -> Result<Bytes, EngineError> {
    let mut body = pin!(Limited::new(body, shard.config.max_payload));
    let mut held = HeldBody { shard, client, bytes: Vec::new(), count: 0 };
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => held.add(&frame.into_data().unwrap_or_default())?,
            Err(error) if error.is::<http_body_util::LengthLimitError>() => return Err(EngineError::TooLarge),
            Err(_) => return Err(EngineError::BadRequest),
        }
    }
    Ok(std::mem::take(&mut held.bytes).into())
}

/// The received part of a body.
struct HeldBody<'a> {
    shard: &'a Shard,
    client: IpAddr,
    bytes: Vec<u8>,
    /// The bytes counted in the shard's account.
    count: usize,
}

impl HeldBody<'_> {
    fn add(&mut self, data: &[u8]) -> Result<(), EngineError> {
        self.bytes.extend_from_slice(data);
        let before = std::mem::replace(&mut self.count, self.bytes.capacity());
        if self.shard.hold(self.client, before, self.count) { Ok(()) } else { Err(EngineError::NoRoom) }
    }
}

impl Drop for HeldBody<'_> {
    fn drop(&mut self) {
        self.shard.hold(self.client, self.count, 0);
    }
}

/// Tells the session if a POST that has begun does not arrive completely. A POST that may not begin ends its session,
/// if it has one, so this is never reported for another POST.
struct PostGuard<'a> {
    shard: &'a Rc<Shard>,
    sid: Id,
    came: Cell<bool>,
}

impl Drop for PostGuard<'_> {
    fn drop(&mut self) {
        if !self.came.get() {
            self.shard.route(EngineRequest::PostAbandoned { sid: self.sid });
        }
    }
}

/// Tells the session if the client gives up its poll.
struct PollGuard<'a> {
    shard: &'a Rc<Shard>,
    sid: Id,
    answered: Cell<bool>,
}

impl Drop for PollGuard<'_> {
    fn drop(&mut self) {
        if !self.answered.get() {
            self.shard.route(EngineRequest::PollDropped { sid: self.sid });
        }
    }
}

fn packets(body: Vec<u8>) -> Response<ResponseBody> {
    text(StatusCode::OK, body)
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<ResponseBody> {
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A browser must not interpret other clients' content as a page.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
