//! Handshakes in memory, with honest nodes and with impostors.

use rustls::client::ResolvesClientCert;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, Connection, HandshakeKind, ServerConfig, ServerConnection};

use super::*;

fn node() -> Identity {
    Identity::generate().unwrap()
}

fn honest_client(identity: &Identity, expected: Option<PeerId>) -> ClientConfig {
    client_config(identity, expected, Arc::default()).unwrap()
}

/// Runs a handshake to its end; who each side takes the other for, or what the side that refused says.
fn handshake(client: ClientConfig, server: ServerConfig) -> Result<(PeerId, PeerId), Error> {
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let mut client = Connection::from(ClientConnection::new(Arc::new(client), name).unwrap());
    let mut server = Connection::from(ServerConnection::new(Arc::new(server)).unwrap());
    while client.wants_write() || server.wants_write() {
        carry(&mut client, &mut server)?;
        carry(&mut server, &mut client)?;
    }
    assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
    assert!(!client.is_handshaking() && !server.is_handshaking());
    let peer = |side: &Connection| public_key(&side.peer_certificates().unwrap()[0]).unwrap().peer_id();
    Ok((peer(&client), peer(&server)))
}

/// Takes everything `from` has to say to `to`.
fn carry(from: &mut Connection, to: &mut Connection) -> Result<(), Error> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

/// Presents one certificate and signs with whatever key it has.
#[derive(Debug)]
struct Impostor(Arc<CertifiedKey>);

impl Impostor {
    fn new(certificate: &CertificateDer<'static>, key: PrivateKeyDer<'static>) -> Arc<Self> {
        let key = provider::sign::any_supported_type(&key).unwrap();
        Arc::new(Self(Arc::new(CertifiedKey::new(vec![certificate.clone()], key))))
    }
}

impl ResolvesServerCert for Impostor {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl ResolvesClientCert for Impostor {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[test]
fn both_sides_learn_who_the_other_is() {
    let (a, b) = (node(), node());
    let seen = Arc::default();
    let client = client_config(&a, Some(b.peer_id()), Arc::clone(&seen)).unwrap();
    assert_eq!(handshake(client, server_config(&b).unwrap()), Ok((b.peer_id(), a.peer_id())));
    assert_eq!(seen.get(), Some(&b.peer_id()));
    let anyone = honest_client(&a, None);
    assert_eq!(handshake(anyone, server_config(&b).unwrap()), Ok((b.peer_id(), a.peer_id())));
}

#[test]
fn another_peer_than_expected_is_refused_and_named() {
    let (a, b, c) = (node(), node(), node());
    let seen = Arc::default();
    let client = client_config(&a, Some(c.peer_id()), Arc::clone(&seen)).unwrap();
    let error = handshake(client, server_config(&b).unwrap()).unwrap_err();
    assert_eq!(error, Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
    assert_eq!(seen.get(), Some(&b.peer_id()));
}

#[test]
fn a_server_with_a_stolen_certificate_is_refused() {
    let (a, victim, thief) = (node(), node(), node());
    let mut server = server_config(&thief).unwrap();
    server.cert_resolver = Impostor::new(victim.certificate(), thief.private_key().into());
    let error = handshake(honest_client(&a, Some(victim.peer_id())), server).unwrap_err();
    assert_eq!(error, Error::InvalidCertificate(CertificateError::BadSignature));
}

#[test]
fn a_client_with_a_stolen_certificate_is_refused() {
    let (victim, thief, b) = (node(), node(), node());
    let mut client = honest_client(&thief, Some(b.peer_id()));
    client.client_auth_cert_resolver = Impostor::new(victim.certificate(), thief.private_key().into());
    let error = handshake(client, server_config(&b).unwrap()).unwrap_err();
    assert_eq!(error, Error::InvalidCertificate(CertificateError::BadSignature));
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let (a, b) = (node(), node());
    let verifier = Verifier { expected: None, seen: Arc::default(), algorithms: algorithms() };
    let mut client = ClientConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    client.alpn_protocols = honest_client(&a, None).alpn_protocols;
    assert_eq!(handshake(client, server_config(&b).unwrap()), Err(Error::NoCertificatesPresented));
}

#[test]
fn a_key_of_another_algorithm_is_refused() {
    let (a, b) = (node(), node());
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap().der().clone();
    let impostor = || Impostor::new(&certificate, PrivatePkcs8KeyDer::from(key.serialize_der()).into());

    let mut server = server_config(&b).unwrap();
    server.cert_resolver = impostor();
    handshake(honest_client(&a, None), server).unwrap_err();

    let mut client = honest_client(&a, None);
    client.client_auth_cert_resolver = impostor();
    handshake(client, server_config(&b).unwrap()).unwrap_err();
}

#[test]
fn bytes_that_are_no_certificate_are_refused() {
    let (a, b) = (node(), node());
    for junk in [&b""[..], b"\x30\x03\x02\x01\x01", &[0xff; 5000]] {
        let mut server = server_config(&b).unwrap();
        server.cert_resolver = Impostor::new(&junk.to_vec().into(), b.private_key().into());
        handshake(honest_client(&a, None), server).unwrap_err();
    }
}

#[test]
fn another_protocol_is_refused() {
    let (a, b) = (node(), node());
    let mut client = honest_client(&a, None);
    client.alpn_protocols = vec![b"twinshare/2".to_vec()];
    assert_eq!(handshake(client, server_config(&b).unwrap()), Err(Error::NoApplicationProtocol));
}

#[test]
fn a_second_handshake_is_as_full_as_the_first() {
    let (a, b) = (node(), node());
    let (client, server) = (honest_client(&a, None), server_config(&b).unwrap());
    for _ in 0..2 {
        // The clones share whatever their originals remember of sessions; `handshake` insists on a full one.
        handshake(client.clone(), server.clone()).unwrap();
    }
    assert_eq!((server.send_tls13_tickets, server.max_early_data_size), (0, 0));
}
