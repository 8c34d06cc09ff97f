//! Minting tokens, for tests and development.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};

/// An algorithm that the secret can sign with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SigningAlgorithm {
    /// HMAC with SHA-256.
    #[default]
    #[value(name = "HS256", alias = "hs256")]
    Hs256,
    /// HMAC with SHA-384.
    #[value(name = "HS384", alias = "hs384")]
    Hs384,
    /// HMAC with SHA-512.
    #[value(name = "HS512", alias = "hs512")]
    Hs512,
}

/// Mints tokens that a [`TokenVerifier`](super::TokenVerifier) with the same secret accepts. `Debug` does not show the
/// secret.
#[derive(Debug)]
pub struct TokenSigner {
    key: EncodingKey,
}

impl TokenSigner {
    /// A signer that uses `secret`.
    pub fn new(secret: &SecretString) -> Self {
        Self { key: EncodingKey::from_secret(secret.expose_secret().as_bytes()) }
    }

    /// The compact form of a token with these claims, exactly as given.
    ///
    /// # Errors
    /// When the cryptographic library refuses to sign.
    pub fn sign(&self, algorithm: SigningAlgorithm, claims: &Map<String, Value>) -> Result<SecretString, SignError> {
        let algorithm = match algorithm {
            SigningAlgorithm::Hs256 => Algorithm::HS256,
            SigningAlgorithm::Hs384 => Algorithm::HS384,
            SigningAlgorithm::Hs512 => Algorithm::HS512,
        };
        jsonwebtoken::encode(&Header::new(algorithm), claims, &self.key)
            .map(SecretString::from)
            .map_err(|error| SignError(error.into_kind()))
    }
}

/// A token could not be signed.
#[derive(Debug, thiserror::Error)]
#[error("sign the token: {0:?}")]
pub struct SignError(ErrorKind);
