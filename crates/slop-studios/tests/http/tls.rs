//! The server's own TLS: the certificate's files, and what a hangup does with them.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs::default_provider};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::api::value_of;
use crate::server::Server;

const DEADLINE: Duration = Duration::from_secs(10);

/// The certificate's files, which a test may replace.
pub(crate) struct Files(TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("a UTF-8 path").to_owned()
    }

    /// Writes a new certificate that ends with this year.
    pub(crate) fn renew(&self, year: i32) -> CertificateDer<'static> {
        let (certificate, key, der) = certificate(year);
        self.write(&certificate, &key);
        der
    }

    fn write(&self, certificate: &str, key: &str) {
        write(self.0.path(), certificate, key);
    }

    /// A server that has them.
    fn start(&self) -> Server {
        let (certificate, key) = (self.path("cert.pem"), self.path("key.pem"));
        Server::start_with(&[("TLS_CERT_FILE", &certificate), ("TLS_KEY_FILE", &key)])
    }
}

fn write(folder: &Path, certificate: &str, key: &str) {
    std::fs::write(folder.join("cert.pem"), certificate).expect("a file");
    std::fs::write(folder.join("key.pem"), key).expect("a file");
}

fn certificate(year: i32) -> (String, String, CertificateDer<'static>) {
    certificate_until(year, 12, 31)
}

fn certificate_until(year: i32, month: u8, day: u8) -> (String, String, CertificateDer<'static>) {
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    params.not_after = date_time_ymd(year, month, day);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    (certificate.pem(), key.serialize_pem(), certificate.der().clone())
}

/// A connection for one request after the other, and what it found.
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    certificate: CertificateDer<'static>,
}

impl Connection {
    async fn open(server: &Server, trusted: &[&CertificateDer<'static>]) -> std::io::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in trusted {
            roots.add((*certificate).clone()).expect("a certificate");
        }
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(server.address).await?;
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1 begins");
        tokio::spawn(connection);
        Ok(Self { sender, certificate: certificate.expect("a certificate") })
    }

    async fn get(&mut self, path: &str) -> (http::HeaderMap, String) {
        let request = http::Request::get(path).header("host", "test").body(Empty::new()).expect("a request");
        let answer = self.sender.send_request(request);
        let answer = tokio::time::timeout(DEADLINE, answer).await.expect("an answer in time").expect("an answer");
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.expect("the answer is whole").to_bytes();
        (parts.headers, String::from_utf8(body.to_vec()).expect("text"))
    }

    /// A number of `/metrics`; 0 if it is not there.
    async fn metric(&mut self, name: &str) -> f64 {
        value_of(&self.get("/metrics").await.1, name).unwrap_or(0.0)
    }

    async fn expiry(&mut self) -> f64 {
        self.metric("slop_tls_certificate_expiry_timestamp_seconds").await
    }

    /// Waits until the files have been read again so often, with this result.
    async fn reloaded(&mut self, result: &str, times: u32) {
        let name = format!("slop_tls_certificate_reloads_total{{result=\"{result}\"}}");
        let deadline = Instant::now() + DEADLINE;
        while self.metric(&name).await < f64::from(times) {
            assert!(Instant::now() < deadline, "reloads that are {result}: not yet {times}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The last day of 2040 and of 2041, as seconds since 1970.
const LAST_OF_2040: f64 = 2_240_524_800.0;
const LAST_OF_2041: f64 = 2_272_060_800.0;

#[tokio::test]
async fn a_hangup_brings_the_new_certificate_and_disturbs_nobody() {
    let files = Files::new();
    let first = files.renew(2040);
    let server = files.start();
    let mut early = Connection::open(&server, &[&first]).await.expect("a handshake");
    assert_eq!(early.certificate, first);
    assert_eq!(early.expiry().await, LAST_OF_2040);

    let second = files.renew(2041);
    assert_eq!(Connection::open(&server, &[&first, &second]).await.expect("a handshake").certificate, first);
    server.signal("HUP");
    early.reloaded("done", 1).await;
    assert_eq!(Connection::open(&server, &[&first, &second]).await.expect("a handshake").certificate, second);
    assert_eq!(early.expiry().await, LAST_OF_2041, "the old connection serves on");
    assert!(Connection::open(&server, &[&first]).await.is_err(), "the old certificate is out of use");

    // Files that are half written, of two pairs, or gone change nothing.
    let (certificate, key, _) = certificate(2042);
    let (_, other_key, _) = self::certificate(2042);
    let half = &certificate[..certificate.len() / 2];
    let bad = [(half, key.as_str()), (&certificate, &other_key), (&certificate, ""), ("", &key)];
    for ((certificate, key), failed) in bad.into_iter().zip(1..) {
        files.write(certificate, key);
        server.signal("HUP");
        early.reloaded("failed", failed).await;
        let mut later = Connection::open(&server, &[&second]).await.expect("a handshake");
        assert_eq!(later.expiry().await, LAST_OF_2041);
    }
    files.renew(2040);
    server.signal("HUP");
    early.reloaded("done", 2).await;
    assert_eq!(early.expiry().await, LAST_OF_2040, "good files after bad ones are taken");
}

#[tokio::test]
async fn a_certificate_that_ends_soon_is_warned_about() {
    for (days, warning) in [(-5, Some("the certificate has expired")), (5, Some("expires soon")), (20, None)] {
        let files = Files::new();
        let end =
            (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days)).to_zoned(jiff::tz::TimeZone::UTC);
        let part = |number: i8| u8::try_from(number).expect("from 1 on");
        let (certificate, key, _) = certificate_until(end.year().into(), part(end.month()), part(end.day()));
        files.write(&certificate, &key);
        let data = tempfile::tempdir().expect("a temporary folder");
        let (certificate, key) = (files.path("cert.pem"), files.path("key.pem"));
        let settings = [("TLS_CERT_FILE", certificate.as_str()), ("TLS_KEY_FILE", &key), ("LOG_LEVEL", "warn")];
        let mut server = Server::start_in_with(data.path(), &settings, Stdio::piped());
        server.signal("TERM");
        assert!(server.wait().await.success());
        let log = server.log();
        assert_eq!(log.contains("the certificate"), warning.is_some(), "{days}: {log}");
        assert!(log.contains(warning.unwrap_or_default()), "{days}: {log}");
    }
}

#[tokio::test]
async fn browsers_are_told_to_come_back_over_tls() {
    let files = Files::new();
    let certificate = files.renew(2040);
    let server = files.start();
    let mut connection = Connection::open(&server, &[&certificate]).await.expect("a handshake");
    for path in ["/", "/docs/", "/v1/media/m", "/nowhere", "/metrics"] {
        let (headers, _) = connection.get(path).await;
        assert_eq!(headers["strict-transport-security"], "max-age=31536000", "{path}");
    }
}
