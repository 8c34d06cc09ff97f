//! An issuer of tokens that publishes its keys.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use slop_studios::contract::time::epoch_seconds;

/// A key pair and its id.
pub(crate) struct Key {
    id: &'static str,
    private: EncodingKey,
}

impl Key {
    pub(crate) fn new(id: &'static str) -> Self {
        let pair = Ed25519KeyPair::generate().expect("random numbers");
        let pkcs8: Pkcs8V1Der<'_> = pair.as_der().expect("it has a form");
        Self { id, private: EncodingKey::from_ed_der(pkcs8.as_ref()) }
    }

    /// The public one, as in a file.
    pub(crate) fn pem(&self) -> String {
        let jwk = self.jwk();
        let raw = URL_SAFE_NO_PAD.decode(jwk["x"].as_str().expect("its bytes")).expect("base64");
        // RFC 8410: what stands before every Ed25519 key.
        let info = [&b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"[..], &raw].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(info))
    }

    /// A token of this user, issued now.
    pub(crate) fn token(&self, user: &str) -> String {
        let now = epoch_seconds();
        self.signed(&json!({"sub": user, "iat": now, "exp": now + 3600}))
    }

    /// A token with these claims.
    pub(crate) fn signed(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.id.to_owned());
        encode(&header, claims, &self.private).expect("it signs")
    }

    fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.private, Algorithm::EdDSA).expect("it has a public key");
        jwk.common.key_id = Some(self.id.to_owned());
        serde_json::to_value(jwk).expect("it is JSON")
    }
}

/// What the issuer says to whoever asks for its keys, head and all.
#[derive(Clone)]
pub(crate) struct Says(String, Duration);

impl Says {
    pub(crate) fn keys(keys: &[&Key]) -> Self {
        let set = json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()});
        Self::body(200, "content-type: application/json", &set.to_string())
    }

    /// A set that does not say which key is which.
    pub(crate) fn keys_without_ids(keys: &[&Key]) -> Self {
        let without_id = |key: &&Key| {
            let mut jwk = key.jwk();
            jwk["kid"].take();
            jwk
        };
        let set = json!({"keys": keys.iter().map(without_id).collect::<Vec<_>>()});
        Self::body(200, "content-type: application/json", &set.to_string())
    }

    pub(crate) fn status(status: u16, header: &str) -> Self {
        Self::body(status, header, "")
    }

    pub(crate) fn body(status: u16, header: &str, body: &str) -> Self {
        let length = body.len();
        Self(
            format!("HTTP/1.1 {status} .\r\n{header}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"),
            Duration::ZERO,
        )
    }

    /// The same, so much later.
    pub(crate) fn after(self, wait: Duration) -> Self {
        Self(self.0, wait)
    }
}

/// Serves on a thread of its own until the tests end.
pub(crate) struct Issuer {
    address: SocketAddr,
    says: Arc<Mutex<Says>>,
    fetches: Arc<AtomicUsize>,
}

impl Issuer {
    pub(crate) fn new(says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it has an address");
        let (says, fetches) = (Arc::new(Mutex::new(says)), Arc::new(AtomicUsize::new(0)));
        let (said, counted) = (Arc::clone(&says), Arc::clone(&fetches));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                if lines.by_ref().take_while(|line| !line.is_empty()).count() > 0 {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let Says(answer, wait) = said.lock().expect("no test panicked").clone();
                    #[expect(clippy::disallowed_methods, reason = "a slow issuer")]
                    std::thread::sleep(wait);
                    // Who does not want all of it is free to go.
                    let _ = stream.write_all(answer.as_bytes());
                }
            }
        });
        Self { address, says, fetches }
    }

    pub(crate) fn says(&self, says: Says) {
        *self.says.lock().expect("no test panicked") = says;
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/.well-known/jwks.json", self.address)
    }

    /// How often it was asked.
    pub(crate) fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}
