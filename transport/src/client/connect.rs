//! Finding a peer at one of its addresses.

use std::net::SocketAddr;
use std::time::Duration;

use quinn::{ClientConfig, Connection};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{CallError, Client};
use crate::identity::PeerId;
use crate::server::canonical;
use crate::{codes, tls, tuning};

/// How long one attempt may take: a handshake of two round trips, with each of its packets lost once or twice.
const ATTEMPT_MAX: Duration = Duration::from_secs(4);

/// How long the first address has for itself before the next is tried too. On a LAN it has answered by then, and
/// nobody had to make a second handshake in vain.
const STAGGER: Duration = Duration::from_millis(40);

/// A connection to somebody who has proven who they are.
pub(super) struct Connected {
    pub(super) connection: Connection,
    pub(super) peer: PeerId,
    pub(super) address: SocketAddr,
}

/// The connection to whichever of `addresses` answers first; where none does, the error that says most.
pub(super) async fn first(
    client: &Client,
    addresses: &[SocketAddr],
    expected: Option<PeerId>,
) -> Result<Connected, CallError> {
    let mut attempts = JoinSet::new();
    for (place, address) in addresses.iter().take(Client::ADDRESSES_MAX).enumerate() {
        attempts.spawn(attempt(client.clone(), *address, expected, STAGGER * place as u32));
    }
    let mut why = CallError::Unreachable("no address is known".into());
    let mut weight = 0;
    while let Some(attempt) = attempts.join_next().await {
        let Ok(attempt) = attempt else { continue };
        match attempt {
            // The other attempts end with the set.
            Ok(connected) => return Ok(connected),
            Err(error) if tells(&error) > weight => (weight, why) = (tells(&error), error),
            Err(_) => {}
        }
    }
    Err(why)
}

async fn attempt(
    client: Client,
    address: SocketAddr,
    expected: Option<PeerId>,
    delay: Duration,
) -> Result<Connected, CallError> {
    sleep(delay).await;
    match timeout(ATTEMPT_MAX, handshake(&client, address, expected)).await {
        Ok(result) => result,
        Err(_) => Err(CallError::Unreachable(format!("{address} does not answer"))),
    }
}

async fn handshake(
    client: &Client,
    address: SocketAddr,
    expected: Option<PeerId>,
) -> Result<Connected, CallError> {
    let tls =
        tls::client(&client.identity, expected).map_err(|error| CallError::Invalid(error.to_string()))?;
    let mut config = ClientConfig::new(tls.config);
    config.transport_config(tuning::client_transport());
    let connecting = client.endpoint.connect_with(config, address, tls::SERVER_NAME);
    let connection = match connecting.map_err(|error| codes::cannot_connect(&error))?.await {
        Ok(connection) => connection,
        Err(error) => return Err(explain(&error, address, expected, tls.seen.get().copied())),
    };
    let peer = tls::peer_of(&connection).ok_or_else(|| CallError::Invalid("it presented no key".into()))?;
    Ok(Connected { address: canonical(connection.remote_address()), connection, peer })
}

fn explain(
    error: &quinn::ConnectionError,
    address: SocketAddr,
    expected: Option<PeerId>,
    seen: Option<PeerId>,
) -> CallError {
    match (expected, seen) {
        (Some(expected), Some(found)) if expected != found => CallError::OtherPeer { expected, found },
        _ => match codes::connection_lost(error) {
            CallError::Unreachable(why) => CallError::Unreachable(format!("{address}: {why}")),
            other => other,
        },
    }
}

/// Of several failures, the one is reported that says most about the peer.
fn tells(error: &CallError) -> u8 {
    match error {
        CallError::Unreachable(_) | CallError::Deadline(_) => 1,
        CallError::Invalid(_) => 2,
        CallError::OtherPeer { .. } => 3,
        CallError::Refused(_) => 4,
    }
}
