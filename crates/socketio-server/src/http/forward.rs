//! Requests for the sessions of other nodes: each is passed on to its session's node, and the answer is passed back.
//!
//! The request goes over a connection of its own, which closes with the client's request. So a client that hangs up
//! also hangs up at the session's node. That node counts what a client may do. This node only counts what the request
//! occupies here: two connections, and the permit to receive a body. It checks the page's origin and makes the CORS
//! headers, because it sees the request's host and TLS.

use std::{
    cell::Cell,
    future::Future,
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use ::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        CONNECTION, CONTENT_ENCODING, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
        TRANSFER_ENCODING, UPGRADE, USER_AGENT,
    },
    request::Parts,
};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::AbortHandle, time::timeout};

use super::{BoxError, ResponseBody, Upgrade, engine::EngineCall, requests::KEEP_ALIVE, splice::OtherEnd};
use crate::{
    admission::{BodyPermit, StreamPermit},
    cluster::Nodes,
    config::{FORWARD_BUFFER, FORWARD_CONNECT_TIMEOUT},
    engine_error::EngineError,
    http::response::text,
    identifier::NodeTag,
    system,
};

/// The headers of a client's request that the engine reads when the request names a session.
const PASSED_ON: [HeaderName; 5] =
    [CONTENT_ENCODING, USER_AGENT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION];

/// The headers of an answer that only concern one connection (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 3] = [CONNECTION, KEEP_ALIVE, TRANSFER_ENCODING];

type Connection = Pin<Box<dyn Future<Output = hyper::Result<http1::Parts<TokioIo<TcpStream>>>>>>;

