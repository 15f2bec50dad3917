//! `/peers` and `/remote-workspaces`: other nodes, and what they offer.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use twinshare_transport::client::CallError;
use twinshare_transport::protocol::Offer;
use utoipa::IntoParams;

use super::error::ApiError;
use super::extract::{Body, Query};
use super::may_end::problems;
use super::routes::Shared;
use super::wire::{AddPeer, List, Peer, PeerFailure, PeerRef, RemoteWorkspace, RemoteWorkspaces};
use crate::workspace::WorkspaceName;

/// Whether to look anew.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Look {
    /// Asks the network who is there, and waits a moment for the answers.
    #[serde(default)]
    ask: bool,
}

/// Peers that were found or are remembered; those online first, then by name.
#[utoipa::path(get, path = "/peers", tag = "peers", params(Look), responses(
    (status = 200, description = "All of them", body = List<Peer>),
))]
pub(super) async fn list(
    State(node): State<Shared>,
    Query(look): Query<Look>,
) -> Result<Json<List<Peer>>, ApiError> {
    if look.ask {
        node.ask_who_is_there().await;
    }
    let peers: Vec<Peer> = node.peers().all().await?.iter().map(|peer| peer.document()).collect();
    Ok(Json(peers.into()))
}

problems! {
    /// Of a request to remember a peer.
    NotAdded {
        422: "`invalid_address`, `unknown_host`, `own_address`",
        502: "`peer_unreachable`, `peer_protocol`",
    }
}

/// Greets the node at an address and remembers it.
#[utoipa::path(post, path = "/peers", tag = "peers", request_body = AddPeer,
    responses(
        (status = 201, description = "It answered, and is remembered", body = Peer),
        NotAdded,
    ),
)]
pub(super) async fn add(
    State(node): State<Shared>,
    Body(asked): Body<AddPeer>,
) -> Result<(StatusCode, Json<Peer>), ApiError> {
    let peer = node.peers().add(&asked.address).await?;
    Ok((StatusCode::CREATED, Json(peer.document())))
}

/// Which workspaces are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Those of this name only.
    name: Option<String>,
    /// Those of this peer only: its name, short id or id.
    peer: Option<String>,
}

problems! {
    /// Of a request for what peers offer.
    NoSuchPeer { 404: "`no_such_peer`" }
}

/// What peers offer to this node. Asks those that are online or were added by address, side by side; with `peer`,
/// that one. A peer that does not answer is reported and spoils nothing.
#[utoipa::path(get, path = "/remote-workspaces", tag = "peers", params(Wanted),
    responses(
        (status = 200, description = "What came back within some seconds", body = RemoteWorkspaces),
        NoSuchPeer,
    ),
)]
pub(super) async fn workspaces(
    State(node): State<Shared>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<RemoteWorkspaces>, ApiError> {
    let answers = node.peers().offered(wanted.peer.as_deref()).await?;
    let mut found = RemoteWorkspaces { items: Vec::new(), failures: Vec::new() };
    for (peer, catalogue) in answers {
        let peer = peer.reference();
        match catalogue {
            Ok(offers) => found.items.extend(offers.iter().filter_map(|offer| workspace(&peer, offer))),
            Err(error) => found.failures.push(failure(peer, error)),
        }
    }
    if let Some(name) = wanted.name {
        found.items.retain(|workspace| workspace.name == name);
    }
    found.items.sort_by(|a, b| (&a.name, &a.peer.name, &a.peer.id).cmp(&(&b.name, &b.peer.name, &b.peer.id)));
    Ok(Json(found))
}

/// An offer as this node shows it. One whose name no workspace can have could not be asked for, and is left out.
fn workspace(peer: &PeerRef, offer: &Offer) -> Option<RemoteWorkspace> {
    let name: WorkspaceName = offer.workspace.parse().ok()?;
    Some(RemoteWorkspace {
        name: name.to_string(),
        peer: peer.clone(),
        description: (!offer.summary.is_empty()).then(|| offer.summary.to_string()),
        entries: offer.size.map(|size| size.entries.into()),
        bytes: offer.size.map(|size| size.file_bytes),
        admitted: offer.readable,
    })
}

fn failure(peer: PeerRef, error: CallError) -> PeerFailure {
    let name = peer.name.clone().unwrap_or_else(|| peer.short_id.clone());
    let error = ApiError::Call { peer: name, error };
    PeerFailure { peer, code: error.code().to_owned(), detail: error.to_string() }
}
