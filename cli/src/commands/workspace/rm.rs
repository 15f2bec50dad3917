//! `twinshare workspace rm`

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Args;
use twinshare_daemon::api::wire::ReplicaKind;

use crate::error::{Error, Kind, Result};
use crate::node;
use crate::output::line;
use crate::replicas::{Found, find};
use crate::text::shown;

/// Forget a workspace or a clone.
///
/// A workspace of this machine: its share ends, its directory and files stay as they are. A clone: it is unmounted
/// and forgotten, its directory stays with what was fetched. A mount is removed with `twinshare unmount`.
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
        node::wait(async {
            let client = node::client()?;
            match find(&client, &self.name, |found| !found.is_mount()).await? {
                Found::Workspace(workspace) => {
                    let name = shown(&workspace.name);
                    self.confirm(&format!("forget workspace {name} and end its share? its files stay."))?;
                    client.remove_workspace(&workspace.name).await?;
                    line(format!(
                        "workspace {name} is forgotten; its files are in {}",
                        shown(&workspace.directory)
                    ))
                }
                Found::Replica(replica) if replica.kind == ReplicaKind::Clone => {
                    let directory = shown(&replica.directory);
                    self.confirm(&format!("unmount and forget the clone in {directory}?"))?;
                    client.remove_clone(&replica.id).await?;
                    line(format!("the clone in {directory} is forgotten"))
                }
                Found::Replica(replica) => {
                    let message = format!("{} is a mount", shown(&self.name));
                    let command = format!("`twinshare unmount {}`", shown(&replica.directory));
                    Err(Error::new(Kind::Usage, message).hint(command))
                }
            }
        })?;
        Ok(ExitCode::SUCCESS)
    }

    fn confirm(&self, question: &str) -> Result<()> {
        if self.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            let message = "there is nobody to ask whether it should be removed";
            return Err(Error::new(Kind::Usage, message).hint("say so with `--yes`"));
        }
        write!(io::stderr(), "{question} [y/N] ")?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        match answer.trim().to_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Error::new(Kind::Interrupted, "nothing was removed")),
        }
    }
}