/// The reason why a request could not be forwarded.
#[derive(Debug, thiserror::Error)]
enum ForwardError {
    #[error("the node is not alive")]
    NotAlive,
    #[error("no connection in time")]
    NoConnection,
    #[error("no answer in time")]
    NoAnswer,
    #[error("no connection: {0}")]
    Connect(#[from] io::Error),
    #[error("no answer: {0}")]
    Http(#[from] hyper::Error),
    #[error("the node does not accept the secret of this one")]
    WrongSecret,
}

/// The answer of another node, and the connection that it comes on.
struct Answer {
    response: Response<Incoming>,
    connection: Connection,
    /// The result of the connection, if it has already ended.
    ended: Option<hyper::Result<http1::Parts<TokioIo<TcpStream>>>>,
    permit: StreamPermit,
}

impl EngineCall<'_> {
    /// Forwards a polling request to the node that has its session.
    pub(super) async fn forward_polling(
        &self,
        parts: Parts,
        body: Incoming,
        is_python: bool,
        owner: NodeTag,
    ) -> Result<Response<ResponseBody>, EngineError> {
        let (shard, permit) = (self.shard, self.permit);
        let _held = permit.hold().map_err(EngineError::Limit)?;
        let is_poll = parts.method == Method::GET;
        let body = if is_poll {
            drop(body);
            permit.watch_for_hang_up();
            ForwardedBody::default()
        } else if parts.method == Method::POST {
            ForwardedBody::of(body, permit.await_body().map_err(EngineError::Limit)?)
        } else {
            return Err(EngineError::BadRequest);
        };
        let request = self.forwarded(parts, body, None);
        let answer = tokio::select! {
            biased;
            answer = self.forward(request, owner, shard.config.longest_answer()) => answer?,
            // A poll that ends here ends its session, and the client gets the answer that makes it come back.
            () = shard.time_to_leave() => return match is_poll && !is_python {
                true => Ok(text(StatusCode::OK, "1")),
                false => Err(EngineError::Unavailable),
            },
        };
        shard.metrics.requests_forwarded.increment();
        Ok(answer.into_response())
    }

    /// Forwards a request for a session's WebSocket. `accepted` is the answer if the session's node accepts it.
    pub(super) async fn forward_upgrade(
        &self,
        parts: Parts,
        accepted: Response<ResponseBody>,
        owner: NodeTag,
        upgrade: &Cell<Option<Upgrade>>,
    ) -> Result<Response<ResponseBody>, EngineError> {
        let _held = self.permit.hold().map_err(EngineError::Limit)?;
        let request = self.forwarded(parts, ForwardedBody::default(), Some("websocket"));
        let answer = self.forward(request, owner, self.shard.config.upgrade_timeout).await?;
        if answer.response.status() != StatusCode::SWITCHING_PROTOCOLS {
            self.shard.metrics.requests_forwarded.increment();
            return Ok(answer.into_response());
        }
        let other = answer.into_other_end().await.map_err(|error| self.failed(owner, &error.into()))?;
        self.shard.metrics.upgrades_forwarded.increment();
        upgrade.set(Some(Upgrade::Forwarded(other)));
        Ok(accepted)
    }

    async fn forward(
        &self,
        request: Request<ForwardedBody>,
        owner: NodeTag,
        longest: Duration,
    ) -> Result<Answer, EngineError> {
        let answer = timeout(longest, self.send(request, owner)).await;
        answer.unwrap_or(Err(ForwardError::NoAnswer)).map_err(|error| self.failed(owner, &error))
    }

    /// Counts a failure. The client gets the answer for an unknown session, with which it opens a new one.
    fn failed(&self, owner: NodeTag, error: &ForwardError) -> EngineError {
        let shard = self.shard;
        shard.metrics.forwards_failed.increment();
        let is_first = || shard.application.nodes.as_ref().is_some_and(Nodes::is_first_mismatch);
        if matches!(error, ForwardError::WrongSecret) && is_first() {
            tracing::warn!(node = %owner, "failed to forward a request: {error}; this is logged only once");
        } else {
            tracing::debug!(node = %owner, "failed to forward a request: {error}");
        }
        EngineError::UnknownSession
    }

    /// The request as the session's node gets it.
    fn forwarded(&self, parts: Parts, body: ForwardedBody, upgrade: Option<&'static str>) -> Request<ForwardedBody> {
        let mut headers = HeaderMap::with_capacity(PASSED_ON.len() + 5);
        // The node is known by its address, not by a name.
        headers.insert(HOST, HeaderValue::from_static("node"));
        for name in PASSED_ON {
            headers.extend(parts.headers.get(&name).map(|value| (name, value.clone())));
        }
        headers.insert(CONNECTION, HeaderValue::from_static(upgrade.map_or("close", |_| "upgrade")));
        headers.extend(upgrade.map(|protocol| (UPGRADE, HeaderValue::from_static(protocol))));
        if let Some(nodes) = &self.shard.application.nodes {
            nodes.vouch_for(self.client, &mut headers);
        }
        // The base path was removed when the request came in.
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let target = format!("{}{target}", self.shard.config.base_path);
        let mut request = Request::new(body);
        *request.method_mut() = parts.method;
        *request.uri_mut() = target.try_into().unwrap_or_default();
        *request.headers_mut() = headers;
        request
    }

    /// Sends a request to another node, and waits for the head of the answer.
    async fn send(&self, request: Request<ForwardedBody>, owner: NodeTag) -> Result<Answer, ForwardError> {
        let shard = self.shard;
        let nodes = shard.application.nodes.as_ref();
        let address = nodes.and_then(|nodes| shard.guarded(|| nodes.address_of(owner)).flatten());
        let address = address.ok_or(ForwardError::NotAlive)?;
        // Counted right after the client's own connection was admitted, so that each one sees the others.
        let permit = StreamPermit::again(&shard.handle.0.admission);
        let connect = timeout(FORWARD_CONNECT_TIMEOUT, TcpStream::connect(&*address));
        let stream = connect.await.map_err(|_| ForwardError::NoConnection)??;
        system::prepare_connection(&stream, shard.config.tcp_user_timeout());
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(FORWARD_BUFFER).handshake(TokioIo::new(stream)).await?;
        let mut connection: Connection = Box::pin(connection.without_shutdown());
        let mut ended = None;
        let mut answer = pin!(sender.send_request(request));
        let response = loop {
            tokio::select! {
                biased;
                response = &mut answer => break response?,
                end = &mut connection, if ended.is_none() => ended = Some(end),
            }
        };
        if response.status() == StatusCode::FORBIDDEN {
            return Err(ForwardError::WrongSecret);
        }
        Ok(Answer { response, connection, ended, permit })
    }
}

impl Answer {
    /// The answer as the client gets it.
    fn into_response(self) -> Response<ResponseBody> {
        let Self { mut response, connection, ended, permit } = self;
        for name in &HOP_BY_HOP {
            response.headers_mut().remove(name);
        }
        let connection = ended.is_none().then(|| {
            let task = tokio::task::spawn_local(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection to a node ended");
                }
            });
            AbortOnDrop(task.abort_handle())
        });
        response.map(|body| OwnersBody { body, _connection: connection, _permit: permit }.boxed_unsync())
    }

    /// The connection, after the other node has switched protocols.
    async fn into_other_end(self) -> hyper::Result<OtherEnd> {
        let Self { connection, ended, permit, .. } = self;
        let parts = match ended {
            Some(ended) => ended?,
            None => connection.await?,
        };
        Ok(OtherEnd { stream: parts.io.into_inner(), read: parts.read_buf, _permit: permit })
    }
}

/// The body of a client's request, on its way to another node.
#[derive(Default)]
struct ForwardedBody {
    body: Option<Incoming>,
    permit: Option<BodyPermit>,
}

impl ForwardedBody {
    fn of(body: Incoming, permit: BodyPermit) -> Self {
        let mut forwarded = Self { body: Some(body), permit: Some(permit) };
        forwarded.confirm_end();
        forwarded
    }

    /// Confirms that the body was read to its end, if it was.
    fn confirm_end(&mut self) {
        if self.is_end_stream() {
            self.came();
        }
    }

    fn came(&mut self) {
        if let Some(permit) = self.permit.take() {
            permit.came();
        }
    }
}

impl Body for ForwardedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        match &polled {
            Poll::Ready(None) => this.came(),
            Poll::Ready(Some(Ok(_))) => this.confirm_end(),
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

/// The body of an answer from another node. The connection to the node ends with it.
struct OwnersBody {
    body: Incoming,
    _connection: Option<AbortOnDrop>,
    _permit: StreamPermit,
}

impl Body for OwnersBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Ends a task when it is dropped.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
