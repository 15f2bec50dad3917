//! `twinshare p2p add`

use std::process::ExitCode;

use clap::Args;
use twinshare_daemon::api::wire::Peer;

use crate::error::Result;
use crate::node;
use crate::output::{Format, line};
use crate::progress::bar;
use crate::text::shown;

/// Reach a node by its address and remember it.
///
/// For nodes that discovery does not find: on other networks, or where multicast is blocked.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare p2p add anna.example.org
  twinshare p2p add '[2001:db8::7]:40000'")]
pub(crate) struct Add {
    /// `HOST`, `HOST:PORT`, an address or `[ADDRESS]:PORT`; the port is 37778 if none is given
    host: String,
    #[command(flatten)]
    format: Format,
}

impl Add {
    pub(crate) fn run(self) -> Result {
        let peer = node::wait(async {
            let bar = bar();
            bar.set_message(format!("asking {}", shown(&self.host)));
            let peer = node::client()?.add_peer(&self.host).await;
            bar.finish_and_clear();
            Ok(peer?)
        })?;
        self.format.print(&peer, people)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn people(peer: &Peer) -> Result<()> {
    let name = peer.name.as_deref().unwrap_or("a node without a name");
    line(format!("{} (id {}) is known from now on", shown(name), peer.short_id))
}
