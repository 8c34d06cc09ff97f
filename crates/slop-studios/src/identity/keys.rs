//! The keys that verify tokens: secrets, public keys from files, and public keys of a JSON Web Key set. Each key is
//! bound to its algorithms when it is read, so that no token can choose another.

use std::fmt;
use std::path::PathBuf;
use std::{io, slice};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RsaPublicKeyComponents,
    VerificationAlgorithm,
};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, Header, Validation};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::claims::Claims;
use super::flaw::Flaw;
use super::proof::{Thumbprint, VerifiedBy, kept_key_id};
use crate::limits::{MAX_JWKS_KEYS, MAX_KEY_FILE_BYTES};
use crate::text::nearest_path;

/// RFC 7518 §3.3: "a key of size 2048 bits or larger MUST be used". Above 8192 a verification takes milliseconds.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Keys, in the order in which they are tried.
#[derive(Debug, Default)]
pub struct Keys(Vec<Key>);

/// A key and what it may be used for.
struct Key {
    /// The key's id. A token that names another id was not signed with this key. Secrets and keys from files have no
    /// id.
    id: Option<Box<str>>,
    decoding: DecodingKey,
    /// Contains the key's algorithms.
    validation: Validation,
    /// One for each algorithm.
    thumbprints: Box<[Thumbprint]>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithms", &self.validation.algorithms).finish()
    }
}

/// A file with public keys, as the settings name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKeyFile {
    /// The path of the file.
    pub path: PathBuf,
    /// The algorithm of its keys, if it is not the most common one for them.
    pub algorithm: Option<Algorithm>,
}

/// Why keys can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file does not exist, is not text, or has a similar problem.
    #[error("can't read {}: {problem}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why it cannot be read.
        problem: String,
    },
    /// The file holds a private key, which only the issuer should have.
    #[error("{} holds a private key: only the issuer of tokens should have it; make a file of the public one (openssl pkey -pubout)", .file.display())]
    Private {
        /// The file.
        file: PathBuf,
    },
    /// The file has no key.
    #[error("{} holds no public key (a block that begins with -----BEGIN PUBLIC KEY-----)", .file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// The file has a key of an unsupported kind, a key that is too small, or a key that does not fit the algorithm.
    #[error("{} holds {problem}", .file.display())]
    Unfit {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl Keys {
    /// Loads the secrets, and the keys of the files.
    ///
    /// # Errors
    /// If a file can't be used.
    pub fn load(secrets: &[SecretString], files: &[PublicKeyFile]) -> Result<Self, KeyError> {
        let mut keys = Self::of_secrets(secrets);
        for file in files {
            keys.0.append(&mut read_file(file)?);
        }
        Ok(keys)
    }

    /// Secrets, each for HS256, HS384 and HS512.
    #[must_use]
    pub fn of_secrets(secrets: &[SecretString]) -> Self {
        let key = |secret: &SecretString| {
            let decoding = DecodingKey::from_secret(secret.expose_secret().as_bytes());
            Key::new(None, decoding, AlgorithmFamily::Hmac.algorithms())
        };
        Self(secrets.iter().map(key).collect())
    }

    /// The public signature keys of a JSON Web Key set. Unusable keys are skipped, as RFC 7517 §5 asks for.
    ///
    /// # Errors
    /// Why the text is not a usable key set.
    pub(super) fn of_set(json: &[u8]) -> Result<Self, &'static str> {
        #[derive(Deserialize)]
        struct Set<'a> {
            #[serde(borrow)]
            keys: Vec<&'a RawValue>,
        }
        let set: Set<'_> = serde_json::from_slice(json).map_err(|_error| "it is not a JSON Web Key set")?;
        if set.keys.len() > MAX_JWKS_KEYS {
            return Err("it has too many keys");
        }
        let keys: Vec<Key> = set.keys.iter().filter_map(|jwk| of_jwk(jwk.get())).collect();
        if keys.is_empty() { Err("it has no key that tokens could be verified with") } else { Ok(Self(keys)) }
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no keys, so that no token is valid.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them has this id.
    pub(super) fn has_id(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id.as_deref() == Some(id))
    }

    /// The claims of a token that one of these keys has signed, and the thumbprint of the key for the token's
    /// algorithm.
    pub(super) fn claims(&self, token: &str, header: &Header) -> Result<(Claims, Thumbprint), Flaw> {
        let mut flaw = None;
        for key in self.0.iter().filter(|key| key.fits(header)) {
            let decoded = jsonwebtoken::decode::<Claims>(token, &key.decoding, &key.validation);
            match (decoded, key.thumbprint(header.alg)) {
                (Ok(token), Some(thumbprint)) => return Ok((token.claims, thumbprint)),
                // The library reads the claims only after it has found the signature to be valid.
                (Err(error), _) if matches!(error.kind(), ErrorKind::Json(_) | ErrorKind::Utf8(_)) => {
                    flaw = Some(Flaw::Claims);
                }
                _ => flaw = flaw.or(Some(Flaw::Signature(header.alg))),
            }
        }
        Err(flaw.unwrap_or_else(|| Flaw::unknown_key(header)))
    }

    /// Whether these keys contain the key that verified a token, for tokens with the same key id.
    pub(super) fn have(&self, verified_by: &VerifiedBy) -> bool {
        let named = verified_by.kid.as_deref();
        self.0.iter().any(|key| key.may_be_named(named) && key.thumbprints.contains(&verified_by.key))
    }

    /// Whether all of these keys are among `others`, so that `others` verify every token that these verify.
    pub(super) fn are_all_among(&self, others: &Self) -> bool {
        let has = |key: &Key| others.0.iter().any(|other| other.id == key.id && other.thumbprints == key.thumbprints);
        self.0.iter().all(has)
    }
}

