//! The answers to requests: the engine's on its paths, the fallback's on all others, refusals, and CORS.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use ::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, CONNECTION, CONTENT_TYPE,
        ORIGIN, RETRY_AFTER, VARY,
    },
    request::Parts,
};
use hyper::body::Incoming;

use super::{ResponseBody, Upgrade, base_path, engine::EngineCall, exchange::Exchange, page, reread, response::text};
use crate::{
    Origins, Refusal, admission::HttpPermit, connection::Protocol, engine_error::EngineError,
    http::handshake::detached, shard::Shard,
};

/// Answers a request. `None` if the request is answered elsewhere.
pub(super) async fn answer(exchange: &Exchange, request: Request<Incoming>) -> Option<Response<ResponseBody>> {
    let Exchange { shard, peer, permit, .. } = exchange;
    let (mut parts, body) = request.into_parts();
    if permit.is_internal() {
        return Some(answer_node(exchange, parts, body).await);
    }
    let client = client_of(shard, peer.ip(), &parts.headers);
    let Some(protocol) = protocol_of(shard, &mut parts.uri) else {
        return from_fallback(exchange, Request::from_parts(parts, body), client).await;
    };
    let origin = parts.headers.get(ORIGIN).and_then(detached);
    let allowed = is_allowed(shard, peer.ip(), &parts.headers);
    let result = if !allowed {
        shard.refuse(Refusal::Origin, client, Some(&parts.headers));
        Err(EngineError::Forbidden)
    } else if parts.method == Method::OPTIONS {
        Ok(preflight(parts.headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned()))
    } else {
        let call = EngineCall { shard, peer: *peer, client, permit, protocol };
        call.answer(parts, body, &exchange.upgrade).await
    };
    // Other refusals have nothing to do with the page's origin.
    let reason = || (!allowed).then(|| page::refusal(&shard.config));
    let mut response = result.unwrap_or_else(|error| refuse(shard, client, error, reason()));
    say_close(permit, &mut response);
    if allowed && let Some(origin) = origin {
        allow_origin(&shard.config.origins, origin, response.headers_mut());
    }
    Some(response)
}

/// Answers a request to the internal listener. Another node has forwarded it, if it has the secret. That node has checked
/// the page's origin, and makes the CORS headers.
async fn answer_node(exchange: &Exchange, mut parts: Parts, body: Incoming) -> Response<ResponseBody> {
    let Exchange { shard, peer, permit, .. } = exchange;
    let nodes = shard.application.nodes.as_ref();
    let Some(client) = nodes.and_then(|nodes| nodes.client_of(&parts.headers)) else {
        shard.metrics.forwards_refused.increment();
        tracing::debug!(%peer, "refuse a request to the internal listener: it does not have the secret");
        let mut response = refusal(EngineError::Forbidden, None);
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return response;
    };
    let result = match protocol_of(shard, &mut parts.uri) {
        Some(protocol) => {
            let call = EngineCall { shard, peer: *peer, client, permit, protocol };
            call.answer(parts, body, &exchange.upgrade).await
        }
        None => Ok(text(StatusCode::NOT_FOUND, "not found")),
    };
    let mut response = result.unwrap_or_else(|error| refuse(shard, client, error, None));
    say_close(permit, &mut response);
    response
}

/// Counts a refused request, and makes its answer.
fn refuse(shard: &Shard, client: IpAddr, error: EngineError, reason: Option<String>) -> Response<ResponseBody> {
    shard.metrics.bad_requests.increment();
    if let Some(limit) = error.limit() {
        shard.metrics.limit_met(limit);
        tracing::debug!(%client, limit = limit.as_str(), "refuse a request");
    }
    refusal(error, reason)
}

async fn from_fallback(
    exchange: &Exchange,
    mut request: Request<Incoming>,
    client: IpAddr,
) -> Option<Response<ResponseBody>> {
    let Exchange { shard, peer, permit, .. } = exchange;
    let Some(fallback) = &shard.application.fallback else {
        let mut response = text(StatusCode::NOT_FOUND, "not found");
        say_close(permit, &mut response);
        return Some(response);
    };
    let client = SocketAddr::new(client, peer.port());
    if reread::wants_upgrade(&request) {
        exchange.upgrade.set(Some(Upgrade::Fallback(reread::head_of(&request), client)));
        return None;
    }
    request.extensions_mut().insert(client);
    request.extensions_mut().insert(permit.connection());
    Some(fallback.call(request).await)
}

/// The answer to a refused request: JSON, as in the reference. `reason` replaces the error's own message.
fn refusal(error: EngineError, reason: Option<String>) -> Response<ResponseBody> {
    let (status, code, message) = error.describe();
    let message = reason.map_or(Cow::Borrowed(message), Cow::Owned);
    let message = serde_json::to_string(&message).unwrap_or_default();
    let body = format!("{{\"code\":{code},\"message\":{message}}}");
    let mut response = text(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = error.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.ends_connection() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Announces the end of the connection after this answer if the request's body is unread. A client that used the
/// connection again would lose its next request.
fn say_close(permit: &HttpPermit, response: &mut Response<ResponseBody>) {
    if permit.lacks_body() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client's address, as reported by a trusted proxy.
pub(super) fn client_of(shard: &Shard, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let trusted = &shard.config.trusted_proxies;
    if !headers.contains_key(X_FORWARDED_FOR) {
        return peer;
    }
    if !trusted.contains(peer.to_canonical()) && shard.handle.is_first_untrusted_proxy() {
        tracing::warn!(%peer, "X-Forwarded-For is ignored: it came from an address that is not a trusted proxy's, so if it \
            is a proxy, the limits take all its clients for one; this is logged only once");
    }
    trusted.client(peer, headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes))
}

/// The protocol of a target, if the path is the engine's. Removes the base path from the target. A trailing slash makes
/// no difference.
pub(super) fn protocol_of(shard: &Shard, target: &mut Uri) -> Option<Protocol> {
    base_path::take_off(&shard.config.base_path, target);
    let path = target.path();
    let path = path.strip_suffix('/').unwrap_or(path);
    if path == shard.config.path {
        return Some(Protocol::SocketIo);
    }
    shard.application.raw_endpoints.iter().position(|endpoint| endpoint.path == path).map(Protocol::Raw)
}

/// Whether a request comes from an allowed page, or from no page.
pub(super) fn is_allowed(shard: &Shard, peer: IpAddr, headers: &HeaderMap) -> bool {
    page::is_allowed(&shard.config, peer, shard.application.tls.is_some(), headers)
}

pub(super) fn allow_origin(origins: &Origins, origin: HeaderValue, headers: &mut HeaderMap) {
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
