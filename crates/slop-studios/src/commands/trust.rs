//! TLS as the client commands use it: whom they trust.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Makes the handshake with the server of this name or address.
pub(super) async fn connect(stream: TcpStream, host: &str, ca: Option<&Path>) -> anyhow::Result<TlsStream<TcpStream>> {
    let roots = match ca {
        Some(file) => of_file(file)?,
        None => of_system()?,
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .context("set TLS up")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(host.to_owned()).with_context(|| format!("{host} is no name for a certificate"))?;
    let hint = if ca.is_some() { "" } else { " (a CA of your own is given with --ca)" };
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.with_context(|| format!("TLS failed{hint}"))
}

fn of_file(file: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let unreadable = || format!("can't read the CA's certificate in {}", file.display());
    for certificate in CertificateDer::pem_file_iter(file).with_context(unreadable)? {
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
