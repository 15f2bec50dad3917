//! `twinshare pin`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use twinshare_daemon::api::wire::Pin as Pinned;
use twinshare_daemon::client::Client;

use crate::error::{Error, Kind, Result};
use crate::interrupts::Interrupts;
use crate::node;
use crate::output::{Format, Table, line};
use crate::progress;
use crate::text::{bytes, count, per_cent, shown, span};

/// Between two looks at a pin.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Keep a file or directory of a mount on this machine.
///
/// All of it is fetched in the background and never evicted, so it can be used without its peer. When the peer's version
/// changes, what lies at the path then is kept. Without a path, what is pinned is listed. A pin ends with its mount.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare pin ~/twinshare/peers/anna/demo/data
  twinshare pin . --wait
  twinshare pin")]
pub(crate) struct Pin {
    /// A file or directory in a mount
    path: Option<PathBuf>,
    /// Return when all of it is here; Ctrl-C ends the waiting, not the fetching
    #[arg(long, requires = "path")]
    wait: bool,
    /// Give up waiting after so many seconds
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    timeout: Option<u64>,
    #[command(flatten)]
    format: Format,
}

impl Pin {
    pub(crate) fn run(self) -> Result {
        let Some(path) = &self.path else {
            let pins = node::wait(async { Ok(node::client()?.pins().await?) })?;
            self.format.print(&pins, |pins| list(pins))?;
            return Ok(ExitCode::SUCCESS);
        };
        let path = node::absolute(path)?;
        let pinned = node::wait(async {
            let client = node::client()?;
            let pinned = client.pin(&path).await?;
            if !self.wait || pinned.complete {
                return Ok(pinned);
            }
            let mut interrupts = Interrupts::listen()?;
            interrupts.end(self.complete(&client, pinned)).await
        })?;
        self.format.print(&pinned, |pinned| line(in_words(pinned)))?;
        Ok(ExitCode::SUCCESS)
    }

    async fn complete(&self, client: &Client, mut pinned: Pinned) -> Result<Pinned> {
        let (began, bar) = (Instant::now(), progress::bytes_bar());
        while !pinned.complete {
            bar.set_length(pinned.bytes_total.unwrap_or(0));
            bar.set_position(pinned.bytes_here.unwrap_or(0));
            bar.set_message(how_far(&pinned));
            let patience = self.timeout.map(Duration::from_secs);
            if let Some(patience) = patience.filter(|patience| began.elapsed() >= *patience) {
                bar.finish_and_clear();
                let path = shown(&pinned.path);
                let message =
                    format!("{path} is not complete after {}: {}", span(patience), how_far(&pinned));
                return Err(Error::new(Kind::Failure, message).hint("it goes on in the background"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
            let found = client.pins().await?.into_iter().find(|pin| pin.path == pinned.path);
            pinned = found.ok_or_else(|| {
                let message = format!("{} is not pinned any more", shown(&pinned.path));
                Error::new(Kind::Failure, message)
                    .hint("somebody ended the pin, or the mount is not served now")
            })?;
        }
        bar.finish_and_clear();
        Ok(pinned)
    }
}

fn list(pins: &[Pinned]) -> Result<()> {
    let mut table = Table::new(["PATH", "HERE", "SIZE", "STATE"]);
    for pin in pins {
        let size = pin.bytes_total.map(bytes).unwrap_or_default();
        let here = match (pin.bytes_here, pin.bytes_total) {
            (Some(here), Some(total)) if !pin.complete => format!("{} %", per_cent(here, total).min(99)),
            (Some(_), Some(_)) => "100 %".to_owned(),
            _ => String::new(),
        };
        let state = match (pin.complete, pin.bytes_total) {
            (true, _) => "complete",
            (false, Some(_)) => "being fetched",
            (false, None) => "not there now",
        };
        table.row([&pin.path, &here, &size, state]);
    }
    table.print("nothing is pinned")
}

fn in_words(pin: &Pinned) -> String {
    let path = shown(&pin.path);
    match pin.complete {
        true => format!("{path} is pinned and all here: {}", bytes(pin.bytes_total.unwrap_or(0))),
        false => format!(
            "{path} is pinned and being fetched in the background: {}\n`twinshare pin` shows how far it is",
            how_far(pin)
        ),
    }
}

fn how_far(pin: &Pinned) -> String {
    match (pin.files_here, pin.files_total, pin.bytes_here, pin.bytes_total) {
        (Some(files), Some(all), Some(here), Some(total)) => {
            format!("{files} of {}, {} of {}", count(all, "file"), bytes(here), bytes(total))
        }
        _ => "what of it is here is being counted".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_says_how_far_it_is() {
        let pin = Pinned {
            path: "/m/data".into(),
            mount: "a".into(),
            files_total: Some(3),
            files_here: Some(1),
            bytes_total: Some(3_000_000),
            bytes_here: Some(1_000_000),
            complete: false,
        };
        assert!(in_words(&pin).contains("1 of 3 files, 1.0 MB of 3.0 MB"), "{}", in_words(&pin));
        let complete = Pinned { files_here: Some(3), bytes_here: Some(3_000_000), complete: true, ..pin };
        assert_eq!(in_words(&complete), "/m/data is pinned and all here: 3.0 MB");
    }
}
