//! Requests to the engine's paths: polling, and the request that opens a WebSocket.

use std::{
    cell::Cell,
    net::{IpAddr, SocketAddr},
    rc::Rc,
};

use ::http::{
    HeaderValue, Method, Response, StatusCode, Version,
    header::{
        CONNECTION, CONTENT_ENCODING, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
    request::Parts,
};
use hyper::body::Incoming;
use socketio_protocol::websocket;
use tokio::sync::oneshot;

use super::{
    ResponseBody, Upgrade, body,
    reread::has_token,
    response::{empty, text},
};
use crate::{
    Refusal,
    admission::{BodyPermit, HttpPermit},
    connection::{Origin, Protocol},
    engine_error::EngineError,
    http::handshake::{Handshake, Query},
    identifier::{Id, NodeTag},
    shard::Shard,
    transport::{EngineRequest, open_polling},
};

/// A request to one of the engine's paths.
pub(super) struct EngineCall<'a> {
    pub(super) shard: &'a Rc<Shard>,
    pub(super) peer: SocketAddr,
    /// The client's address, as reported by a trusted proxy.
    pub(super) client: IpAddr,
    pub(super) permit: &'a HttpPermit,
    pub(super) protocol: Protocol,
}

enum Wanted {
    Polling,
    WebSocket,
}

