//! The secret ids of sessions, sealed for messages between nodes. Redis and its operators see no secret: whoever has one can
//! take its session over.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// See the module.
#[derive(Debug)]
pub(crate) struct Secrets(Option<LessSafeKey>);

impl Secrets {
    /// With a key that all nodes share.
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self(UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new))
    }

    /// Seals a secret. The text is empty if that is not possible.
    pub(crate) fn seal(&self, secret: &str) -> String {
        let sealed = || {
            let mut nonce = [0; NONCE_LEN];
            getrandom::fill(&mut nonce).ok()?;
            let mut bytes = secret.as_bytes().to_vec();
            let key = self.0.as_ref()?;
            key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut bytes).ok()?;
            Some(URL_SAFE_NO_PAD.encode([&nonce[..], &bytes].concat()))
        };
        sealed().unwrap_or_default()
    }

    /// Opens a sealed secret. `None` if no node with this key has sealed it.
    pub(crate) fn open(&self, sealed: &str) -> Option<String> {
        let mut bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, secret) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let secret = self.0.as_ref()?.open_in_place(nonce, Aad::empty(), secret).ok()?;
        Some(std::str::from_utf8(secret).ok()?.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_with_the_key_opens_what_was_sealed() {
        let (ours, other) = (Secrets::new(&[1; 32]), Secrets::new(&[2; 32]));
        let sealed = ours.seal("secret");
        assert_ne!(sealed, ours.seal("secret"));
        assert_eq!(ours.open(&sealed).as_deref(), Some("secret"));
        assert_eq!(other.open(&sealed), None);
        for foreign in ["", "x", &sealed[1..], "AAAAAAAAAAAAAAAAAAAAAAAA"] {
            assert_eq!(ours.open(foreign), None, "{foreign}");
        }
    }
}
