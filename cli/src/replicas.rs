//! Finds what a name or a directory means among what is here.
//!
//! What begins with `/` or `.` is a directory. Anything else is a name, `NAME` or `PEER/NAME`, as the node compares
//! them; only if nothing here is called so, and it has a slash, it is tried as a directory below the current one.

use std::path::Path;

use twinshare_daemon::api::wire::{Replica, ReplicaKind, Workspace};
use twinshare_daemon::client::Client;

use crate::commands::full_name;
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

/// The one workspace, mount or clone that `text` names (`NAME`, `PEER/NAME` or a directory) among those that are
/// `wanted`; if only others have the name, one of those.
pub(crate) async fn find(client: &Client, text: &str, wanted: impl Fn(&Found) -> bool) -> Result<Found> {
    let all = all(client).await?;
    if names_directory(text) {
        let directory = absolute(Path::new(text))?;
        return one(text, all.into_iter().filter(|found| found.directory() == directory).collect());
    }
    let (called, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|found| found.is_called(text));
    if called.is_empty() {
        let directory = directory_after_all(text);
        let there = others.into_iter().filter(|found| Some(found.directory()) == directory.as_deref());
        return one(text, there.collect());
    }
    let (meant, others): (Vec<_>, Vec<_>) = called.into_iter().partition(wanted);
    one(text, if meant.is_empty() { others } else { meant })
}

/// The one clone that `text` names.
pub(crate) async fn clone(client: &Client, text: &str) -> Result<Replica> {
    let is_clone = |found: &Found| matches!(found, Found::Replica(_)) && !found.is_mount();
    match find(client, text, is_clone).await? {
        Found::Replica(replica) if replica.kind == ReplicaKind::Clone => Ok(*replica),
        other => Err(not_a_clone(text, &other)),
    }
}

/// Why something else does not become complete, and what does.
fn not_a_clone(text: &str, other: &Found) -> Error {
    let (what, hint) = match other {
        Found::Replica(mount) => (
            "a mount, not a clone: it fetches what is read, and stays a mount",
            format!(
                "`twinshare workspace clone {}` gets a copy that becomes complete, and an ordinary directory",
                shown(&full_name(mount))
            ),
        ),
        Found::Workspace(workspace) => (
            "a workspace of this machine, not a clone: it is an ordinary directory, and all of it is here",
            format!("`twinshare workspace show {}` shows it", shown(&workspace.name)),
        ),
    };
    Error::new(Kind::Usage, format!("{} is {what}", shown(text))).hint(hint)
}

/// The one clone or mount that `text` names. Where a clone and mounts of one workspace have the name, it is the clone, of
/// which there is more to tell; the directories of the mounts come along.
pub(crate) async fn clone_or_mount(client: &Client, text: &str) -> Result<(Found, Vec<String>)> {
    if names_directory(text) {
        return Ok((find(client, text, |_| true).await?, Vec::new()));
    }
    let is_replica = |found: &Found| matches!(found, Found::Replica(_));
    let called: Vec<_> = all(client).await?.into_iter().filter(|found| found.is_called(text)).collect();
    let has_clone = called.iter().any(|found| is_replica(found) && !found.is_mount());
    if !has_clone {
        return Ok((find(client, text, is_replica).await?, Vec::new()));
    }
    let mounts = called.iter().filter(|found| found.is_mount()).map(|mount| mount.directory().to_owned());
    let mounts = mounts.collect();
    Ok((find(client, text, |found| is_replica(found) && !found.is_mount()).await?, mounts))
}

/// True for what can only be a directory.
pub(crate) fn names_directory(text: &str) -> bool {
    text.starts_with(['/', '.'])
}

/// The directory that `text`, which is the name of nothing here, is if it has a slash. Without one it stays a name, of
/// something at a peer perhaps: a directory in the current one may be called so by chance.
pub(crate) fn directory_after_all(text: &str) -> Option<String> {
    absolute(Path::new(text)).ok().filter(|directory| text.contains('/') && Path::new(directory).is_dir())
}

async fn all(client: &Client) -> Result<Vec<Found>> {
    let own = client.workspaces().await?.into_iter().map(Found::Workspace);
    let mut replicas = client.mounts().await?;
    replicas.extend(client.clones().await?);
    Ok(own.chain(replicas.into_iter().map(|replica| Found::Replica(Box::new(replica)))).collect())
}

impl Found {
    /// True for a mount, which is ended with `unmount`.
    pub(crate) fn is_mount(&self) -> bool {
        matches!(self, Self::Replica(replica) if replica.kind == ReplicaKind::View)
    }

    fn directory(&self) -> &str {
        match self {
            Self::Workspace(workspace) => &workspace.directory,
            Self::Replica(replica) => &replica.directory,
        }
    }

    fn is_called(&self, text: &str) -> bool {
        match (self, text.rsplit_once('/')) {
            (Self::Workspace(workspace), _) => workspace.name == text,
            (Self::Replica(replica), None) => replica.workspace == text,
            (Self::Replica(replica), Some((peer, name))) => {
                replica.workspace == name && replica.peer.is_called(peer)
            }
        }
    }
}

fn one(text: &str, mut found: Vec<Found>) -> Result<Found> {
    let Some(last) = found.pop() else { return Err(nothing(text)) };
    if found.is_empty() {
        return Ok(last);
    }
    found.push(last);
    // As the node says it of names that it looks up.
    let places: Vec<_> = found.iter().map(|found| shown(found.directory())).collect();
    let message = format!("`{}` is the name of several: {}", shown(text), places.join(", "));
    Err(Error::new(Kind::NotFound, message).hint("use one of those in place of the name"))
}

fn nothing(text: &str) -> Error {
    let error = Error::new(Kind::NotFound, format!("nothing here is called `{}`", shown(text)));
    error.hint(directory_meant(text).unwrap_or_else(|| {
        "`twinshare workspace list` shows what is here, `twinshare workspace list --remote` what others offer"
            .to_owned()
    }))
}

/// What to type where a name is none, and a directory is called so.
pub(crate) fn directory_meant(text: &str) -> Option<String> {
    let is_one = !text.contains('/') && Path::new(text).is_dir();
    is_one.then(|| format!("if the directory is meant, write `./{}`", shown(text)))
}

#[cfg(test)]
mod tests {
    use twinshare_daemon::api::wire::UnixTime;

    use super::*;

    fn workspace(name: &str) -> Found {
        let (name, directory) = (name.to_owned(), format!("/w/{name}"));
        Found::Workspace(Workspace {
            name,
            directory,
            description: None,
            created_at: UnixTime(0),
            share: None,
        })
    }

    #[test]
    fn one_is_chosen_or_the_places_are_named() {
        assert_eq!(one("a", vec![workspace("a")]).unwrap().directory(), "/w/a");
        assert!(one("a", vec![]).unwrap_err().to_string().contains("nothing here is called `a`"));
        let several = one("a", vec![workspace("a"), workspace("b")]).unwrap_err();
        assert!(several.to_string().contains("is the name of several: /w/a, /w/b"), "{several}");
        assert!(workspace("a").is_called("a") && !workspace("a").is_called("x/a"));
    }

    #[test]
    fn what_does_not_settle_is_told_with_what_does() {
        let error = not_a_clone("a", &workspace("a")).to_string();
        assert!(error.contains("all of it is here") && error.contains("workspace show a"), "{error}");
    }
}