impl Key {
    fn new(id: Option<Box<str>>, decoding: DecodingKey, algorithms: &[Algorithm]) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.algorithms = algorithms.to_vec();
        // Our own rules check the claims: the library reads the clock itself, knows no `iat`, and rounds `exp` up.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        let thumbprints = algorithms.iter().map(|algorithm| Thumbprint::of(*algorithm, &decoding)).collect();
        Self { id, decoding, validation, thumbprints }
    }

    fn fits(&self, header: &Header) -> bool {
        self.may_be_named(header.kid.as_deref()) && self.validation.algorithms.contains(&header.alg)
    }

    /// Whether a token with this key id may use the key. The id may also be [in its stored form](kept_key_id).
    fn may_be_named(&self, named: Option<&str>) -> bool {
        match (self.id.as_deref(), named) {
            (Some(id), Some(named)) => kept_key_id(id) == kept_key_id(named),
            _ => true,
        }
    }

    fn thumbprint(&self, algorithm: Algorithm) -> Option<Thumbprint> {
        let all = self.validation.algorithms.iter().zip(&self.thumbprints);
        all.filter(|(own, _)| **own == algorithm).map(|(_, thumbprint)| *thumbprint).next()
    }
}

/// The algorithms that a public key can be used for, the most common one first.
fn algorithms_of(key: &DecodingKey) -> &'static [Algorithm] {
    match (key.family(), key.kind()) {
        (AlgorithmFamily::Rsa, DecodingKeyKind::RsaModulusExponent { n, .. }) if RSA_BITS.contains(&bits(n)) => &[
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        (AlgorithmFamily::Ec, DecodingKeyKind::SecretOrDer(key)) if parses(&ECDSA_P256_SHA256_FIXED, key) => {
            &[Algorithm::ES256]
        }
        (AlgorithmFamily::Ec, DecodingKeyKind::SecretOrDer(key)) if parses(&ECDSA_P384_SHA384_FIXED, key) => {
            &[Algorithm::ES384]
        }
        (AlgorithmFamily::Ed, DecodingKeyKind::SecretOrDer(key)) if parses(&ED25519, key) => &[Algorithm::EdDSA],
        _ => &[],
    }
}

fn parses(algorithm: &'static dyn VerificationAlgorithm, key: &[u8]) -> bool {
    ParsedPublicKey::new(algorithm, key).is_ok()
}

