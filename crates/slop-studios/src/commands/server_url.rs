//! The address of a running server, as an argument of the client commands.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use hyper::Uri;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_websockets::MaybeTlsStream;

use super::trust::{self, TlsMistake};
use crate::contract::namespaces::{MEDIA, NOTIFICATIONS};

/// A server on the next machine answers in milliseconds; this time covers one or two lost SYNs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The time for a probe that only makes an error clearer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// `http://HOST[:PORT]` or `https://HOST[:PORT]`, and the path that a proxy serves the server under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerUrl {
    is_tls: bool,
    host: String,
    port: u16,
    /// Without a slash at its end.
    base_path: String,
}

impl FromStr for ServerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "it has the form http://localhost:3000";
        let uri: Uri = text.parse().map_err(|error| format!("not a URL ({error}); {example}"))?;
        let (is_tls, port) = match uri.scheme_str() {
            Some("http" | "ws") => (false, 80),
            Some("https" | "wss") => (true, 443),
            _ => return Err(format!("not an http:// or https:// URL; {example}")),
        };
        let authority = uri.authority().ok_or(example)?;
        if authority.as_str().contains('@') {
            return Err("user and password are not supported; use --key or --token".to_owned());
        }
        let base_path = uri.path().trim_end_matches('/');
        if [MEDIA, NOTIFICATIONS].contains(&base_path) || uri.query().is_some() {
            return Err(format!("only the server's address is wanted, and BASE_PATH if it has one; {example}"));
        }
        let (host, port) = (authority.host().to_owned(), authority.port_u16().unwrap_or(port));
        Ok(Self { is_tls, host, port, base_path: base_path.to_owned() })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http{}://{}{}", if self.is_tls { "s" } else { "" }, self.authority(), self.base_path)
    }
}

impl ServerUrl {
    /// The value of the `Host` header.
    pub(super) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The request target of one of the server's paths.
    pub(super) fn target(&self, path_and_query: &str) -> String {
        format!("{}{path_and_query}", self.base_path)
    }

    /// The address of a path on the WebSocket scheme.
    pub(super) fn websocket(&self, path_and_query: &str) -> anyhow::Result<Uri> {
        let scheme = if self.is_tls { "wss" } else { "ws" };
        let url = format!("{scheme}://{}{}", self.authority(), self.target(path_and_query));
        url.parse().context("make the WebSocket's URL")
    }

    /// Connects to the server. With TLS, a CA in `ca`, or without `ca` one of the system's CAs, must have signed its
    /// certificate.
    pub(super) async fn connect(&self, ca: Option<&Path>) -> anyhow::Result<MaybeTlsStream<TcpStream>> {
        let stream = self.connect_tcp().await?;
        let host = self.bare_host();
        match (self.is_tls, ca) {
            (false, None) => Ok(MaybeTlsStream::Plain(stream)),
            (false, Some(_)) => bail!("--ca is for servers with TLS, and {self} is none"),
            (true, ca) => {
                let connecting = timeout(CONNECT_TIMEOUT, trust::connect(stream, host, ca));
                let stream = connecting.await.with_context(|| format!("{self} takes too long to begin TLS"))?;
                stream.map(MaybeTlsStream::Rustls).with_context(|| format!("can't connect to {self}"))
            }
        }
    }

    async fn connect_tcp(&self) -> anyhow::Result<TcpStream> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect((self.bare_host(), self.port)))
            .await
            .map_err(anyhow::Error::from)
            .and_then(|outcome| outcome.map_err(anyhow::Error::from))
            .with_context(|| format!("can't connect to {self} (--url names another server)"))?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        Ok(stream)
    }

    /// The host without brackets: an IPv6 address has brackets in a URL, but not for the resolver.
    fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Explains an unreadable first answer of the server: it may be TLS, for which another connection is tried.
    pub(super) async fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        if self.is_tls {
            return error;
        }
        let asked = async { trust::speaks_tls(self.connect_tcp().await?, self.bare_host()).await };
        match timeout(PROBE_TIMEOUT, asked).await {
            Ok(Ok(true)) => anyhow::Error::from(TlsMistake::Spoken).context(format!("can't talk to {self}")),
            _ => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<String, String> {
        text.parse::<ServerUrl>().map(|url| url.to_string())
    }

    #[test]
    fn addresses() {
        assert_eq!(shown("http://localhost:3000"), Ok("http://localhost:3000".into()));
        assert_eq!(shown("http://[::1]:3000/"), Ok("http://[::1]:3000".into()));
        assert_eq!(shown("ws://example.com"), Ok("http://example.com:80".into()));
        assert_eq!(shown("https://example.com"), Ok("https://example.com:443".into()));
        assert_eq!(shown("wss://[::1]:3000/"), Ok("https://[::1]:3000".into()));
        assert_eq!(shown("https://studio.example/realtime/"), Ok("https://studio.example:443/realtime".into()));
    }

    #[test]
    fn what_is_no_address_says_why() {
        for (text, part) in [
            ("ftp://example.com", "https://"),
            ("localhost:3000", "http://"),
            ("http://localhost:3000/media", "only the server's address"),
            ("http://a:b@localhost", "--token"),
            ("", "not a URL"),
        ] {
            let error = shown(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
