//! `twinshare workspace rm`

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Args;
use twinshare_daemon::api::wire::{Availability, Replica, ReplicaKind, ReplicaState};

use crate::error::{Error, Kind, Result};
use crate::node;
use crate::output::{line, note};
use crate::replicas::{Found, find};
use crate::text::{bytes, shown};

/// Forget a workspace or a clone.
///
/// A workspace of this machine: its share ends, its directory and files stay as they are. A clone: it is unmounted,
/// what was fetched of it and changed in it is deleted, and its directory with it unless that was there before; one in
/// which nothing was changed goes without a question while its peer answers. One that has settled is only forgotten, and
/// its directory and files stay; its companions, which the node keeps, are deleted. A mount is removed with
/// `twinshare unmount`.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare workspace rm demo
  twinshare workspace rm ~/twinshare/demo --yes")]
pub(crate) struct Rm {
    /// `NAME` of a workspace here, or `[PEER/]NAME` or directory of a clone
    #[arg(value_name = "NAME|DIR")]
    name: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Rm {
    pub(crate) fn run(self) -> Result {
        let removed = node::wait(async {
            let client = node::client()?;
            match find(&client, &self.name, |found| !found.is_mount()).await? {
                Found::Workspace(workspace) => {
                    let name = shown(&workspace.name);
                    if !self
                        .confirmed(&format!("forget workspace {name} and end its share? its files stay."))?
                    {
                        return Ok(false);
                    }
                    client.remove_workspace(&workspace.name).await?;
                    line(format!(
                        "workspace {name} is forgotten; its files are in {}",
                        shown(&workspace.directory)
                    ))?;
                    Ok(true)
                }
                // One that is about to settle does so first.
                Found::Replica(replica)
                    if matches!(replica.state, ReplicaState::Settled | ReplicaState::Settling) =>
                {
                    let directory = shown(&replica.directory);
                    let goes = companions(&replica).unwrap_or_default();
                    if !self.confirmed(&format!("forget the clone in {directory}? its files stay{goes}."))? {
                        return Ok(false);
                    }
                    client.remove_clone(&replica.id).await?;
                    line(format!(
                        "the clone is forgotten; {directory} is an ordinary directory, and its files stay"
                    ))?;
                    Ok(true)
                }
                Found::Replica(replica) if replica.kind == ReplicaKind::Clone => {
                    let directory = shown(&replica.directory);
                    let fetched = fetched(&replica);
                    let question = format!(
                        "unmount the clone in {directory} and delete {fetched}, and what was changed in it?"
                    );
                    if !can_be_had_again(&replica) && !self.confirmed(&question)? {
                        return Ok(false);
                    }
                    node::leave_directory()?;
                    client.remove_clone(&replica.id).await?;
                    line(format!("the clone in {directory} is removed, with {fetched}"))?;
                    Ok(true)
                }
                Found::Replica(replica) => {
                    let message = format!("{} is a mount", shown(&self.name));
                    let command = format!("`twinshare unmount {}`", shown(&replica.directory));
                    Err(Error::new(Kind::Usage, message).hint(command))
                }
            }
        })?;
        if removed {
            return Ok(ExitCode::SUCCESS);
        }
        note("nothing was removed")?;
        Ok(ExitCode::FAILURE)
    }

    /// The user's answer; an error if there is nobody to ask.
    fn confirmed(&self, question: &str) -> Result<bool> {
        if self.yes {
            return Ok(true);
        }
        if !io::stdin().is_terminal() {
            let message = "there is nobody to ask whether it should be removed";
            return Err(Error::new(Kind::Usage, message).hint("say so with `--yes`"));
        }
        write!(io::stderr(), "{question} [y/N] ")?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
    }
}

/// What goes with a settled clone besides: its companions, where it has any.
fn companions(clone: &Replica) -> Option<String> {
    let number = clone.roots.len().checked_sub(1).filter(|number| *number > 0)?;
    let size = clone.receipt.as_ref().map(|receipt| receipt.companion_bytes).filter(|bytes| *bytes > 0);
    let size = size.map(|size| format!(" ({})", bytes(size))).unwrap_or_default();
    let paths: Vec<_> = clone.roots.iter().skip(1).map(|root| shown(&root.origin)).collect();
    let paths = paths.join(", ");
    let what = if number == 1 { "its companion".to_owned() } else { format!("its {number} companions") };
    Some(format!(
        "; {what}{size} {} deleted, and what leads into {paths}, as a virtual environment does, works no more",
        if number == 1 { "is" } else { "are" }
    ))
}

/// True when nothing is in a clone that its peer does not have.
fn can_be_had_again(clone: &Replica) -> bool {
    let progress = clone.progress.as_ref();
    progress.is_some_and(|progress| !progress.changed && progress.availability == Availability::Reachable)
}

/// What a clone holds of its origin, as the user is asked and told about it.
fn fetched(clone: &Replica) -> String {
    match clone.progress.as_ref().and_then(|progress| progress.bytes_resident) {
        Some(resident) => format!("what was fetched of it ({})", bytes(resident)),
        None => "what was fetched of it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use twinshare_daemon::api::wire::{PeerRef, ReplicaReceipt, ReplicaRoot, UnixTime};

    use super::*;

    #[test]
    fn what_goes_with_a_settled_clone_is_said() {
        let clone = |companions: &[&str]| Replica {
            id: "r".into(),
            kind: ReplicaKind::Clone,
            workspace: "demo".into(),
            peer: PeerRef { id: "p".into(), short_id: "p".into(), name: None },
            directory: "/d".into(),
            state: ReplicaState::Settled,
            detail: None,
            when_gone: "wait".into(),
            snapshot: None,
            pid: None,
            created_at: UnixTime(0),
            plain: false,
            was_there: false,
            roots: ["/w"].iter().chain(companions).map(root).collect(),
            progress: None,
            following: None,
            left_out: None,
            changed: None,
            reading: Vec::new(),
            settling: None,
            receipt: Some(ReplicaReceipt {
                settled_at: UnixTime(0),
                directories: 1,
                files: 1,
                symlinks: 0,
                bytes: 30_000_000,
                companion_bytes: 20_000_000,
                relocation: None,
            }),
        };
        fn root(path: &&str) -> ReplicaRoot {
            ReplicaRoot { origin: (*path).into(), local: (*path).into() }
        }
        assert_eq!(companions(&clone(&[])), None);
        let one = companions(&clone(&["/opt/py"])).unwrap();
        assert!(one.starts_with("; its companion (20 MB) is deleted, and what leads into /opt/py,"), "{one}");
        let two = companions(&clone(&["/a", "/b"])).unwrap();
        assert!(
            two.starts_with("; its 2 companions (20 MB) are deleted, and what leads into /a, /b,"),
            "{two}"
        );
    }
}