fn bits(modulus: &[u8]) -> usize {
    let digits = modulus.iter().position(|byte| *byte != 0).and_then(|first| modulus.get(first..)).unwrap_or_default();
    digits.first().map_or(0, |first| digits.len() * 8 - first.leading_zeros() as usize)
}

fn read_file(file: &PublicKeyFile) -> Result<Vec<Key>, KeyError> {
    let path = || file.path.clone();
    let unreadable = |error: io::Error| {
        let problem = nearest_path::describe(&file.path, &error);
        KeyError::Unreadable { file: path(), problem }
    };
    let size = std::fs::metadata(&file.path).map_err(unreadable)?.len();
    if size > MAX_KEY_FILE_BYTES {
        let problem = format!("it has {size} bytes, more than any file of keys");
        return Err(KeyError::Unreadable { file: path(), problem });
    }
    let text = std::fs::read_to_string(&file.path).map_err(unreadable)?;
    if text.contains("PRIVATE KEY-----") {
        return Err(KeyError::Private { file: path() });
    }
    let mut keys = Vec::new();
    for block in SubjectPublicKeyInfoDer::pem_slice_iter(text.as_bytes()) {
        let block = block.map_err(|error| KeyError::Unreadable { file: path(), problem: error.to_string() })?;
        let unfit = |problem: String| KeyError::Unfit { file: path(), problem };
        let key = of_info(&block)
            .ok_or_else(|| unfit("a key that is neither RSA of 2048 to 8192 bits, P-256, P-384 nor Ed25519".into()))?;
        let able = algorithms_of(&key);
        let algorithm = file.algorithm.or(able.first().copied()).filter(|algorithm| able.contains(algorithm));
        let algorithm = algorithm.ok_or_else(|| {
            let wanted = file.algorithm.map(|algorithm| format!(" for {algorithm:?}")).unwrap_or_default();
            unfit(format!("a key that can't be used{wanted}"))
        })?;
        keys.push(Key::new(None, key, slice::from_ref(&algorithm)));
    }
    if keys.is_empty() { Err(KeyError::Empty { file: path() }) } else { Ok(keys) }
}

/// A public key in the form of RFC 5280, whatever its kind.
fn of_info(info: &[u8]) -> Option<DecodingKey> {
    if let Ok(key) = aws_lc_rs::rsa::PublicKey::from_der(info) {
        let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(&key);
        return Some(DecodingKey::from_rsa_raw_components(&n, &e)).filter(|key| !algorithms_of(key).is_empty());
    }
    [DecodingKey::from_ec_der(info), DecodingKey::from_ed_der(info)]
        .into_iter()
        .find(|key| !algorithms_of(key).is_empty())
}

