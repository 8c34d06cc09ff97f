//! Requests: the engine's path is the engine's, all else the fallback's. After an upgrade only the TCP stream is kept.

mod base_path;
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
    task::Poll,
};

use ::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, CACHE_CONTROL, CONNECTION,
        CONTENT_ENCODING, CONTENT_TYPE, ORIGIN, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_VERSION, UPGRADE, VARY, X_CONTENT_TYPE_OPTIONS,
    },
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use socketio_protocol::websocket;
use tokio::{
    net::TcpStream,
    sync::oneshot,
    task::yield_now,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    Limit, Origins,
    admission::{BodyPermit, HttpPlace},
    config::{MAX_KEPT_HEADER_BYTES, MIN_HEADER_BYTES},
    connection::{Origin, Protocol},
    identifier::Id,
    origin,
    shard::{Shard, StreamGuard},
    tls,
    transport::{EngineError, EngineRequest, Stream, open_polling, open_websocket},
};

use stream::{Headers, HttpStream};

type BoxError = Box<dyn Error + Send + Sync>;
pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;
type ResponseFuture = Pin<Box<dyn Future<Output = Response<ResponseBody>>>>;

/// What answers requests that are not the engine's.
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

/// A WebSocket that HTTP has agreed to.
enum Upgrade {
    Open(Origin),
    Session(Id),
}

/// Serves one TCP connection until it ends or becomes a WebSocket.
pub(crate) async fn serve_connection(
    shard: Rc<Shard>,
    stream: TcpStream,
    peer: SocketAddr,
    served: StreamGuard,
    place: HttpPlace,
) {
    let (stream, deadline) = match &shard.application.tls {
        None => (Stream::Plain(stream), None),
        Some(tls) => {
            // The first request shares it, so that who is slow at both has the time once.
            let deadline = Instant::now() + shard.config.header_timeout;
            // Boxed, so that nothing of it is left in the connection's task.
            match Box::pin(tls::handshake(&shard, tls, stream, &place, deadline)).await {
                Some(stream) => (stream, Some(deadline)),
                None => return,
            }
        }
    };
    let place = Rc::new(place);
    let upgrade: Rc<Cell<Option<Upgrade>>> = Rc::default();
    // Boxed, so that the memory of the HTTP connection is gone when it is.
    let served_http = serve_http(shard.clone(), stream, peer, place.clone(), upgrade.clone(), deadline);
    let Some((stream, leftover)) = Box::pin(served_http).await else { return };
    let Some(upgrade) = upgrade.take() else {
        if let Stream::Tls(stream) = stream {
            Box::pin(tls::shut_down(stream, &place)).await;
        }
        return;
    };
    drop(place);
    match upgrade {
        Upgrade::Open(origin) => open_websocket(&shard, origin, stream, &leftover, served),
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
    place: Rc<HttpPlace>,
    upgrade: Rc<Cell<Option<Upgrade>>>,
    deadline: Option<Instant>,
) -> Option<(Stream, Bytes)> {
    let headers = Headers::new(&shard, peer.ip(), &place);
    let is_first = Rc::new(Cell::new(true));
    // Whether a request has been answered since others had their turn.
    let has_answered = Rc::new(Cell::new(false));
    let service = {
        let (shard, place, upgrade) = (shard.clone(), place.clone(), upgrade.clone());
        let (headers, is_first, has_answered) = (headers.clone(), is_first.clone(), has_answered.clone());
        service_fn(move |request| {
            is_first.set(false);
            headers.came();
            let (shard, place, upgrade) = (shard.clone(), place.clone(), upgrade.clone());
            let is_behind_another = has_answered.replace(true);
            Box::pin(async move {
                if is_behind_another {
                    yield_now().await;
                }
                let response = answer(&shard, request, peer, &place, &upgrade).await;
                place.answered();
                Ok::<_, Infallible>(response)
            })
        })
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shard.config.header_timeout)
        .max_buf_size(shard.config.max_header_bytes.max(MIN_HEADER_BYTES))
        .serve_connection(TokioIo::new(HttpStream::new(stream, headers)), service);
    let mut drained = pin!(shard.drain_began.notified());
    let mut parting = pin!(place.parting());
    let mut first_request = pin!(sleep_until_some(deadline));
    let mut draining = false;
    let ended = std::future::poll_fn(|cx| {
        has_answered.set(false);
        if !draining && (shard.is_draining() || drained.as_mut().poll(cx).is_ready()) {
            draining = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        if let Poll::Ready(ended) = connection.poll_without_shutdown(cx) {
            return Poll::Ready(Ended::Itself(ended));
        }
        if parting.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ended::MakesRoom);
        }
        if is_first.get() && first_request.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ended::TooLate);
        }
        Poll::Pending
    })
    .await;
    let ended = match ended {
        Ended::Itself(ended) => ended,
        Ended::MakesRoom => {
            shard.metrics.limit_met(Limit::HttpConnections);
            tracing::debug!(%peer, "close an idle connection to make room");
            return None;
        }
        Ended::TooLate => {
            shard.metrics.limit_met(Limit::HeaderTime);
            tracing::debug!(%peer, "no request in time");
            return None;
        }
    };
    if let Err(error) = ended {
        // A connection that had its answers and is idle ends in the same way.
        if error.is_timeout() && place.awaits_request() {
            shard.metrics.limit_met(Limit::HeaderTime);
        }
        if error.is_parse_too_large() {
            shard.metrics.limit_met(Limit::HeaderSize);
        }
        tracing::debug!(%error, %peer, "http connection ended");
        return None;
    }
    let parts = connection.into_parts();
    Some((parts.io.into_inner().into_stream(), parts.read_buf))
}

