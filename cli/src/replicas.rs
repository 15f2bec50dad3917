//! Finds what a name or a directory means among what is here.

use std::path::Path;

use twinshare_daemon::api::wire::{Replica, ReplicaKind, Workspace};
use twinshare_daemon::client::Client;

use crate::error::{Error, Kind, Result};
use crate::node::absolute;
use crate::text::shown;

/// Something here that has the name.
#[derive(Debug)]
pub(crate) enum Found {
    /// A workspace of this machine.
    Workspace(Workspace),
    /// A mount or clone of a peer's.
    Replica(Box<Replica>),
}

/// The one workspace, mount or clone that `text` names: `NAME`, `PEER/NAME` or a directory.
pub(crate) async fn find(client: &Client, text: &str) -> Result<Found> {
    let directory = absolute(Path::new(text)).ok();
    let is_directory = |candidate: &str| directory.as_deref() == Some(candidate);
    let own = client.workspaces().await?.into_iter();
    let own = own.filter(|workspace| workspace.name == text || is_directory(&workspace.directory));
    let others = replicas(client).await?.into_iter();
    let others = others.filter(|replica| is_called(replica, text) || is_directory(&replica.directory));
    let found = own.map(Found::Workspace).chain(others.map(|replica| Found::Replica(Box::new(replica))));
    one(text, found.collect())
}

/// The one mount or clone that `text` names.
pub(crate) async fn find_replica(client: &Client, text: &str) -> Result<Replica> {
    let directory = absolute(Path::new(text)).ok();
    let wanted = |replica: &Replica| {
        is_called(replica, text) || directory.as_deref() == Some(replica.directory.as_str())
    };
    let found = replicas(client).await?.into_iter().filter(wanted);
    match one(text, found.map(|replica| Found::Replica(Box::new(replica))).collect())? {
        Found::Replica(replica) => Ok(*replica),
        Found::Workspace(_) => Err(nothing(text)),
    }
}

async fn replicas(client: &Client) -> Result<Vec<Replica>> {
    let mut all = client.mounts().await?;
    all.extend(client.clones().await?);
    Ok(all)
}

fn is_called(replica: &Replica, text: &str) -> bool {
    let Some((peer, name)) = text.rsplit_once('/') else { return replica.workspace == text };
    let peers = [Some(&replica.peer.id), Some(&replica.peer.short_id), replica.peer.name.as_ref()];
    replica.workspace == name && peers.into_iter().flatten().any(|known| known == peer)
}

fn one(text: &str, mut found: Vec<Found>) -> Result<Found> {
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(nothing(text)),
        (Some(last), false) => {
            found.push(last);
            let places = found.iter().map(|found| match found {
                Found::Workspace(workspace) => {
                    format!("\n  the workspace in {}", shown(&workspace.directory))
                }
                Found::Replica(replica) => {
                    format!("\n  the {} in {}", word(replica.kind), shown(&replica.directory))
                }
            });
            let message = format!(
                "`{}` is the name of several things here:{}",
                shown(text),
                places.collect::<String>()
            );
            Err(Error::new(Kind::NotFound, message).hint("name the directory of the one you mean"))
        }
    }
}

fn nothing(text: &str) -> Error {
    Error::new(Kind::NotFound, format!("nothing here is called `{}`", shown(text)))
        .hint("`twinshare workspace list` shows what is here, `twinshare workspace list --remote` what others offer")
}

fn word(kind: ReplicaKind) -> &'static str {
    match kind {
        ReplicaKind::View => "mount",
        ReplicaKind::Clone => "clone",
    }
}
