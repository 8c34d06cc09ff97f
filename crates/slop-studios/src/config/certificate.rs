//! The server's certificate: read from its files, checked, and read again after the files are replaced.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{Timestamp, Unit};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use socketio_server::Tls;
use x509_cert::Certificate as X509;
use x509_cert::der::Decode as _;

use crate::limits::CERTIFICATE_EXPIRES_SOON;
use crate::metrics::Metrics;
use crate::text::nearest_path;

/// The two files that make a certificate usable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// The certificate, and those of the authorities between it and a known authority.
    pub(crate) certificate: PathBuf,
    /// Its private key.
    pub(crate) key: PathBuf,
}

/// The reason why a certificate can't be used. It names the setting at fault, and shows nothing of the files' contents.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("TLS_CERT_FILE: can't read {}: {problem}", .file.display())]
    CertificateFile { file: PathBuf, problem: String },
    #[error("TLS_CERT_FILE: {} has no certificate (in PEM form, `-----BEGIN CERTIFICATE-----`)", .0.display())]
    NoCertificate(PathBuf),
    #[error("TLS_CERT_FILE: the first certificate in {} can't be read", .0.display())]
    BadCertificate(PathBuf),
    #[error("TLS_KEY_FILE: can't read {}: {problem}", .file.display())]
    KeyFile { file: PathBuf, problem: String },
    #[error("TLS_KEY_FILE: {} has no private key (in PEM form and without a password, `-----BEGIN PRIVATE KEY-----`)", .0.display())]
    NoKey(PathBuf),
    #[error("TLS_KEY_FILE: the key in {} is not that of the certificate in {}", .key.display(), .certificate.display())]
    Mismatch { key: PathBuf, certificate: PathBuf },
    #[error("TLS_KEY_FILE: the certificate and its key can't be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// The certificate in use, which can be replaced.
#[derive(Debug)]
pub(crate) struct Certificate {
    tls: Arc<Tls>,
    metrics: Arc<Metrics>,
}

impl Certificate {
    /// Reads the files.
    pub(crate) fn load(files: &TlsFiles, metrics: Arc<Metrics>) -> Result<Self, CertificateError> {
        let loaded = Loaded::read(files)?;
        loaded.announce(files, &metrics);
        Ok(Self { tls: Arc::new(Tls::new(loaded.config)), metrics })
    }

    /// The TLS configuration for the engine's connections.
    pub(crate) fn tls(&self) -> Arc<Tls> {
        Arc::clone(&self.tls)
    }

    /// Reads the files of the next certificate. The returned function puts it in force for new connections. Files that
    /// can't be used change nothing.
    pub(crate) fn prepare(&self, files: &TlsFiles) -> Result<Box<dyn FnOnce()>, CertificateError> {
        let loaded = Loaded::read(files).inspect_err(|_| self.metrics.certificate_reloaded(false))?;
        let (files, tls, metrics) = (files.clone(), Arc::clone(&self.tls), Arc::clone(&self.metrics));
        Ok(Box::new(move || {
            loaded.announce(&files, &metrics);
            tls.replace(loaded.config);
            metrics.certificate_reloaded(true);
        }))
    }
}

/// The reasons why the files can't be used.
pub(crate) fn check(files: &TlsFiles) -> Vec<CertificateError> {
    let each = [read_chain(&files.certificate).err(), read_key(&files.key).err()];
    let each: Vec<CertificateError> = each.into_iter().flatten().collect();
    // The combination can be checked only if both files can be read.
    if each.is_empty() { Loaded::read(files).err().into_iter().collect() } else { each }
}

struct Loaded {
    config: ServerConfig,
    expires: Timestamp,
}

impl Loaded {
    fn read(files: &TlsFiles) -> Result<Self, CertificateError> {
        let chain = read_chain(&files.certificate)?;
        let key = read_key(&files.key)?;
        let bad = || CertificateError::BadCertificate(files.certificate.clone());
        let expires = chain.first().and_then(|first| expiry(first)).ok_or_else(bad)?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    CertificateError::Mismatch { key: files.key.clone(), certificate: files.certificate.clone() }
                }
                rustls::Error::InvalidCertificate(_) => bad(),
                error => error.into(),
            })?;
        // The client, not the server, keeps the data to resume a session. So a crowd of clients that reconnects costs
        // no memory, and no signature for each client.
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        Ok(Self { config, expires })
    }

    fn announce(&self, files: &TlsFiles, metrics: &Metrics) {
        metrics.certificate_expiry.set(self.expires.as_second());
        let left = Duration::try_from(self.expires.duration_since(Timestamp::now())).unwrap_or_default();
        let expires = self.expires.round(Unit::Second).unwrap_or(self.expires);
        let file = files.certificate.display();
        if left.is_zero() {
            tracing::warn!(%file, %expires, "the certificate has expired: clients will refuse it");
        } else if left < CERTIFICATE_EXPIRES_SOON {
            tracing::warn!(%file, %expires, "the certificate expires soon");
        } else {
            tracing::info!(%file, %expires, "certificate loaded");
        }
    }
}

fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let failed = |error: pem::Error| CertificateError::CertificateFile {
        file: file.to_owned(),
        problem: describe(file, &error),
    };
    let chain = CertificateDer::pem_file_iter(file).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if chain.is_empty() { Err(CertificateError::NoCertificate(file.to_owned())) } else { Ok(chain) }
}

fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| match error {
        pem::Error::NoItemsFound => CertificateError::NoKey(file.to_owned()),
        error => CertificateError::KeyFile { file: file.to_owned(), problem: describe(file, &error) },
    })
}

/// The text of a PEM reader's error, without the lines of the file that some errors show.
fn describe(file: &Path, error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => nearest_path::describe(file, error),
        _ => "it is not in PEM form".to_owned(),
    }
}

fn expiry(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let certificate = X509::from_der(certificate).ok()?;
    let seconds = certificate.tbs_certificate().validity().not_after.to_unix_duration().as_secs();
    // A time beyond the calendar counts as no expiry.
    Some(i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or(Timestamp::MAX))
}
