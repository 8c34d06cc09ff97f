//! TLS in the client commands: the trusted CAs, and the probable cause of a failure.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::terminal::printable;
use crate::text::nearest_path;

/// The types of the records with which a TLS server answers a handshake: an alert, or the next step (RFC 8446, section
/// 5.1).
const TLS_RECORDS: [u8; 2] = [21, 22];

/// A mistake in the TLS setup of client and server, which persists when the connection is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsMistake {
    #[error("the server speaks no TLS there: begin the URL with http:// instead of https://")]
    NotSpoken,
    #[error("the server speaks TLS there: begin the URL with https:// instead of http://")]
    Spoken,
    #[error(
        "nobody whom this system trusts has signed the server's certificate: give the certificate of its CA, or its own if \
         it signed itself, with --ca FILE"
    )]
    UnknownIssuer,
    #[error("no CA in {} has signed the server's certificate", .0.display())]
    OtherIssuer(PathBuf),
    #[error("the server's certificate is for {names}, not for {host}: use a name in the URL that it has")]
    OtherName { host: String, names: String },
    #[error("the server's certificate has expired, or this machine's clock is wrong")]
    Expired,
    #[error("the server's certificate is not valid yet, or this machine's clock is wrong")]
    NotYetValid,
    #[error("the server's certificate is no good: {0}")]
    Certificate(CertificateError),
}

/// Makes the handshake with the server of this name or address.
pub(super) async fn connect(stream: TcpStream, host: &str, ca: Option<&Path>) -> anyhow::Result<TlsStream<TcpStream>> {
    let roots = match ca {
        Some(file) => of_file(file)?,
        None => of_system()?,
    };
    let config = client_config(roots)?;
    match TlsConnector::from(Arc::new(config)).connect(server_name(host)?, stream).await {
        Ok(stream) => Ok(stream),
        Err(error) => {
            let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            match cause.and_then(|cause| mistake(cause, host, ca)) {
                Some(mistake) => Err(mistake.into()),
                None if error.kind() == ErrorKind::UnexpectedEof => Err(error)
                    .context("the server ended TLS as it began: if it has none, begin the URL with http:// instead"),
                None => Err(error).context("TLS failed"),
            }
        }
    }
}

/// Whether the server on this new connection answers with TLS.
pub(super) async fn speaks_tls(mut stream: TcpStream, host: &str) -> anyhow::Result<bool> {
    let mut client = ClientConnection::new(Arc::new(client_config(RootCertStore::empty())?), server_name(host)?)?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello)?;
    stream.write_all(&hello).await?;
    Ok(TLS_RECORDS.contains(&stream.read_u8().await?))
}

fn client_config(roots: RootCertStore) -> anyhow::Result<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .context("set TLS up")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn server_name(host: &str) -> anyhow::Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).with_context(|| format!("{host} is no name for a certificate"))
}

fn mistake(error: &rustls::Error, host: &str, ca: Option<&Path>) -> Option<TlsMistake> {
    Some(match error {
        // The first bytes of plain HTTP are not a TLS record.
        rustls::Error::InvalidMessage(_) => TlsMistake::NotSpoken,
        rustls::Error::InvalidCertificate(error) => match error {
            // If another CA has the same name, the signature is invalid.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => match ca {
                None => TlsMistake::UnknownIssuer,
                Some(file) => TlsMistake::OtherIssuer(file.to_owned()),
            },
            CertificateError::NotValidForNameContext { presented, .. } => {
                TlsMistake::OtherName { host: host.to_owned(), names: names(presented) }
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsMistake::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => TlsMistake::NotYetValid,
            other => TlsMistake::Certificate(other.clone()),
        },
        _ => return None,
    })
}

/// The bare names: `localhost` of `DnsName("localhost")`.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| {
        let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
        printable(inner.trim_matches('"'))
    };
    if presented.is_empty() { "no name".to_owned() } else { presented.iter().map(bare).collect::<Vec<_>>().join(", ") }
}

fn of_file(file: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let unreadable = || format!("can't read the CA's certificate in {}", file.display());
    let certificates = CertificateDer::pem_file_iter(file).map_err(|error| match error {
        pem::Error::Io(error) => anyhow::anyhow!(nearest_path::describe(file, &error)),
        error => error.into(),
    });
    for certificate in certificates.with_context(unreadable)? {
        roots.add(certificate.with_context(unreadable)?).with_context(unreadable)?;
    }
    if roots.is_empty() {
        bail!("{} has no certificate in PEM form", file.display());
    }
    Ok(roots)
}

fn of_system() -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let (_usable, _not) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        bail!("this system has no CAs: give the server's with --ca");
    }
    Ok(roots)
}