/// Reads a key of a set, if it can verify tokens.
fn of_jwk(json: &str) -> Option<Key> {
    let jwk: Jwk = serde_json::from_str(json).ok()?;
    let common = &jwk.common;
    let is_for_signatures = common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    // A secret that everybody can fetch is not a secret.
    let is_public = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => true,
        AlgorithmParameters::EllipticCurve(key) => matches!(key.curve, EllipticCurve::P256 | EllipticCurve::P384),
        AlgorithmParameters::OctetKeyPair(key) => key.curve == EllipticCurve::Ed25519,
        _ => false,
    };
    if !is_for_signatures || !is_public {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    let able = algorithms_of(&key);
    let algorithm = match common.key_algorithm {
        Some(named) => Algorithm::try_from(named).ok().filter(|algorithm| able.contains(algorithm))?,
        None => *able.first()?,
    };
    let id = common.key_id.as_deref().map(Box::from);
    Some(Key::new(id, key, slice::from_ref(&algorithm)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
        RsaKeyPair,
    };
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use jsonwebtoken::{EncodingKey, encode};
    use serde_json::{Value, json};

    use super::super::{AuthError, ClaimRules, TokenVerifier};
    use super::*;

    /// The key pair of an issuer.
    struct Pair {
        algorithm: Algorithm,
        private: EncodingKey,
        public: Vec<u8>,
    }

    impl Pair {
        fn new(algorithm: Algorithm) -> Self {
            let (private, public) = match algorithm.family() {
                AlgorithmFamily::Ed => {
                    let pair = Ed25519KeyPair::generate().expect("random numbers");
                    (EncodingKey::from_ed_der(&private(&pair)), public(pair.public_key()))
                }
                AlgorithmFamily::Ec => {
                    let curve = match algorithm {
                        Algorithm::ES256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
                        _ => &ECDSA_P384_SHA384_FIXED_SIGNING,
                    };
                    let pair = EcdsaKeyPair::generate(curve).expect("random numbers");
                    let private = pair.to_pkcs8v1().expect("it has a form");
                    (EncodingKey::from_ec_der(private.as_ref()), public(pair.public_key()))
                }
                _ => {
                    let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("random numbers");
                    // PKCS #8 has 26 bytes before the PKCS #1 key, which the library expects.
                    (EncodingKey::from_rsa_der(&private(&pair)[26..]), public(pair.public_key()))
                }
            };
            Self { algorithm, private, public }
        }

        fn pem(&self) -> String {
            let text = STANDARD.encode(&self.public);
            let lines: Vec<&str> =
                (0..text.len()).step_by(64).filter_map(|at| text.get(at..text.len().min(at + 64))).collect();
            format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
        }

        fn jwk(&self, more: &[(&str, Value)]) -> Value {
            let jwk = Jwk::from_encoding_key(&self.private, self.algorithm).expect("it has a public key");
            let mut jwk = serde_json::to_value(jwk).expect("it is JSON");
            for (name, value) in more {
                jwk[*name] = value.clone();
            }
            jwk
        }

        fn token(&self, id: Option<&str>) -> String {
            self.token_by(self.algorithm, id)
        }

        fn token_by(&self, algorithm: Algorithm, id: Option<&str>) -> String {
            let mut header = Header::new(algorithm);
            header.kid = id.map(str::to_owned);
            encode(&header, &json!({"sub": "u"}), &self.private).expect("it signs")
        }
    }

    fn private(pair: &impl AsDer<Pkcs8V1Der<'static>>) -> Vec<u8> {
        pair.as_der().expect("it has a form").as_ref().to_vec()
    }

    fn public(key: &impl AsDer<PublicKeyX509Der<'static>>) -> Vec<u8> {
        key.as_der().expect("it has a form").as_ref().to_vec()
    }

    fn set(keys: &[Value]) -> Result<Keys, &'static str> {
        Keys::of_set(json!({"keys": keys}).to_string().as_bytes())
    }

    fn is_good(keys: Keys, token: &str) -> bool {
        match TokenVerifier::new(keys, ClaimRules::default()).verify(token) {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error, AuthError::Invalid);
                false
            }
        }
    }

    /// Loads files with these texts, each with the algorithm of the settings before it.
    fn load(files: &[(Option<Algorithm>, String)]) -> Result<Keys, KeyError> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |(number, (algorithm, text)): (usize, &(Option<Algorithm>, String))| {
            let path = folder.path().join(format!("{number}.pem"));
            std::fs::write(&path, text).expect("a file");
            PublicKeyFile { path, algorithm: *algorithm }
        };
        Keys::load(&[], &files.iter().enumerate().map(file).collect::<Vec<_>>())
    }

    const ALGORITHMS: [Algorithm; 5] =
        [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA];

    #[test]
    fn each_kind_of_key_verifies_what_it_has_signed() {
        let pairs = ALGORITHMS.map(Pair::new);
        let strangers = ALGORITHMS.map(Pair::new);
        let files: Vec<_> = (pairs.iter())
            .map(|pair| (Some(pair.algorithm).filter(|algorithm| *algorithm == Algorithm::PS256), pair.pem()))
            .collect();
        for (pair, stranger) in pairs.iter().zip(&strangers) {
            let (algorithm, own) = (pair.algorithm, |id| pair.token(id));
            assert!(is_good(load(&files).expect("good files"), &own(None)), "{algorithm:?}");
            assert!(is_good(load(&files).expect("good files"), &own(Some("any"))), "{algorithm:?}");
            assert!(!is_good(load(&files).expect("good files"), &stranger.token(None)), "{algorithm:?}");
            let jwks = || set(&[pair.jwk(&[("kid", "k".into())])]).expect("a good set");
            assert!(is_good(jwks(), &own(Some("k"))), "{algorithm:?}");
            assert!(is_good(jwks(), &own(None)), "{algorithm:?}");
            assert!(!is_good(jwks(), &own(Some("K"))), "{algorithm:?}");
            assert!(!is_good(jwks(), &stranger.token(Some("k"))), "{algorithm:?}");
        }
        // All in one file.
        let together = pairs.iter().map(Pair::pem).collect::<Vec<_>>().join("some text between\n");
        assert_eq!(load(&[(None, together)]).expect("a good file").len(), ALGORITHMS.len());
    }

    /// Whether an identity that `before` has verified is accepted with `now`.
    fn stays(before: Keys, now: Keys, token: &str) -> bool {
        let identity = TokenVerifier::new(before, ClaimRules::default()).verify(token).expect("a good token");
        TokenVerifier::new(now, ClaimRules::default()).recheck(&identity).is_ok()
    }

    #[test]
    fn a_key_is_the_same_wherever_it_comes_from() {
        for algorithm in ALGORITHMS {
            let (pair, stranger) = (Pair::new(algorithm), Pair::new(algorithm));
            let file = |pair: &Pair| load(&[(Some(algorithm), pair.pem())]).expect("a good file");
            let named = |pair: &Pair, id: &str| {
                let alg = format!("{algorithm:?}");
                set(&[pair.jwk(&[("kid", id.into()), ("alg", alg.into())])]).expect("a good set")
            };
            let token = pair.token(Some("k"));
            assert!(stays(file(&pair), file(&pair), &token), "{algorithm:?}");
            assert!(stays(file(&pair), named(&pair, "k"), &token), "{algorithm:?}");
            assert!(stays(named(&pair, "k"), file(&pair), &token), "{algorithm:?}");
            assert!(stays(named(&pair, "k"), named(&pair, "k"), &token), "{algorithm:?}");
            // In the same way as the token: a token that names another key is refused.
            assert!(!stays(named(&pair, "k"), named(&pair, "l"), &token), "{algorithm:?}");
            assert!(stays(named(&pair, "k"), named(&pair, "l"), &pair.token(None)), "{algorithm:?}");
            for other in [file(&stranger), named(&stranger, "k"), Keys::default()] {
                assert!(!stays(named(&pair, "k"), other, &token), "{algorithm:?}");
            }
        }
        let pair = Pair::new(Algorithm::RS256);
        let [bound, other] =
            [Algorithm::RS256, Algorithm::PS256].map(|algorithm| load(&[(Some(algorithm), pair.pem())]));
        assert!(!stays(bound.expect("good"), other.expect("good"), &pair.token(None)), "for another algorithm");
    }

    #[test]
    fn a_public_key_is_no_secret() {
        for algorithm in ALGORITHMS {
            let pair = Pair::new(algorithm);
            let (pem, jwk) = (pair.pem(), pair.jwk(&[]));
            let mut secrets = vec![pem.clone().into_bytes(), pem.trim().as_bytes().to_vec(), pair.public.clone()];
            for part in ["n", "x", "y"] {
                secrets.extend(jwk[part].as_str().map(|text| text.as_bytes().to_vec()));
            }
            for secret in secrets {
                for hmac in AlgorithmFamily::Hmac.algorithms() {
                    for id in [None, Some("k")] {
                        let mut header = Header::new(*hmac);
                        header.kid = id.map(str::to_owned);
                        let forged = encode(&header, &json!({"sub": "admin"}), &EncodingKey::from_secret(&secret));
                        let forged = forged.expect("it signs");
                        let keys = load(&[(None, pem.clone())]).expect("a good file");
                        assert!(!is_good(keys, &forged), "{algorithm:?} as {hmac:?}");
                        assert!(!is_good(set(&[pair.jwk(&[("kid", "k".into())])]).expect("a good set"), &forged));
                    }
                }
            }
        }
    }

    #[test]
    fn a_key_has_one_algorithm() {
        let pair = Pair::new(Algorithm::RS256);
        for used in [Algorithm::RS256, Algorithm::RS512, Algorithm::PS256] {
            for bound in [Algorithm::RS256, Algorithm::RS512, Algorithm::PS256] {
                let token = pair.token_by(used, None);
                let from_file = load(&[(Some(bound), pair.pem())]).expect("a good file");
                assert_eq!(is_good(from_file, &token), used == bound, "{used:?} for {bound:?}");
                let name = format!("{bound:?}");
                let from_set = set(&[pair.jwk(&[("alg", name.into())])]).expect("a good set");
                assert_eq!(is_good(from_set, &token), used == bound, "{used:?} for {bound:?}");
            }
        }
    }

    #[test]
    fn what_is_of_no_use_in_a_set_is_passed_over() {
        let (good, other) = (Pair::new(Algorithm::EdDSA), Pair::new(Algorithm::ES256));
        let useless = [
            json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "secret"}),
            other.jwk(&[("use", "enc".into())]),
            other.jwk(&[("key_ops", json!(["encrypt"]))]),
            other.jwk(&[("alg", "RS256".into())]),
            other.jwk(&[("alg", "ECDH-ES".into())]),
            other.jwk(&[("crv", "secp256k1".into())]),
            other.jwk(&[("x", "AAAA".into())]),
            other.jwk(&[("kid", 5.into())]),
            json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"}),
            json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "x"}),
            json!({}),
            json!("key"),
        ];
        let mut all = useless.to_vec();
        all.push(good.jwk(&[("kid", "good".into())]));
        let keys = set(&all).expect("one is good");
        assert_eq!((keys.len(), keys.has_id("good"), keys.has_id("secret")), (1, true, false), "{keys:?}");
        let forged = encode(&Header::default(), &json!({"sub": "u"}), &EncodingKey::from_secret(b"secret"));
        assert!(!is_good(keys, &forged.expect("it signs")), "anybody can fetch that secret");
        for bad in [useless.to_vec(), Vec::new(), vec![good.jwk(&[]); MAX_JWKS_KEYS + 1]] {
            assert!(set(&bad).is_err());
        }
        for bad in ["", "[]", r#"{"keys":{}}"#, "<html>"] {
            assert!(Keys::of_set(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    /// RFC 8037, appendix A: a token and its key that were not made by this code. Its payload is not a set of claims.
    #[test]
    fn a_published_key_verifies_its_signature() {
        let key = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        let key = of_jwk(&key.to_string()).expect("a good key");
        let (message, signature) = (
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        );
        let verified = jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.decoding, Algorithm::EdDSA);
        assert!(verified.expect("it is EdDSA"));
    }

    #[test]
    fn files_that_are_no_good_are_named_with_the_reason() {
        const SMALL: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDUAPsbcTBXD1YDX5BNS0aMR1jy
uLodlgUwMsdSgg4uPwennZptM9dE7xcaKmws/b1mzAOkMOh+SKeyEcxCubnearY7
j86TlPArEvNuCQfYudrUCS+4CLkt2zclj52D8s3WAogIIiOoYNPbQlPNvPGDyzN9
zq16eIQ/yNtpmtUsPwIDAQAB
-----END PUBLIC KEY-----
";
        let private = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let curve = Pair::new(Algorithm::ES256).pem();
        for (algorithm, text, part) in [
            (None, SMALL, "neither RSA of 2048 to 8192 bits"),
            (None, private, "holds a private key"),
            (None, &format!("{curve}{private}"), "holds a private key"),
            (None, "", "holds no public key"),
            (None, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds no public key"),
            (None, "-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----\n", "can't read"),
            (None, "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "neither RSA"),
            (Some(Algorithm::RS256), &curve, "can't be used for RS256"),
            (None, &"x".repeat(100_000), "more than any file of keys"),
        ] {
            let error = load(&[(algorithm, text.to_owned())]).expect_err(part).to_string();
            assert!(error.contains(part) && error.contains("0.pem"), "{part}: {error}");
        }
        let missing = PublicKeyFile { path: Path::new("/nowhere/key.pem").to_owned(), algorithm: None };
        assert!(Keys::load(&[], &[missing]).expect_err("it is not there").to_string().contains("/nowhere/key.pem"));
    }
}
