//! A request and its answer. Answers and the log identify them by an id, the client and the publisher.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use serde::Serialize;
use uuid::Uuid;

use crate::limits::{MAX_LOGGED_PATH_BYTES, MAX_REQUEST_ID_BYTES};
use crate::text::excerpt;

/// The header in which proxies and publishers send a request's id.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The status in the access log if the client disconnects before the answer: nginx's number for this case.
const CLIENT_GONE: u16 = 499;

/// The id of a request: 1 to [`MAX_REQUEST_ID_BYTES`] visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct RequestId(Arc<str>);

impl RequestId {
    /// The request's own id if it is fit for a log, else a new one.
    fn of(headers: &HeaderMap) -> Self {
        headers.get(X_REQUEST_ID).and_then(Self::parse).unwrap_or_else(Self::new)
    }

    fn parse(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?;
        let fits = (1..=MAX_REQUEST_ID_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(text.into()))
    }

    fn new() -> Self {
        let mut buffer = Uuid::encode_buffer();
        Self((&*Uuid::now_v7().hyphenated().encode_lower(&mut buffer)).into())
    }

    /// The id as a header value.
    pub(super) fn header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).unwrap_or_else(|_not_ascii| HeaderValue::from_static("-"))
    }
}

/// The publisher's name, once it is known: an extension of the request.
#[derive(Debug, Clone, Default)]
pub(super) struct PublisherName(Arc<OnceLock<Arc<str>>>);

impl PublisherName {
    pub(super) fn set(&self, name: &Arc<str>) {
        // A request has one publisher.
        let _named_before = self.0.set(Arc::clone(name));
    }

    fn get(&self) -> Option<&str> {
        self.0.get().map(|name| &**name)
    }
}

/// A request that is being answered. It is logged when it is answered or abandoned: at `info` with an access log, else
/// at `debug`.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) id: RequestId,
    pub(super) uri: Uri,
    pub(super) method: Method,
    client: Option<IpAddr>,
    publisher: PublisherName,
    began: Instant,
    has_access_log: bool,
    status: Option<StatusCode>,
}

impl Exchange {
    /// Gives the request an id and adds the extension for its publisher's name.
    pub(super) fn begin<B>(request: &mut Request<B>, has_access_log: bool) -> Self {
        let publisher = PublisherName::default();
        request.extensions_mut().insert(publisher.clone());
        Self {
            id: RequestId::of(request.headers()),
            uri: request.uri().clone(),
            method: request.method().clone(),
            client: client_of(request),
            publisher,
            began: Instant::now(),
            has_access_log,
            status: None,
        }
    }

    /// The client's address; `None` if the request has no connection, as in a test.
    pub(super) fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// The publisher's name, if it is known.
    pub(super) fn publisher(&self) -> Option<&str> {
        self.publisher.get()
    }

    /// Ends the exchange with this status.
    pub(super) fn answered(mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

/// The address of a request's client, from the engine, which takes proxies into account.
pub(super) fn client_of<B>(request: &Request<B>) -> Option<IpAddr> {
    request.extensions().get::<SocketAddr>().map(|address| address.ip().to_canonical())
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // All levels have the same fields.
        macro_rules! log {
            ($level:ident, $text:literal) => {
                tracing::$level!(
                    method = self.method.as_str(),
                    path = excerpt(self.uri.path(), MAX_LOGGED_PATH_BYTES),
                    status = self.status.map_or(CLIENT_GONE, |status| status.as_u16()),
                    took_ms = self.began.elapsed().as_micros() as f64 / 1_000.0,
                    publisher = self.publisher(),
                    request_id = &*self.id.0,
                    client = self.client.map(tracing::field::display),
                    $text
                )
            };
        }
        if self.has_access_log {
            log!(info, "request");
        } else {
            log!(debug, "request");
        }
        // The answer refers to this entry: "the server failed; its log says more".
        if self.status == Some(StatusCode::INTERNAL_SERVER_ERROR) {
            log!(error, "failed to answer a request");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::Mutex;

    use super::*;

    /// The log of `f`, at `info` and more severe levels.
    fn logged(f: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Buffer(Arc<Mutex<Vec<u8>>>);
        impl Write for Buffer {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().expect("no test panicked").write(bytes)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, f);
        let bytes = buffer.0.lock().expect("no test panicked").clone();
        String::from_utf8(bytes).expect("UTF-8")
    }

    fn exchange(has_access_log: bool) -> Exchange {
        let mut request = Request::post("/v1/publish?a=b").body(()).expect("a request");
        request.extensions_mut().insert(SocketAddr::from(([192, 0, 2, 1], 4711)));
        Exchange::begin(&mut request, has_access_log)
    }

    #[test]
    fn each_exchange_has_a_line_however_it_ends() {
        let answered = logged(|| exchange(true).answered(StatusCode::OK));
        for part in ["INFO", "method=\"POST\" path=\"/v1/publish\" status=200", "client=192.0.2.1", "request_id="] {
            assert!(answered.contains(part), "{part}: {answered}");
        }
        let gone = logged(|| drop(exchange(true)));
        assert!(gone.contains("status=499"), "{gone}");
        assert_eq!(logged(|| exchange(false).answered(StatusCode::OK)), "");
        let failed = logged(|| exchange(false).answered(StatusCode::INTERNAL_SERVER_ERROR));
        assert!(failed.contains("ERROR") && failed.contains("request_id="), "{failed}");
    }

    fn id(value: &[u8]) -> RequestId {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(value).expect("a header"));
        RequestId::of(&headers)
    }

    #[test]
    fn an_id_that_is_fit_for_a_log_is_taken_over() {
        let longest = "x".repeat(MAX_REQUEST_ID_BYTES);
        for good in ["a", "8e03978e-40d5", "Root=1-67891233-abcdef012345678912345678", &longest, "{\"}"] {
            assert_eq!(&*id(good.as_bytes()).0, good);
            assert_eq!(id(good.as_bytes()).header(), good);
        }
        let too_long = "x".repeat(MAX_REQUEST_ID_BYTES + 1);
        for bad in ["", " ", "a b", "a\tb", &too_long, "é"] {
            let made = id(bad.as_bytes());
            assert!(Uuid::parse_str(&made.0).is_ok(), "{bad:?} became {made:?}");
            assert_ne!(made, id(bad.as_bytes()));
        }
    }
}