/// How HTTP ended on a connection.
enum Ended {
    Itself(hyper::Result<()>),
    MakesRoom,
    TooLate,
}

async fn sleep_until_some(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn answer(
    shard: &Rc<Shard>,
    mut request: Request<Incoming>,
    peer: SocketAddr,
    place: &HttpPlace,
    upgrade: &Cell<Option<Upgrade>>,
) -> Response<ResponseBody> {
    let client = client_of(shard, peer.ip(), request.headers());
    base_path::take_off(&shard.config.base_path, request.uri_mut());
    let Some(protocol) = protocol_of(shard, request.uri().path()) else {
        let Some(fallback) = &shard.application.fallback else {
            return text(StatusCode::NOT_FOUND, "not found");
        };
        request.extensions_mut().insert(SocketAddr::new(client, peer.port()));
        request.extensions_mut().insert(place.connection());
        return fallback.call(request).await;
    };
    let origin = request.headers().get(ORIGIN).and_then(detached);
    let over_tls = shard.application.tls.is_some();
    let allowed = origin::is_allowed(&shard.config, peer.ip(), over_tls, request.headers());
    let result = if !allowed {
        Err(EngineError::Forbidden)
    } else if request.method() == Method::OPTIONS {
        Ok(preflight(request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS).cloned()))
    } else {
        engine(shard, request, client, protocol, place, upgrade).await
    };
    let mut response = result.unwrap_or_else(|error| {
        shard.metrics.bad_requests.increment();
        if let Some(limit) = error.limit() {
            shard.metrics.limit_met(limit);
            tracing::debug!(%client, limit = limit.as_str(), "refuse a request");
        }
        let (status, code, message) = error.describe();
        let message = match error {
            EngineError::Forbidden => Cow::Owned(origin::refusal(&shard.config)),
            _ => Cow::Borrowed(message),
        };
        let body = format!("{{\"code\":{code},\"message\":\"{message}\"}}");
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
    if allowed && let Some(origin) = origin {
        allow_origin(&shard.config.origins, origin, response.headers_mut());
    }
    response
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client's address, by what a trusted proxy says.
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

/// What is spoken at a path, if it is the engine's; a trailing slash makes no difference.
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
    client: IpAddr,
    protocol: Protocol,
    place: &HttpPlace,
    upgrade: &Cell<Option<Upgrade>>,
) -> Result<Response<ResponseBody>, EngineError> {
    let origin = |headers| {
        let headers = kept_headers(shard, headers)?;
        let place = shard.handle.0.admission.connection(client).map_err(EngineError::Limit)?;
        Ok(Origin { client, place, headers, protocol })
    };
    let query = Query::parse(request.uri().query().unwrap_or_default());
    if query.version.as_deref() != Some("4") {
        return Err(EngineError::UnsupportedVersion);
    }
    let sid = match &query.sid {
        Some(sid) => Some(Id::parse(sid).ok_or(EngineError::UnknownSession)?),
        None => None,
    };
    match query.transport.as_deref() {
        Some("polling") => match sid {
            Some(sid) => polling_request(shard, request, client, place, sid).await,
            None if request.method() != Method::GET => Err(EngineError::BadHandshakeMethod),
            None if shard.is_draining() => Err(EngineError::Unavailable),
            None => Ok(packets(open_polling(shard, origin(request.headers())?))),
        },
        Some("websocket") => {
            let response = accept_websocket(&request)?;
            // It is a client's from now on, and for a moment after its session has ended.
            drop(place.hold().map_err(EngineError::Limit)?);
            match sid {
                Some(sid) => {
                    let (reply, found) = oneshot::channel();
                    shard.route(EngineRequest::Find { sid, reply });
                    found.await.map_err(|_| EngineError::UnknownSession)?;
                    // Whether it can be upgraded is seen when the stream has come to its shard; if not, it is closed.
                    upgrade.set(Some(Upgrade::Session(sid)));
                }
                None if shard.is_draining() => return Err(EngineError::Unavailable),
                None => upgrade.set(Some(Upgrade::Open(origin(request.headers())?))),
            }
            Ok(response)
        }
        _ => Err(EngineError::UnknownTransport),
    }
}

/// The parameters that the engine reads; others, such as the client's `t`, are its own business.
#[derive(Default)]
struct Query<'a> {
    version: Option<Cow<'a, str>>,
    transport: Option<Cow<'a, str>>,
    sid: Option<Cow<'a, str>>,
}

impl<'a> Query<'a> {
    fn parse(query: &'a str) -> Self {
        let mut parsed = Self::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            // None of the values that the engine knows has a character that would be escaped.
            let slot = match name {
                "EIO" => &mut parsed.version,
                "transport" => &mut parsed.transport,
                "sid" => &mut parsed.sid,
                _ => continue,
            };
            slot.get_or_insert(Cow::Borrowed(value));
        }
        parsed
    }
}

