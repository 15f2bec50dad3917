//! Who a node is: one Ed25519 key, and the peer id that is its hash.
//!
//! The key is made on first start and never leaves its file, which only its owner may read. Everything a node proves,
//! it proves with this key: TLS handshakes through its [certificate](Identity::certificate), beacons and the like
//! through [`Identity::sign`], whose context keeps a signature made for one purpose from being valid for another.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use data_encoding::{BASE32_NOPAD, Encoding};
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

mod file;

pub use file::IdentityError;

/// Characters of a peer id as text: 256 bits in base32.
pub const PEER_ID_CHARS: usize = 52;

/// Characters of [`PeerId::short`].
pub const SHORT_CHARS: usize = 8;

/// The DER of an Ed25519 SubjectPublicKeyInfo before its 32 key bytes (RFC 8410 section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Starts every message that [`Identity::sign`] signs. TLS 1.3 signs 64 spaces and a text of its own (RFC 8446
/// section 4.4.3), so neither is ever valid as the other.
const SIGNATURE_PREFIX: &[u8] = b"twinshare signature 1\0";

/// The name of a node: BLAKE3 of its public key as SubjectPublicKeyInfo, so that the algorithm is part of the name.
///
/// As text, lower-case base32 without padding (52 characters); so too in serde's human-readable formats, and as 32
/// bytes in the others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub [u8; 32]);

impl PeerId {
    /// The first eight characters, for people. Not unique: never used to find a peer without saying so.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(SHORT_CHARS);
        text
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a peer id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a peer id: it has 52 characters, letters and the digits 2 to 7")]
pub struct NotAPeerId;

impl FromStr for PeerId {
    type Err = NotAPeerId;

    /// Reads either case, since people retype ids.
    fn from_str(text: &str) -> Result<Self, NotAPeerId> {
        if text.len() != PEER_ID_CHARS || !text.is_ascii() {
            return Err(NotAPeerId);
        }
        let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).map_err(|_| NotAPeerId)?;
        bytes.try_into().map(Self).map_err(|_| NotAPeerId)
    }
}

impl Serialize for PeerId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_str(self),
            false => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for PeerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.is_human_readable() {
            true => String::deserialize(deserializer)?.parse().map_err(de::Error::custom),
            false => Deserialize::deserialize(deserializer).map(Self),
        }
    }
}

/// A node's public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PublicKey(pub [u8; 32]);

/// A signature does not belong to its key, context and message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature is not valid")]
pub struct BadSignature;

impl PublicKey {
    /// The id of the node that holds the key.
    pub fn peer_id(&self) -> PeerId {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&SPKI_PREFIX);
        hasher.update(&self.0);
        PeerId(hasher.finalize().into())
    }

    /// The key in a DER SubjectPublicKeyInfo; `None` for every other algorithm or form.
    pub fn from_spki(der: &[u8]) -> Option<Self> {
        let key = der.strip_prefix(&SPKI_PREFIX)?;
        key.try_into().ok().map(Self)
    }

    /// Checks that the holder of this key signed `message` in `context`.
    pub fn verify(&self, context: &str, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(&signed_bytes(context, message), signature)
            .map_err(|_| BadSignature)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", HEX.encode(&self.0))
    }
}

const HEX: Encoding = data_encoding::HEXLOWER;

/// What is signed: the prefix, the context with its length, the message. The length keeps `("ab", "c")` apart from
/// `("a", "bc")`.
fn signed_bytes(context: &str, message: &[u8]) -> Vec<u8> {
    let length = (context.len() as u64).to_le_bytes();
    [SIGNATURE_PREFIX, &length, context.as_bytes(), message].concat()
}

/// This node's key. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Identity {
    shared: Arc<Shared>,
}

struct Shared {
    /// The private key as PKCS#8 DER.
    pkcs8: Vec<u8>,
    key: Ed25519KeyPair,
    public: PublicKey,
    peer: PeerId,
    certificate: CertificateDer<'static>,
}

