//! The least that could do the work: quinn, BLAKE3 at both ends, pread and pwrite.
//!
//! Four streams, each with a quarter of the file; a run is 256 KiB with its digest in front. The same windows, datagram
//! size, cipher and congestion control as twinshare's, without which it would be slower.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Endpoint, EndpointConfig, MtuDiscoveryConfig, TokioRuntime, TransportConfig, VarInt};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use twinshare_benches::measure::{Cost, Stopwatch};

use crate::{PARALLEL, Plan, RUN_BYTES};

const DATAGRAM_BYTES_MAX: u16 = 6500;

/// Moves the file once.
pub(crate) async fn transfer(plan: &Plan) -> Result<Cost> {
    let (server, client) = endpoints()?;
    let address = server.local_addr()?;
    let source = Arc::new(File::open(&plan.source)?);
    let target = Arc::new(File::create(&plan.target)?);
    let part = plan.bytes / PARALLEL as u64;
    tokio::spawn(serve(server, source, part));
    let connection = client.connect(address, "bare.invalid")?.await?;
    let stopwatch = Stopwatch::start();
    let mut parts = tokio::task::JoinSet::new();
    for place in 0..PARALLEL as u64 {
        parts.spawn(receive(connection.clone(), Arc::clone(&target), place, part));
    }
    while let Some(received) = parts.join_next().await {
        received??;
    }
    let cost = stopwatch.stop(plan.bytes);
    connection.close(VarInt::from_u32(0), b"");
    Ok(cost)
}

async fn serve(endpoint: Endpoint, source: Arc<File>, part: u64) -> Result<()> {
    let connection = endpoint.accept().await.context("the endpoint was closed")?.await?;
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        let source = Arc::clone(&source);
        tokio::spawn(async move {
            let mut place = [0; 8];
            receive.read_exact(&mut place).await?;
            let start = u64::from_le_bytes(place) * part;
            for offset in (start..start + part).step_by(RUN_BYTES) {
                let length = RUN_BYTES.min((start + part - offset) as usize);
                let source = Arc::clone(&source);
                let read = tokio::task::spawn_blocking(move || read_and_hash(&source, offset, length));
                let (digest, bytes) = read.await??;
                send.write_all_chunks(&mut [digest, bytes]).await?;
            }
            send.finish()?;
            anyhow::Ok(())
        });
    }
    Ok(())
}

fn read_and_hash(source: &File, offset: u64, length: usize) -> Result<(Bytes, Bytes)> {
    let mut bytes = vec![0; length];
    source.read_exact_at(&mut bytes, offset)?;
    let digest = *blake3::hash(&bytes).as_bytes();
    Ok((Bytes::copy_from_slice(&digest), bytes.into()))
}

async fn receive(connection: quinn::Connection, target: Arc<File>, place: u64, part: u64) -> Result<()> {
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(&place.to_le_bytes()).await?;
    send.finish()?;
    let start = place * part;
    for offset in (start..start + part).step_by(RUN_BYTES) {
        let length = RUN_BYTES.min((start + part - offset) as usize);
        let mut digest = [0; 32];
        receive.read_exact(&mut digest).await?;
        let mut bytes = vec![0; length];
        receive.read_exact(&mut bytes).await?;
        let target = Arc::clone(&target);
        tokio::task::spawn_blocking(move || {
            ensure!(*blake3::hash(&bytes).as_bytes() == digest, "a run does not have its digest");
            Ok(target.write_all_at(&bytes, offset)?)
        })
        .await??;
    }
    Ok(())
}

fn endpoints() -> Result<(Endpoint, Endpoint)> {
    let signed = rcgen::generate_simple_self_signed(["bare.invalid".to_owned()])?;
    let certificate: CertificateDer<'static> = signed.cert.der().clone();
    let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let transport = transport();

    let server = rustls::ServerConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server)?));
    server.transport_config(Arc::clone(&transport));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate)?;
    let client = rustls::ClientConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(client)?));
    client.transport_config(transport);

    let server = endpoint(Some(server))?;
    let mut connecting = endpoint(None)?;
    connecting.set_default_client_config(client);
    Ok((server, connecting))
}

fn endpoint(server: Option<quinn::ServerConfig>) -> Result<Endpoint> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    for set in [
        rustix::net::sockopt::set_socket_recv_buffer_size_force,
        rustix::net::sockopt::set_socket_send_buffer_size_force,
    ] {
        // As an ordinary user the system's limit holds, for twinshare's sockets too.
        let _ = set(&socket, 4 << 20);
    }
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(DATAGRAM_BYTES_MAX)?;
    Ok(Endpoint::new(config, server, socket, Arc::new(TokioRuntime))?)
}

fn crypto() -> Arc<rustls::crypto::CryptoProvider> {
    use rustls::crypto::ring as provider;
    let cipher_suites = vec![provider::cipher_suite::TLS13_AES_128_GCM_SHA256];
    Arc::new(rustls::crypto::CryptoProvider { cipher_suites, ..provider::default_provider() })
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(DATAGRAM_BYTES_MAX);
    transport
        .mtu_discovery_config(Some(mtu))
        .congestion_controller_factory(Arc::new(quinn::congestion::BbrConfig::default()))
        .stream_receive_window(VarInt::from_u32(8 << 20))
        .receive_window(VarInt::from_u32(64 << 20))
        .send_window(16 << 20);
    Arc::new(transport)
}