/// What of the headers is kept for as long as the connection.
fn kept_headers(shard: &Shard, headers: &HeaderMap) -> Result<Option<Box<HeaderMap>>, EngineError> {
    let mut kept = HeaderMap::new();
    for name in &shard.config.kept_headers {
        let Some(value) = headers.get(name) else { continue };
        if value.len() > MAX_KEPT_HEADER_BYTES {
            return Err(EngineError::HeaderTooLarge);
        }
        kept.extend(detached(value).map(|value| (name.clone(), value)));
    }
    Ok((!kept.is_empty()).then(|| Box::new(kept)))
}

/// A copy with memory of its own. A clone holds all that was read together with it.
fn detached(value: &HeaderValue) -> Option<HeaderValue> {
    HeaderValue::from_bytes(value.as_bytes()).ok()
}

fn accept_websocket(request: &Request<Incoming>) -> Result<Response<ResponseBody>, EngineError> {
    let headers = request.headers();
    let has_token = |name, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|value| value.trim().eq_ignore_ascii_case(token))
    };
    let key =
        headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).filter(|key| websocket::is_valid_key(key));
    let version = headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let (Some(key), true, true, true, &Method::GET) =
        (key, version, has_token(UPGRADE, "websocket"), has_token(CONNECTION, "upgrade"), request.method())
    else {
        return Err(EngineError::BadRequest);
    };
    let accept = HeaderValue::try_from(websocket::accept_key(key)).map_err(|_| EngineError::BadRequest)?;
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.clear();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

async fn polling_request(
    shard: &Rc<Shard>,
    request: Request<Incoming>,
    client: IpAddr,
    place: &HttpPlace,
    sid: Id,
) -> Result<Response<ResponseBody>, EngineError> {
    let (reply, answer) = oneshot::channel();
    let _held = place.hold().map_err(EngineError::Limit)?;
    match *request.method() {
        Method::GET => {
            // A poll waits for long, and what was read with it need not.
            drop(request);
            shard.route(EngineRequest::Poll { sid, reply });
            let dropped = PollGuard { shard, sid, answered: Cell::new(false) };
            let answer = answer.await;
            dropped.answered.set(true);
            answer.unwrap_or(Err(EngineError::UnknownSession)).map(packets)
        }
        Method::POST => {
            // Nobody's body is taken in who has no session, and of a session one at a time.
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
                    // Told only then, so that the client does not find its session open after that.
                    let _ = closed.await;
                    Err(EngineError::TooLarge)
                }
                body => body,
            }?;
            drop(waiting);
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

/// What has come of a body.
struct HeldBody<'a> {
    shard: &'a Shard,
    client: IpAddr,
    bytes: Vec<u8>,
    /// As the shard knows it.
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

/// Tells the session if a POST does not come that has begun. One that may not begin ends its session, if it has one, so that
/// this is never said of another.
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
    // What other clients wrote must not be taken for a page.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
