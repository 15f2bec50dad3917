//! `twinshare workspace share`

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use twinshare_daemon::api::wire::{Check, CheckState};

use crate::error::{Kind, Result};
use crate::node;
use crate::output::{Format, line, note};
use crate::text::shown;

/// Offer a workspace to others.
///
/// With `--open` everybody on this network may read all of it, and the companions that are listed then. Without, a
/// workspace that is shared stays shared as it is, and any other admits nobody yet. A companion that `twinshare.yaml`
/// names later is not served before the workspace is shared again.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare workspace share demo --open")]
pub(crate) struct Share {
    /// The workspace
    name: String,
    /// Let anyone on this network in
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    format: Format,
}

impl Share {
    pub(crate) fn run(self) -> Result {
        let open = self.open.then_some(true);
        let share = node::wait(async { Ok(node::client()?.share_workspace(&self.name, open).await?) });
        let share = share.map_err(|error| error.hint_if(Kind::NotFound, self.directory_meant()))?;
        let name = shown(&self.name);
        self.format.print(&share, |share| {
            match share.open {
                true => line(format!(
                    "{name} is open: anyone on this network may read it, until `twinshare workspace unshare {name}`"
                ))?,
                false => line(format!(
                    "{name} is shared, but nobody is admitted yet: \
                     `twinshare workspace share {name} --open` lets anyone on this network in"
                ))?,
            }
            share.companions.iter().try_for_each(|path| line(format!("  with {}", shown(path))))
        })?;
        // The workspace is shared, whether or not the machine can be looked at.
        let checks = node::wait(async { Ok(node::client()?.doctor().await.unwrap_or_default()) })?;
        checks.iter().filter_map(closed).try_for_each(note)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Share {
    /// What to do where no workspace has the name, and a directory is called so.
    fn directory_meant(&self) -> Option<String> {
        let name = shown(&self.name);
        Path::new(&self.name).is_dir().then(|| {
            format!("`twinshare workspace create {name}` makes a workspace of that directory; share it by its name")
        })
    }
}

/// What to tell of a firewall that is known to keep peers out.
fn closed(check: &Check) -> Option<String> {
    let is_closed = check.name == "firewall" && check.state == CheckState::Fail;
    let fix = check.fix.as_deref().filter(|_| is_closed)?;
    Some(format!("warning: {}\nhint: `{}` lets them in", shown(&check.message), shown(fix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_firewall_that_is_known_to_be_closed_is_told() {
        let check = |name: &str, state| {
            let (name, fix) = (name.to_owned(), Some("sudo ufw allow 1/udp".to_owned()));
            closed(&Check { name, state, message: "ufw drops".to_owned(), fix })
        };
        let told = "warning: ufw drops\nhint: `sudo ufw allow 1/udp` lets them in";
        assert_eq!(check("firewall", CheckState::Fail).as_deref(), Some(told));
        assert_eq!(check("firewall", CheckState::Warn), None);
        assert_eq!(check("fuse", CheckState::Fail), None);
    }
}
