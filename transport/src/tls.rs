//! TLS 1.3 in which both sides prove who they are.
//!
//! There is no authority: each node presents a certificate it signed itself, in which nothing is looked at but the
//! public key. The verifier hashes that key to a peer id, compares it with the one that was expected, if any, *and*
//! checks the handshake's signature with it. Either check alone would be worthless: a certificate is public, so
//! whoever presents it without signing proves nothing.
//!
//! Sessions are never resumed, and nothing is sent before the handshake is complete: a resumed session would rest on
//! a ticket instead of on the key, and early data can be replayed (RFC 8446 section 8).

use std::sync::{Arc, OnceLock};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring as provider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme,
};

use crate::identity::{Identity, PeerId, PublicKey};
use crate::protocol::ALPN;

/// What rustls wants for a server's name; it is neither sent nor compared with anything.
pub(crate) const SERVER_NAME: &str = "twinshare.invalid";

/// The client's side of one attempt to connect.
pub(crate) struct ClientTls {
    /// The configuration, for this attempt alone.
    pub(crate) config: Arc<QuicClientConfig>,
    /// Who presented a certificate, set before it is compared with who was expected. Unproven unless the handshake
    /// succeeds.
    pub(crate) seen: Arc<OnceLock<PeerId>>,
}

/// Prepares an attempt to connect as `identity` to `expected`, or to whoever answers.
pub(crate) fn client(identity: &Identity, expected: Option<PeerId>) -> Result<ClientTls, Error> {
    let seen = Arc::new(OnceLock::new());
    let config = QuicClientConfig::try_from(client_config(identity, expected, seen.clone())?);
    let config = config.map_err(|error| Error::General(error.to_string()))?;
    Ok(ClientTls { config: Arc::new(config), seen })
}

fn client_config(
    identity: &Identity,
    expected: Option<PeerId>,
    seen: Arc<OnceLock<PeerId>>,
) -> Result<rustls::ClientConfig, Error> {
    let verifier = Verifier { expected, seen, algorithms: algorithms() };
    let mut config = rustls::ClientConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(vec![identity.certificate().clone()], identity.private_key().into())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// The server's side: anyone who proves a key may connect. What they may do is asked of the service.
pub(crate) fn server(identity: &Identity) -> Result<Arc<QuicServerConfig>, Error> {
    let config = QuicServerConfig::try_from(server_config(identity)?);
    config.map(Arc::new).map_err(|error| Error::General(error.to_string()))
}

fn server_config(identity: &Identity) -> Result<rustls::ServerConfig, Error> {
    let verifier = Verifier { expected: None, seen: Arc::default(), algorithms: algorithms() };
    let mut config = rustls::ServerConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(vec![identity.certificate().clone()], identity.private_key().into())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Who is at the other end of a connection whose handshake is complete.
pub(crate) fn peer_of(connection: &quinn::Connection) -> Option<PeerId> {
    let identity = connection.peer_identity()?;
    let certificates = identity.downcast_ref::<Vec<CertificateDer<'static>>>()?;
    public_key(certificates.first()?).ok().map(|key| key.peer_id())
}

/// ring, with the cipher first that costs least where the processor has instructions for it (ChaCha20 halves the
/// throughput there), and the others for peers whose processor has none.
fn crypto() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
            provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..provider::default_provider()
    })
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider::default_provider().signature_verification_algorithms
}

fn public_key(certificate: &CertificateDer<'_>) -> Result<PublicKey, Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    let key = PublicKey::from_spki(&parsed.subject_public_key_info());
    key.ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))
}

/// Checks the other side's key and signature, for either side.
#[derive(Debug)]
struct Verifier {
    expected: Option<PeerId>,
    seen: Arc<OnceLock<PeerId>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn verify_key(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let found = public_key(certificate)?.peer_id();
        // The server's verifier sees many peers and compares with none; only the client's is asked who it saw.
        let _ = self.seen.set(found);
        match self.expected {
            Some(expected) if expected != found => {
                Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
            _ => Ok(()),
        }
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if signature.scheme != SignatureScheme::ED25519 {
            return Err(PeerIncompatible::NoSignatureSchemesInCommon.into());
        }
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

/// TLS 1.2 is not offered; a peer that speaks it all the same is refused.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(PeerIncompatible::Tls13RequiredForQuic.into())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify_key(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify_key(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[cfg(test)]
mod tests;
