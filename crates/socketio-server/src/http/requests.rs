//! The requests of one connection, read by hyper one after another, and the ways in which HTTP ends on it.

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    task::{Poll, ready},
};

use ::http::{HeaderName, Request, Response, Version, header::CONNECTION};
use bytes::Bytes;
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::Service,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::AsyncWriteExt as _,
    task::yield_now,
    time::{Instant, sleep_until, timeout},
};

use super::{
    ResponseBody,
    answer::answer,
    exchange::Exchange,
    max_header_bytes, max_headers, parting,
    reread::has_token,
    stream::{AnswerBody, HttpStream},
};
use crate::{
    Limit,
    config::{CLOSE_LINGER, CLOSE_LINGER_BYTES, HTTP_LINGER, HTTP_LINGER_SILENCE},
    shard::Shard,
    stream::Stream,
};

type HyperConnection = http1::Connection<TokioIo<HttpStream>, Responder>;

/// A connection after the end of HTTP on it.
pub(super) struct Served {
    pub(super) stream: HttpStream,
    pub(super) leftover: Bytes,
    /// The last request was answered, but a part of it may not have arrived yet.
    pub(super) may_send_on: bool,
    /// The connection is being closed to make room for another.
    pub(super) is_parting: bool,
}

/// How HTTP ended on a connection.
enum Ended {
    Itself(hyper::Result<()>),
    MakesRoom,
    TooLate,
}

/// Serves the requests of a connection. `first` holds the bytes that were already read. `None` if the connection is to
/// be closed without another word.
pub(super) async fn serve(exchange: &Rc<Exchange>, first: Bytes, stream: Stream) -> Option<Served> {
    let config = &exchange.shard.config;
    let mut connection = http1::Builder::new()
        .max_buf_size(max_header_bytes(config))
        .max_headers(max_headers(config))
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(HttpStream::new(first, stream, exchange.clone())), Responder(exchange.clone()));
    let mut is_parting = false;
    let ended = serve_until_end(exchange, &mut connection, &mut is_parting).await;
    let may_send_on = may_send_on(exchange, ended)?;
    let parts = connection.into_parts();
    Some(Served { stream: parts.io.into_inner(), leftover: parts.read_buf, may_send_on, is_parting })
}

async fn serve_until_end(exchange: &Exchange, connection: &mut HyperConnection, is_parting: &mut bool) -> Ended {
    let shard = &exchange.shard;
    let mut drained = pin!(shard.drain_began.notified());
    let mut parting = pin!(parting(&exchange.permit));
    let mut time_up = pin!(sleep_until(exchange.deadline()));
    let mut draining = false;
    std::future::poll_fn(|cx| {
        exchange.begin_turn();
        // A request that another node forwards is read during a drain too. It is the only one of its connection.
        if !draining && !exchange.permit.is_internal() && (shard.is_draining() || drained.as_mut().poll(cx).is_ready())
        {
            draining = true;
            Pin::new(&mut *connection).graceful_shutdown();
        }
        if let Poll::Ready(ended) = connection.poll_without_shutdown(cx) {
            return Poll::Ready(Ended::Itself(ended));
        }
        if exchange.is_handed_over() {
            return Poll::Ready(Ended::Itself(Ok(())));
        }
        if !*is_parting && parting.as_mut().poll(cx).is_ready() {
            // A request may have arrived since this connection was chosen as idle. The request is answered, which takes
            // only as long as the server needs: the server does not wait for a client that does not read its answer.
            if !exchange.lacks_answer() {
                return Poll::Ready(Ended::MakesRoom);
            }
            *is_parting = true;
            Pin::new(&mut *connection).graceful_shutdown();
        }
        // The timer is reset only when it has fired too early or would fire too late. Most requests need no reset.
        while exchange.awaits_headers() {
            let deadline = exchange.deadline();
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
    .await
}

/// Whether the last request was answered but may still be arriving. `None` if there is nothing to answer.
fn may_send_on(exchange: &Exchange, ended: Ended) -> Option<bool> {
    let Exchange { shard, peer, .. } = exchange;
    match ended {
        Ended::Itself(Ok(())) => Some(exchange.had_body()),
        Ended::Itself(Err(error)) => {
            if error.is_parse_too_large() {
                shard.metrics.limit_met(Limit::HeaderSize);
            }
            tracing::debug!(%error, %peer, "http connection ended");
            error.is_parse().then_some(true)
        }
        Ended::MakesRoom => {
            shard.metrics.limit_met(Limit::HttpConnections);
            tracing::debug!(%peer, "close an idle connection to make room");
            None
        }
        // An idle connection whose requests are all answered also ends by this deadline.
        Ended::TooLate if !exchange.headers_have_begun() => Some(false),
        Ended::TooLate => {
            shard.metrics.limit_met(Limit::HeaderTime);
            tracing::debug!(%peer, "no request in time");
            None
        }
    }
}

/// Answers the requests that hyper has read.
struct Responder(Rc<Exchange>);

impl Service<Request<Incoming>> for Responder {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let is_behind_another = self.0.came(!request.body().is_end_stream());
        let exchange = self.0.clone();
        Box::pin(async move {
            if is_behind_another {
                yield_now().await;
            }
            let may_stay = may_stay(&request);
            let Some(mut response) = answer(&exchange, request).await else {
                exchange.hand_over();
                return std::future::pending().await;
            };
            if may_stay && !exchange.shard.is_draining() {
                announce_keep_alive(&exchange.shard, &mut response);
            }
            if exchange.opens_websocket() {
                exchange.hold_answer_back();
            }
            Ok(response.map(|body| AnswerBody::new(body, exchange)))
        })
    }
}

/// Whether the client's request allows another request on the connection.
fn may_stay(request: &Request<Incoming>) -> bool {
    request.version() == Version::HTTP_11 && !has_token(request.headers(), &CONNECTION, "close")
}

pub(super) const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

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
pub(super) async fn linger(exchange: &Exchange, mut stream: HttpStream, is_parting: bool) {
    let Exchange { shard, permit, .. } = exchange;
    stream.forget_headers();
    permit.is_done();
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
        () = permit.parting(), if !is_parting => {}
        () = &mut drained, if !is_urgent => {}
        () = reading => {}
    }
}