impl Identity {
    /// Reads the key in the file at `path`, or makes one and writes it there.
    ///
    /// The file is PKCS#8 in PEM, mode 0600; one that others may read, or that belongs to somebody else, is refused.
    /// Of two processes that start at once, one makes the key and both use it. The directory must exist.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        file::load_or_create(path)
    }

    /// A new identity in memory alone; for tests, and for whoever needs to be nobody in particular.
    pub fn generate() -> Result<Self, IdentityError> {
        let pkcs8 =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| IdentityError::NoRandom)?;
        Self::from_pkcs8(pkcs8.as_ref()).ok_or(IdentityError::NoRandom)
    }

    /// The identity of a private key in PKCS#8 DER; `None` when it is not an Ed25519 key.
    fn from_pkcs8(pkcs8: &[u8]) -> Option<Self> {
        let key = Ed25519KeyPair::from_pkcs8(pkcs8).ok()?;
        let public = PublicKey(key.public_key().as_ref().try_into().ok()?);
        let certificate = certificate(pkcs8).ok()?;
        let shared = Shared { pkcs8: pkcs8.to_vec(), key, public, peer: public.peer_id(), certificate };
        Some(Self { shared: Arc::new(shared) })
    }

    /// The id by which others know this node.
    pub fn peer_id(&self) -> PeerId {
        self.shared.peer
    }

    /// The public key, which whoever checks a signature needs.
    pub fn public_key(&self) -> PublicKey {
        self.shared.public
    }

    /// The self-signed certificate that carries the public key in a TLS handshake.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.shared.certificate
    }

    /// Signs `message` for one purpose: `context` is a text that no other kind of message is signed with.
    pub fn sign(&self, context: &str, message: &[u8]) -> [u8; 64] {
        let signature = self.shared.key.sign(&signed_bytes(context, message));
        signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes (RFC 8032 section 5.1.6)")
    }

    /// A secret for one purpose that is the same at every start, and tells nothing about the key.
    pub(crate) fn derive_secret(&self, context: &str) -> [u8; 32] {
        blake3::derive_key(context, &self.shared.pkcs8)
    }

    /// The private key as rustls takes it.
    pub(crate) fn private_key(&self) -> PrivatePkcs8KeyDer<'static> {
        self.shared.pkcs8.clone().into()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("peer", &self.peer_id()).finish_non_exhaustive()
    }
}

/// A self-signed certificate without names or an end: nobody looks at anything in it but the key.
fn certificate(pkcs8: &[u8]) -> Result<CertificateDer<'static>, rcgen::Error> {
    let der = PrivatePkcs8KeyDer::from(pkcs8);
    let key = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ED25519)?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params.self_signed(&key)?.der().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_id_is_read_back_from_its_text() {
        let id = Identity::generate().unwrap().peer_id();
        let text = id.to_string();
        assert_eq!(text.len(), PEER_ID_CHARS);
        assert!(text.starts_with(&id.short()) && id.short().len() == SHORT_CHARS);
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(text.to_uppercase().parse(), Ok(id));
        assert_eq!(text[1..].parse::<PeerId>(), Err(NotAPeerId));
        assert_eq!("é".repeat(26).parse::<PeerId>(), Err(NotAPeerId));
        assert_eq!("1".repeat(52).parse::<PeerId>(), Err(NotAPeerId));
    }

    #[test]
    fn a_peer_id_has_one_text_only() {
        // 52 characters hold 260 bits; the last four must be zero, or two texts would name one peer.
        let text = format!("{}b", "a".repeat(51));
        assert_eq!(text.parse::<PeerId>(), Err(NotAPeerId));
    }

    #[test]
    fn the_peer_id_is_the_hash_of_the_certificates_key() {
        let identity = Identity::generate().unwrap();
        let parsed = rustls::server::ParsedCertificate::try_from(identity.certificate()).unwrap();
        let spki = parsed.subject_public_key_info();
        assert_eq!(PublicKey::from_spki(&spki), Some(identity.public_key()));
        assert_eq!(identity.peer_id().0, *blake3::hash(&spki).as_bytes());
    }

    #[test]
    fn a_signature_is_valid_for_its_key_context_and_message_alone() {
        let (ours, other) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let signature = ours.sign("ab", b"c");
        let verify =
            |key: &Identity, context, message: &[u8]| key.public_key().verify(context, message, &signature);
        assert_eq!(verify(&ours, "ab", b"c"), Ok(()));
        assert_eq!(verify(&ours, "a", b"bc"), Err(BadSignature));
        assert_eq!(verify(&ours, "ab", b"d"), Err(BadSignature));
        assert_eq!(verify(&other, "ab", b"c"), Err(BadSignature));
        assert_eq!(ours.public_key().verify("ab", b"c", &signature[1..]), Err(BadSignature));
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let identity = Identity::generate().unwrap();
        assert_eq!(format!("{identity:?}"), format!("Identity {{ peer: {}, .. }}", identity.peer_id()));
    }
}