impl EngineCall<'_> {
    /// Answers the request. Sets `upgrade` if the answer ends HTTP on the connection.
    pub(super) async fn answer(
        &self,
        parts: Parts,
        body: Incoming,
        upgrade: &Cell<Option<Upgrade>>,
    ) -> Result<Response<ResponseBody>, EngineError> {
        let shard = self.shard;
        let query = Query::of(&parts);
        if query.version.as_deref() != Some("4") {
            shard.refuse(Refusal::Protocol, self.client, Some(&parts.headers));
            return Err(EngineError::UnsupportedVersion);
        }
        let sid = match &query.sid {
            Some(sid) => Some(Id::parse(sid).ok_or(EngineError::UnknownSession)?),
            None => None,
        };
        if sid.is_none() && self.permit.is_internal() {
            return Err(EngineError::Forbidden);
        }
        if sid.is_none()
            && let Some(allow) = &shard.application.allow_request
            && !allow(&parts).await
        {
            return Err(EngineError::Forbidden);
        }
        let wanted = match query.transport.as_deref() {
            Some("polling") => Wanted::Polling,
            Some("websocket") => Wanted::WebSocket,
            _ => return Err(EngineError::UnknownTransport),
        };
        if let Some(sid) = &sid
            && let Some(owner) = shard.id_key().other_node_of_session(sid)
        {
            return self.answer_for(owner, wanted, (parts, body), upgrade).await;
        }
        match (wanted, sid) {
            (Wanted::Polling, Some(sid)) => self.poll(parts, body, sid).await,
            (Wanted::Polling, None) if parts.method != Method::GET => Err(EngineError::BadHandshakeMethod),
            (Wanted::Polling, None) if shard.is_draining() => Err(EngineError::Unavailable),
            (Wanted::Polling, None) => Ok(packets(open_polling(shard, self.origin(&parts, &query)?))),
            (Wanted::WebSocket, Some(sid)) => {
                let response = self.accept_websocket(&parts)?;
                let (reply, found) = oneshot::channel();
                shard.route(EngineRequest::Find { sid, reply });
                found.await.map_err(|_| EngineError::UnknownSession)?;
                // The session's shard checks whether the session can be upgraded when it receives the stream. If it
                // can't, the stream is closed.
                upgrade.set(Some(Upgrade::Session(sid)));
                Ok(response)
            }
            (Wanted::WebSocket, None) => {
                let (response, origin) = self.open_websocket(&parts, &query)?;
                upgrade.set(Some(Upgrade::Open(origin)));
                Ok(response)
            }
        }
    }

    /// Answers a request for a session of another node. A request is forwarded once at most.
    async fn answer_for(
        &self,
        owner: NodeTag,
        wanted: Wanted,
        (parts, body): (Parts, Incoming),
        upgrade: &Cell<Option<Upgrade>>,
    ) -> Result<Response<ResponseBody>, EngineError> {
        if self.permit.is_internal() {
            return Err(EngineError::UnknownSession);
        }
        match wanted {
            Wanted::Polling => {
                let is_python = Query::of(&parts).client.is_python;
                self.forward_polling(parts, body, is_python, owner).await
            }
            Wanted::WebSocket => {
                let accepted = self.accept_websocket(&parts)?;
                self.forward_upgrade(parts, accepted, owner, upgrade).await
            }
        }
    }

    /// The answer to a request for the WebSocket of a new session, and the session's origin.
    pub(super) fn open_websocket(
        &self,
        parts: &Parts,
        query: &Query<'_>,
    ) -> Result<(Response<ResponseBody>, Origin), EngineError> {
        let response = self.accept_websocket(parts)?;
        if self.shard.is_draining() {
            Err(EngineError::Unavailable)
        } else {
            Ok((response, self.origin(parts, query)?))
        }
    }

    /// Admits a new session.
    fn origin(&self, parts: &Parts, query: &Query<'_>) -> Result<Origin, EngineError> {
        let handshake = Handshake::of(parts, self.peer, &self.shard.config)?;
        let permit = self.shard.handle.0.admission.connection(self.client).map_err(EngineError::Limit)?;
        Ok(Origin { client: self.client, permit, handshake, abilities: query.client, protocol: self.protocol })
    }

    fn accept_websocket(&self, parts: &Parts) -> Result<Response<ResponseBody>, EngineError> {
        let headers = &parts.headers;
        let key =
            headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).filter(|key| websocket::is_valid_key(key));
        let version = headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
        // HTTP/1.0 has no upgrades: RFC 9110, 7.8. A body would stand before the first frame.
        let can_upgrade = parts.version == Version::HTTP_11 && !self.permit.lacks_body();
        let (Some(key), true, true, true, true, &Method::GET) = (
            key,
            version,
            can_upgrade,
            has_token(headers, &UPGRADE, "websocket"),
            has_token(headers, &CONNECTION, "upgrade"),
            &parts.method,
        ) else {
            return Err(EngineError::BadRequest);
        };
        let accept = HeaderValue::try_from(websocket::accept_key(key)).map_err(|_| EngineError::BadRequest)?;
        // A browser that asks for subprotocols rejects an answer without one of them. They have no meaning here, so the
        // answer names the first one, as in the reference.
        let subprotocol = headers.get(SEC_WEBSOCKET_PROTOCOL).and_then(|list| list.to_str().ok()?.split(',').next());
        let subprotocol =
            subprotocol.and_then(|name| HeaderValue::from_str(name.trim()).ok()).filter(|name| !name.is_empty());
        // From now on the stream counts as a client's, also for a moment after its session has ended.
        self.permit.may_be_held().map_err(EngineError::Limit)?;
        let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        headers.extend(subprotocol.map(|name| (SEC_WEBSOCKET_PROTOCOL, name)));
        Ok(response)
    }

    /// Answers a polling request of a session.
    async fn poll(&self, parts: Parts, body: Incoming, sid: Id) -> Result<Response<ResponseBody>, EngineError> {
        let (shard, permit) = (self.shard, self.permit);
        let (reply, answer) = oneshot::channel();
        let _held = permit.hold().map_err(EngineError::Limit)?;
        match parts.method {
            Method::GET => {
                // A poll may wait for a long time. The memory of its request is freed first.
                drop((parts, body));
                permit.watch_for_hang_up();
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
                let encoding = parts.headers.get(CONTENT_ENCODING);
                if encoding.is_some_and(|encoding| encoding != "identity") {
                    return Err(EngineError::UnsupportedEncoding);
                }
                let waiting: BodyPermit = permit.await_body().map_err(EngineError::Limit)?;
                let body = match body::read(shard, self.client, body).await {
                    Err(EngineError::TooLarge) => {
                        let (done, closed) = oneshot::channel();
                        shard.route(EngineRequest::Oversized { sid, done });
                        // The client gets its answer only after the session is closed, so it can't find the session
                        // open afterwards.
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
