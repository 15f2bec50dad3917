//! `twinshare cache`: what mounts keep on this machine's disk.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use twinshare_daemon::api::wire::{Cache as Cached, CachedMount, PruneRequest, Pruned};

use crate::error::Result;
use crate::interrupts::Interrupts;
use crate::node;
use crate::output::{Format, Table, line};
use crate::text::{ago, bytes, count};

/// What mounts keep on this machine's disk.
#[derive(Debug, Args)]
pub(crate) struct Cache {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(Status),
    Prune(Prune),
}

/// Show what the content of mounts takes on the disk, and what it may take.
///
/// When it takes more, whole files are removed again, those first that were used longest ago; never what is open or
/// pinned. They are fetched anew when somebody reads them.
#[derive(Debug, Args)]
struct Status {
    #[command(flatten)]
    format: Format,
}

/// Remove content of mounts that is neither open nor pinned.
///
/// It is fetched again when somebody reads it. What mounts left that are gone is removed too.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare cache prune
  twinshare cache prune --older-than 7d")]
struct Prune {
    /// Only what was not used for so long, such as `30m`, `12h` or `7d`
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    older_than: Option<Duration>,
    #[command(flatten)]
    format: Format,
}

impl Cache {
    pub(crate) fn run(self) -> Result {
        match self.command {
            Command::Status(command) => command.run(),
            Command::Prune(command) => command.run(),
        }
    }
}

impl Status {
    fn run(self) -> Result {
        let cached = node::wait(async { Ok(node::client()?.cache().await?) })?;
        self.format.print(&cached, people)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Prune {
    fn run(self) -> Result {
        let request = PruneRequest { unused_s: self.older_than.map(|unused| unused.as_secs()) };
        let pruned = node::wait(async {
            let mut interrupts = Interrupts::listen()?;
            interrupts.end(prune(&request)).await
        })?;
        self.format.print(&pruned, |pruned| line(in_words(pruned)))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Asks until nothing more is to be removed.
async fn prune(request: &PruneRequest) -> Result<Pruned> {
    let client = node::client()?;
    let mut all = client.prune_cache(request).await?;
    while !all.done {
        let more = client.prune_cache(request).await?;
        all.files += more.files;
        all.bytes += more.bytes;
        all.left_files += more.left_files;
        all.left_bytes += more.left_bytes;
        all.done = more.done;
    }
    Ok(all)
}

fn people(cached: &Cached) -> Result<()> {
    line(format!("used      {} of {} at most", bytes(cached.bytes), bytes(cached.bytes_max)))?;
    let free = cached.free_bytes.map(|free| format!("{} now, ", bytes(free))).unwrap_or_default();
    line(format!("disk free {free}{} are to stay free", bytes(cached.free_bytes_min)))?;
    if cached.mounts.is_empty() {
        return line("there are no mounts");
    }
    line("")?;
    let mut table = Table::new(["MOUNT", "HERE", "PINNED", "LAST USE"]);
    for mount in &cached.mounts {
        let here = mount.bytes.map(bytes).unwrap_or_else(|| "?".to_owned());
        let last = mount.last_use.map(ago).unwrap_or_default();
        table.row([&mount.directory, &here, &pinned(mount), &last]);
    }
    table.print("")
}

fn pinned(mount: &CachedMount) -> String {
    match (mount.pinned_bytes_here, mount.pinned_bytes) {
        (Some(here), Some(all)) if here < all => format!("{} of {}", bytes(here), bytes(all)),
        (_, Some(all)) => bytes(all),
        (_, None) => "?".to_owned(),
    }
}

fn in_words(pruned: &Pruned) -> String {
    let freed = format!("{} freed: {}", bytes(pruned.bytes + pruned.left_bytes), count(pruned.files, "file"));
    match pruned.left_files {
        0 => freed,
        left => format!("{freed}, and {} that mounts had left which are gone", count(left, "file")),
    }
}

/// A whole number of seconds, minutes, hours or days.
fn duration(text: &str) -> std::result::Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(86_400),
        _ => None,
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit?));
    seconds.map(Duration::from_secs).ok_or_else(|| "a duration is written as `30m`, `12h` or `7d`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        let check = |text: &str, seconds: Option<u64>| {
            assert_eq!(duration(text).ok(), seconds.map(Duration::from_secs), "{text}");
        };
        check("0s", Some(0));
        check("30m", Some(1800));
        check("7d", Some(604_800));
        for wrong in ["", "7", "d", "-1d", "1.5h", "99999999999999999d"] {
            check(wrong, None);
        }
    }

    #[test]
    fn what_was_freed_is_said() {
        let pruned = Pruned { files: 2, bytes: 3_000_000, left_files: 0, left_bytes: 0, done: true };
        assert_eq!(in_words(&pruned), "3.0 MB freed: 2 files");
        let left = Pruned { left_files: 1, left_bytes: 1_000_000, ..pruned };
        assert_eq!(in_words(&left), "4.0 MB freed: 2 files, and 1 file that mounts had left which are gone");
    }
}
