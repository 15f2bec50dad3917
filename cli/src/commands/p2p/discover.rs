//! `twinshare p2p discover`

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};
use twinshare_daemon::api::wire::{List, Peer};
use twinshare_daemon::client::Client;

use crate::error::Result;
use crate::node;
use crate::output::{Format, Table, note};
use crate::progress::bar;
use crate::text::{ago, count, shown};

/// Between two looks at what the node has heard.
const POLL: Duration = Duration::from_millis(50);

/// Show the nodes on this network.
///
/// Asks the network who is there, and lists those that answer and those that are remembered. If nobody answers, it
/// waits a moment for the first one.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare p2p discover
  twinshare p2p discover --wait 30
  twinshare p2p discover --json | jq -r '.items[].name'")]
pub(crate) struct Discover {
    /// How many seconds to wait for the first one
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    wait: u16,
    #[command(flatten)]
    format: Format,
}

impl Discover {
    pub(crate) fn run(self) -> Result {
        let peers = node::wait(async {
            let found = found(&node::client()?, Duration::from_secs(self.wait.into())).await?;
            Ok(List::from(found))
        })?;
        self.format.print(&peers, |peers| people(&peers.items))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// All peers after asking the network, once one of them is there or the time is over.
async fn found(client: &Client, wait: Duration) -> Result<Vec<Peer>> {
    let bar = bar();
    bar.set_message("listening");
    let deadline = Instant::now() + wait;
    let mut peers = client.discover().await?;
    while !peers.iter().any(|peer| peer.online) && Instant::now() < deadline {
        sleep(POLL).await;
        peers = client.peers().await?;
    }
    bar.finish_and_clear();
    Ok(peers)
}

fn people(peers: &[Peer]) -> Result<()> {
    let mut table = Table::new(["NAME", "ID", "SEEN", "ADDRESS", "SHARES"]);
    for peer in peers {
        let seen = match (peer.online, peer.last_seen_at) {
            (true, _) => "online".to_owned(),
            (false, Some(moment)) => ago(moment),
            (false, None) => "never".to_owned(),
        };
        let address = peer.addresses.first().map_or("", String::as_str);
        let name = peer.name.as_deref().unwrap_or_default();
        table.row([name, &peer.short_id, &seen, address, &shares(peer)]);
    }
    table.print("no other node was found")?;
    peers.iter().filter_map(namesake).try_for_each(note)?;
    match peers.iter().any(|peer| peer.online) {
        true => Ok(()),
        false => note(
            "hint: `twinshare doctor` checks this side; `twinshare p2p add HOST` reaches nodes on other networks",
        ),
    }
}

/// What to tell of a peer that has the name of one that was met before.
fn namesake(peer: &Peer) -> Option<String> {
    let (first, name) = (peer.name_of.as_deref()?, shown(peer.name.as_deref().unwrap_or_default()));
    Some(format!(
        "warning: {id} calls itself {name}, as {first} did before: ask {name} for the id in `twinshare p2p status`, and \
         name the node by it",
        id = peer.short_id,
        first = shown(first),
    ))
}

fn shares(peer: &Peer) -> String {
    let named = peer.workspaces.len() as u64;
    match peer.workspaces_total {
        Some(total) if total > named => {
            format!("{} and {} more", peer.workspaces.join(", "), count(total - named, "other"))
        }
        _ => peer.workspaces.join(", "),
    }
}
